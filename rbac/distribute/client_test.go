package distribute_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/test/bufconn"

	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/stream"
)

// A manager is a distribute.Server behind the server that a program puts in
// front of it, on a connection in memory.
type manager struct {
	*distribute.Server
	listener *bufconn.Listener
	grpc     *grpc.Server
	extra    sds.Source // served instead, for a manager that misbehaves
	options  []grpc.ServerOption

	mu     sync.Mutex // guards events
	events []sds.Event
}

func newManager() *manager {
	return &manager{Server: distribute.NewServer(distribute.Mesh{TrustDomain: domain, RootNamespace: "root"})}
}

func (m *manager) start() {
	m.listener, m.grpc = bufconn.Listen(1<<20), grpc.NewServer(append(distribute.ServerOptions(), m.options...)...)
	(&sds.Server{
		// The node comes from the certificate; here there is one agent.
		Sources: func(context.Context) ([]sds.Source, error) {
			if m.extra != nil {
				return []sds.Source{m.extra}, nil
			}
			s, err := m.Source(agentID("a"))
			return []sds.Source{s}, err
		},
		Observe: func(e sds.Event) { m.mu.Lock(); m.events = append(m.events, e); m.mu.Unlock() },
	}).Register(m.grpc)
	go m.grpc.Serve(m.listener)
}

func (m *manager) stop() {
	m.grpc.Stop()
	m.listener.Close()
}

// count is how many events of a kind there were, and their last detail.
func (m *manager) count(kind sds.EventKind) (n int, detail string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if e.Kind == kind {
			n, detail = n+1, e.Detail
		}
	}
	return n, detail
}

// dial always reaches the manager's listener of the moment.
func (m *manager) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:manager", append(distribute.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return m.listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// run starts a client in a bubble and returns how to end it.
func run(t *testing.T, m *manager, f *distribute.Filters) (stop func()) {
	t.Helper()
	end := follow(t, m, f)
	return func() { end(); synctest.Wait() }
}

// follow starts a client and returns how to end it.
func follow(t *testing.T, m *manager, f *distribute.Filters) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	conn, done := m.dial(t), make(chan error, 1)
	c := &distribute.Client{Conn: conn, Answers: f, Draw: func() float64 { return 0.5 }}
	go func() { done <- c.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		conn.Close()
		m.stop()
	}
}

// certificates end an hour after the handshake, and streams with them, as in the
// manager.
type certificates struct{ stats.Handler }

type certificateEnds struct{}

func (certificates) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, certificateEnds{}, time.Now().Add(time.Hour))
}
func (certificates) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (certificates) HandleConn(context.Context, stats.ConnStats)                     {}
func (certificates) HandleRPC(context.Context, stats.RPCStats)                       {}

type until struct {
	grpc.ServerStream
	ctx context.Context
}

func (u until) Context() context.Context { return u.ctx }

func untilCertificateEnds(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx, cancel := context.WithDeadline(s.Context(), s.Context().Value(certificateEnds{}).(time.Time))
	defer cancel()
	return handle(srv, until{s, ctx})
}

// TestNewCertificates: an agent whose certificate has ended comes with a newer
// one, on a new connection, and is told on.
func TestNewCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newManager(), distribute.NewFilters(domain, nil)
		m.options = []grpc.ServerOption{grpc.StatsHandler(certificates{}), grpc.StreamInterceptor(untilCertificateEnds)}
		f.Add(pod("web"))
		m.start()
		stop := run(t, m, f)
		if err := m.SetNode("a", []distribute.Workload{{Pod: pod("web")}}); err != nil {
			t.Fatal(err)
		}
		before := ""
		for hour := range 5 {
			if err := m.Set(policies(t, policy("shop", fmt.Sprint("p", hour), allowA)), nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if now := f.Version("uid-web"); now == before {
				t.Errorf("hour %d: the agent was told nothing", hour)
			} else {
				before = now
			}
			time.Sleep(time.Hour)
		}
		if n, _ := m.count(sds.Connected); n > 10 {
			t.Errorf("%d streams in five hours", n)
		}
		stop()
	})
}

