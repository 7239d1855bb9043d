package renew

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// ErrRefused marks an answer that will come again however often one asks. It is
// asked again all the same, only slower: clusters change.
var ErrRefused = errors.New("renew: refused by the CA")

// errBorn reports a certificate that had ended when it came.
var errBorn = errors.New("renew: the certificate has no life left")

// An Issuer obtains one certificate, puts it to use, and says when it ends.
type Issuer interface {
	// Issue must end with ctx. An error that wraps [ErrRefused] slows the loop
	// down; one with a method RetryAfter() time.Duration is waited for.
	Issue(ctx context.Context) (notAfter time.Time, err error)
}

// A Loop keeps one certificate fresh through one Issuer. Its fields must not
// change after Run, which is called once.
type Loop struct {
	Issuer Issuer

	// Expired is called when the certificate ended and has no successor yet. May be nil.
	Expired func()
	// Observe is told the outcome of each try. May be nil.
	Observe func(Outcome)
	// Nudged says that the world changed: a try that waits after a failure is made
	// at once, and a certificate that waits is looked at with the clock and Stale.
	// A value on it is one nudge. May be nil.
	Nudged <-chan struct{}
	// Stale tells whether the certificate must be replaced before its time. It is
	// asked at each nudge. May be nil.
	Stale func() bool
	// Draw is uniform in [0, 1), and math/rand/v2's where nil. It is called once
	// for each certificate and once for each failure.
	Draw func() float64
}

// An Outcome is what became of one try.
type Outcome struct {
	// Err is nil where a certificate came.
	Err error
	// Failures is how many tries failed in a row.
	Failures int
	// Took is how long the try took.
	Took time.Duration
	// NotAfter is the end of the certificate that is held, and zero where none is.
	NotAfter time.Time
	// Next is when the next try is due.
	Next time.Time
}

// state is what a Loop knows between two looks at the clock.
type state struct {
	notAfter time.Time // of the certificate held; zero: none
	next     time.Time // when to try
	failures int       // in a row
}

// left is what remains of the certificate held, by the wall clock.
func (s *state) left(now time.Time) time.Duration {
	if s.notAfter.IsZero() {
		return 0
	}
	return s.notAfter.Sub(now)
}

// Run tries at once, and then renews until ctx ends. It returns ctx's error, and
// leaves nothing running.
func (l *Loop) Run(ctx context.Context) error {
	var s state
	s.next = wall()
	for ctx.Err() == nil {
		now := wall()
		if !s.notAfter.IsZero() && !now.Before(s.notAfter) {
			s.notAfter = time.Time{}
			if l.Expired != nil {
				l.Expired()
			}
		}
		if !now.Before(s.next) {
			l.try(ctx, &s)
			continue
		}
		until := s.next
		if !s.notAfter.IsZero() && s.notAfter.Before(until) {
			until = s.notAfter
		}
		if l.sleep(ctx, until.Sub(now)) && (s.failures > 0 || l.Stale != nil && l.Stale()) {
			s.next = wall()
		}
	}
	return ctx.Err()
}

// try makes one try and plans the next.
func (l *Loop) try(ctx context.Context, s *state) {
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, Patience(s.left(wall())))
	notAfter, err := l.Issuer.Issue(bounded)
	cancel()
	if ctx.Err() != nil {
		return
	}
	took, now := time.Since(began), wall()
	if err == nil && !notAfter.After(now) {
		err = fmt.Errorf("%w: ended %s", errBorn, notAfter)
	}
	if err == nil {
		s.notAfter, s.failures = notAfter, 0
		// No sooner than the floor, however short a life the CA gives.
		s.next = later(At(now, notAfter, l.draw()), now.Add(floor))
	} else {
		s.failures++
		f := Failure{Count: s.failures, Refused: errors.Is(err, ErrRefused), Left: s.left(now), Asked: asked(err)}
		s.next = now.Add(f.Wait(l.draw()))
	}
	if l.Observe != nil {
		l.Observe(Outcome{Err: err, Failures: s.failures, Took: took, NotAfter: s.notAfter, Next: s.next})
	}
}

// sleep waits, and reports whether a nudge ended it.
func (l *Loop) sleep(ctx context.Context, d time.Duration) (nudged bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-ctx.Done():
		return false
	case <-l.Nudged:
		return true
	}
}

func (l *Loop) draw() float64 {
	if l.Draw != nil {
		return l.Draw()
	}
	return rand.Float64()
}

// asked is the wait that the CA wished for.
func asked(err error) time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if errors.As(err, &r) {
		return max(0, r.RetryAfter())
	}
	return 0
}

// wall is the wall clock alone. Certificates end by it; the monotonic clock
// stands still while a machine sleeps.
func wall() time.Time { return time.Now().Round(0) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
