package renew_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/istio-auth/istio-auth/nodeagent/renew"
)

var errDown = errors.New("connection refused")

// An authority issues certificates of one life. It obeys its fields, which a
// test sets before the loop runs.
type authority struct {
	life    time.Duration
	latency time.Duration
	answer  func(now time.Time) error // nil error: issue
	hang    func(now time.Time) bool  // true: no answer until ctx ends

	mu     sync.Mutex // guards what follows
	tries  []time.Time
	issued []time.Time
}

func (a *authority) Issue(ctx context.Context) (time.Time, error) {
	now := time.Now()
	a.mu.Lock()
	a.tries = append(a.tries, now)
	a.mu.Unlock()
	if a.hang != nil && a.hang(now) {
		<-ctx.Done()
		return time.Time{}, ctx.Err()
	}
	if a.latency > 0 {
		time.Sleep(a.latency)
	}
	if a.answer != nil {
		if err := a.answer(now); err != nil {
			return time.Time{}, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.issued = append(a.issued, time.Now())
	return time.Now().Add(a.life), nil
}

// run lets the loop live for d of the bubble's time.
func run(t *testing.T, d time.Duration, l *renew.Loop) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	time.Sleep(d)
	synctest.Wait()
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want the context's error", err)
	}
}

func always(draw float64) func() float64 { return func() float64 { return draw } }

func TestADay(t *testing.T) {
	for _, c := range []struct {
		name string
		life time.Duration
		draw float64
		want int // certificates, the first included
	}{
		{"6 h, earliest", 6 * time.Hour, 0, 17}, // every 90 min, the last at 24 h sharp
		{"6 h, latest", 6 * time.Hour, 1, 11},   // every 144 min, the last at 24 h sharp
		{"1 h, middle", time.Hour, 0.5, 74},     // every 19.5 min
		{"10 s, middle", 10 * time.Second, 0.5, 26585},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := &authority{life: c.life}
				run(t, 24*time.Hour, &renew.Loop{Issuer: ca, Draw: always(c.draw), Expired: func() { t.Error("expired") }})
				if got := len(ca.issued); got != c.want {
					t.Errorf("issued %d certificates in a day, want %d", got, c.want)
				}
			})
		})
	}
}

// A nudge makes the loop look at the clock again; it must not make it draw again.
func TestDrawnOncePerCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		draws, nudges, r := 0, make(chan struct{}), rand.New(rand.NewPCG(1, 2))
		ca := &authority{life: 6 * time.Hour}
		loop := &renew.Loop{Issuer: ca, Nudged: nudges, Stale: func() bool { return false },
			Draw: func() float64 { draws++; return r.Float64() }}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- loop.Run(ctx) }()
		for range 24 * 60 { // a look every minute, as a poller would
			time.Sleep(time.Minute)
			nudges <- struct{}{}
		}
		synctest.Wait()
		stop()
		<-done
		if draws != len(ca.issued) {
			t.Errorf("drew %d times for %d certificates", draws, len(ca.issued))
		}
		if got := len(ca.issued); got < 11 || got > 17 {
			t.Errorf("issued %d certificates in a day, want 11 to 17: nudges moved the renewals", got)
		}
	})
}

// A thousand workloads that all came at once, as after a node's boot, spread out
// and stay spread. The figures: 1,000 renewals over 54 min are 18.5 a minute; in
// the steady state (117 min on average) 8.5 a minute.
func TestAThousandDoNotBunch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, day = 1000, 24 * time.Hour
		start := time.Now()
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		cas := make([]*authority, n)
		for i := range cas {
			cas[i] = &authority{life: 6 * time.Hour}
			r := rand.New(rand.NewPCG(uint64(i), 7))
			wg.Go(func() { (&renew.Loop{Issuer: cas[i], Draw: r.Float64}).Run(ctx) })
		}
		time.Sleep(day)
		synctest.Wait()
		stop()
		wg.Wait()

		perMinute := make([]int, 24*60+1)
		var firsts []float64
		for _, ca := range cas {
			firsts = append(firsts, ca.issued[1].Sub(start).Minutes())
			for _, at := range ca.issued[1:] {
				perMinute[int(at.Sub(start).Minutes())]++
			}
		}
		if got, least := deviation(firsts), 15.0; got < least { // uniform over 54 min: 15.6
			t.Errorf("first renewals deviate by %.1f min, want %.1f at least", got, least)
		}
		if lo, hi := slices.Min(firsts), slices.Max(firsts); lo < 90 || lo > 91 || hi < 143 || hi > 144 {
			t.Errorf("first renewals from %.1f to %.1f min, want 90 to 144", lo, hi)
		}
		if got := slices.Max(perMinute[:12*60]); got > 40 {
			t.Errorf("%d renewals in one minute of the first half day, want at most 40", got)
		}
		if got := slices.Max(perMinute[12*60:]); got > 25 {
			t.Errorf("%d renewals in one minute of the second half day, want at most 25", got)
		}
	})
}

