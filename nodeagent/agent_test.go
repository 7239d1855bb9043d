package nodeagent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/nodeagent"
)

func TestFirstIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, start := newNode(t), time.Now()
		e := n.add(t, workload(1))
		got := e.served()
		if len(got) != 1 || got[0].SVID == nil {
			t.Fatalf("got %d updates, want one with an SVID", len(got))
		}
		if e.at[0] != start {
			t.Errorf("served after %v, want at once", e.at[0].Sub(start))
		}
		svid := got[0].SVID
		if svid.ID != cartID {
			t.Errorf("got %v, want %v", svid.ID, cartID)
		}
		key, ok := svid.PrivateKey.(*ecdsa.PrivateKey)
		if !ok || key.Curve != elliptic.P256() {
			t.Errorf("got a key of type %T, want P-256", svid.PrivateKey)
		}
		if !key.PublicKey.Equal(svid.Certificates[0].PublicKey) {
			t.Error("the certificate is of another key")
		}
		if !got[0].Bundle.Equal(n.ca.ca.Bundle()) {
			t.Error("the update has another bundle")
		}
		r := n.ca.seen()
		if len(r) != 1 || r[0].Pod != pod(1) || r[0].Token.Reveal() != secret || r[0].Current != nil {
			t.Errorf("the CA was asked %d times: %+v", len(r), r)
		}
		if n.count(nodeagent.Added, "") != 1 || n.count(nodeagent.Issued, "") != 1 || n.count(nodeagent.Renewed, "") != 0 {
			t.Errorf("events: %+v", n.events)
		}
	})
}

// Renewals use new keys, and show the CA what they replace.
func TestADayOfRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		noToken := nodeagent.Workload{Pod: pod(1)}
		e := n.add(t, noToken)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		updates, requests := e.served(), n.ca.seen()
		if len(updates) < 11 || len(updates) > 17 || len(updates) != len(requests) {
			t.Fatalf("%d updates of %d requests in a day, want as many, 11 to 17", len(updates), len(requests))
		}
		for i, r := range requests {
			if !r.Token.IsZero() {
				t.Errorf("request %d has a token, and the workload has none", i)
			}
			if i > 0 && r.Current != updates[i-1].SVID {
				t.Errorf("request %d does not show the SVID that it replaces", i)
			}
			if u := updates[i]; !r.Key.Public().(*ecdsa.PublicKey).Equal(u.SVID.Certificates[0].PublicKey) {
				t.Errorf("update %d is not of the key of its request", i)
			}
			for j := range i {
				if r.Key.Public().(*ecdsa.PublicKey).Equal(requests[j].Key.Public()) {
					t.Errorf("requests %d and %d share a key", i, j)
				}
			}
		}
		if got, want := n.count(nodeagent.Renewed, ""), len(updates)-1; got != want {
			t.Errorf("%d events of a renewal, want %d", got, want)
		}
		if n.count(nodeagent.Failed, "")+n.count(nodeagent.Expired, "") != 0 {
			t.Errorf("events: %+v", n.events)
		}
	})
}

// A kubelet publishes again and again: no work. At once, too.
func TestAddIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.sockets.slow = time.Second
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := n.Add(t.Context(), workload(1)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for range 50 {
			e := n.add(t, workload(1))
			if got := len(e.served()); got != 1 {
				t.Fatalf("%d updates", got)
			}
		}
		if opened, asked := len(n.sockets.all), len(n.ca.seen()); opened != 1 || asked != 1 {
			t.Errorf("opened %d sockets and asked the CA %d times, want once", opened, asked)
		}
	})
}

func TestNewerTokenReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.add(t, workload(1))
		newer := nodeagent.Workload{Pod: pod(1), Token: attest.NewToken("newer")}
		n.add(t, newer)
		if got := len(n.ca.seen()); got != 1 {
			t.Errorf("a newer token made %d requests, want none but the first", got)
		}
		n.add(t, nodeagent.Workload{Pod: pod(1)}) // none: the held one stays
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if r := n.ca.seen(); len(r) < 2 || r[1].Token.Reveal() != "newer" {
			t.Errorf("the renewal did not use the newer token")
		}
	})
}

// A pod that came back with a token that had expired is refused; the kubelet's
// next token must not wait for the slow schedule of refusals.
func TestNewerTokenEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.ca.set(func(_ context.Context, r nodeagent.Request) ([]*x509.Certificate, error) {
			if r.Token.Reveal() != "fresh" {
				return nil, attest.Refuse("token-expired", "an hour ago")
			}
			return n.ca.ca.IssueKey(t, r.Key.Public(), cartID, life), nil
		})
		e := n.add(t, workload(1))
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(e.served()) != 0 {
			t.Fatal("served something")
		}
		before := time.Now()
		n.add(t, nodeagent.Workload{Pod: pod(1), Token: attest.NewToken("fresh")})
		if got := e.served(); len(got) != 1 || e.at[0] != before {
			t.Errorf("%d updates, want one at once", len(got))
		}
	})
}

