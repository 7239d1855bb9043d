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
