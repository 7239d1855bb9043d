package client

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// Bounds of the wait between attempts.
const (
	firstWait = 200 * time.Millisecond
	maxWait   = 30 * time.Second
)

// backoff is how long to wait after n failures in a row: exponential, with full
// jitter, so that those who failed together do not come back together. draw is in [0, 1).
func backoff(n int, draw float64) time.Duration {
	most := maxWait
	if n < 8 { // firstWait << 8 is past maxWait
		most = min(maxWait, firstWait<<n)
	}
	return time.Duration(draw * float64(most))
}

// renewIn is when to renew what lives for another life: at 25 to 40 % of it,
// and not at once, whatever the CA sends.
func renewIn(life time.Duration, draw float64) time.Duration {
	return max(firstWait, time.Duration((0.25+0.15*draw)*float64(life)))
}

// pause waits after n failures, for longer where the server asks for it.
// It returns false when ctx has ended.
func pause(ctx context.Context, n int, err error) bool {
	return sleep(ctx, backoff(n, rand.Float64())+wish(err))
}

// wish is how long the server wants to be left alone, as far as that is sane.
func wish(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return min(max(0, retry.GetRetryDelay().AsDuration()), 5*time.Minute)
		}
	}
	return 0
}

// look is how often a long sleep looks at the wall clock: a timer's stands still
// while a machine sleeps, and hears of no clock that was set.
const look = 15 * time.Second

// sleepByBoth sleeps until d has passed by the clock that is ahead: the wall clock,
// by which certificates end, or that of timers. It returns false when ctx has ended.
func sleepByBoth(ctx context.Context, d time.Duration) bool {
	for began := time.Now(); ; {
		now := time.Now()
		left := remains(d, now.Round(0).Sub(began.Round(0)), now.Sub(began)) // Round(0) leaves the wall clock alone
		if left <= 0 {
			return true
		}
		if !sleep(ctx, min(left, look)) {
			return false
		}
	}
}

// remains is what is left of d when so much has passed by either clock.
func remains(d, wall, timers time.Duration) time.Duration { return d - max(wall, timers) }

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
