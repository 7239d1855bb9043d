package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/ca/proof"
	"github.com/istio-auth/istio-auth/mtls"
)

// TestEveryMethodHasARule is RPC-02: what is registered has a row, and a row is
// of something registered.
func TestEveryMethodHasARule(t *testing.T) {
	w := newWorld(t)
	g, istio := grpc.NewServer(), grpc.NewServer()
	own := New(w.config)
	own.Register(g)
	compat := NewIstio(IstioConfig{TrustDomain: td, Authority: w.authority, Attester: w.cluster})
	compat.Register(istio)
	for name, c := range map[string]struct {
		server *grpc.Server
		table  map[string]rule
		want   int
	}{"ours": {g, own.table, 3}, "Istio's": {istio, compat.table, 1}} {
		var methods []string
		for service, info := range c.server.GetServiceInfo() {
			for _, m := range info.Methods {
				methods = append(methods, "/"+service+"/"+m.Name)
			}
		}
		slices.Sort(methods)
		if rows := slices.Sorted(maps.Keys(c.table)); !slices.Equal(methods, rows) || len(rows) != c.want {
			t.Errorf("%s: the methods are %q, the rows %q", name, methods, rows)
		}
	}
}

// TestMethodWithoutARule: a service that somebody adds is refused to everybody.
func TestMethodWithoutARule(t *testing.T) {
	w := newWorld(t)
	w.start(t, func(g *grpc.Server) { healthpb.RegisterHealthServer(g, health.NewServer()) })
	for name, own := range map[string]*grpc.ClientConn{"agent": w.dial(t, w.agent(t, nodeA)), "nobody": w.dial(t, nil)} {
		client := healthpb.NewHealthClient(own)
		if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: a call without a rule got %v", name, err)
		}
		stream, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.PermissionDenied || w.lastDecision().Reason != ReasonNoRule {
			t.Errorf("%s: a stream without a rule got %v, reason %q", name, err, w.lastDecision().Reason)
		}
	}
}

// TestWithoutTheGate: a grpc.Server that was made without the options, and so
// without interceptors, serves nothing.
func TestWithoutTheGate(t *testing.T) {
	w := newWorld(t)
	tls := credentials.NewTLS(mtls.ServerOptionalClient(w.authority, w.ca.Bundle(), func(spiffeid.ID) error { return nil }))
	w.listener = serve(t, []grpc.ServerOption{grpc.Creds(tls)}, New(w.config).Register)
	client := capb.NewCertificateAuthorityClient(w.dial(t, w.agent(t, nodeA)))
	for name, open := range map[string]func() error{
		"Attest": func() error { s, err := client.Attest(t.Context()); return receiveErr(s, err) },
		"Issue":  func() error { s, err := client.Issue(t.Context()); return receiveErr(s, err) },
		"Bundle": func() error { s, err := client.Bundle(t.Context()); return receiveErr(s, err) },
	} {
		if err := open(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func receiveErr[Q, R any](s grpc.BidiStreamingClient[Q, R], err error) error {
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

// TestRawPath is RPC-01: a path that no grpc client sends, in frames made by
// hand, reaches no handler.
func TestRawPath(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	agent := w.agent(t, nodeA)
	for _, path := range []string{
		"istioauth.ca.v1.CertificateAuthority/Issue", "//istioauth.ca.v1.CertificateAuthority/Issue", "/istioauth.ca.v1.CertificateAuthority/Issue/",
		"/istioauth.ca.v1.CertificateAuthority/issue", "/istioauth.ca.v1.CertificateAuthority/Issue?", "/istioauth.ca.v1.CertificateAuthority%2fIssue", "Issue", "/", "*",
	} {
		config := mtls.Client(agent, w.ca.Bundle(), mtls.Exactly(serverID))
		config.NextProtos = []string{"h2"}
		if code := rawCall(t, w, config, path); code != codes.Unimplemented {
			t.Errorf("path %q got %v, want %v", path, code, codes.Unimplemented)
		}
	}
	if n := w.count(); n != 0 {
		t.Errorf("issued %d certificates", n)
	}
}

// rawCall opens a stream with a path and returns the grpc-status of the answer.
func rawCall(t *testing.T, w *world, config *tls.Config, path string) codes.Code {
	t.Helper()
	raw, err := w.listener.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, config)
	defer conn.Close()
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block headerBlock
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "ca"}, {":path", path}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		block.add(t, h[0], h[1])
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.bytes, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("path %q: %v", path, err)
		}
		headers, ok := frame.(*http2.MetaHeadersFrame)
		if !ok {
			continue
		}
		for _, field := range headers.Fields {
			if field.Name == "grpc-status" && field.Value == "12" {
				return codes.Unimplemented
			}
		}
		return codes.Unknown
	}
}

