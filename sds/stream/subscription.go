package stream

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// A refused resource is tried again after backoffFirst, then twice that, up to
// backoffMost: a NACK may be another resource's fault (Envoy keeps a refused
// secret and refuses the next good one for it), and then time heals it.
const (
	backoffFirst = time.Second
	backoffMost  = 5 * time.Minute
)

// maxSent is how many unanswered responses a subscription remembers. A client
// that lets more pile up is not told of in events; it is served all the same.
const maxSent = 64

// The whole set, in state of the world, of these types is one message: a
// client takes what is not in it for deleted. Every other resource travels in
// a response of its own, so that a refusal names the one it is about, and an
// unchanged key is not sent again with a changed neighbour.
const (
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
)

// wholeSet is the name under which a message for all of a type is kept. No
// client can subscribe to it.
const wholeSet = ""

// A subscription is what one client wants and has of one type.
type subscription struct {
	typeURL  string
	delta    bool
	whole    bool
	snapshot Snapshot

	wildcard bool
	greeted  bool                // a wildcard has been answered at all
	names    map[string]struct{} // asked for by name
	entries  map[string]*entry   // what the client has; in a wildcard also of names not asked for
	last     uint64              // the newest nonce
	answered uint64              // the newest nonce that was answered; state of the world
	sent     []message           // not answered yet, oldest first
}

// An entry is what the client has of one name.
type entry struct {
	due     bool      // to be answered, though unchanged
	holds   string    // the version sent last, or claimed by the client
	claimed bool      // holds is the client's word (initial_resource_versions)
	absent  bool      // told that it does not exist
	good    *Resource // acknowledged last
	resend  *Resource // the good one, to be sent again after a refusal

	refused     string // the version refused last, unless it was the good one
	goodRefused bool   // the good one was refused when it was sent again
	backoff     time.Duration
	retry       time.Time // until then refused versions are not sent
}

// A message is a response that awaits its answer.
type message struct {
	nonce     string
	resources []*Resource
	removed   []string
	digest    string // of the whole set, where it is one
}

func newSubscription(typeURL string, delta bool) *subscription {
	return &subscription{
		typeURL: typeURL,
		delta:   delta,
		whole:   typeURL == listenerType || typeURL == clusterType,
		names:   map[string]struct{}{},
		entries: map[string]*entry{},
	}
}

func (sub *subscription) entry(name string) *entry {
	e := sub.entries[name]
	if e == nil {
		e = &entry{}
		sub.entries[name] = e
	}
	return e
}

// add subscribes to a name. It is answered even if nothing changed: an Envoy
// that asks again has a new holder for it with nothing in its hands
// (envoy#47309).
func (sub *subscription) add(name string) {
	sub.names[name] = struct{}{}
	e := sub.entry(name)
	e.due, e.claimed = true, false
}

// drop ends the subscription to a name.
func (sub *subscription) drop(name string) {
	if _, ok := sub.names[name]; !ok {
		return
	}
	delete(sub.names, name)
	if !sub.wildcard || sub.forgettable(name) {
		delete(sub.entries, name)
		return
	}
	sub.entry(name).due = true // what the wildcard has of it is to be told
}

// forgettable reports whether nothing will ever be told of a name that does not
// exist. To keep it would let a client fill our memory with names, each asked
// for and left again.
func (sub *subscription) forgettable(name string) bool {
	return sub.snapshot.Resources[name] == nil && (!sub.delta || !sub.snapshot.Complete && sub.entry(name).holds == "")
}

// setWildcard begins or ends the subscription to everything.
func (sub *subscription) setWildcard(on bool) {
	if on {
		for _, name := range sub.interests() {
			sub.entry(name).due = true
		}
		sub.greeted = false
	} else if sub.wildcard {
		maps.DeleteFunc(sub.entries, func(name string, _ *entry) bool {
			_, named := sub.names[name]
			return !named && name != wholeSet
		})
	}
	sub.wildcard = on
}