func deviation(xs []float64) float64 {
	var sum, sq float64
	for _, x := range xs {
		sum, sq = sum+x, sq+x*x
	}
	n := float64(len(xs))
	return math.Sqrt(sq/n - sum/n*sum/n)
}

// The worst draw, and a CA that goes away just before the renewal. It was due at
// 144 min and the certificate ends at 360: 216 min are the budget.
func TestOutage(t *testing.T) {
	for _, c := range []struct {
		name    string
		outage  time.Duration
		expired int
	}{
		{"a minute", time.Minute, 0},
		{"3 h 30", 210 * time.Minute, 0},
		{"one minute past the budget", 219 * time.Minute, 1},
		{"a day", 24 * time.Hour, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				begins := start.Add(143 * time.Minute)
				ends := begins.Add(c.outage)
				ca := &authority{life: 6 * time.Hour, answer: func(now time.Time) error {
					if now.After(begins) && now.Before(ends) {
						return errDown
					}
					return nil
				}}
				var expired []time.Duration
				run(t, 30*time.Hour, &renew.Loop{Issuer: ca, Draw: always(1),
					Expired: func() { expired = append(expired, time.Since(start)) }})
				if len(expired) != c.expired {
					t.Fatalf("expired %d times, want %d", len(expired), c.expired)
				}
				if c.expired > 0 && expired[0] != 6*time.Hour {
					t.Errorf("said that it expired after %v, want 6 h sharp", expired[0])
				}
				again, most := ca.issued[1].Sub(ends), 2*time.Minute
				if c.expired > 0 {
					most = 15 * time.Second
				}
				if again < -time.Minute || again > most {
					t.Errorf("issued again %v after the outage, want within %v", again, most)
				}
				if got := len(ca.tries); got > 6500 { // dark for 20 h at 15 s and the worst draw: 4,800
					t.Errorf("%d tries", got)
				}
			})
		})
	}
}

// With ten seconds of life, a CA that is away for four seconds costs nobody anything.
func TestShortLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ca := &authority{life: 10 * time.Second, answer: func(now time.Time) error {
			if at := now.Sub(start) % (15 * time.Second); at > 10*time.Second && at < 14*time.Second {
				return errDown
			}
			return nil
		}}
		r := rand.New(rand.NewPCG(3, 4))
		run(t, time.Hour, &renew.Loop{Issuer: ca, Draw: r.Float64, Expired: func() { t.Error("expired") }})
		if got := len(ca.issued); got < 800 {
			t.Errorf("issued %d in an hour, want 800 at least", got)
		}
	})
}

func TestRefusedIsSlower(t *testing.T) {
	tries := map[bool]int{}
	for _, refused := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			err := errDown
			if refused {
				err = fmt.Errorf("pod is gone: %w", renew.ErrRefused)
			}
			ca := &authority{answer: func(time.Time) error { return err }}
			var last renew.Outcome
			run(t, time.Hour, &renew.Loop{Issuer: ca, Draw: always(0.99),
				Observe: func(o renew.Outcome) { last = o }, Expired: func() { t.Error("expired without a certificate") }})
			tries[refused] = len(ca.tries)
			if errors.Is(last.Err, renew.ErrRefused) != refused || last.Failures != len(ca.tries) || !last.NotAfter.IsZero() {
				t.Errorf("last outcome %+v after %d tries", last, len(ca.tries))
			}
		})
	}
	if got := tries[false]; got < 240 || got > 260 { // 15 s apart
		t.Errorf("tried %d times in an hour without a CA, want about 248", got)
	}
	if got := tries[true]; got < 14 || got > 20 { // 5 min apart, after a start
		t.Errorf("tried %d times in an hour of refusals, want about 16", got)
	}
}

