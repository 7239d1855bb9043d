package ca

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/journal"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/lint"
	"github.com/istio-auth/istio-auth/ca/profile"
)

// A history is what happened, in order.
type history struct {
	mu     sync.Mutex
	events []string
}

func (h *history) note(event string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, event)
}

// A fakeJournal notes what it is told, and may fail.
type fakeJournal struct {
	*history
	intent   journal.Intent
	outcomes []journal.Outcome
	append   error
	outcome  error
	broken   chan struct{}
}

func (f *fakeJournal) Append(_ context.Context, in journal.Intent) error {
	f.note("intent")
	f.intent = in
	return f.append
}

func (f *fakeJournal) Outcome(out journal.Outcome) error {
	f.note("outcome")
	f.outcomes = append(f.outcomes, out)
	return f.outcome
}

func (f *fakeJournal) Broken() <-chan struct{} { return f.broken }

// A fakeKey signs by a function, given the key that it stands for.
type fakeKey struct {
	*history
	crypto.Signer
	sign func(real crypto.Signer, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func (f *fakeKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	f.note("signature")
	if f.sign != nil {
		return f.sign(f.Signer, digest, opts)
	}
	return f.Signer.Sign(random, digest, opts)
}

// faulty is an authority whose journal and key the test holds in its hands.
func faulty(t *testing.T) (*Authority, *fakeJournal, *fakeKey) {
	t.Helper()
	a := open(t, Config{})
	h := &history{}
	j := &fakeJournal{history: h}
	real := a.issuer.Load()
	k := &fakeKey{history: h, Signer: real.key}
	a.intents = j
	a.issuer.Store(&signing{cert: real.cert, key: k})
	return a, j, k
}

// TestOrder: the intent is written before the key is touched, and the outcome
// after; each of them once (I1).
func TestOrder(t *testing.T) {
	a, j, _ := faulty(t)
	r := request(t)
	issued, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"intent", "signature", "outcome"}; !slices.Equal(j.events, want) {
		t.Errorf("%v, want %v", j.events, want)
	}
	if j.intent.Evidence != r.Evidence || string(j.intent.TBS) != string(issued.Chain[0].RawTBSCertificate) {
		t.Error("the intent is not of what was signed")
	}
	if len(j.outcomes) != 1 || j.outcomes[0].Certificate != sha256.Sum256(issued.Chain[0].Raw) {
		t.Errorf("outcomes %+v", j.outcomes)
	}
}

// AU-01: without a durable intent the key is not touched.
func TestNoIntentNoSignature(t *testing.T) {
	a, j, _ := faulty(t)
	j.append = journal.ErrBroken
	if _, err := a.Issue(t.Context(), request(t)); !errors.Is(err, attest.ErrUnavailable) || !errors.Is(err, journal.ErrBroken) {
		t.Errorf("%v, want ErrUnavailable for ErrBroken", err)
	}
	if want := []string{"intent"}; !slices.Equal(j.events, want) {
		t.Errorf("%v, want %v", j.events, want)
	}
}

// TestSignerFaults: whatever a key gives back that is not the signature of what
// was meant, nothing leaves.
func TestSignerFaults(t *testing.T) {
	type sign = func(real crypto.Signer, digest []byte, opts crypto.SignerOpts) ([]byte, error)
	other := func(change func([]byte) []byte) sign {
		return func(real crypto.Signer, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
			signature, err := real.Sign(nil, digest, opts)
			return change(signature), err
		}
	}
	_, stranger := newKey(t)
	for name, r := range map[string]struct {
		sign     sign
		outcomes int // of the intent: one for a key that says no, none where nobody knows
	}{
		"an error":      {func(crypto.Signer, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errors.New("sealed") }, 1},
		"nothing":       {other(func([]byte) []byte { return nil }), 0},
		"zeros":         {other(func(s []byte) []byte { return make([]byte, len(s)) }), 0},
		"a bit changed": {other(func(s []byte) []byte { s[len(s)-1] ^= 1; return s }), 0},
		"a byte more":   {other(func(s []byte) []byte { return append(s, 0) }), 0},
		"another's":     {func(_ crypto.Signer, d []byte, o crypto.SignerOpts) ([]byte, error) { return stranger.Sign(nil, d, o) }, 0},
		"of something else": {func(real crypto.Signer, d []byte, o crypto.SignerOpts) ([]byte, error) {
			return real.Sign(nil, make([]byte, len(d)), o)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a, j, k := faulty(t)
			k.sign = r.sign
			issued, err := a.Issue(t.Context(), request(t))
			if issued != nil || !errors.Is(err, attest.ErrUnavailable) {
				t.Errorf("%v, want ErrUnavailable", err)
			}
			if len(j.outcomes) != r.outcomes {
				t.Errorf("outcomes %+v, want %d", j.outcomes, r.outcomes)
			}
			for _, out := range j.outcomes {
				if out.Refused == "" {
					t.Error("the journal says that it was issued")
				}
			}
		})
	}
}

// TestNoOutcomeNothingLeaves: what the journal could not take up stays inside.
func TestNoOutcomeNothingLeaves(t *testing.T) {
	a, j, _ := faulty(t)
	j.outcome = journal.ErrBroken
	if issued, err := a.Issue(t.Context(), request(t)); issued != nil || !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
}

// LN-04: a template that has grown a power is stopped by the lint, before the
// journal and the key hear of it.
func TestLintStops(t *testing.T) {
	a, j, _ := faulty(t)
	r := request(t)
	now := time.Now()
	serial := must(profile.NewSerial(zeros{}))
	issuer := a.issuer.Load()
	template := must(profile.Profile{}.Leaf(profile.Order{Identity: workload, Key: r.Key, Issuer: issuer.cert, Serial: serial, Now: now}))
	template.IsCA = true
	_, err := a.certify(t.Context(), issuer, certificate{
		template: template, id: workload.ID(), key: r.Key, now: now,
		lint: func(tbs []byte) error {
			return lint.Check(tbs, lint.Want{ID: workload.ID(), Key: r.Key, Serial: serial, Issuer: issuer.cert, Now: now, Life: 6 * time.Hour})
		},
	})
	if attest.Reason(err) != ReasonLint || len(j.events) != 0 {
		t.Errorf("%v, and then %v", err, j.events)
	}
}

// zeros is no chance at all; ones with a serial of 0x7f7f... it gives.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 0x7f
	}
	return len(p), nil
}

