package nodeagent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/nodeagent"
)

// A lie is a certificate that the CA should not send, and the code under which
// the agent does not take it.
type lie struct {
	name, reason string
	tell         func(t *testing.T, ca *catest.CA, r nodeagent.Request) []*x509.Certificate
}

// template is a good leaf, for lies to spoil.
func template(r nodeagent.Request) *x509.Certificate {
	now := time.Now().Truncate(time.Second)
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(life),
		PublicKey: r.Key.Public(), URIs: []*url.URL{cartID.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
}

// spoiled signs a template after an edit.
func spoiled(edit func(*x509.Certificate)) func(*testing.T, *catest.CA, nodeagent.Request) []*x509.Certificate {
	return func(t *testing.T, ca *catest.CA, r nodeagent.Request) []*x509.Certificate {
		leaf := template(r)
		edit(leaf)
		return []*x509.Certificate{ca.Sign(t, leaf), ca.Issuer}
	}
}

// rechained sends a good leaf with another chain.
func rechained(chain func(t *testing.T, ca *catest.CA, leaf *x509.Certificate) []*x509.Certificate) func(*testing.T, *catest.CA, nodeagent.Request) []*x509.Certificate {
	return func(t *testing.T, ca *catest.CA, r nodeagent.Request) []*x509.Certificate {
		return chain(t, ca, ca.Sign(t, template(r)))
	}
}

func named(id string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.URIs = []*url.URL{spiffeid.RequireFromString(id).URL()} }
}

func lies() []lie {
	type certs = []*x509.Certificate
	return []lie{
		{"nothing", "no-certificate", func(*testing.T, *catest.CA, nodeagent.Request) certs { return nil }},
		{"an empty chain", "no-certificate", func(*testing.T, *catest.CA, nodeagent.Request) certs { return certs{} }},
		{"a nil leaf", "no-certificate", func(*testing.T, *catest.CA, nodeagent.Request) certs { return certs{nil} }},
		{"another P-256 key", "other-key", spoiled(func(c *x509.Certificate) { c.PublicKey = mustECDSA() })},
		{"a key of another kind", "other-key", spoiled(func(c *x509.Certificate) { c.PublicKey = mustEd25519() })},
		{"the certificate before", "other-key", func(t *testing.T, ca *catest.CA, r nodeagent.Request) certs {
			if r.Current == nil {
				return nil
			}
			return r.Current.Certificates
		}},
		{"no URI", "other-id", spoiled(func(c *x509.Certificate) { c.URIs = nil })},
		{"two URIs", "other-id", spoiled(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) })},
		{"another service account", "other-id", spoiled(named("spiffe://example.org/ns/shop/sa/admin"))},
		{"another namespace", "other-id", spoiled(named("spiffe://example.org/ns/kube-system/sa/cart"))},
		{"another trust domain", "other-id", spoiled(named("spiffe://example.com/ns/shop/sa/cart"))},
		{"a longer path", "other-id", spoiled(named("spiffe://example.org/ns/shop/sa/cart/x"))},
		{"another case", "other-id", spoiled(named("spiffe://example.org/ns/shop/sa/Cart"))},
		{"the agent's own ID", "other-id", spoiled(named("spiffe://example.org/istio-auth/node/n/u"))},
		{"the CA's ID", "other-id", spoiled(named("spiffe://example.org/istio-auth/ca"))},
		{"a DNS name besides", "other-names", spoiled(func(c *x509.Certificate) { c.DNSNames = []string{"bank.example"} })},
		{"an address besides", "other-names", spoiled(func(c *x509.Certificate) { c.IPAddresses = []net.IP{{10, 0, 0, 1}} })},
		{"a mailbox besides", "other-names", spoiled(func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b.example"} })},
		{"ended a second ago", "expired", spoiled(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })},
		{"ends now", "expired", spoiled(func(c *x509.Certificate) { c.NotAfter = time.Now().Truncate(time.Second) })},
		{"ended last year", "expired", spoiled(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().AddDate(-2, 0, 0), time.Now().AddDate(-1, 0, 0)
		})},
		{"begins in ten minutes", "not-yet-valid", spoiled(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(10 * time.Minute) })},
		{"a CA certificate", "untrusted-chain", spoiled(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })},
		{"a leaf that may sign certificates", "untrusted-chain", spoiled(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })},
		{"a leaf that may sign CRLs", "untrusted-chain", spoiled(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign })},
		{"of a CA that nobody trusts", "untrusted-chain", func(t *testing.T, _ *catest.CA, r nodeagent.Request) certs {
			return catest.New(t, td).IssueKey(t, r.Key.Public(), cartID, life)
		}},
		{"without its issuer", "untrusted-chain", rechained(func(_ *testing.T, _ *catest.CA, leaf *x509.Certificate) certs { return certs{leaf} })},
		{"with the issuer of another CA", "untrusted-chain", rechained(func(t *testing.T, _ *catest.CA, leaf *x509.Certificate) certs {
			return certs{leaf, catest.New(t, td).Issuer}
		})},
		{"issuer first", "other-key", rechained(func(_ *testing.T, ca *catest.CA, leaf *x509.Certificate) certs { return certs{ca.Issuer, leaf} })},
		{"with the root", "wrong-chain", rechained(func(_ *testing.T, ca *catest.CA, leaf *x509.Certificate) certs {
			return certs{leaf, ca.Issuer, ca.Root}
		})},
		{"the issuer twice", "wrong-chain", rechained(func(_ *testing.T, ca *catest.CA, leaf *x509.Certificate) certs {
			return certs{leaf, ca.Issuer, ca.Issuer}
		})},
		{"with a stranger behind", "wrong-chain", rechained(func(t *testing.T, ca *catest.CA, leaf *x509.Certificate) certs {
			return certs{leaf, ca.Issuer, catest.New(t, td).Root}
		})},
		{"with a stranger between", "wrong-chain", rechained(func(t *testing.T, ca *catest.CA, leaf *x509.Certificate) certs {
			return certs{leaf, catest.New(t, td).Issuer, ca.Issuer}
		})},
		{"nine certificates", "chain-too-long", rechained(func(_ *testing.T, ca *catest.CA, leaf *x509.Certificate) certs {
			i := ca.Issuer
			return certs{leaf, i, i, i, i, i, i, i, i}
		})},
	}
}