// A bundle change sends the bundle: the same certificate, no new key.
func TestSetBundlePushesTheBundleAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		var all []*socket
		for i := range 20 {
			all = append(all, n.add(t, workload(i)))
		}
		both := n.ca.ca.Bundle()
		both.AddX509Authority(catest.New(t, td).Root)
		n.SetBundle(both)
		synctest.Wait()
		for _, e := range all {
			got := e.served()
			if len(got) != 2 || got[1].SVID != got[0].SVID || !got[1].Bundle.Equal(both) {
				t.Fatalf("%d updates, want a second one with the same SVID and the new bundle", len(got))
			}
		}
		if got := len(n.ca.seen()); got != 20 {
			t.Errorf("the CA was asked %d times, want 20", got)
		}
		both.RemoveX509Authority(n.ca.ca.Root)
		if len(n.Bundle().X509Authorities()) != 2 {
			t.Error("the caller's edit reached the agent's bundle")
		}
	})
}

// The bundle dropped our root: what we serve proves nothing any more.
func TestForcedRotationReissuesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		e := n.add(t, workload(1))
		next := catest.New(t, td)
		n.ca.mu.Lock()
		n.ca.ca = next
		n.ca.mu.Unlock()
		n.SetBundle(next.Bundle())
		synctest.Wait()
		last := e.last()
		if !last.Bundle.Equal(next.Bundle()) || !last.SVID.Certificates[1].Equal(next.Issuer) {
			t.Error("the certificate is still of the old root")
		}
		if got := len(n.ca.seen()); got != 2 {
			t.Errorf("the CA was asked %d times, want twice", got)
		}
	})
}

func TestBundlesThatAreNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		e := n.add(t, workload(1))
		other := spiffeid.RequireTrustDomainFromString("evil.org")
		for name, b := range map[string]*x509bundle.Bundle{
			"nil": nil, "empty": x509bundle.New(td), "foreign": catest.New(t, other).Bundle(),
		} {
			n.SetBundle(b)
			synctest.Wait()
			if len(e.served()) != 1 || !n.Bundle().Equal(n.ca.ca.Bundle()) {
				t.Errorf("the bundle %q was taken", name)
			}
		}
	})
}

// Nothing is asked before there is a bundle to look at the answer with.
func TestNoBundleNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := idleNode(t)
		n.start(t)
		e := n.add(t, workload(1))
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(n.ca.seen()) != 0 || len(e.served()) != 0 {
			t.Fatal("asked or served without a bundle")
		}
		n.SetBundle(n.ca.ca.Bundle())
		synctest.Wait()
		if len(e.served()) != 1 {
			t.Error("not served at once when the bundle came")
		}
	})
}

// A CA that takes half a minute must not hold up a bundle.
func TestSlowIssuerDoesNotHoldUpTheBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		e := n.add(t, workload(1))
		n.ca.set(func(ctx context.Context, _ nodeagent.Request) ([]*x509.Certificate, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		time.Sleep(2*time.Hour + 24*time.Minute) // the latest renewal: a request hangs now, and again
		synctest.Wait()
		both := n.ca.ca.Bundle()
		both.AddX509Authority(catest.New(t, td).Root)
		before := time.Now()
		n.SetBundle(both)
		synctest.Wait()
		if got := e.last(); !got.Bundle.Equal(both) || e.at[len(e.at)-1] != before {
			t.Error("the bundle waited for the CA")
		}
		if n.count(nodeagent.Failed, "timeout") == 0 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if n.count(nodeagent.Failed, "timeout") == 0 {
				t.Error("no request timed out")
			}
		}
	})
}

func TestRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		e := n.add(t, workload(1))
		other := n.add(t, workload(2))
		for range 2 { // the second time it is unknown
			if err := n.Remove(t.Context(), pod(1).UID); err != nil {
				t.Fatal(err)
			}
		}
		if !e.closed || other.closed {
			t.Errorf("closed %v, other closed %v", e.closed, other.closed)
		}
		n.SetBundle(n.ca.ca.Bundle())
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if got := len(e.served()); got != 1 {
			t.Errorf("%d updates of a removed workload", got)
		}
		if e := n.add(t, workload(1)); len(e.served()) != 1 {
			t.Error("a workload that came back was not served")
		}
		if got := n.count(nodeagent.Removed, ""); got != 1 {
			t.Errorf("%d events of a removal, want 1", got)
		}
	})
}

