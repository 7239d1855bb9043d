package nodeagent_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/nodeagent"
)

const (
	life   = 6 * time.Hour
	secret = "eyJhbGciOiJub25lIn0.dGhlIHBvZCdzIG93bg.c2VjcmV0"
)

var td = spiffeid.RequireTrustDomainFromString("example.org")

func pod(i int) attest.Pod {
	return attest.Pod{Namespace: "shop", Name: fmt.Sprintf("cart-%d", i), UID: fmt.Sprintf("5f3c0000-0000-4000-8000-%012d", i), ServiceAccount: "cart"}
}

func workload(i int) nodeagent.Workload {
	return nodeagent.Workload{Pod: pod(i), Token: attest.NewToken(secret)}
}

var cartID = spiffeid.RequireFromString("spiffe://example.org/ns/shop/sa/cart")

// An issuer is a working CA, until fault says otherwise.
type issuer struct {
	t  *testing.T
	ca *catest.CA

	mu       sync.Mutex // guards what follows
	fault    fault      // nil: none
	requests []nodeagent.Request
	at       []time.Time
}

// A fault answers in the CA's place.
type fault func(ctx context.Context, r nodeagent.Request) ([]*x509.Certificate, error)

func (i *issuer) Issue(ctx context.Context, r nodeagent.Request) ([]*x509.Certificate, error) {
	i.mu.Lock()
	i.requests, i.at = append(i.requests, r), append(i.at, time.Now())
	fault, ca := i.fault, i.ca
	i.mu.Unlock()
	if fault != nil {
		return fault(ctx, r)
	}
	id, err := nodeagent.ExpectedID(td, r.Pod)
	if err != nil {
		return nil, err
	}
	return ca.IssueKey(i.t, r.Key.Public(), id, life), nil
}

func (i *issuer) set(f fault) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fault = f
}

func (i *issuer) seen() []nodeagent.Request {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.requests)
}

// sockets are Endpoints that write down what they serve.
type sockets struct {
	openErr error
	pubErr  error
	slow    time.Duration

	mu   sync.Mutex // guards what follows
	open map[string]*socket
	all  []*socket
}

type socket struct {
	home   *sockets
	pod    attest.Pod
	opened time.Time

	mu      sync.Mutex // guards what follows
	updates []nodeagent.Update
	at      []time.Time
	closed  bool
}

func (s *sockets) Open(ctx context.Context, p attest.Pod) (nodeagent.Endpoint, error) {
	if s.slow > 0 {
		time.Sleep(s.slow)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.openErr != nil {
		return nil, s.openErr
	}
	if s.open[p.UID] != nil {
		return nil, errors.New("opened twice")
	}
	if s.open == nil {
		s.open = map[string]*socket{}
	}
	e := &socket{home: s, pod: p, opened: time.Now()}
	s.open[p.UID], s.all = e, append(s.all, e)
	return e, nil
}

func (e *socket) Publish(u nodeagent.Update) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errors.New("published on a closed socket")
	}
	if e.home.pubErr != nil {
		return e.home.pubErr
	}
	e.updates, e.at = append(e.updates, u), append(e.at, time.Now())
	return nil
}

func (e *socket) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.home.mu.Lock()
	defer e.home.mu.Unlock()
	if e.home.open[e.pod.UID] != e {
		return errors.New("closed twice")
	}
	delete(e.home.open, e.pod.UID)
	return nil
}

func (e *socket) served() []nodeagent.Update {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.updates)
}

func (e *socket) last() nodeagent.Update {
	if all := e.served(); len(all) > 0 {
		return all[len(all)-1]
	}
	return nodeagent.Update{}
}

// A node is an agent with everything around it, running in a synctest bubble.
type node struct {
	*nodeagent.Agent
	ca      *issuer
	sockets *sockets
	log     *bytes.Buffer

	mu     sync.Mutex // guards what follows
	events []nodeagent.Event
	stop   func()
}

// newNode makes a node whose agent runs and has a bundle. Its end waits for all
// that was started, which the bubble checks.
func newNode(t *testing.T) *node {
	t.Helper()
	n := idleNode(t)
	n.SetBundle(n.ca.ca.Bundle())
	n.start(t)
	return n
}

func idleNode(t *testing.T) *node {
	t.Helper()
	n := &node{ca: &issuer{t: t, ca: catest.New(t, td)}, sockets: &sockets{}, log: &bytes.Buffer{}}
	n.Agent = &nodeagent.Agent{
		TrustDomain: td, Issuer: n.ca, Endpoints: n.sockets,
		Log: slog.New(slog.NewJSONHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Observe: func(e nodeagent.Event) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, e)
		},
	}
	return n
}

func (n *node) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		n.sockets.mu.Lock()
		defer n.sockets.mu.Unlock()
		if got := len(n.sockets.open); got != 0 {
			t.Errorf("%d sockets are open after Run", got)
		}
	})
	t.Cleanup(n.stop)
}

func (n *node) add(t *testing.T, w nodeagent.Workload) *socket {
	t.Helper()
	if err := n.Add(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	n.sockets.mu.Lock()
	defer n.sockets.mu.Unlock()
	return n.sockets.open[w.Pod.UID]
}

// count is how many events there were of a kind, and of a reason where one is given.
func (n *node) count(kind nodeagent.EventKind, reason string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := 0
	for _, e := range n.events {
		if e.Kind == kind && (reason == "" || e.Reason == reason) {
			c++
		}
	}
	return c
}
