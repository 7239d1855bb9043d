package server

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/test/bufconn"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/proof"
	"github.com/istio-auth/istio-auth/mtls"
)

var (
	td       = spiffeid.RequireTrustDomainFromString("mesh.test")
	nodeA    = attest.Node{Name: "node-a", UID: "a-uid"}
	nodeB    = attest.Node{Name: "node-b", UID: "b-uid"}
	podA     = attest.Pod{Namespace: "shop", Name: "web-1", UID: "web-uid", ServiceAccount: "web"}
	podB     = attest.Pod{Namespace: "shop", Name: "db-1", UID: "db-uid", ServiceAccount: "db"} // on node B
	gone     = attest.Pod{Namespace: "shop", Name: "web-0", UID: "gone-uid", ServiceAccount: "web"}
	serverID = spiffeid.RequireFromPath(td, "/istio-auth/ca")
	manager  = spiffeid.RequireFromPath(td, "/istio-auth/manager")
	webID    = spiffeid.RequireFromPath(td, "/ns/shop/sa/web")
)

// A cluster is a small working Attester: pods live on nodes, and tokens name
// who they are for. What it holds is changed before the server runs.
type cluster struct {
	callers map[string]attest.Identity // agents and services, by token
	tokens  map[string]string          // pod UIDs, by token
	pods    map[string]attest.Identity // live workloads, by pod UID
	err     error                      // answers everything, where set
	block   chan struct{}              // answers nothing before it is closed, where set
	said    func()                     // called when a workload is vouched for
}

func newCluster(t *testing.T) *cluster {
	identity := func(i attest.Identity, err error) attest.Identity {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	return &cluster{
		callers: map[string]attest.Identity{
			"agent-a": identity(attest.NewAgent(td, nodeA)),
			"manager": identity(attest.NewService(td, "manager")),
		},
		tokens: map[string]string{"token-a": podA.UID, "token-b": podB.UID, "token-gone": gone.UID},
		pods: map[string]attest.Identity{
			podA.UID: identity(attest.NewWorkload(td, nodeA, podA)),
			podB.UID: identity(attest.NewWorkload(td, nodeB, podB)),
		},
		said: func() {},
	}
}

func (c *cluster) AttestAgent(_ context.Context, token attest.Token) (attest.Identity, error) {
	if c.err != nil {
		return attest.Identity{}, c.err
	}
	i, ok := c.callers[token.Reveal()]
	if !ok {
		return attest.Identity{}, attest.Refuse("token-unknown", "no such agent")
	}
	return i, nil
}

func (c *cluster) AttestWorkload(ctx context.Context, agent attest.Identity, pod attest.Pod, token attest.Token) (attest.Identity, error) {
	if uid, ok := c.tokens[token.Reveal()]; !ok || uid != pod.UID {
		return attest.Identity{}, attest.Refuse("token-unknown", "not this pod's")
	}
	return c.ConfirmWorkload(ctx, agent, pod)
}

func (c *cluster) ConfirmWorkload(ctx context.Context, agent attest.Identity, pod attest.Pod) (attest.Identity, error) {
	if c.block != nil {
		select {
		case <-c.block:
		case <-ctx.Done():
			return attest.Identity{}, ctx.Err()
		}
	}
	if c.err != nil {
		return attest.Identity{}, c.err
	}
	i, ok := c.pods[pod.UID]
	if !ok {
		return attest.Identity{}, attest.Refuse("pod-gone", "%s", pod.UID)
	}
	if i.Node() != agent.Node() && i.Kind() == attest.Workload && pod.UID == podB.UID {
		return attest.Identity{}, attest.Refuse("pod-on-other-node", "%s", pod.UID)
	}
	c.said()
	return i, nil
}

func (c *cluster) AttestBearer(ctx context.Context, token attest.Token, audiences []string) (attest.Identity, error) {
	if len(audiences) != 1 || audiences[0] != "istio-ca" {
		return attest.Identity{}, attest.Refuse("audience", "%q", audiences)
	}
	if i, ok := c.callers[token.Reveal()]; ok {
		return i, nil
	}
	i, ok := c.pods[c.tokens[token.Reveal()]]
	if !ok {
		return attest.Identity{}, attest.Refuse("token-unknown", "no such pod")
	}
	return i, nil
}

// An authority signs with a test CA and counts.
type authority struct {
	t      testing.TB
	ca     *catest.CA
	own    *x509svid.SVID
	keeper *bundle.Keeper
	life   time.Duration
	err    error

	mu     sync.Mutex // guards the field below
	issued []ca.Request
}

func newAuthority(t testing.TB) *authority {
	c := catest.New(t, td)
	keeper, err := bundle.NewKeeper(bundle.Versioned{Sequence: 7, Bundle: c.Bundle()})
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, ca: c, own: c.SVID(t, serverID, 24*time.Hour), keeper: keeper, life: time.Hour}
}