// Add and Remove at once, of the same pod and of others: no socket is opened
// twice, none is left, and who was added last is served.
func TestAddAndRemoveStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.sockets.slow = time.Millisecond
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				time.Sleep(time.Duration(i%7) * time.Millisecond / 2)
				if err := n.Add(t.Context(), workload(i%5)); err != nil {
					t.Error(err)
				}
				if err := n.Remove(t.Context(), pod(i%5).UID); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := len(n.sockets.open); got != 0 {
			t.Errorf("%d sockets left", got)
		}
		if strings.Contains(n.log.String(), "closed") {
			t.Error(n.log.String())
		}
		if e := n.add(t, workload(1)); len(e.served()) != 1 {
			t.Error("not served after the storm")
		}
	})
}

func TestRunEndsClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		for i := range 10 {
			n.add(t, workload(i))
		}
		n.stop() // fails if a socket is open
		if err := n.Add(t.Context(), workload(11)); !errors.Is(err, nodeagent.ErrStopped) {
			t.Errorf("Add after Run: %v, want ErrStopped", err)
		}
		if err := n.Remove(t.Context(), pod(1).UID); err != nil {
			t.Errorf("Remove after Run: %v", err)
		}
	})
}

// The CSI driver restores what it knew before anything runs.
func TestAddBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := idleNode(t)
		a, b := n.add(t, workload(1)), n.add(t, workload(2))
		if err := n.Remove(t.Context(), pod(2).UID); err != nil || !b.closed {
			t.Errorf("removed before Run: %v, closed %v", err, b.closed)
		}
		n.SetBundle(n.ca.ca.Bundle())
		n.start(t)
		synctest.Wait()
		if len(a.served()) != 1 || len(b.served()) != 0 {
			t.Errorf("served %d and %d", len(a.served()), len(b.served()))
		}
	})
}

func TestAddRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.add(t, workload(1))
		edit := func(f func(*attest.Pod)) attest.Pod { p := pod(1); f(&p); return p }
		for reason, p := range map[string]attest.Pod{
			"bad-namespace":       edit(func(p *attest.Pod) { p.Namespace = "shop/sa/admin" }),
			"bad-service-account": edit(func(p *attest.Pod) { p.ServiceAccount = "" }),
			"bad-pod-name":        edit(func(p *attest.Pod) { p.Name = "Cart" }),
			"bad-pod-uid":         edit(func(p *attest.Pod) { p.UID = "../1" }),
			"pod-changed":         edit(func(p *attest.Pod) { p.ServiceAccount = "admin" }),
		} {
			err := n.Add(t.Context(), nodeagent.Workload{Pod: p, Token: attest.NewToken(secret)})
			if attest.Reason(err) != reason || !errors.Is(err, attest.ErrRefused) {
				t.Errorf("got %v, want %s", err, reason)
			}
		}
		if got := len(n.sockets.all); got != 1 {
			t.Errorf("%d sockets opened", got)
		}
	})
}

func TestOpenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.sockets.openErr = errors.New("no space left on device")
		if err := n.Add(t.Context(), workload(1)); !errors.Is(err, n.sockets.openErr) {
			t.Errorf("got %v", err)
		}
		n.sockets.openErr = nil
		if e := n.add(t, workload(1)); len(e.served()) != 1 {
			t.Error("not served at the second try")
		}
	})
}

func TestAddAndRemoveEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.sockets.slow = time.Hour
		first := make(chan error, 1)
		go func() { first <- n.Add(t.Context(), workload(1)) }()
		synctest.Wait()
		for name, call := range map[string]func(context.Context) error{
			"Add":    func(ctx context.Context) error { return n.Add(ctx, workload(1)) },
			"Remove": func(ctx context.Context) error { return n.Remove(ctx, pod(1).UID) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
}

// A clock jump makes no certificate, and no second draw.
func TestDarknessAndSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, start := newNode(t), time.Now()
		if got := n.Darkness(); !got.IsZero() {
			t.Errorf("dark at %v without workloads", got)
		}
		for i := range 100 {
			n.add(t, workload(i))
		}
		if got := n.Darkness().Sub(start); got < life-2*time.Second || got > life {
			t.Errorf("dark after %v, want about %v", got, life)
		}
		n.mu.Lock()
		var next []time.Time
		for _, e := range n.events {
			if e.Kind == nodeagent.Issued {
				next = append(next, e.Next)
			}
		}
		n.mu.Unlock()
		first, last := slices.MinFunc(next, time.Time.Compare), slices.MaxFunc(next, time.Time.Compare)
		if spread := last.Sub(first); spread < 45*time.Minute {
			t.Errorf("a hundred renewals within %v, want them over about 54 min", spread)
		}
	})
}
