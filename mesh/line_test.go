package mesh_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/rbac/distribute/policypb"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/secret"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// TestWithTheRealAgentSide: the bootstrap, the secrets of sds/secret, and the
// filters of rbac/distribute and rbac/compile, served by sds, fit together in a
// real Envoy: a request that is allowed, one that a rule denies, a change of
// policy and a change of certificate.
func TestWithTheRealAgentSide(t *testing.T) {
	envoy.Path(t)
	dir, err := os.MkdirTemp("", "line")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	pod := attest.Pod{Namespace: "shop", Name: "cart-1", UID: "uid", ServiceAccount: "cart"}
	secrets, filters := &secret.Source{}, distribute.NewFilters(domain, nil)
	sources := []sds.Source{secrets, filters.Add(pod)}
	events := make(chan sds.Event, 1000)
	server := grpc.NewServer(sds.Options()...)
	(&sds.Server{
		Sources: func(context.Context) ([]sds.Source, error) { return sources, nil },
		Observe: func(e sds.Event) { events <- e },
	}).Register(server)
	socket := filepath.Join(dir, "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	t.Cleanup(server.Stop)

	ports := freePorts(t, 3)
	w := &world{ca: catest.New(t, domain), app: newApp(t), dir: dir}
	w.sidecar = mesh.Sidecar{
		Workload: serverID, AgentSocket: socket, RuntimeDir: dir, CertificateLife: time.Hour, StatusAddress: ports[0],
		Inbound:  mesh.Inbound{Listen: ports[1], App: w.app.address},
		Outbound: []mesh.Upstream{{Name: "self", Listen: ports[2], Address: ports[1], Servers: []spiffeid.ID{serverID}}},
	}
	config, err := mesh.YAML(w.sidecar)
	if err != nil {
		t.Fatal(err)
	}
	w.Envoy = envoy.Start(t, envoy.Config{YAML: config, Early: true, Args: []string{"--file-flush-interval-msec", "20"}})
	issue := func() {
		t.Helper()
		if err := secrets.Set(secret.Material{SVID: w.ca.SVID(t, serverID, time.Hour), Bundle: w.ca.Bundle()}); err != nil {
			t.Fatal(err)
		}
	}
	version := 0
	enforce := func(yaml string) {
		t.Helper()
		var policies []rbac.Policy
		if yaml != "" {
			if policies, err = parse.Policies("test", []byte(yaml)); err != nil {
				t.Fatal(err)
			}
		}
		m := &policypb.WorkloadPolicies{PodUid: pod.UID, Namespace: pod.Namespace, ServiceAccount: pod.ServiceAccount, RootNamespace: "root", TrustDomain: domain.Name()}
		for _, p := range policies {
			m.Policies = append(m.Policies, &policypb.Policy{Namespace: p.Namespace, Name: p.Name, Source: parse.JSON(p)})
		}
		body, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		version++
		if err := filters.Apply(pod.UID, fmt.Sprint(version), body); err != nil {
			t.Fatal(err)
		}
	}
	issue()
	w.becomes(t, http.StatusOK)
	web, other := w.client(t, clientID), w.client(t, spiffeid.RequireFromString("spiffe://td.test/ns/shop/sa/other"))
	code := func(c *http.Client, path string) int {
		t.Helper()
		resp, err := c.Get(w.url(path))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	becomes := func(c *http.Client, path string, want int) {
		t.Helper()
		within(t, 10*time.Second, fmt.Sprint(path, " is ", want), func() bool { return code(c, path) == want })
	}
	if got := code(web, "/a"); got != 403 {
		t.Errorf("while no policy is known: %d", got)
	}
	enforce("") // known to be none
	becomes(web, "/a", 200)
	enforce(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: web-only}
spec:
  rules:
  - from: [{source: {principals: ["td.test/ns/shop/sa/web"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: no-admin}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: ["/admin*"]}}]}]
`)
	becomes(other, "/a", 403)
	for path, want := range map[string]int{"/a?x": 200, "/admin": 403, "/admin/x": 403, "/b/../admin": 403, "/b": 200} {
		if got := code(web, path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	line := w.logged(t, func(l map[string]any) bool { return l["path"] == "/admin" && l["peer"] == clientID.String() })
	if got := fmt.Sprint(line["details"]); !strings.Contains(got, "shop/no-admin/0") {
		t.Errorf("details %q, want the policy and the rule", got)
	}
	for range 5 {
		issue()
		if got := code(web, "/a"); got != 200 {
			t.Errorf("around a renewal: %d", got)
		}
	}
	w.becomes(t, http.StatusOK)
	for len(events) > 0 {
		if e := <-events; e.Kind == sds.Nacked {
			t.Errorf("Envoy refuses: %+v", e)
		}
	}
}
