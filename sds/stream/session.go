package stream

import (
	"slices"
	"strconv"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// A Session is the server's side of one xDS stream. Make one with [NewSotW] or
// [NewDelta], feed it with requests and snapshots, and write what Next returns
// until it returns nothing. It sends the newest snapshot only: what was
// replaced before Next was asked is never sent, so a slow reader costs one
// snapshot and not a queue.
//
// A session is for one goroutine.
type Session struct {
	// Names is how many names the client may subscribe to, for each type. Zero
	// means [MaxNames]. It must not change after the first request.
	Names int

	delta bool
	first bool // no request has come yet
	nonce uint64
	types []string // in the order they were asked for
	subs  map[string]*subscription
	// pass holds the names that were due when the last pass began. Finishing
	// it before the next begins gives every name its turn, however often
	// another one changes.
	pass   []work
	events []Event

	nacks    int       // spent of the budget
	nackTime time.Time // up to which the budget was refilled
}

// work is one name that may need sending.
type work struct {
	typeURL, name string
}

// A Response is one message to write: exactly one of its fields is set.
type Response struct {
	SotW  *discoveryv3.DiscoveryResponse
	Delta *discoveryv3.DeltaDiscoveryResponse
}

// NewSotW returns a session that speaks state of the world.
func NewSotW() *Session {
	return &Session{first: true, subs: map[string]*subscription{}}
}

// NewDelta returns a session that speaks delta (incremental) xDS.
func NewDelta() *Session {
	return &Session{first: true, delta: true, subs: map[string]*subscription{}}
}

func (s *Session) maxNames() int {
	if s.Names == 0 {
		return MaxNames
	}
	return s.Names
}

// Types returns the types that the client has asked for, in that order.
// The caller must not change the slice.
func (s *Session) Types() []string { return s.types }

// Set replaces the snapshot of a type. A type that the client has not asked
// for is not kept: the caller sets each one that is new in Types.
func (s *Session) Set(typeURL string, snapshot Snapshot) {
	if sub := s.subs[typeURL]; sub != nil {
		sub.snapshot = snapshot
		sub.adopt()
	}
}

// Next returns the next message to write, or nothing where the client has all
// that it is to have. It counts the message as sent.
func (s *Session) Next(now time.Time) (Response, bool) {
	if out, ok := s.takePass(now); ok {
		return out, true
	}
	for _, typeURL := range s.types {
		for _, name := range s.subs[typeURL].due(now) {
			s.pass = append(s.pass, work{typeURL, name})
		}
	}
	return s.takePass(now)
}

// takePass returns the next message of the pass that is under way.
func (s *Session) takePass(now time.Time) (Response, bool) {
	for len(s.pass) > 0 {
		job := s.pass[0]
		s.pass = s.pass[1:]
		if out, ok := s.subs[job.typeURL].take(s, job.name, now); ok {
			return out, true
		}
	}
	s.pass = nil
	return Response{}, false
}

// Wake returns when Next is to be asked again although nothing was fed: a
// refused resource is tried once more after a back-off. The zero time means
// never.
func (s *Session) Wake() time.Time {
	var wake time.Time
	for _, sub := range s.subs {
		for name, e := range sub.entries {
			if e.retry.IsZero() || !sub.waiting(name, e) {
				continue
			}
			if wake.IsZero() || e.retry.Before(wake) {
				wake = e.retry
			}
		}
	}
	return wake
}

// subscribe returns the subscription of a type, and whether it is new.
func (s *Session) subscribe(typeURL string) (sub *subscription, isNew bool, err error) {
	if sub := s.subs[typeURL]; sub != nil {
		return sub, false, nil
	}
	if len(s.types) >= MaxTypes {
		return nil, false, refuse("too-many-types", "at most %d", MaxTypes)
	}
	sub = newSubscription(typeURL, s.delta)
	s.subs[typeURL] = sub
	s.types = append(s.types, typeURL)
	return sub, true, nil
}

// spendNack takes one refusal from the budget.
func (s *Session) spendNack(now time.Time) error {
	if refill := int(now.Sub(s.nackTime) / nackRefill); refill > 0 {
		s.nacks = max(0, s.nacks-refill)
		s.nackTime = now
	}
	if s.nacks++; s.nacks > nackBurst {
		return refuse("too-many-refusals", "the client refused %d responses", s.nacks)
	}
	return nil
}

func (s *Session) newNonce() string {
	s.nonce++
	return strconv.FormatUint(s.nonce, 10)
}

// settle records the client's word on the response with this nonce. It reports
// whether it was outstanding.
func (s *Session) settle(sub *subscription, nonce string, refused string, now time.Time) bool {
	at := slices.IndexFunc(sub.sent, func(m message) bool { return m.nonce == nonce })
	if at < 0 {
		return false
	}
	m := sub.sent[at]
	// The client answers in order; what is older will not be answered any more.
	sub.sent = sub.sent[at+1:]
	if len(m.resources)+len(m.removed) == 0 {
		s.record(Event{Refused: refused != "", TypeURL: sub.typeURL, Detail: refused})
	}
	for _, name := range m.removed {
		s.record(Event{Refused: refused != "", TypeURL: sub.typeURL, Name: name, Detail: refused})
	}
	for _, r := range m.resources {
		s.record(Event{Refused: refused != "", TypeURL: sub.typeURL, Name: r.Name, Version: r.Version, Detail: refused})
	}
	if refused != "" {
		sub.refused(m, now)
	} else {
		sub.acknowledged(m)
	}
	return true
}
