package client

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/ca/server"
)

var (
	td       = spiffeid.RequireTrustDomainFromString("mesh.test")
	serverID = spiffeid.RequireFromPath(td, "/istio-auth/ca")
	agentID  = spiffeid.RequireFromPath(td, "/istio-auth/node/node-a/a-uid")
	pod      = attest.Pod{Namespace: "shop", Name: "web-1", UID: "web-uid", ServiceAccount: "web"}
)

// A world is the real server before a small working authority and attester,
// on a listener in memory that can go away and come back.
type world struct {
	t      testing.TB
	ca     *catest.CA
	keeper *bundle.Keeper
	own    *x509svid.SVID
	life   time.Duration // of what is issued

	mu       sync.Mutex // guards the fields below
	listener *bufconn.Listener
	server   *server.Server
	stop     func()
	attests  int
	issues   int
	err      error         // answers all about workloads, where set
	block    chan struct{} // answers nothing about workloads, where set
}

func newWorld(t testing.TB) *world {
	c := catest.New(t, td)
	w := &world{t: t, ca: c, own: c.SVID(t, serverID, 20*24*time.Hour), life: time.Hour}
	w.keep(bundle.Versioned{Sequence: 7, Bundle: c.Bundle()})
	return w
}

func (w *world) keep(v bundle.Versioned) {
	w.t.Helper()
	keeper, err := bundle.NewKeeper(v)
	if err != nil {
		w.t.Fatal(err)
	}
	w.keeper = keeper
}

func (w *world) Bundle() *bundle.Keeper               { return w.keeper }
func (w *world) GetX509SVID() (*x509svid.SVID, error) { return w.own, nil }

func (w *world) Issue(_ context.Context, r ca.Request) (*ca.Issued, error) {
	if r.Identity.Kind() == attest.Workload {
		w.mu.Lock()
		w.issues++
		w.mu.Unlock()
	}
	return &ca.Issued{Chain: w.ca.IssueKey(w.t, r.Key.Public(), r.Identity.ID(), w.life)}, nil
}

func (w *world) AttestAgent(_ context.Context, token attest.Token) (attest.Identity, error) {
	w.mu.Lock()
	w.attests++
	w.mu.Unlock()
	switch token.Reveal() {
	case "agent":
		return attest.NewAgent(td, attest.Node{Name: "node-a", UID: "a-uid"})
	case "manager":
		return attest.NewService(td, "manager")
	}
	return attest.Identity{}, attest.Refuse("token-unknown", "")
}

func (w *world) AttestWorkload(ctx context.Context, agent attest.Identity, pod attest.Pod, token attest.Token) (attest.Identity, error) {
	if token.Reveal() != "pod" {
		return attest.Identity{}, attest.Refuse("token-unknown", "")
	}
	return w.ConfirmWorkload(ctx, agent, pod)
}

func (w *world) ConfirmWorkload(ctx context.Context, agent attest.Identity, _ attest.Pod) (attest.Identity, error) {
	w.mu.Lock()
	err, block := w.err, w.block
	w.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return attest.Identity{}, ctx.Err()
		}
	}
	if err != nil {
		return attest.Identity{}, err
	}
	return attest.NewWorkload(td, agent.Node(), pod)
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) counts() (attests, issues int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.attests, w.issues
}

// start serves until stop or the end of the test.
func (w *world) start() { w.startBefore(w) }

// startBefore serves another authority than the world's own.
func (w *world) startBefore(authority server.Authority) {
	s := server.New(server.Config{
		TrustDomain: td, Authority: authority, Attester: w, Log: slog.New(slog.DiscardHandler),
		Services: []spiffeid.ID{spiffeid.RequireFromPath(td, "/istio-auth/manager")},
	})
	g := grpc.NewServer(s.Options()...)
	s.Register(g)
	listener := bufconn.Listen(1 << 16)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	stop := sync.OnceFunc(func() {
		g.Stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(stop)
	w.set(func() { w.listener, w.server, w.stop = listener, s, stop })
}

func (w *world) dial(ctx context.Context, _ string) (net.Conn, error) {
	w.mu.Lock()
	listener := w.listener
	w.mu.Unlock()
	return listener.DialContext(ctx)
}

func (w *world) config() Config {
	return Config{
		Address: "ca.test", TrustDomain: td, Server: serverID, Dial: w.dial, Log: slog.New(slog.DiscardHandler),
		FirstTrust: func() (*x509bundle.Bundle, error) { return w.ca.Bundle(), nil },
		Evidence: func(context.Context) (Evidence, error) {
			return KubernetesToken(attest.NewToken("agent")), nil
		},
	}
}

// run runs a client until the returned function is called.
func run(t testing.TB, config Config) (*Client, func()) {
	t.Helper()
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("Run ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return c, stop
}

func firstIssue(t testing.TB) Request {
	return Request{Pod: pod, Token: attest.NewToken("pod"), Key: catest.Key(t)}
}
