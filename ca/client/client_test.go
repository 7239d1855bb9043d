package client

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/ca/profile"
)

// TestDay: an agent is never without a good certificate of its own, and a
// workload gets and renews its own at any time of the day.
func TestDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		c, _ := run(t, w.config())
		<-c.Ready()
		r := firstIssue(t)
		const days, step = 1, 13 * time.Minute
		rounds := 0
		for end := time.Now().Add(days * 24 * time.Hour); time.Now().Before(end); time.Sleep(step) {
			rounds++
			own, err := c.GetX509SVID()
			if err != nil || own.ID != agentID || time.Until(own.Certificates[0].NotAfter) < 30*time.Minute {
				t.Fatalf("after %d rounds our own SVID is %v until %v, %v", rounds, own.ID, own.Certificates[0].NotAfter, err)
			}
			chain, err := c.Issue(t.Context(), r)
			if err != nil {
				t.Fatalf("round %d: %v", rounds, err)
			}
			if !r.Key.Public().(*ecdsa.PublicKey).Equal(chain[0].PublicKey) {
				t.Fatal("issued for another key")
			}
			// The next round renews it.
			svid := &x509svid.SVID{ID: spiffeid.RequireFromPath(td, "/ns/shop/sa/web"), Certificates: chain, PrivateKey: r.Key}
			r = Request{Pod: pod, Current: svid, Key: catest.Key(t)}
		}
		attests, issues := w.counts()
		// A life is an hour less a second, renewed at 25 to 40 % of it.
		if least, most := int(days*24/0.4), int(days*24/0.25)+2; attests < least || attests > most {
			t.Errorf("attested %d times, want %d to %d", attests, least, most)
		}
		if issues != rounds {
			t.Errorf("the CA issued %d certificates in %d rounds", issues, rounds)
		}
	})
}

// TestService: the manager attests and reads the bundle, and issues nothing.
func TestService(t *testing.T) {
	w := newWorld(t)
	w.start()
	config := w.config()
	config.Evidence = func(context.Context) (Evidence, error) { return KubernetesToken(attest.NewToken("manager")), nil }
	told := make(chan uint64, 1)
	config.OnBundle = func(_ context.Context, v bundle.Versioned) error { told <- v.Sequence; return nil }
	c, _ := run(t, config)
	if got := <-told; got != 7 {
		t.Errorf("told bundle %d, want 7", got)
	}
	if own, err := c.GetX509SVID(); err != nil || own.ID.Path() != "/istio-auth/manager" {
		t.Errorf("got %v, %v", own, err)
	}
	if _, err := c.Issue(t.Context(), firstIssue(t)); !errors.Is(err, attest.ErrRefused) || errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("issuing as a service: %v", err)
	}
}

// TestNeverOnFirstUse: whoever is not the CA learns no token.
func TestNeverOnFirstUse(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *world, *Config){
		"another CA's server": func(t *testing.T, w *world, _ *Config) { w.own = catest.New(t, td).SVID(t, serverID, time.Hour) },
		"a workload as the server": func(t *testing.T, w *world, _ *Config) {
			w.own = w.ca.SVID(t, spiffeid.RequireFromPath(td, "/ns/shop/sa/web"), time.Hour)
		},
		"the manager as the server": func(t *testing.T, w *world, _ *Config) {
			w.own = w.ca.SVID(t, spiffeid.RequireFromPath(td, "/istio-auth/manager"), time.Hour)
		},
		"an expired server": func(t *testing.T, w *world, _ *Config) { w.own = w.ca.SVID(t, serverID, -time.Hour) },
		"a server of another domain": func(t *testing.T, w *world, _ *Config) {
			other := spiffeid.RequireTrustDomainFromString("other.test")
			w.own = w.ca.SVID(t, spiffeid.RequireFromPath(other, "/istio-auth/ca"), time.Hour)
		},
		"no first trust": func(_ *testing.T, _ *world, c *Config) {
			c.FirstTrust = func() (*x509bundle.Bundle, error) { return nil, errors.New("not mounted") }
		},
		"a first trust of nobody": func(_ *testing.T, _ *world, c *Config) {
			c.FirstTrust = func() (*x509bundle.Bundle, error) { return x509bundle.New(td), nil }
		},
		"a first trust of another domain": func(_ *testing.T, w *world, c *Config) {
			c.FirstTrust = func() (*x509bundle.Bundle, error) {
				return x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("other.test"), w.ca.Bundle().X509Authorities()), nil
			}
		},
		"no first trust at all": func(_ *testing.T, _ *world, c *Config) {
			c.FirstTrust = func() (*x509bundle.Bundle, error) { return nil, nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				config, read := w.config(), 0
				config.Evidence = func(context.Context) (Evidence, error) {
					read++
					return KubernetesToken(attest.NewToken("agent")), nil
				}
				spoil(t, w, &config)
				w.start()
				c, stop := run(t, config)
				time.Sleep(5 * time.Minute)
				stop()
				if attests, _ := w.counts(); read != 0 || attests != 0 || closed(c.Ready()) {
					t.Errorf("the evidence was read %d times and sent %d times", read, attests)
				}
				if _, err := c.GetX509SVID(); err == nil {
					t.Error("has an SVID")
				}
			})
		})
	}
}

