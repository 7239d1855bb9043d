package distribute

import "sync"

// heavy is how many bytes of policies make a set that takes turns with others.
const heavy = 64 << 10

// atOnce is how many heavy sets are built at the same time, for the memory that
// they take. It is more than one: one namespace never has all places.
const atOnce = 2

// lanes keep the sets of one namespace from delaying those of others. Size says
// little of the time that a set takes, so that each namespace builds one light
// and one heavy set at a time, and waits behind its own. Between namespaces only
// heavy ones wait for each other, in the order in which they came.
type lanes struct {
	heavy chan struct{}

	mu  sync.Mutex // guards own
	own map[lane]*turn
}

// A lane is a namespace's.
type lane struct {
	namespace string
	heavy     bool
}

// A turn is whose it is; it is forgotten with the last who wants it.
type turn struct {
	taken chan struct{}
	users int
}

func newLanes() *lanes {
	return &lanes{heavy: make(chan struct{}, atOnce), own: map[lane]*turn{}}
}

// enter waits for a place for so many bytes, and returns how to leave it.
func (l *lanes) enter(namespace string, size int) (leave func()) {
	at := lane{namespace, size > heavy}
	l.mu.Lock()
	t := l.own[at]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1)}
		l.own[at] = t
	}
	t.users++
	l.mu.Unlock()
	t.taken <- struct{}{}
	if at.heavy {
		l.heavy <- struct{}{}
	}
	return func() {
		if at.heavy {
			<-l.heavy
		}
		<-t.taken
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(l.own, at)
		}
	}
}