func (a *authority) Bundle() *bundle.Keeper               { return a.keeper }
func (a *authority) GetX509SVID() (*x509svid.SVID, error) { return a.own, nil }
func (a *authority) Issue(_ context.Context, r ca.Request) (*ca.Issued, error) {
	if a.err != nil {
		return nil, a.err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.issued = append(a.issued, r)
	life := a.life
	if r.Life != 0 {
		life = min(life, r.Life)
	}
	return &ca.Issued{Chain: a.ca.IssueKey(a.t, r.Key.Public(), r.Identity.ID(), life)}, nil
}

func (a *authority) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.issued)
}

// A world is a server on a listener in memory, with real TLS.
type world struct {
	*authority
	*cluster
	config   Config
	server   *Server
	listener *bufconn.Listener

	mu        sync.Mutex // guards the field below
	decisions []Decision
}

// newWorld is a world at peace; set it up, and start it.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{authority: newAuthority(t), cluster: newCluster(t)}
	w.config = Config{
		TrustDomain: td,
		Authority:   w.authority,
		Attester:    w.cluster,
		Services:    []spiffeid.ID{manager},
		Log:         slog.New(slog.DiscardHandler),
		Observe: func(d Decision) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.decisions = append(w.decisions, d)
		},
	}
	return w
}

func (w *world) start(t *testing.T, also ...func(*grpc.Server)) {
	t.Helper()
	w.server = New(w.config)
	w.listener = serve(t, w.server.Options(), append(also, w.server.Register)...)
}

func serve(t *testing.T, options []grpc.ServerOption, register ...func(*grpc.Server)) *bufconn.Listener {
	t.Helper()
	g := grpc.NewServer(options...)
	for _, r := range register {
		r(g)
	}
	listener := bufconn.Listen(1 << 16)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener
}

func (w *world) lastDecision() Decision {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.decisions) == 0 {
		return Decision{}
	}
	return w.decisions[len(w.decisions)-1]
}

func (w *world) agent(t *testing.T, node attest.Node) *x509svid.SVID {
	t.Helper()
	i, err := attest.NewAgent(td, node)
	if err != nil {
		t.Fatal(err)
	}
	return w.ca.SVID(t, i.ID(), time.Hour)
}

// dial connects as own, or without a certificate.
func (w *world) dial(t *testing.T, own *x509svid.SVID) *grpc.ClientConn {
	t.Helper()
	config := mtls.AnonymousClient(w.ca.Bundle(), mtls.Exactly(serverID))
	if own != nil {
		config = mtls.Client(own, w.ca.Bundle(), mtls.Exactly(serverID))
	}
	return dial(t, w.listener, config)
}

func dial(t *testing.T, listener *bufconn.Listener, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///ca.test",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// binding returns the exporter value of a stream's connection.
func binding(stream grpc.ClientStream) ([32]byte, error) {
	headers, err := stream.Header()
	if err != nil {
		return [32]byte{}, err
	}
	if headers == nil {
		if err := stream.RecvMsg(&capb.Refusal{}); err != nil {
			return [32]byte{}, err
		}
	}
	p, ok := peer.FromContext(stream.Context())
	if !ok {
		return [32]byte{}, errors.New("no peer")
	}
	return mtls.Binding(p.AuthInfo.(credentials.TLSInfo).State)
}

func spkiOf(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	public, err := keypolicy.Of(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return public.SPKI()
}

func prove(t testing.TB, key crypto.Signer, tls [32]byte, purpose proof.Purpose, subject string) []byte {
	t.Helper()
	signature, err := proof.Sign(key, proof.Binding{TrustDomain: td, TLS: tls, Purpose: purpose, Subject: subject})
	if err != nil {
		t.Fatal(err)
	}
	return signature
}