// TestRecovers: trust, evidence and the server come late and in any order, and
// each attempt reads them anew.
func TestRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		synctest.Wait() // it serves now
		w.stop()
		var mu sync.Mutex
		var trust *x509bundle.Bundle
		token := "stale"
		config := w.config()
		config.FirstTrust = func() (*x509bundle.Bundle, error) {
			mu.Lock()
			defer mu.Unlock()
			if trust == nil {
				return nil, errors.New("empty")
			}
			return trust, nil
		}
		config.Evidence = func(context.Context) (Evidence, error) {
			mu.Lock()
			defer mu.Unlock()
			return KubernetesToken(attest.NewToken(token)), nil
		}
		c, _ := run(t, config)
		later := func(change func()) {
			time.Sleep(10 * time.Minute)
			if closed(c.Ready()) {
				t.Fatal("attested too early")
			}
			mu.Lock()
			defer mu.Unlock()
			change()
		}
		later(w.start)
		later(func() { trust = w.ca.Bundle() })
		later(func() { token = "agent" })
		start := time.Now()
		<-c.Ready()
		if took := time.Since(start); took > maxWait {
			t.Errorf("recovered after %v, at most %v", took, maxWait)
		}
		refused, _ := w.counts()
		// Ten minutes of full jitter up to maxWait are some 40 attempts, not thousands.
		if refused < 15 || refused > 150 {
			t.Errorf("the stale token was tried %d times in ten minutes", refused)
		}
	})
}

// TestIssueSurvivesABreak: a request that the server took and never answered is
// answered by the next one, with a proof for the new connection and the same key.
func TestIssueSurvivesABreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.block = make(chan struct{})
		w.start()
		c, _ := run(t, w.config())
		<-c.Ready()
		r := firstIssue(t)
		done := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			chain, err := c.Issue(ctx, r)
			if err == nil && !r.Key.Public().(*ecdsa.PublicKey).Equal(chain[0].PublicKey) {
				err = errors.New("issued for another key")
			}
			done <- err
		}()
		synctest.Wait() // it is with the server now
		w.stop()
		time.Sleep(time.Minute)
		select {
		case err := <-done:
			t.Fatalf("without a server Issue returned %v", err)
		default:
		}
		w.set(func() { w.block = nil })
		w.start()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestErrors: what the callers of Issue can tell apart.
func TestErrors(t *testing.T) {
	w := newWorld(t)
	w.start()
	c, _ := run(t, w.config())
	<-c.Ready()
	bad := firstIssue(t)
	bad.Token = attest.NewToken("another pod's")
	_, err := c.Issue(t.Context(), bad)
	if !errors.Is(err, attest.ErrRefused) || errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("refused: %v", err)
	}
	w.set(func() { w.err = attest.ErrUnavailable })
	_, err = c.Issue(t.Context(), firstIssue(t))
	var retry *RetryError
	if !errors.As(err, &retry) || retry.RetryAfter() <= 0 || retry.Ref == "" || !errors.Is(err, attest.ErrUnavailable) || errors.Is(err, attest.ErrRefused) {
		t.Errorf("unavailable: %v", err)
	}
	w.set(func() { w.block = make(chan struct{}) })
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no longer wanted")
	time.AfterFunc(10*time.Millisecond, func() { cancel(cause) })
	if _, err = c.Issue(ctx, firstIssue(t)); !errors.Is(err, attest.ErrUnavailable) || !errors.Is(err, cause) {
		t.Errorf("cancelled: %v", err)
	}
	w.stop()
	ctx, cancel = context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err = c.Issue(ctx, firstIssue(t)); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("without a server: %v", err)
	}
}

