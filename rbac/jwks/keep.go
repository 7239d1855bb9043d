package jwks

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Source gets the key set of an address: a [Fetcher]. It is called by several
// at once.
type Source interface {
	Fetch(ctx context.Context, uri string, timeout time.Duration) (Set, error)
}

var _ Source = (*Fetcher)(nil)

// A Keeper keeps the keys of all addresses in use. A key is kept for TokenLife
// after it was last seen at its address. So a key that is replaced verifies until
// the last token that it signed has expired, and a new one as soon as it is
// seen; and an issuer that is out of reach keeps its keys for as long, and then
// has none. Its fields must not change after Run.
type Keeper struct {
	Source Source
	Log    *slog.Logger
	// Every is the time between two fetches of an address, give or take a tenth.
	// Zero means five minutes.
	Every time.Duration
	// Retry is the time after the first fetch that failed. It doubles up to Every.
	// Zero means ten seconds.
	Retry time.Duration

	once    sync.Once
	changed chan struct{}
	wake    chan struct{}

	mu   sync.Mutex // guards kept
	kept map[string]*kept
}

// kept is what is known of one address.
type kept struct {
	use      Use
	seen     map[string]seenKey // by canonical text
	keys     string             // what Keys says
	next     time.Time          // of the next fetch
	failures int                // since the last that succeeded
	asking   bool
	success  time.Time
	refusal  string
}

type seenKey struct {
	key  Key
	last time.Time
}

// A State is what a Keeper knows of an address.
type State struct {
	URI  string
	Keys int // that verify now
	// Success is when the set was last got. Zero: never.
	Success time.Time
	// Failures counts the fetches that failed since, and Reason is why the last
	// one did.
	Failures int
	Reason   string
}

const (
	defaultEvery = 5 * time.Minute
	defaultRetry = 10 * time.Second
	// atOnce is how many addresses are asked at the same time, and perOwner how
	// many of them are one owner's: slow ones hold up their own.
	atOnce   = 16
	perOwner = 2
)

// A Use is how an address is used.
type Use struct {
	// Timeout is how long a fetch may take. Zero is the Source's own.
	Timeout time.Duration
	// Owner is on whose account it is asked, a namespace. Those of one owner wait
	// for each other.
	Owner string
}

func (k *Keeper) make() {
	k.once.Do(func() {
		k.changed, k.wake = make(chan struct{}, 1), make(chan struct{}, 1)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.kept = map[string]*kept{}
	})
}

// Use says which addresses are in use. The others are forgotten.
func (k *Keeper) Use(uris map[string]Use) {
	k.make()
	k.mu.Lock()
	maps.DeleteFunc(k.kept, func(uri string, _ *kept) bool { _, ok := uris[uri]; return !ok })
	for uri, use := range uris {
		if k.kept[uri] == nil {
			k.kept[uri] = &kept{seen: map[string]seenKey{}}
		}
		k.kept[uri].use = use
	}
	k.mu.Unlock()
	notify(k.wake)
}

// Keys is the key set of an address, for the Keys of an rbac.TokenRule. It is empty where
// the address is not in use, or none of its keys is known.
func (k *Keeper) Keys(uri string) string {
	k.make()
	k.mu.Lock()
	defer k.mu.Unlock()
	if at := k.kept[uri]; at != nil {
		return at.keys
	}
	return ""
}

// Changed has a value when some address has other keys than before. It is for
// one reader.
func (k *Keeper) Changed() <-chan struct{} {
	k.make()
	return k.changed
}

// States are those of all addresses in use, in order.
func (k *Keeper) States() []State {
	k.make()
	k.mu.Lock()
	defer k.mu.Unlock()
	var states []State
	for uri, at := range k.kept {
		states = append(states, State{URI: uri, Keys: len(at.seen), Success: at.success, Failures: at.failures, Reason: at.refusal})
	}
	slices.SortFunc(states, func(a, b State) int { return strings.Compare(a.URI, b.URI) })
	return states
}

