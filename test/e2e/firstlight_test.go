package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/mtls"
)

const life = 6 * time.Hour // the chart's

// TestFirstLight: two workloads talk mutual TLS through their Envoys, and policy
// decides. Their Envoys have nothing but the pod's socket.
func TestFirstLight(t *testing.T) {
	n := install(t)
	s := openShop(t, n, "light", life)
	within(t, 20*time.Second, "the policy", func() error {
		if got := s.ask(t, "client", "/orders"); got != "200 OK" {
			return errors.New(got)
		}
		return nil
	})
	client := identity("light", "client").String()
	for _, row := range []struct{ name, account, path, status, peer, details string }{
		{"allowed", "client", "/orders/allowed", "200 OK", client, "via_upstream"},
		{"no ALLOW names the path", "client", "/admin", "403 Forbidden", client, "[no-allow-match]"},
		{"a path in disguise", "client", "/orders/../admin2", "403 Forbidden", client, "[no-allow-match]"},
		{"a third account, by DENY", "stranger", "/orders/stranger", "403 Forbidden", identity("light", "stranger").String(), "[light/no-strangers/0]"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := s.ask(t, row.account, row.path); got != row.status {
				t.Errorf("%s asked for %s and got %q, want %q", row.account, row.path, got, row.status)
			}
			path := strings.ReplaceAll(row.path, "/orders/..", "")
			e := s.logged(t, "server", path, func(e entry) bool { return e.Direction == "inbound" && e.Path == path })
			if e.Peer != row.peer || e.TLS != "TLSv1.3" || !strings.HasSuffix(e.Details, row.details) {
				t.Errorf("the server's Envoy logged %+v, want %s as the peer and %s", e, row.peer, row.details)
			}
		})
	}
	e := s.logged(t, "client", "the call", func(e entry) bool { return e.Direction == "outbound" && e.Path == "/orders/allowed" })
	if want := identity("light", "server").String(); e.Peer != want || e.TLS != "TLSv1.3" {
		t.Errorf("the client's Envoy logged %+v, want %s as the peer", e, want)
	}
	t.Run("a third account, by no ALLOW", func(t *testing.T) {
		s.kubectl(t, "delete", "authorizationpolicy", "no-strangers")
		tries := 0
		within(t, 20*time.Second, "the removed DENY", func() error {
			tries++
			path := fmt.Sprintf("/orders/unnamed-%d", tries)
			if got := s.ask(t, "stranger", path); got != "403 Forbidden" {
				t.Fatalf("got %q", got)
			}
			e := s.logged(t, "server", path, func(e entry) bool { return e.Path == path })
			if !strings.HasSuffix(e.Details, "[no-allow-match]") {
				return fmt.Errorf("denied by %s", e.Details)
			}
			return nil
		})
	})
	t.Run("only the sidecar has the socket", func(t *testing.T) { testSocketOnly(t, s) })
	t.Run("strangers to the mesh", func(t *testing.T) { testStrangers(t, s) })
}

// testSocketOnly: the application's container has no way to the agent, and the
// Envoy's has no other way to an identity than the pod's own socket.
func testSocketOnly(t *testing.T, s *shop) {
	pod := running(t, s.n, s.namespace, "client")
	for _, c := range append(pod.Spec.Containers, pod.Spec.InitContainers...) {
		var mounts []string
		for _, m := range c.VolumeMounts {
			mounts = append(mounts, m.MountPath)
		}
		want := map[string]string{"app": "[]", "envoy": "[/run/istio-auth /etc/envoy /run/envoy]"}[c.Name]
		if got := fmt.Sprint(mounts); got != want {
			t.Errorf("%s mounts %s, want %s", c.Name, got, want)
		}
	}
	if out, err := s.n.TryKubectl(t, "--namespace="+s.namespace, "exec", "deployment/client", "--container=app", "--", "/demo", "ls", "/run"); strings.Contains(out, "agent.sock") {
		t.Errorf("the application sees %s, %v", out, err)
	}
	if got, want := s.kubectl(t, "get", "configmap", "client-envoy", "--output=jsonpath={.data}"), "PRIVATE KEY"; strings.Contains(got, want) {
		t.Error("the bootstrap holds a key")
	}
}

