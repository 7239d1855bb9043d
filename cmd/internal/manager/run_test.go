package manager

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/attest/registry"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/mtls"
	"github.com/istio-auth/istio-auth/rbac/distribute"
)

var td = spiffeid.RequireTrustDomainFromString("td.test")

// own is an identity that does not change.
type own struct {
	*x509svid.SVID
	*x509bundle.Bundle
}

func (o own) GetX509SVID() (*x509svid.SVID, error) { return o.SVID, nil }

// world is a running manager with the workloads orders on host-1 and web on
// host-2.
type world struct {
	ca      *catest.CA
	address string
	server  spiffeid.ID
	uids    map[string]string // of the workloads, by name
}

func start(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	hosts, policies := filepath.Join(dir, "workloads.yaml"), filepath.Join(dir, "policies")
	if err := os.Mkdir(policies, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		hosts: "workloads:\n" +
			"- {name: orders, node: host-1, uid: 1, executable: /o, namespace: demo, serviceAccount: orders, labels: {app: orders}}\n" +
			"- {name: web, node: host-2, uid: 1, executable: /w, namespace: demo, serviceAccount: web}\n",
		filepath.Join(policies, "p.yaml"): "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: demo}\nspec: {}\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{ca: catest.New(t, td), address: listener.Addr().String(), server: spiffeid.RequireFromSegments(td, "istio-auth", "manager")}
	listener.Close()
	w.uids = uids(t, hosts)
	c := Defaults()
	c.TrustDomain, c.Listen = td.Name(), w.address
	c.Source.Files = &Files{Policies: policies, Registry: hosts}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, c, Deps{Log: slog.New(slog.DiscardHandler), Own: own{w.ca.SVID(t, w.server, time.Hour), w.ca.Bundle()}})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the manager ended with %v", err)
		}
	})
	for {
		if conn, err := net.Dial("tcp", w.address); err == nil {
			conn.Close()
			return w
		}
		select {
		case err := <-done:
			done <- nil
			t.Fatalf("the manager ended before it listened: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func uids(t *testing.T, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	known, err := registry.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	uids := map[string]string{}
	for _, w := range known.All() {
		uids[w.Pod.Name] = w.Pod.UID
	}
	return uids
}

func agentID(host string) spiffeid.ID {
	return spiffeid.RequireFromSegments(td, "istio-auth", "node", host, "uid-of-"+host)
}

// as connects with the certificate of id.
func (w *world) as(t *testing.T, id spiffeid.ID, life time.Duration) *grpc.ClientConn {
	t.Helper()
	identity := own{w.ca.SVID(t, id, life), w.ca.Bundle()}
	conn, err := grpc.NewClient(w.address,
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithTransportCredentials(credentials.NewTLS(mtls.Client(identity, identity, mtls.Exactly(w.server)))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ask subscribes to the policies of workloads, by name.
func (w *world) ask(ctx context.Context, conn *grpc.ClientConn, names ...string) (grpc.BidiStreamingClient[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse], error) {
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	var pods []string
	for _, name := range names {
		pods = append(pods, w.uids[name])
	}
	return stream, stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: distribute.PoliciesType, ResourceNamesSubscribe: pods})
}

// TestAgentSeesItsOwnNode: by the name in its certificate, whatever it asks for.
func TestAgentSeesItsOwnNode(t *testing.T) {
	w := start(t)
	for host, want := range map[string]string{"host-1": "orders", "host-2": "web"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		stream, err := w.ask(ctx, w.as(t, agentID(host), time.Hour), "orders", "web")
		if err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range answer.GetResources() {
			names = append(names, r.GetName())
		}
		if fmt.Sprint(names) != fmt.Sprint([]string{w.uids[want]}) || len(answer.GetRemovedResources()) > 0 {
			t.Errorf("%s is told of %q, and that %q are gone; want %s alone", host, names, answer.GetRemovedResources(), want)
		}
	}
}

// TestAgentOfNowhere hears nothing, not even that there is nothing: what it was
// told before stays in force.
func TestAgentOfNowhere(t *testing.T) {
	w := start(t)
	ready, err := w.ask(t.Context(), w.as(t, agentID("host-1"), time.Hour), "orders")
	if err == nil {
		_, err = ready.Recv() // the manager has read all it reads
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	stream, err := w.ask(ctx, w.as(t, agentID("host-3"), time.Hour), "orders", "web")
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := stream.Recv(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v, %v; want silence", answer, err)
	}
}

// TestOnlyAgents: good certificates of our own CA that are no agent's.
func TestOnlyAgents(t *testing.T) {
	w := start(t)
	stranger := catest.New(t, td)
	for _, id := range []spiffeid.ID{
		spiffeid.RequireFromPath(td, "/ns/demo/sa/orders"),
		spiffeid.RequireFromPath(td, "/ns/istio-auth/sa/istio-nodeagent"),
		spiffeid.RequireFromPath(td, "/istio-auth/manager"),
		spiffeid.RequireFromPath(td, "/istio-auth/ca"),
		spiffeid.RequireFromPath(td, "/istio-auth/node/host-1"),
		spiffeid.RequireFromPath(td, "/istio-auth/node/host-1/uid/more"),
		spiffeid.RequireFromString("spiffe://other.test/istio-auth/node/host-1/uid"),
	} {
		refused(t, id.String(), w, w.ca.SVID(t, id, time.Hour))
	}
	refused(t, "expired", w, w.ca.SVID(t, agentID("host-1"), 0))
	refused(t, "another CA", w, stranger.SVID(t, agentID("host-1"), time.Hour))
}

func refused(t *testing.T, what string, w *world, svid *x509svid.SVID) {
	t.Helper()
	identity := own{svid, w.ca.Bundle()}
	conn, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(credentials.NewTLS(mtls.Client(identity, identity, mtls.Exactly(w.server)))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := w.ask(ctx, conn, "orders", "web")
	if err == nil {
		_, err = stream.Recv()
	}
	if code := status.Code(err); code != codes.Unavailable {
		t.Errorf("%s: %v, want a connection that does not come about", what, err)
	}
}

// TestStreamEndsWithItsCertificate: an agent that was banned, or does not
// renew, is not served for ever on the connection that it has.
func TestStreamEndsWithItsCertificate(t *testing.T) {
	w := start(t)
	conn := w.as(t, agentID("host-1"), 5*time.Second)
	stream, err := w.ask(t.Context(), conn, "orders")
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("got another answer, want the stream's end")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the stream outlives its certificate")
	}
}

// TestNoUnary: fetches, and any service that is not ours, are refused.
func TestNoUnary(t *testing.T) {
	w := start(t)
	conn := w.as(t, agentID("host-1"), time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("health: %v, want Unimplemented", err)
	}
	if err := conn.Invoke(ctx, "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets", &discovery.DiscoveryRequest{}, &discovery.DiscoveryResponse{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("fetching: %v, want Unimplemented", err)
	}
}