// Run fetches until ctx ends, and then returns its error.
func (k *Keeper) Run(ctx context.Context) error {
	k.make()
	ctx, stop := context.WithCancel(ctx)
	var fetches sync.WaitGroup
	defer fetches.Wait()
	defer stop()
	slots, owners := make(chan struct{}, atOnce), map[string]chan struct{}{}
	for {
		due, next := k.due(time.Now())
		maps.DeleteFunc(owners, func(_ string, own chan struct{}) bool { return len(own) == 0 && len(due) == 0 })
		for _, d := range due {
			own := owners[d.owner]
			if own == nil {
				own = make(chan struct{}, perOwner)
				owners[d.owner] = own
			}
			fetches.Go(func() {
				if enter(ctx, own) {
					if enter(ctx, slots) {
						k.fetch(ctx, d.uri)
						<-slots
					}
					<-own
				}
			})
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-k.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// enter takes a place, in the order of those who wait, and tells whether it has
// before ctx ends.
func enter(ctx context.Context, places chan<- struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// ask is an address that is to be asked.
type ask struct{ uri, owner string }

// due marks the addresses whose time has come as being asked, drops the keys
// that are too old, and says how long there is nothing else to do.
func (k *Keeper) due(now time.Time) (list []ask, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait = k.every()
	for uri, at := range k.kept {
		k.settle(at, now)
		if !at.asking && !at.next.After(now) {
			at.asking = true
			list = append(list, ask{uri, at.use.Owner})
		}
		if !at.asking {
			wait = min(wait, at.next.Sub(now))
		}
		for _, seen := range at.seen {
			wait = min(wait, seen.last.Add(TokenLife).Sub(now))
		}
	}
	slices.SortFunc(list, func(a, b ask) int { return strings.Compare(a.uri, b.uri) })
	return list, max(wait, time.Millisecond)
}

// fetch asks one address, and takes what it says.
func (k *Keeper) fetch(ctx context.Context, uri string) {
	k.mu.Lock()
	at := k.kept[uri]
	k.mu.Unlock()
	if at == nil {
		return
	}
	k.mu.Lock()
	timeout := at.use.Timeout
	k.mu.Unlock()
	set, err := k.Source.Fetch(ctx, uri, timeout)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		k.Log.LogAttrs(ctx, slog.LevelWarn, "no key set", slog.String("uri", uri), slog.Any("err", err))
	}
	k.mu.Lock()
	k.take(at, set, err, time.Now())
	k.mu.Unlock()
	notify(k.wake)
}

// take needs k.mu.
func (k *Keeper) take(at *kept, set Set, err error, now time.Time) {
	at.asking = false
	if err != nil {
		wait := k.retry() << min(at.failures, 10)
		at.failures++
		at.refusal = err.Error()
		at.next = now.Add(jitter(min(wait, k.every())))
		k.settle(at, now)
		return
	}
	at.failures, at.refusal, at.success = 0, "", now
	at.next = now.Add(jitter(k.every()))
	for _, key := range set.keys {
		at.seen[key.text] = seenKey{key, now}
	}
	k.settle(at, now)
}

// settle drops keys that were not seen for too long, and the oldest where there
// are too many. It needs k.mu.
func (k *Keeper) settle(at *kept, now time.Time) {
	list := slices.SortedFunc(maps.Values(at.seen), func(a, b seenKey) int {
		if c := b.last.Compare(a.last); c != 0 {
			return c
		}
		return strings.Compare(a.key.text, b.key.text)
	})
	var keys []Key
	for i, seen := range list {
		if i >= maxKept || now.Sub(seen.last) >= TokenLife {
			delete(at.seen, seen.key.text)
			continue
		}
		keys = append(keys, seen.key)
	}
	if text := newSet(keys).JSON(); text != at.keys {
		at.keys = text
		notify(k.changed)
	}
}

func (k *Keeper) every() time.Duration {
	if k.Every > 0 {
		return k.Every
	}
	return defaultEvery
}

func (k *Keeper) retry() time.Duration {
	if k.Retry > 0 {
		return k.Retry
	}
	return defaultRetry
}

// jitter is d, give or take a tenth, so that managers do not ask in step.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// notify leaves word for one who may be busy.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