// Whatever a CA sends that is not a certificate of our key, of this workload, of
// today and of our root, a workload never sees it: what it has stays, and the next
// good one replaces it.
func TestLyingCA(t *testing.T) {
	table := lies()
	if got, want := len(table), 34; got != want {
		t.Errorf("%d lies, want %d", got, want)
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				e := n.add(t, workload(1))
				held := e.last()
				n.ca.set(func(_ context.Context, r nodeagent.Request) ([]*x509.Certificate, error) {
					return c.tell(t, n.ca.ca, r), nil
				})
				time.Sleep(3 * time.Hour)
				synctest.Wait()
				if got := len(e.served()); got != 1 {
					t.Fatalf("the lie was served (%d updates)", got)
				}
				if got := n.count(nodeagent.Failed, c.reason); got < 3 || got != n.count(nodeagent.Failed, "") {
					t.Errorf("%d failures with reason %s: %+v", got, c.reason, n.events[len(n.events)-1])
				}
				if n.count(nodeagent.Refused, "") != 0 {
					t.Error("a bad answer counted as a refusal")
				}
				n.ca.set(nil)
				time.Sleep(3 * time.Minute)
				synctest.Wait()
				if got := e.served(); len(got) != 2 || got[1].SVID == held.SVID {
					t.Errorf("%d updates, want a second, good one", len(got))
				}
			})
		})
	}
}

// The other faults, over a renewal: within the certificate's life nobody notices.
func TestFaultyCA(t *testing.T) {
	hang := func(ctx context.Context, _ nodeagent.Request) ([]*x509.Certificate, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	answer := func(err error) fault {
		return func(context.Context, nodeagent.Request) ([]*x509.Certificate, error) { return nil, err }
	}
	for _, c := range []struct {
		name   string
		fault  fault
		kind   nodeagent.EventKind
		reason string
		again  time.Duration // after the fault, at the most
	}{
		{"down", answer(errors.New("connection refused")), nodeagent.Failed, "unavailable", 2 * time.Minute},
		{"unavailable", answer(fmt.Errorf("shedding: %w", attest.ErrUnavailable)), nodeagent.Failed, "unavailable", 2 * time.Minute},
		{"silent", hang, nodeagent.Failed, "timeout", 3 * time.Minute},
		{"refusing", answer(fmt.Errorf("issuing: %w", attest.Refuse("pod-not-on-node", "is on n2"))), nodeagent.Refused, "pod-not-on-node", 5 * time.Minute},
		{"refusing without a reason", answer(attest.ErrRefused), nodeagent.Refused, "refused", 5 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				e := n.add(t, workload(1))
				n.ca.set(c.fault)
				time.Sleep(5 * time.Hour)
				synctest.Wait()
				if got := len(e.served()); got != 1 {
					t.Fatalf("%d updates while the CA is at fault, want the first alone", got)
				}
				if got := n.count(c.kind, c.reason); got < 8 {
					t.Errorf("%d events %v %s, want 8 at least", got, c.kind, c.reason)
				}
				if said := strings.Count(n.log.String(), `"level":"WARN"`); said != 1 {
					t.Errorf("said %d times that no certificate comes, want once:\n%s", said, n.log)
				}
				n.ca.set(nil)
				time.Sleep(c.again)
				synctest.Wait()
				if got := e.served(); len(got) != 2 || got[1].SVID == nil {
					t.Errorf("%d updates %v after the fault, want 2", len(got), c.again)
				}
				if n.count(nodeagent.Expired, "") != 0 {
					t.Error("expired")
				}
			})
		})
	}
}