// A CA that takes the request and says nothing must not hide the certificate's end.
func TestHangingIssuerDoesNotHideTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ca := &authority{life: 10 * time.Second, hang: func(now time.Time) bool { return now.After(start.Add(time.Second)) }}
		var expired time.Duration
		run(t, time.Minute, &renew.Loop{Issuer: ca, Draw: always(0), Expired: func() { expired = time.Since(start) }})
		if expired != 10*time.Second {
			t.Errorf("expired after %v, want 10 s sharp", expired)
		}
		inLife := 0
		for _, at := range ca.tries {
			if at.Before(start.Add(10 * time.Second)) {
				inLife++
			}
		}
		if inLife < 4 { // the first, and three of the 7.5 s that were left
			t.Errorf("%d tries in the certificate's life, want 4 at least", inLife)
		}
	})
}

// busy is the CA's wish to be left alone.
type busy time.Duration

func (busy) Error() string               { return "busy" }
func (b busy) RetryAfter() time.Duration { return time.Duration(b) }

func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := &authority{answer: func(time.Time) error { return fmt.Errorf("issuing: %w", busy(20*time.Second)) }}
		run(t, 10*time.Minute, &renew.Loop{Issuer: ca, Draw: always(0)})
		if got, want := len(ca.tries), 31; got != want { // at 0, 20 s, 40 s, ...
			t.Errorf("tried %d times in ten minutes, want %d", got, want)
		}
	})
}

// A newer token or a resumed machine nudges: whoever waits after a failure tries at once.
func TestNudgeAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, nudges := time.Now(), make(chan struct{}, 1)
		ca := &authority{life: time.Hour, answer: func(now time.Time) error {
			if now.Before(start.Add(time.Minute)) {
				return renew.ErrRefused
			}
			return nil
		}}
		time.AfterFunc(61*time.Second, func() { nudges <- struct{}{} })
		run(t, 2*time.Minute, &renew.Loop{Issuer: ca, Draw: always(1), Nudged: nudges})
		if len(ca.issued) != 1 || ca.issued[0].Sub(start) != 61*time.Second {
			t.Errorf("issued at %v, want once at the nudge", ca.issued)
		}
	})
}

func TestStaleIsRenewedAtTheNudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, nudges := time.Now(), make(chan struct{}, 1)
		var stale atomic.Bool
		ca := &authority{life: time.Hour}
		time.AfterFunc(time.Minute, func() { nudges <- struct{}{} })
		time.AfterFunc(2*time.Minute, func() { stale.Store(true); nudges <- struct{}{} })
		run(t, 3*time.Minute, &renew.Loop{Issuer: ca, Nudged: nudges, Stale: stale.Load})
		if len(ca.issued) != 2 || ca.issued[1].Sub(start) != 2*time.Minute {
			t.Errorf("issued at %v, want a second one after two minutes", ca.issued)
		}
	})
}

// A CA that gives certificates without life is a failing CA, not a busy loop.
func TestStillborn(t *testing.T) {
	for _, life := range []time.Duration{-time.Hour, 0, time.Nanosecond} {
		synctest.Test(t, func(t *testing.T) {
			ca := &authority{life: life}
			run(t, time.Minute, &renew.Loop{Issuer: ca})
			if got := len(ca.tries); got > 1201 { // 50 ms apart at the least
				t.Errorf("life %v: %d tries in a minute", life, got)
			}
		})
	}
}

func TestEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ca := &authority{hang: func(time.Time) bool { return true }}
		done := make(chan error, 1)
		go func() {
			done <- (&renew.Loop{Issuer: ca, Observe: func(o renew.Outcome) { t.Errorf("observed %+v", o) }}).Run(ctx)
		}()
		time.Sleep(time.Second)
		stop()
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("Run did not end with its context")
		}
	})
}
