package jointoken_test

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/attest/jointoken"
	"github.com/istio-auth/istio-auth/attest/registry"
)

var (
	domain = spiffeid.RequireTrustDomainFromString("mesh.example")
	now    = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	host   = attest.Node{Name: "host-1", UID: "host-1-uid"}
	host2  = attest.Node{Name: "host-2", UID: "host-2-uid"}
)

const workloads = `workloads:
- {name: web, node: host-1, uid: 1000, executable: /usr/bin/web, namespace: shop, serviceAccount: web}
- {name: db, node: host-2, uid: 1000, executable: /usr/bin/db, namespace: shop, serviceAccount: db}
`

// newHosts returns hosts with one token for host-1 that is good for a minute.
func newHosts(t *testing.T) (*jointoken.Hosts, *jointoken.Memory, attest.Token) {
	t.Helper()
	r, err := registry.Parse([]byte(workloads))
	if err != nil {
		t.Fatal(err)
	}
	m := &jointoken.Memory{}
	h := &jointoken.Hosts{TrustDomain: domain, Redeemer: m, Registry: func() *registry.Registry { return r }, Now: func() time.Time { return now }}
	token := jointoken.New()
	if err := m.AddJoinToken(t.Context(), token.Digest(), host, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return h, m, token
}

func TestNew(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		s := jointoken.New().Reveal()
		body, ok := strings.CutPrefix(s, "iajt_")
		b, err := base64.RawURLEncoding.DecodeString(body)
		if !ok || err != nil || len(b) != 32 || seen[s] {
			t.Fatalf("token %q: %d bytes, %v, seen before %t", s, len(b), err, seen[s])
		}
		seen[s] = true
	}
}

