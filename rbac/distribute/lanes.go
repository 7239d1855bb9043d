package distribute

import "runtime"

// heavy is how many bytes of policies make a set that takes turns with others.
const heavy = 64 << 10

// lanes keep the sets of some from delaying those of others: heavy ones are
// compiled one at a time, light ones beside them.
type lanes struct{ heavy, light chan struct{} }

func newLanes() lanes {
	return lanes{heavy: make(chan struct{}, 1), light: make(chan struct{}, max(2, runtime.GOMAXPROCS(0)))}
}

// enter waits for a place for so many bytes, and returns how to leave it.
func (l lanes) enter(size int) (leave func()) {
	lane := l.light
	if size > heavy {
		lane = l.heavy
	}
	lane <- struct{}{}
	return func() { <-lane }
}