type headerBlock struct{ bytes []byte }

func (b *headerBlock) Write(p []byte) (int, error) {
	b.bytes = append(b.bytes, p...)
	return len(p), nil
}

func (b *headerBlock) add(t *testing.T, name, value string) {
	t.Helper()
	if err := hpack.NewEncoder(b).WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: true}); err != nil {
		t.Fatal(err)
	}
}

// TestStreamsEnd: streams do not outlive the certificate that opened them, and
// nobody who stays silent is waited for.
func TestStreamsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(t)
		agent := w.agent(t, nodeA) // for an hour
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		client := capb.NewCertificateAuthorityClient(w.dial(t, agent))
		issue, err := client.Issue(ctx)
		if err != nil {
			t.Fatal(err)
		}
		bundles, err := client.Bundle(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bundles.Recv(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = issue.Recv()
		if took := time.Since(start); status.Code(err) != codes.Unauthenticated || took > time.Hour || took < time.Hour-2*time.Second {
			t.Errorf("the stream of certificates ended after %v with %v", took, err)
		}
		if _, err = bundles.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("the stream of bundles ended with %v", err)
		}
		// The connection still stands; a new call on it does not.
		time.Sleep(2 * time.Second)
		again, err := client.Issue(ctx)
		if err = receiveErr(again, err); status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unavailable {
			t.Errorf("a new stream with the old certificate got %v", err)
		}
		silent, err := capb.NewCertificateAuthorityClient(w.dial(t, nil)).Attest(ctx)
		start = time.Now()
		if err = receiveErr(silent, err); status.Code(err) != codes.DeadlineExceeded || time.Since(start) != 10*time.Second {
			t.Errorf("a silent stranger got %v after %v", err, time.Since(start))
		}
	})
}

// TestBusy: what cannot be worked on is told when to come back, in any order.
func TestBusy(t *testing.T) {
	w := newWorld(t)
	w.cluster.block = make(chan struct{})
	w.config.Limits.Working = 1
	w.start(t)
	stream, err := capb.NewCertificateAuthorityClient(w.dial(t, w.agent(t, nodeA))).Issue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	here, err := binding(stream)
	if err != nil {
		t.Fatal(err)
	}
	for id := range uint64(2) {
		key := catest.Key(t)
		if err := stream.Send(&capb.IssueRequest{
			Id: id, Pod: &capb.PodRef{Namespace: podA.Namespace, Name: podA.Name, Uid: podA.UID}, Token: "token-a",
			Key: &capb.PublicKey{Spki: spkiOf(t, key), Proof: prove(t, key, here, proof.Issue, podA.UID)},
		}); err != nil {
			t.Fatal(err)
		}
	}
	shed, err := stream.Recv()
	if err != nil || shed.GetRefusal().GetCode() != capb.Refusal_CODE_RETRY || w.lastDecision().Reason != ReasonBusy {
		t.Fatalf("got %v, %v, reason %q", shed, err, w.lastDecision().Reason)
	}
	close(w.cluster.block)
	served, err := stream.Recv()
	if err != nil || served.GetIssued() == nil || served.GetId() == shed.GetId() {
		t.Errorf("the one that was worked on got %v, %v", served, err)
	}
}

// TestStrangersWait: the budget of strangers is one for all connections, and
// comes with the time of the next attempt.
func TestStrangersWait(t *testing.T) {
	w := newWorld(t)
	w.config.Limits.Strangers = Rate{PerSecond: 1, Burst: 2}
	stop := time.Now() // so that no token comes back
	w.config.Now = func() time.Time { return stop }
	w.start(t)
	codesSeen := map[codes.Code]int{}
	for range 5 {
		conn := capb.NewCertificateAuthorityClient(w.dial(t, nil))
		stream, err := conn.Attest(t.Context())
		if err == nil {
			err = stream.Send(&capb.AttestRequest{Evidence: &capb.AttestRequest_KubernetesToken{KubernetesToken: "x"}})
		}
		err = receiveErr(stream, err)
		codesSeen[status.Code(err)]++
		if status.Code(err) != codes.ResourceExhausted {
			continue
		}
		retry, ok := status.Convert(err).Details()[0].(*errdetails.RetryInfo)
		if !ok || retry.GetRetryDelay().AsDuration() < time.Second {
			t.Errorf("told to come back after %v", retry)
		}
	}
	if want := map[codes.Code]int{codes.PermissionDenied: 2, codes.ResourceExhausted: 3}; !maps.Equal(codesSeen, want) {
		t.Errorf("got %v, want %v", codesSeen, want)
	}
}