// testStrangers: who has no certificate of the mesh gets no answer from HTTP at
// all. That a good certificate gets one shows that the refusals are due to it.
func testStrangers(t *testing.T, s *shop) {
	server, client := running(t, s.n, s.namespace, "server"), running(t, s.n, s.namespace, "client")
	url := "https://" + server.Status.PodIP + ":15006/orders"
	own := source(t, s.n, client)
	good := mtls.Client(own, own, mtls.Exactly(identity(s.namespace, "server")))
	if got, err := get(s, good, url); err != nil || got != http.StatusOK {
		t.Fatalf("with the client's certificate: %d, %v", got, err)
	}

	if resp, err := s.n.HTTP().Get("http://" + server.Status.PodIP + ":15006/orders"); err == nil {
		resp.Body.Close()
		t.Errorf("plaintext was answered with %s", resp.Status)
	}
	none := good.Clone()
	none.Certificates, none.GetClientCertificate = nil, nil
	// The right name by another root.
	foreign := mtls.Client(catest.New(t, td).SVID(t, identity(s.namespace, "client"), time.Hour), own, mtls.Exactly(identity(s.namespace, "server")))
	older := good.Clone()
	older.MinVersion, older.MaxVersion, older.CurvePreferences = tls.VersionTLS12, tls.VersionTLS12, nil
	for _, row := range []struct {
		name   string
		config *tls.Config
		want   string // alert of the server
	}{
		{"no certificate", none, "certificate required"},
		{"a certificate by another root", foreign, "unknown certificate"},
		{"TLS 1.2", older, "protocol version not supported"},
	} {
		if err := alert(t, s, row.config, server.Status.PodIP+":15006"); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want the alert %q", row.name, err, row.want)
		}
	}

	// The other way round: the client believes nobody but the server.
	if _, err := get(s, mtls.Client(own, own, mtls.Exactly(identity(s.namespace, "stranger"))), url); err == nil {
		t.Error("the server was taken for the stranger")
	}
}

// alert is the error with which the server ends a handshake. In TLS 1.3 it may
// come after the client's side is done, so the client then waits and writes
// nothing: what it wrote could meet a closed connection before it has read why.
func alert(t *testing.T, s *shop, config *tls.Config, address string) error {
	t.Helper()
	raw, err := s.n.Dial(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, config)
	if err := errors.Join(conn.SetDeadline(time.Now().Add(5*time.Second)), conn.HandshakeContext(t.Context())); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// get asks once on a connection of its own.
func get(s *shop, config *tls.Config, url string) (int, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: s.n.Dial, TLSClientConfig: config, DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// TestPolicyChangeDrainsNothing: a changed policy takes effect on a connection
// that is open, and neither listener nor connection is drained for it.
func TestPolicyChangeDrainsNothing(t *testing.T) {
	n := install(t)
	s := openShop(t, n, "change", life)
	server := running(t, n, s.namespace, "server")
	own := source(t, n, running(t, n, s.namespace, "client"))
	var dials atomic.Int64
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return n.Dial(ctx, network, address)
	}
	kept := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: dial, MaxConnsPerHost: 1,
		TLSClientConfig: mtls.Client(own, own, mtls.Exactly(identity(s.namespace, "server"))),
	}}
	expect := func(path string, code int) error {
		resp, err := kept.Get("https://" + server.Status.PodIP + ":15006" + path)
		if err != nil {
			t.Fatal(err) // a connection broke
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		if resp.Close {
			t.Fatal("the server asked to close the connection: it drains")
		}
		if resp.StatusCode != code {
			return fmt.Errorf("%s: %s, want %d", path, resp.Status, code)
		}
		return nil
	}
	within(t, 20*time.Second, "the first policy", func() error { return expect("/orders", 200) })
	before := drains(t, s, server)
	if err := expect("/returns", 403); err != nil {
		t.Fatal(err)
	}
	for _, change := range []struct {
		paths          string
		allowed, other string
	}{{"[/returns]", "/returns", "/orders"}, {"[/orders, /orders/*]", "/orders", "/returns"}, {"[/returns]", "/returns", "/orders"}} {
		began := time.Now()
		s.kubectl(t, "patch", "authorizationpolicy", "orders", "--type=json",
			`--patch=[{"op":"replace","path":"/spec/rules/0/to/0/operation/paths","value":`+jsonList(change.paths)+`}]`)
		applied := time.Now()
		within(t, 20*time.Second, "the changed policy", func() error { return expect(change.allowed, 200) })
		t.Logf("%s allowed %v after the API server had it (%v with kubectl)", change.paths, since(applied), since(began))
		if err := expect(change.other, 403); err != nil {
			t.Error(err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections, want one for all of it", n)
	}
	after := drains(t, s, server)
	for name, was := range before {
		if is := after[name]; is != was || is != 0 {
			t.Errorf("%s: %v before and %v after, want 0", name, was, is)
		}
	}
}

func jsonList(flow string) string {
	return `["` + strings.ReplaceAll(strings.Trim(flow, "[]"), ", ", `","`) + `"]`
}

// drains are the server's Envoy's counters of what must not happen.
func drains(t *testing.T, s *shop, server *corev1.Pod) map[string]float64 {
	t.Helper()
	all, err := metrics(s.n, "http://"+server.Status.PodIP+":15021/stats/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, want := range []string{
		"envoy_listener_manager_listener_modified{}",
		"envoy_listener_manager_total_listeners_draining{}",
		"envoy_listener_manager_listener_create_failure{}",
		`envoy_http_downstream_cx_drain_close{envoy_http_conn_manager_prefix="inbound"}`,
		`envoy_http_downstream_cx_max_duration_reached{envoy_http_conn_manager_prefix="inbound"}`,
	} {
		value, ok := all[want]
		if !ok {
			t.Fatalf("Envoy has no %s", want)
		}
		found[want] = value
	}
	return found
}
