package ca

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/ca/journal"
	"github.com/istio-auth/istio-auth/ca/profile"
)

// TestClockJumps: within seconds of a wall clock being set, for whichever reason
// and however far, the CA shows a certificate that is valid now and issues under an
// issuer that is. Timers do not hear of it.
func TestClockJumps(t *testing.T) {
	for name, by := range map[string]time.Duration{
		"four minutes": 4 * time.Minute, "an hour": time.Hour, "sixty days": 60 * 24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ahead atomic.Int64
				now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
				a := open(t, Config{Now: now})
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- a.Run(ctx) }()
				for _, jump := range []time.Duration{0, by, 0} {
					time.Sleep(5 * time.Minute)
					ahead.Store(int64(jump))
					time.Sleep(look + time.Second)
					synctest.Wait()
					own := must(a.GetX509SVID())
					if _, _, err := x509svid.Verify(own.Certificates, a, x509svid.WithTime(now())); err != nil {
						t.Errorf("%v ahead: its own certificate: %v", jump, err)
					}
					if _, err := a.Issue(ctx, request(t)); err != nil {
						t.Errorf("%v ahead: issuing: %v", jump, err)
					}
				}
				stop()
				<-done
				a.Close()
			})
		})
	}
}

// TestIssuerFromTheFuture: an issuer that a wrong clock made is not the end of a
// CA that starts with the right one.
func TestIssuerFromTheFuture(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	now := start
	c := Config{Now: func() time.Time { return now }}
	for _, ahead := range []time.Duration{0, 60 * 24 * time.Hour, time.Hour} {
		now = start.Add(ahead)
		a := open(t, c)
		c.Dir = a.config.Dir
		if _, err := a.Issue(t.Context(), request(t)); err != nil {
			t.Errorf("%v ahead: %v", ahead, err)
		}
		a.Close()
	}
}

// TestBrokenJournalEndsRun: nothing is issued until the journal is opened again,
// and nobody opens it but the next process.
func TestBrokenJournalEndsRun(t *testing.T) {
	a, j, _ := faulty(t)
	j.broken = make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- a.Run(t.Context()) }()
	close(j.broken)
	if err := <-done; !errors.Is(err, journal.ErrBroken) {
		t.Errorf("Run ended with %v, want ErrBroken", err)
	}
}

// TestNoKeysLeft: an issuer that cannot be made leaves no key behind, however
// often it is tried.
func TestNoKeysLeft(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	a := open(t, Config{Now: func() time.Time { return now }, Profile: profile.Profile{IssuerLife: 48 * time.Hour, RootLife: 72 * time.Hour}})
	keys := func() int { return len(must(os.ReadDir(filepath.Join(a.config.Dir, "keys")))) }
	before := keys()
	good := a.intents
	a.intents = &fakeJournal{history: &history{}, append: journal.ErrBroken}
	now = now.Add(30 * time.Hour)
	if err := a.renewIssuer(t.Context(), now); !errors.Is(err, journal.ErrBroken) {
		t.Fatalf("without a journal: %v", err)
	}
	a.intents = good
	now = now.Add(20 * time.Hour)
	if err := a.renewIssuer(t.Context(), now); !errors.Is(err, profile.ErrIssuerSpent) {
		t.Fatalf("near the end of the root: %v", err)
	}
	if got := keys(); got != before {
		t.Errorf("%d keys, want %d", got, before)
	}
}