// TestMany: a thousand at once, each journaled, each with a serial of its own (I4).
func TestMany(t *testing.T) {
	a := open(t, Config{})
	const callers, each = 50, 10
	var keys [callers]keypolicy.Key
	for i := range keys {
		keys[i], _ = newKey(t)
	}
	var mu sync.Mutex
	serials := map[string]bool{}
	var group sync.WaitGroup
	for _, key := range keys {
		group.Go(func() {
			for range each {
				issued, err := a.Issue(t.Context(), Request{Identity: workload, Key: key})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				serials[issued.Chain[0].SerialNumber.String()] = true
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if got, want := len(serials), callers*each; got != want {
		t.Errorf("%d serials, want %d", got, want)
	}
	live := a.Journal().Live(workload.ID(), time.Now())
	if len(live) != callers*each {
		t.Errorf("the journal has %d, want %d", len(live), callers*each)
	}
	for _, entry := range live {
		if entry.Outcome == nil || !serials[entry.Serial.String()] {
			t.Errorf("entry %x: %+v", entry.Serial, entry.Outcome)
		}
	}
}

// BenchmarkIssue issues with the real journal and its fsync: 64 callers at once
// share it, as many as a busy agent's streams would be.
func BenchmarkIssue(b *testing.B) {
	a := open(b, Config{})
	key, _ := newKey(b)
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := a.Issue(b.Context(), Request{Identity: workload, Key: key}); err != nil {
				b.Error(err)
			}
		}
	})
}