// TestBudgetsForget: agents that are gone take no memory.
func TestBudgetsForget(t *testing.T) {
	b, now := newBudgets(Rate{PerSecond: 1, Burst: 1}), time.Now()
	for i := range 10 * minBudgets {
		now = now.Add(10 * time.Second)
		id := spiffeid.RequireFromPathf(td, "/istio-auth/node/n/%d", i)
		if _, ok := b.take(id, now); !ok {
			t.Fatal("a new agent has no budget")
		}
		if _, ok := b.take(id, now); ok {
			t.Fatal("a budget of one gave two")
		}
	}
	if got := len(b.byID); got > minBudgets {
		t.Errorf("holds %d budgets", got)
	}
}

// TestAcknowledged follows one agent and one service of two replicas.
func TestAcknowledged(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	agent := w.agent(t, nodeA)
	open := func(conn *grpc.ClientConn) (grpc.BidiStreamingClient[capb.BundleAck, capb.BundleUpdate], context.CancelFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := capb.NewCertificateAuthorityClient(conn).Bundle(ctx)
		if err != nil {
			t.Fatal(err)
		}
		update, err := stream.Recv()
		if err != nil || update.GetSequence() != 7 || len(update.GetAuthorities()) != 1 || !update.GetServerTime().IsValid() {
			t.Fatalf("got %v, %v", update, err)
		}
		return stream, cancel
	}
	// An acknowledgement is noted before the next update is sent.
	ack := func(stream grpc.BidiStreamingClient[capb.BundleAck, capb.BundleUpdate], sequence uint64) {
		t.Helper()
		if err := stream.Send(&capb.BundleAck{Sequence: sequence}); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want map[spiffeid.ID]uint64) {
		t.Helper()
		eventually(t, func() bool { return maps.Equal(w.server.Acknowledged(), want) }, func() any { return w.server.Acknowledged() })
	}
	a, cancelA := open(w.dial(t, agent))
	m := w.ca.SVID(t, manager, time.Hour)
	one, _ := open(w.dial(t, m))
	two, _ := open(w.dial(t, m))
	is(map[spiffeid.ID]uint64{agent.ID: 0, manager: 0})
	ack(a, 7)
	ack(one, 7)
	is(map[spiffeid.ID]uint64{agent.ID: 7, manager: 0})
	ack(two, 7)
	is(map[spiffeid.ID]uint64{agent.ID: 7, manager: 7})

	other := catest.New(t, td)
	both := x509bundle.FromX509Authorities(td, append(w.ca.Bundle().X509Authorities(), other.Root))
	if err := w.keeper.Set(bundle.Versioned{Sequence: 9, Bundle: both}); err != nil {
		t.Fatal(err)
	}
	update, err := a.Recv()
	if err != nil || update.GetSequence() != 9 || len(update.GetAuthorities()) != 2 {
		t.Fatalf("got %v, %v", update, err)
	}
	ack(a, 9)
	is(map[spiffeid.ID]uint64{agent.ID: 9, manager: 7})
	cancelA() // gone for a moment, and still live
	is(map[spiffeid.ID]uint64{agent.ID: 9, manager: 7})
	eventually(t, func() bool { return !w.server.acks.isOpen(agent.ID) }, func() any { return "the agent's stream is still open" })
	if got := w.server.acks.read(time.Now().Add(2 * time.Hour)); !maps.Equal(got, map[spiffeid.ID]uint64{manager: 7}) {
		t.Errorf("after its certificate ended the agent counts: %v", got)
	}
}

func (a *acknowledgements) isOpen(id spiffeid.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.readers[id], func(r *reader) bool { return r.open })
}

// eventually waits for what has no event to wait for.
func eventually(t *testing.T, ok func() bool, got func() any) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(5 * time.Second); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("got %v", got())
		}
	}
}

// TestSurvive: a bug in one request is that request's end.
func TestSurvive(t *testing.T) {
	w := newWorld(t)
	w.cluster.said = func() { panic("a bug") }
	if got, err := first(nil)(t, w); got != "retry" {
		t.Errorf("got %q, %v", got, err)
	}
	if got := judge(errors.New("anything")).final; got {
		t.Error("an unknown error is final")
	}
}