// TestBundles: a new bundle is taken at once, handed on until it is accepted,
// and only then acknowledged; an older one is refused.
func TestBundles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		var mu sync.Mutex
		var told []uint64
		broken := false
		config := w.config()
		config.OnBundle = func(_ context.Context, v bundle.Versioned) error {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, v.Sequence)
			if broken {
				return errors.New("Envoy does not answer")
			}
			return nil
		}
		setBroken := func(b bool) { mu.Lock(); broken = b; mu.Unlock() }
		c, _ := run(t, config)
		is := func(when string, held int, acknowledged uint64) {
			t.Helper()
			synctest.Wait()
			b, err := c.GetX509BundleForTrustDomain(td)
			if err != nil || len(b.X509Authorities()) != held {
				t.Errorf("%s: holds %d roots, want %d, %v", when, len(b.X509Authorities()), held, err)
			}
			if got := w.server.Acknowledged()[agentID]; got != acknowledged {
				t.Errorf("%s: acknowledged %d, want %d", when, got, acknowledged)
			}
		}
		<-c.Ready()
		is("at first", 1, 7)
		setBroken(true)
		two := x509bundle.FromX509Authorities(td, append(w.ca.Bundle().X509Authorities(), catest.New(t, td).Root))
		if err := w.keeper.Set(bundle.Versioned{Sequence: 9, Bundle: two}); err != nil {
			t.Fatal(err)
		}
		is("while nobody takes it", 2, 7)
		setBroken(false)
		time.Sleep(maxWait)
		is("once it is taken", 2, 9)
		mu.Lock()
		times := len(told)
		mu.Unlock()

		// A replica that is behind, or that was restored from yesterday.
		w.stop()
		w.keep(bundle.Versioned{Sequence: 8, Bundle: w.ca.Bundle()})
		w.start()
		time.Sleep(5 * time.Minute)
		// The agent says again what it holds, which this server never sent.
		is("after an older one", 2, 0)
		if _, err := c.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("other.test")); err == nil {
			t.Error("has a bundle of another domain")
		}
		mu.Lock()
		defer mu.Unlock()
		if got := slices.Compact(slices.Clone(told)); !slices.Equal(got, []uint64{7, 9}) || len(told) != times {
			t.Errorf("told %v, want 7, then 9 until it was taken, after %d times", told, times)
		}
	})
}

// TestFirstTrustIsForgotten: after the first attestation the file that it came
// from says nothing any more.
func TestFirstTrustIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		config := w.config()
		var asked atomic.Int64
		config.FirstTrust = func() (*x509bundle.Bundle, error) {
			asked.Add(1)
			return w.ca.Bundle(), nil
		}
		c, _ := run(t, config)
		<-c.Ready()
		before := asked.Load()
		time.Sleep(24 * time.Hour)
		if n := asked.Load() - before; n != 0 {
			t.Errorf("the first trust was asked %d times after the first attestation", n)
		}
		if _, err := c.Issue(t.Context(), firstIssue(t)); err != nil {
			t.Error(err)
		}
	})
}

// TestAuthority is the client, the server and the real authority together.
func TestAuthority(t *testing.T) {
	w := newWorld(t)
	real := catest.Start(t, td, profile.Profile{})
	w.startBefore(real)
	config := w.config()
	config.FirstTrust = func() (*x509bundle.Bundle, error) { return real.GetX509BundleForTrustDomain(td) }
	c, _ := run(t, config)
	r := firstIssue(t)
	chain, err := c.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	current := &x509svid.SVID{Certificates: chain, PrivateKey: r.Key}
	if chain, err = c.Issue(t.Context(), Request{Pod: pod, Current: current, Key: catest.Key(t)}); err != nil {
		t.Fatal(err)
	}
	trust, err := real.GetX509BundleForTrustDomain(td)
	if err != nil {
		t.Fatal(err)
	}
	if id, _, err := x509svid.Verify(chain, trust); err != nil || id.Path() != "/ns/shop/sa/web" {
		t.Errorf("renewed %s, %v", id, err)
	}
	if _, err := c.Issue(t.Context(), Request{Pod: pod, Current: current, Key: current.PrivateKey}); !errors.Is(err, attest.ErrRefused) {
		t.Errorf("renewing a key: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t)
	for name, spoil := range map[string]func(*Config){
		"no address": func(c *Config) { c.Address = "" }, "no domain": func(c *Config) { c.TrustDomain = spiffeid.TrustDomain{} },
		"no server": func(c *Config) { c.Server = spiffeid.ID{} }, "no trust": func(c *Config) { c.FirstTrust = nil },
		"another domain's server": func(c *Config) { c.Server = spiffeid.RequireFromString("spiffe://other.test/istio-auth/ca") },
		"no evidence":             func(c *Config) { c.Evidence = nil }, "no log": func(c *Config) { c.Log = nil },
	} {
		config := w.config()
		spoil(&config)
		if _, err := New(config); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestBackoff(t *testing.T) {
	last := time.Duration(0)
	for n := range 100 {
		if got := backoff(n, 0); got != 0 {
			t.Errorf("after %d failures the least wait is %v, want none", n, got)
		}
		most := backoff(n, 1)
		if most < last || most > maxWait || (n < 7 && most != firstWait<<n) {
			t.Errorf("after %d failures the longest wait is %v, after %d %v", n, most, n-1, last)
		}
		last = most
	}
	if last != maxWait {
		t.Errorf("the longest wait is %v, want %v", last, maxWait)
	}
	for draw, want := range map[float64]time.Duration{0: 15 * time.Minute, 1: 24 * time.Minute} {
		if got := renewIn(time.Hour, draw); got != want {
			t.Errorf("an hour is renewed after %v, want %v", got, want)
		}
	}
	if got := renewIn(-time.Hour, 1); got != firstWait {
		t.Errorf("what has ended is renewed after %v, want %v", got, firstWait)
	}
}
