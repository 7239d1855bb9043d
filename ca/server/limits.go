package server

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Limits bound what callers can cost. A field that is zero means the default
// that it names.
type Limits struct {
	// Strangers may all together make this many attempts at attestation each
	// second, with a burst of one second's. Default 200.
	Strangers Rate

	// Agent is what each agent may ask for. The burst covers the restart of a
	// full node. Default 50 a second, 500 at once.
	Agent Rate

	// Working is how many requests are worked on at once; more are told to come
	// back. Each agent has a quarter of it at the most, and all strangers together
	// have one: while a party that has to be asked is slow, nobody takes the places
	// of all. Default 256.
	Working int

	// PerStream is how many requests of one stream are worked on at once; more
	// wait unread. Default 32.
	PerStream int

	// Patience is how long a stranger may take to send its one request, and how
	// long evidence may take to be judged. Default 10 s.
	Patience time.Duration
}

// A Rate is a number of events each second, and how many of them may come at once.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (l Limits) withDefaults() Limits {
	if l.Strangers == (Rate{}) {
		l.Strangers = Rate{PerSecond: 200, Burst: 200}
	}
	if l.Agent == (Rate{}) {
		l.Agent = Rate{PerSecond: 50, Burst: 500}
	}
	if l.Working == 0 {
		l.Working = 256
	}
	if l.PerStream == 0 {
		l.PerStream = 32
	}
	if l.Patience == 0 {
		l.Patience = 10 * time.Second
	}
	return l
}

// Bounds of the transport (THREATS T2.13).
const (
	maxStreams     = 64
	maxMessage     = 64 << 10
	maxHeaders     = 16 << 10
	maxHandshake   = 10 * time.Second
	maxIdle        = 5 * time.Minute // of a connection without a stream
	pingEvery      = 30 * time.Second
	pingPatience   = 10 * time.Second
	clientsMayPing = 15 * time.Second
)

func transportLimits() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(maxHandshake),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientsMayPing}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: maxIdle,
			Time:              pingEvery,
			Timeout:           pingPatience,
		}),
	}
}

// A budget is a token bucket that says how long to stay away when it is empty.
type budget struct{ bucket *rate.Limiter }

func newBudget(r Rate) *budget {
	return &budget{bucket: rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst)}
}

// take takes one token. Where there is none, it returns after how long there
// will be, spread over twice the time so that those who wait do not come back together.
func (b *budget) take(now time.Time) (wait time.Duration, ok bool) {
	if b.bucket.AllowN(now, 1) {
		return 0, true
	}
	limit := float64(b.bucket.Limit())
	if limit <= 0 {
		return time.Minute, false
	}
	seconds := (1 - b.bucket.TokensAt(now)) / limit
	wait = time.Duration(math.Max(seconds, 0.1) * float64(time.Second))
	return spread(wait), false
}

// spread returns a random time between d and twice d.
func spread(d time.Duration) time.Duration { return d + rand.N(d) }

// shares counts the requests under way of each caller, and bounds them. The zero
// ID is all strangers together.
type shares struct {
	each int

	mu    sync.Mutex // guards the field below
	taken map[spiffeid.ID]int
}

func newShares(working int) *shares {
	return &shares{each: max(1, working/4), taken: map[spiffeid.ID]int{}}
}

func (s *shares) enter(id spiffeid.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[id] >= s.each {
		return false
	}
	s.taken[id]++
	return true
}

func (s *shares) leave(id spiffeid.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[id]--; s.taken[id] == 0 {
		delete(s.taken, id)
	}
}

// budgets is one budget for each agent. Those that are full again are
// forgotten, since a new one would be as full.
type budgets struct {
	each Rate

	mu   sync.Mutex // guards the fields below
	byID map[spiffeid.ID]*budget
	room int // at how many to look for full ones
}

func newBudgets(each Rate) *budgets {
	return &budgets{each: each, byID: map[spiffeid.ID]*budget{}, room: minBudgets}
}

const minBudgets = 1024

func (b *budgets) take(id spiffeid.ID, now time.Time) (time.Duration, bool) {
	b.mu.Lock()
	one, ok := b.byID[id]
	if !ok {
		if len(b.byID) >= b.room {
			b.sweep(now)
		}
		one = newBudget(b.each)
		b.byID[id] = one
	}
	b.mu.Unlock()
	return one.take(now)
}

// sweep is called with mu held.
func (b *budgets) sweep(now time.Time) {
	for id, one := range b.byID {
		if one.bucket.TokensAt(now) >= float64(b.each.Burst) {
			delete(b.byID, id)
		}
	}
	b.room = max(minBudgets, 2*len(b.byID))
}