// Where the CA does not take the held SVID as proof, the pod's token is asked with
// next; without a token there is nothing else to ask with.
func TestRefusedRenewalAsksWithTheToken(t *testing.T) {
	for _, w := range []nodeagent.Workload{workload(1), {Pod: pod(1)}} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			e := n.add(t, w)
			n.ca.set(func(_ context.Context, r nodeagent.Request) ([]*x509.Certificate, error) {
				if r.Current != nil {
					return nil, attest.Refuse("unknown-issuer", "")
				}
				return n.ca.ca.IssueKey(t, r.Key.Public(), cartID, life), nil
			})
			time.Sleep(3 * time.Hour)
			synctest.Wait()
			if got, want := len(e.served()) > 1, !w.Token.IsZero(); got != want {
				t.Errorf("renewed %v, want %v", got, want)
			}
		})
	}
}

// Past its end a certificate is withdrawn, once and on the second; the bundle
// stays, and the next certificate is served when there is one.
func TestWithdrawnAtItsEnd(t *testing.T) {
	for _, err := range []error{attest.ErrRefused, attest.ErrUnavailable} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			e := n.add(t, workload(1))
			end := e.last().SVID.Certificates[0].NotAfter
			n.ca.set(func(_ context.Context, r nodeagent.Request) ([]*x509.Certificate, error) {
				if r.Current != nil && !time.Now().Before(end) {
					t.Error("showed the CA an SVID that had ended")
				}
				return nil, err
			})
			time.Sleep(time.Until(end) - time.Second)
			synctest.Wait()
			if got := len(e.served()); got != 1 {
				t.Fatalf("%d updates before the end", got)
			}
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			got := e.served()
			if len(got) != 2 || got[1].SVID != nil || !got[1].Bundle.Equal(n.ca.ca.Bundle()) {
				t.Fatalf("%d updates, want a second one without SVID and with the bundle", len(got))
			}
			if late := e.at[1].Sub(end); late < 0 || late > time.Second {
				t.Errorf("withdrawn %v after the end", late)
			}
			if n.count(nodeagent.Expired, "expired") != 1 || !n.Darkness().IsZero() {
				t.Errorf("%d events of the end, darkness %v", n.count(nodeagent.Expired, ""), n.Darkness())
			}
			n.ca.set(nil)
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if got := e.served(); len(got) != 3 || got[2].SVID == nil {
				t.Errorf("%d updates after the CA came back, want 3", len(got))
			}
		})
	}
}

// An endpoint that does not take an update serves its last one, and takes the next.
func TestEndpointRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.sockets.pubErr = errors.New("key does not match")
		e := n.add(t, workload(1))
		if len(e.served()) != 0 || n.count(nodeagent.Failed, "publish") != 1 {
			t.Errorf("%d updates, %d failures", len(e.served()), n.count(nodeagent.Failed, "publish"))
		}
		e.mu.Lock()
		n.sockets.pubErr = nil
		e.mu.Unlock()
		n.SetBundle(n.ca.ca.Bundle())
		synctest.Wait()
		if got := e.served(); len(got) != 1 || got[0].SVID == nil {
			t.Errorf("%d updates after the endpoint recovered", len(got))
		}
	})
}

// No token and no key in a log at any level, whatever happens (I16).
func TestLogHoldsNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		e := n.add(t, workload(1))
		key := e.last().SVID.PrivateKey.(*ecdsa.PrivateKey)
		for _, f := range []fault{
			func(context.Context, nodeagent.Request) ([]*x509.Certificate, error) { return nil, errors.New("down") },
			func(_ context.Context, r nodeagent.Request) ([]*x509.Certificate, error) {
				return nil, fmt.Errorf("of %+v: %w", r.Token, attest.ErrRefused)
			},
			func(_ context.Context, r nodeagent.Request) ([]*x509.Certificate, error) {
				return spoiled(named("spiffe://example.org/ns/a/sa/b"))(t, n.ca.ca, r), nil
			},
		} {
			n.ca.set(f)
			time.Sleep(10 * time.Hour)
			synctest.Wait()
		}
		n.Remove(t.Context(), pod(1).UID)
		out := n.log.String()
		if len(out) < 1000 {
			t.Fatalf("the log is too short to prove anything: %s", out)
		}
		scalar, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		for what, s := range map[string]string{"the token": secret, "a part of the token": "c2VjcmV0",
			"the key": new(big.Int).SetBytes(scalar).String(), "the key in hex": fmt.Sprintf("%x", scalar)} {
			if strings.Contains(out, s) {
				t.Errorf("%s is in the log", what)
			}
		}
	})
}

func mustECDSA() any {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key.Public()
}

func mustEd25519() any {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return public
}