// interests returns the names that the client is to have, in order.
func (sub *subscription) interests() []string {
	set := maps.Clone(sub.names)
	if sub.wildcard {
		for name := range sub.snapshot.Resources {
			set[name] = struct{}{}
		}
		for name := range sub.entries {
			if name != wholeSet {
				set[name] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// adopt takes the client's claim to hold what is current for an
// acknowledgement, so that there is something to go back to.
func (sub *subscription) adopt() {
	for name, e := range sub.entries {
		if r := sub.snapshot.Resources[name]; e.claimed && r != nil {
			if e.claimed = false; e.holds == r.Version {
				e.good = r
			}
		}
	}
}

// blocked reports whether the version was refused too short a time ago.
func (e *entry) blocked(version string, now time.Time) bool {
	if !now.Before(e.retry) {
		return false
	}
	return version == e.refused || e.goodRefused && e.good != nil && version == e.good.Version
}

// choose returns what is to be sent for a name now: a resource, or the word
// that it does not exist, or neither.
func (sub *subscription) choose(name string, now time.Time) (r *Resource, remove bool) {
	e := sub.entries[name]
	if e == nil && !sub.wildcard {
		return nil, false // the client has unsubscribed since the pass began
	}
	if e == nil {
		return sub.snapshot.Resources[name], false
	}
	current := sub.snapshot.Resources[name]
	switch {
	case current == nil:
		return nil, sub.delta && sub.snapshot.Complete && (e.due || !e.absent)
	case e.resend != nil:
		return e.resend, false
	case !e.due && e.holds == current.Version:
		return nil, false
	case !e.blocked(current.Version, now):
		return current, false
	case e.due && e.good != nil && !e.goodRefused:
		return e.good, false
	}
	return nil, false
}

// waiting reports whether the entry's back-off is all that holds it.
func (sub *subscription) waiting(name string, e *entry) bool {
	if name == wholeSet {
		digest, _ := sub.wholeState()
		return sub.snapshot.Complete && digest != e.holds && digest == e.refused
	}
	current := sub.snapshot.Resources[name]
	return current != nil && e.resend == nil && (e.due || e.holds != current.Version) &&
		(current.Version == e.refused || e.goodRefused && e.good != nil && current.Version == e.good.Version)
}

// due returns the names for which take has something to send.
func (sub *subscription) due(now time.Time) []string {
	if sub.whole && !sub.delta {
		if sub.wholeDue(now) {
			return []string{wholeSet}
		}
		return nil
	}
	var due []string
	for _, name := range sub.interests() {
		if r, remove := sub.choose(name, now); r != nil || remove {
			due = append(due, name)
		}
	}
	if len(due) == 0 && sub.wildcard && !sub.greeted && sub.snapshot.Complete {
		return []string{wholeSet} // "nothing" is an answer too; without it Envoy waits 15 s
	}
	if sub.whole && len(due) > 0 {
		return []string{wholeSet}
	}
	return due
}

// take builds the message for a name, and counts it as sent.
func (sub *subscription) take(s *Session, name string, now time.Time) (Response, bool) {
	if sub.whole && !sub.delta {
		return sub.takeWhole(s, now)
	}
	var batch message
	names := []string{name}
	if name == wholeSet {
		names = sub.interests()
	}
	for _, name := range names {
		r, remove := sub.choose(name, now)
		if r != nil {
			batch.resources = append(batch.resources, r)
			sub.sending(name, r)
		}
		if remove {
			batch.removed = append(batch.removed, name)
			sub.removing(name)
		}
	}
	if len(batch.resources)+len(batch.removed) == 0 && (sub.greeted || name != wholeSet || !sub.wildcard) {
		return Response{}, false
	}
	sub.greeted = true
	return sub.emit(s, batch), true
}

// sending counts a resource as sent.
func (sub *subscription) sending(name string, r *Resource) {
	e := sub.entry(name)
	e.due, e.absent, e.claimed, e.resend = false, false, false, nil
	e.holds = r.Version
}

// removing counts a name as told not to exist.
func (sub *subscription) removing(name string) {
	if _, named := sub.names[name]; !named {
		delete(sub.entries, name)
		return
	}
	*sub.entries[name] = entry{absent: true}
}

func (sub *subscription) wholeDue(now time.Time) bool {
	if !sub.snapshot.Complete {
		return false // half a set would delete the other half
	}
	e := sub.entry(wholeSet)
	digest, _ := sub.wholeState()
	for name := range sub.names {
		if sub.entries[name].due {
			e.due = true
		}
	}
	if sub.wildcard && !sub.greeted {
		e.due = true
	}
	return (e.due || e.holds != digest) && !e.blocked(digest, now)
}

func (sub *subscription) takeWhole(s *Session, now time.Time) (Response, bool) {
	if !sub.wholeDue(now) {
		return Response{}, false
	}
	digest, resources := sub.wholeState()
	for name := range sub.names {
		sub.entries[name].due = false
	}
	e := sub.entry(wholeSet)
	e.due, e.holds, sub.greeted = false, digest, true
	return sub.emit(s, message{resources: resources, digest: digest}), true
}

// wholeState returns the resources of a whole set and their digest.
func (sub *subscription) wholeState() (string, []*Resource) {
	hash := sha256.New()
	var resources []*Resource
	for _, name := range sub.interests() {
		if r := sub.snapshot.Resources[name]; r != nil {
			resources = append(resources, r)
			hash.Write([]byte(r.Name + "\x00" + r.Version + "\x00"))
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:16]), resources
}

// emit gives a message its nonce and its wire form.
func (sub *subscription) emit(s *Session, m message) Response {
	m.nonce = s.newNonce()
	sub.last = s.nonce
	if sub.sent = append(sub.sent, m); len(sub.sent) > maxSent {
		sub.sent = slices.Delete(sub.sent, 0, 1)
	}
	if sub.delta {
		out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: sub.typeURL, Nonce: m.nonce, RemovedResources: m.removed}
		for _, r := range m.resources {
			out.Resources = append(out.Resources, &discoveryv3.Resource{Name: r.Name, Version: r.Version, Resource: r.Body})
		}
		return Response{Delta: out}
	}
	out := &discoveryv3.DiscoveryResponse{TypeUrl: sub.typeURL, Nonce: m.nonce, VersionInfo: m.digest}
	for _, r := range m.resources {
		out.Resources = append(out.Resources, r.Body)
		if m.digest == "" {
			out.VersionInfo = r.Version
		}
	}
	return Response{SotW: out}
}

// acknowledged takes note that the client runs what was sent.
func (sub *subscription) acknowledged(m message) {
	if m.digest != "" {
		if e := sub.entry(wholeSet); e.refused == m.digest {
			e.refused, e.backoff, e.retry = "", 0, time.Time{}
		}
		return
	}
	for _, name := range m.removed {
		if e := sub.entries[name]; e != nil {
			e.good, e.resend = nil, nil
		}
	}
	for _, r := range m.resources {
		e := sub.entries[r.Name]
		if e == nil || e.absent {
			continue
		}
		e.good, e.goodRefused = r, false
		if e.holds == "" { // refused a moment ago, and accepted when it came again
			e.holds, e.resend = r.Version, nil
		}
		if current := sub.snapshot.Resources[r.Name]; r.Version == e.refused || current != nil && current.Version == r.Version {
			e.refused, e.backoff, e.retry = "", 0, time.Time{}
		}
	}
}

// refused takes note that the client refused what was sent. The last good one
// follows at once, and once: Envoy keeps a refused secret and measures its next
// neighbour by it.
func (sub *subscription) refused(m message, now time.Time) {
	if m.digest != "" {
		if e := sub.entry(wholeSet); e.holds == m.digest {
			e.holds = ""
			e.punish(m.digest, now)
		}
		return
	}
	for _, r := range m.resources {
		e := sub.entries[r.Name]
		if e == nil || e.absent || e.holds != r.Version {
			continue // gone, or something newer is on its way already
		}
		e.holds = ""
		if e.good != nil && e.good.Version == r.Version {
			e.goodRefused = true
			e.wait(now)
			continue
		}
		e.punish(r.Version, now)
		if e.good != nil && !sub.whole {
			e.resend = e.good
		}
	}
}

// punish remembers a refused version; another one than last time starts the
// back-off anew.
func (e *entry) punish(version string, now time.Time) {
	if e.refused != version {
		e.refused, e.backoff = version, 0
	}
	e.wait(now)
}

func (e *entry) wait(now time.Time) {
	e.backoff = min(max(2*e.backoff, backoffFirst), backoffMost)
	e.retry = now.Add(e.backoff)
}