// TestManagerToAgent: policies arrive as they change, through an outage too.
func TestManagerToAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newManager(), distribute.NewFilters(domain, nil)
		web := f.Add(pod("web"))
		m.start()
		stop := run(t, m, f)
		synctest.Wait()
		if offered(t, web) != nil {
			t.Error("policies before the manager knows any")
		}
		if err := m.Set(nil, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if offered(t, web) != nil {
			t.Error("policies before the manager knows the pod")
		}
		if err := m.SetNode("a", []distribute.Workload{{Pod: pod("web")}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		none := offered(t, web)
		if none == nil {
			t.Fatal("known to be none, and not said")
		}
		if err := m.Set(policies(t, policy("shop", "p", allowA)), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		version := f.Version("uid-web")
		if offered(t, web).String() == none.String() {
			t.Error("a policy did not arrive")
		}
		if n, _ := m.count(sds.Acked); n != 2 {
			t.Errorf("%d acknowledgements, want 2", n)
		}

		// The pod leaves the manager's list, then the manager itself goes.
		if err := m.SetNode("a", nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		m.stop()
		time.Sleep(time.Hour)
		if f.Version("uid-web") != version {
			t.Error("what was known is gone")
		}
		// It comes back with what it had: nothing is sent again.
		if err := m.SetNode("a", []distribute.Workload{{Pod: pod("web")}}); err != nil {
			t.Fatal(err)
		}
		m.start()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n, _ := m.count(sds.Acked); n != 2 {
			t.Errorf("%d acknowledgements after the outage, want 2", n)
		}
		if err := m.Set(nil, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if offered(t, web).String() != none.String() {
			t.Error("the change after the outage did not arrive")
		}
		stop()
	})
}

// TestManyPods: more than a stream may name, each with its own version.
func TestManyPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newManager(), distribute.NewFilters(domain, nil)
		var workloads []distribute.Workload
		for i := range 300 {
			p := pod(fmt.Sprint("p", i))
			f.Add(p)
			workloads = append(workloads, distribute.Workload{Pod: p, Labels: map[string]string{"app": p.Name}})
		}
		for _, err := range []error{m.Set(policies(t, policy("shop", "p", allowA)), nil), m.SetNode("a", workloads)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		m.start()
		stop := run(t, m, f)
		synctest.Wait()
		if n := len(f.Save()); n != 300 {
			t.Errorf("%d pods have policies, want 300", n)
		}
		if n, _ := m.count(sds.Connected); n != 5 {
			t.Errorf("%d streams, want 5 of 64 pods each", n)
		}
		m.stop()
		m.start()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n, _ := m.count(sds.Acked); n != 300 {
			t.Errorf("%d acknowledgements, want 300: nothing is sent twice", n)
		}
		if err := m.Set(policies(t, policy("shop", "p", allowA)+policy("shop", "q", `{selector: {matchLabels: {app: p7}}, rules: [{}]}`)), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n, _ := m.count(sds.Acked); n != 301 {
			t.Errorf("%d acknowledgements, want 301: one pod has changed", n)
		}
		if n, detail := m.count(sds.Nacked); n != 0 {
			t.Errorf("%d refusals: %s", n, detail)
		}
		// A pod goes and another comes: the streams stay.
		f.Remove("uid-p3")
		late := pod("late")
		source := f.Add(late)
		if err := m.SetNode("a", append(workloads, distribute.Workload{Pod: late})); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if offered(t, source) == nil {
			t.Error("the pod that came late has nothing")
		}
		if n, _ := m.count(sds.Connected); n != 10 {
			t.Errorf("%d streams, want 5 before and 5 after", n)
		}
		for i := range 300 {
			f.Remove(fmt.Sprint("uid-p", i))
		}
		f.Remove("uid-late")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n, _ := m.count(sds.Disconnected); n != 10 {
			t.Errorf("%d streams have ended, want all 10", n)
		}
		stop()
	})
}

// A liar serves what it likes.
type liar struct{ stream.Cell }

func (*liar) TypeURL() string { return distribute.PoliciesType }

// TestRefusedPolicies: one bad resource is refused with its reason and harms
// nobody else; a removal removes nothing.
func TestRefusedPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newManager(), distribute.NewFilters(domain, nil)
		web, cart := f.Add(pod("web")), f.Add(pod("cart"))
		real := source(t, m.Server, "a")
		for _, err := range []error{m.Set(nil, nil), m.SetNode("a", []distribute.Workload{{Pod: pod("web")}, {Pod: pod("cart")}})} {
			if err != nil {
				t.Fatal(err)
			}
		}
		good, _ := real.Current()
		l := &liar{}
		bad := *good.Resources["uid-web"]
		bad.Version = "bad"
		other := *good.Resources["uid-cart"]
		bad.Body = other.Body // says that it is for cart
		l.Set(stream.Snapshot{Resources: map[string]*stream.Resource{"uid-web": &bad, "uid-cart": &other}})
		m.extra = l
		m.start()
		stop := run(t, m, f)
		synctest.Wait()
		if offered(t, web) != nil || offered(t, cart) == nil {
			t.Errorf("web has %v, cart has %v", offered(t, web), offered(t, cart))
		}
		if n, detail := m.count(sds.Nacked); n == 0 || !strings.Contains(detail, "wrong-pod") {
			t.Errorf("%d refusals, %q", n, detail)
		}
		l.Set(stream.Snapshot{Complete: true})
		synctest.Wait()
		if offered(t, cart) == nil {
			t.Error("a removal took the policies away")
		}
		l.Set(stream.Snapshot{Resources: map[string]*stream.Resource{"uid-web": good.Resources["uid-web"]}})
		synctest.Wait()
		if offered(t, web) == nil {
			t.Error("the good one after the bad one did not arrive")
		}
		stop()
	})
}

// TestReconnects: at first at once, then ever less often, and never all at once.
func TestReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &refusing{}
		f := distribute.NewFilters(domain, nil)
		f.Add(pod("web"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		c := &distribute.Client{Conn: dead, Answers: f, Draw: func() float64 { return 0.5 }}
		began := time.Now()
		go func() { done <- c.Run(ctx) }()
		time.Sleep(10 * time.Minute)
		cancel()
		<-done
		if first := dead.calls[1].Sub(began); first != 100*time.Millisecond {
			t.Errorf("the second attempt after %v", first)
		}
		last := dead.calls[len(dead.calls)-1].Sub(dead.calls[len(dead.calls)-2])
		if last != 10*time.Second {
			t.Errorf("the last wait was %v", last)
		}
		if n := len(dead.calls); n < 60 || n > 70 {
			t.Errorf("%d attempts in ten minutes", n)
		}
	})
}

type refusing struct{ calls []time.Time }

func (r *refusing) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return fmt.Errorf("not here")
}

func (r *refusing) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	r.calls = append(r.calls, time.Now())
	return nil, fmt.Errorf("not here")
}
