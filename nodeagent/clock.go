package nodeagent

import (
	"context"
	"time"
)

// Timers run by a clock that stands still while a machine sleeps; certificates
// end by the wall clock. One goroutine for the whole agent compares the two, so
// that a laptop that slept for eight hours does not serve until tomorrow what
// ended yesterday.
const (
	clockEvery = 15 * time.Second
	clockJump  = 2 * time.Second
)

// watchClock wakes every workload when the clocks have parted.
func (a *Agent) watchClock(ctx context.Context) {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		// Round(0) strips the monotonic reading.
		if by, jump := jumped(now.Round(0).Sub(last.Round(0)), now.Sub(last)); jump {
			a.Log.Warn("the wall clock jumped", "by", by)
			a.wake()
		}
		last = now
	}
}

// jumped compares what both clocks say has passed.
func jumped(wall, monotonic time.Duration) (by time.Duration, jump bool) {
	by = wall - monotonic
	return by, by.Abs() > clockJump
}

// wake makes every workload look at the clock.
func (a *Agent) wake() {
	a.mu.Lock()
	members := a.all()
	a.mu.Unlock()
	for _, m := range members {
		poke(m.nudged)
	}
}