func TestOnce(t *testing.T) {
	h, m, token := newHosts(t)
	got, err := h.AttestAgent(t.Context(), token)
	if err != nil || got.ID().String() != "spiffe://mesh.example/istio-auth/node/host-1/host-1-uid" || got.Kind() != attest.Agent {
		t.Fatalf("got %v, %v", got, err)
	}
	if got, err := h.AttestAgent(t.Context(), token); attest.Reason(err) != "join-token-unknown" || !got.IsZero() {
		t.Errorf("again: %v, %v", got, err)
	}
	if err := m.AddJoinToken(t.Context(), jointoken.New().Digest(), host, now); err != nil {
		t.Fatal(err)
	}
	twice := jointoken.New().Digest()
	if err := errors.Join(m.AddJoinToken(t.Context(), twice, host, now), m.AddJoinToken(t.Context(), twice, host2, now)); attest.Reason(err) != "join-token-known" {
		t.Errorf("one token for two nodes: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		want  string
	}{{time.Minute - 1, ""}, {time.Minute, "join-token-expired"}, {time.Hour, "join-token-expired"}} {
		h, _, token := newHosts(t)
		h.Now = func() time.Time { return now.Add(c.after) }
		if _, err := h.AttestAgent(t.Context(), token); attest.Reason(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("after %s: got %v, want %q", c.after, err, c.want)
		}
		h.Now = func() time.Time { return now } // a clock that is set back does not bring it back
		if _, err := h.AttestAgent(t.Context(), token); attest.Reason(err) != "join-token-unknown" {
			t.Errorf("after %s, again: got %v", c.after, err)
		}
	}
}

// TestSixteenAtOnce: of sixteen that redeem one token, one succeeds.
func TestSixteenAtOnce(t *testing.T) {
	h, m, _ := newHosts(t)
	for range 200 {
		token := jointoken.New()
		if err := m.AddJoinToken(t.Context(), token.Digest(), host, now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		start, results := make(chan struct{}), make(chan error, 16)
		for range 16 {
			wg.Go(func() {
				<-start
				_, err := h.AttestAgent(t.Context(), token)
				results <- err
			})
		}
		close(start)
		wg.Wait()
		close(results)
		good := 0
		for err := range results {
			if err == nil {
				good++
			} else if attest.Reason(err) != "join-token-unknown" {
				t.Errorf("a loser got %v", err)
			}
		}
		if good != 1 {
			t.Fatalf("%d redeemed one token", good)
		}
	}
}

// TestMalformed: what we did not make does not reach the store.
func TestMalformed(t *testing.T) {
	h, _, token := newHosts(t)
	h.Redeemer = unreachable{t}
	s := token.Reveal()
	rows := map[string]string{
		"empty": "", "the prefix": "iajt_", "no prefix": s[5:], "another prefix": "ghp_" + s[5:], "upper case prefix": "IAJT_" + s[5:], "short": s[:len(s)-1], "long": s + "A", "twice": s + s, "padded": s + "=",
		"a newline": s + "\n", "a newline inside": s[:20] + "\n" + s[20:], "a space": " " + s, "standard base64": "iajt_" + strings.Repeat("+", 43), "a traversal": "iajt_../../istio-auth/ca", "a NUL": s[:47] + "\x00",
		"not ASCII": s[:46] + "é", "bits that count for nothing": "iajt_" + strings.Repeat("A", 42) + "B", "31 bytes": "iajt_" + base64.RawURLEncoding.EncodeToString(make([]byte, 31)), "33 bytes": "iajt_" + base64.RawURLEncoding.EncodeToString(make([]byte, 33)),
		"a megabyte": "iajt_" + strings.Repeat("A", 1<<20), "a service account token": "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsieCJdfQ.c2ln",
	}
	if got, want := len(rows), 21; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	for name, secret := range rows {
		if got, err := h.AttestAgent(t.Context(), attest.NewToken(secret)); attest.Reason(err) != "join-token-malformed" || !got.IsZero() {
			t.Errorf("%s: got %v, %v", name, got, err)
		} else if secret != "" && len(secret) > 5 && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error tells the token", name)
		}
	}
}

type unreachable struct{ t *testing.T }

func (u unreachable) Redeem(context.Context, [32]byte, time.Time) (attest.Node, error) {
	u.t.Error("the store was asked")
	return host, nil
}

func TestStoreThatIsDown(t *testing.T) {
	h, _, token := newHosts(t)
	h.Redeemer = down{}
	if got, err := h.AttestAgent(t.Context(), token); !errors.Is(err, attest.ErrUnavailable) || errors.Is(err, attest.ErrRefused) || !got.IsZero() {
		t.Errorf("got %v, %v, want it unavailable", got, err)
	}
	h.Redeemer = bad{}
	if got, err := h.AttestAgent(t.Context(), token); attest.Reason(err) != "bad-node-name" || !got.IsZero() {
		t.Errorf("a bad node: got %v, %v", got, err)
	}
}

type down struct{}

func (down) Redeem(context.Context, [32]byte, time.Time) (attest.Node, error) {
	return attest.Node{}, attest.ErrUnavailable
}

type bad struct{}

func (bad) Redeem(context.Context, [32]byte, time.Time) (attest.Node, error) {
	return attest.Node{Name: "../x", UID: "y"}, nil
}

func TestWorkloads(t *testing.T) {
	h, _, _ := newHosts(t)
	r := h.Registry()
	web, db := r.OnNode("host-1")[0].Pod, r.OnNode("host-2")[0].Pod
	agent := func(td spiffeid.TrustDomain, node attest.Node) attest.Identity {
		i, err := attest.NewAgent(td, node)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	workload, err := attest.NewWorkload(domain, host, web)
	if err != nil {
		t.Fatal(err)
	}
	service, err := attest.NewService(domain, "manager")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		agent attest.Identity
		pod   attest.Pod
		want  string
	}{
		{"own", agent(domain, host), web, ""},
		{"own, by name and UID alone", agent(domain, host), attest.Pod{Name: web.Name, UID: web.UID}, ""},
		{"own, with an identity of its own choice", agent(domain, host), attest.Pod{Namespace: "shop", Name: web.Name, UID: web.UID, ServiceAccount: "db"}, ""},
		{"another host's", agent(domain, host), db, "workload-not-registered"},
		{"by another host", agent(domain, host2), web, "workload-not-registered"},
		{"another entry's UID", agent(domain, host), attest.Pod{Name: web.Name, UID: db.UID}, "workload-not-registered"},
		{"no UID", agent(domain, host), attest.Pod{Name: web.Name}, "workload-not-registered"},
		{"unknown", agent(domain, host), attest.Pod{Name: "x", UID: web.UID}, "workload-not-registered"},
		{"nothing", agent(domain, host), attest.Pod{}, "workload-not-registered"},
		{"another domain's agent", agent(spiffeid.RequireTrustDomainFromString("other.example"), host), web, "not-an-agent"},
		{"a workload for an agent", workload, web, "not-an-agent"},
		{"a service for an agent", service, web, "not-an-agent"},
		{"nobody for an agent", attest.Identity{}, web, "not-an-agent"},
	} {
		attested, err1 := h.AttestWorkload(t.Context(), c.agent, c.pod, attest.Token{})
		confirmed, err2 := h.ConfirmWorkload(t.Context(), c.agent, c.pod)
		for how, err := range map[string]error{"attest": err1, "confirm": err2} {
			if attest.Reason(err) != c.want || (err == nil) != (c.want == "") {
				t.Errorf("%s %s: got %v, want %q", how, c.name, err, c.want)
			}
		}
		if c.want == "" && (attested != workload || confirmed != workload) || c.want != "" && (!attested.IsZero() || !confirmed.IsZero()) {
			t.Errorf("%s: got %+v and %+v", c.name, attested, confirmed)
		}
	}
	h.Registry = func() *registry.Registry { return nil }
	if _, err := h.ConfirmWorkload(t.Context(), agent(domain, host), web); attest.Reason(err) != "workload-not-registered" {
		t.Errorf("without a registry: %v", err)
	}
}
