package mesh_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// ready is the code of /ready, zero where nobody listens.
func (w *world) ready() int {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + w.sidecar.StatusAddress + "/ready")
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

func (w *world) becomes(t *testing.T, code int) {
	t.Helper()
	within(t, 10*time.Second, "/ready is "+http.StatusText(code), func() bool { return w.ready() == code })
}

// TestEnvoyStarts: the whole configuration loads, and Envoy lives on it without
// an answer to anything.
func TestEnvoyStarts(t *testing.T) {
	w := newWorld(t)
	w.Until(t, "the agent is asked", func() bool { _, _, nodes, _ := w.agent.seen(); return len(nodes) > 0 })
}

// TestReady: green with a certificate that works, and at no other time.
func TestReady(t *testing.T) {
	w := newWorld(t)
	w.Until(t, "the agent is asked", func() bool { _, _, nodes, _ := w.agent.seen(); return len(nodes) > 0 })
	silent := func(what string) {
		t.Helper()
		if code := w.ready(); code == 200 {
			t.Fatalf("%s: /ready is green", what)
		}
		if c, err := net.Dial("tcp", w.sidecar.Inbound.Listen); err == nil {
			c.Close()
			t.Fatalf("%s: the inbound port is open", what)
		}
	}
	silent("without any secret")
	w.agent.set(t, "ROOTCA", trustSecret(t, w.ca))
	w.Until(t, "the trust secret is acknowledged", func() bool { _, acks, _, _ := w.agent.seen(); return acks > 0 })
	silent("without a certificate")
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.becomes(t, 200)

	// Each probe is a handshake: an open connection would stay green.
	before, _ := w.Stat(t, "listener.probe.ssl.handshake")
	for range 10 {
		w.ready()
	}
	if after, _ := w.Stat(t, "listener.probe.ssl.handshake"); after-before != 10 {
		t.Errorf("%d handshakes for ten probes", after-before)
	}

	// Each makes it red, and the next certificate green again.
	good := func() { t.Helper(); w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour)); w.becomes(t, 200) }
	w.agent.set(t, "default", certificateSecret(t, w.ca.SVID(t, serverID, -time.Minute)))
	w.becomes(t, 503) // has expired
	good()
	w.agent.set(t, "default", certificateSecret(t, w.ca.SVID(t, clientID, time.Hour)))
	w.becomes(t, 503) // is somebody else's
	good()
	w.agent.set(t, "ROOTCA", trustSecret(t, catest.New(t, domain)))
	w.becomes(t, 503) // chains to a root that is not held
	good()
}

// TestExpiryTurnsReadyRed lets a certificate run out, with nothing sent.
func TestExpiryTurnsReadyRed(t *testing.T) {
	w := newWorld(t)
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, 3*time.Second))
	w.becomes(t, 200)
	w.becomes(t, 503)
}

// TestStatusServesTwoPaths and nothing else of the admin interface.
func TestStatusServesTwoPaths(t *testing.T) {
	w := newLiveWorld(t)
	// The harness has moved the admin socket: put it where the bootstrap says.
	var info struct {
		Options struct {
			Config string `json:"config_yaml"`
		} `json:"command_line_options"`
	}
	if err := json.Unmarshal([]byte(w.Admin(t, "/server_info")), &info); err != nil {
		t.Fatal(err)
	}
	_, at, _ := strings.Cut(info.Options.Config, "path: ")
	if err := os.Symlink(strings.TrimRight(at, "}"), filepath.Join(w.dir, "admin.sock")); err != nil {
		t.Fatal(err)
	}
	table := map[string]int{
		"GET /ready": 200, "GET /stats/prometheus": 200,
		"POST /ready": 404, "POST /stats/prometheus": 404, "HEAD /ready": 404, "GET /ready?x": 404, "GET /stats/prometheus?filter=.*": 404,
		"GET /": 404, "GET /stats": 404, "GET /config_dump": 404, "GET /certs": 404, "GET /clusters": 404, "GET /listeners": 404, "GET /server_info": 404,
		"POST /quitquitquit": 404, "POST /healthcheck/fail": 404, "POST /logging?level=trace": 404, "GET /stats/prometheus/../../config_dump": 404,
		"GET /ready/..%2fconfig_dump": 400, "GET //config_dump": 404, "GET /memory": 404, "POST /drain_listeners": 404, "GET /runtime": 404, "GET /help": 404,
	}
	if got, want := len(table), 24; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	for request, want := range table {
		method, path, _ := strings.Cut(request, " ")
		conn, err := net.Dial("tcp", w.sidecar.StatusAddress)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, method+" "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		answer, _ := io.ReadAll(resp.Body)
		conn.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", request, resp.StatusCode, want)
		}
		if request == "GET /stats/prometheus" {
			text := string(answer)
			if !strings.Contains(text, "expiration_unix_time_seconds") {
				t.Error("the certificate's expiry is not among the statistics")
			}
			if n := strings.Count(text, "\nenvoy_"); n > 300 {
				t.Errorf("%d statistics: keep fewer", n)
				t.Log(text)
			}
		}
	}
}

// TestSocketsAreOurs: the sidecar's own sockets are for its own user.
func TestSocketsAreOurs(t *testing.T) {
	w := newLiveWorld(t)
	info, err := os.Stat(filepath.Join(w.dir, "probe.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("probe.sock has mode %o", got)
	}
	// Whoever reaches it still needs a certificate of the mesh.
	conn, err := net.Dial("unix", filepath.Join(w.dir, "probe.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
	if answer, _ := io.ReadAll(conn); strings.Contains(string(answer), "200") {
		t.Errorf("plaintext on the probe's socket: %q", answer)
	}
}

// TestOutage: the agent goes and comes back; what it gave goes on serving, the
// sidecar is back soon, and tells of itself once a stream.
func TestOutage(t *testing.T) {
	w := newLiveWorld(t)
	streams, _, nodes, _ := w.agent.seen()
	if streams != 3 {
		t.Errorf("%d streams, want the aggregated one and one for each secret of the clusters", streams)
	}
	whole := 0
	for _, size := range nodes {
		if size > 0 {
			whole++
		}
	}
	if whole != streams {
		t.Errorf("%d of %d requests held the node, want one a stream", whole, len(nodes))
	}
	w.agent.stop()
	for range 10 {
		if code := w.raw(t, w.tls(w.ca.SVID(t, clientID, time.Hour)), "GET / HTTP/1.1\r\nHost: cart\r\n\r\n"); code != 200 {
			t.Errorf("during the outage: %d", code)
		}
	}
	if code := w.ready(); code != 200 {
		t.Errorf("during the outage: /ready is %d", code)
	}
	w.agent.start(t)
	took := within(t, 10*time.Second, "all streams are back", func() bool { n, _, _, _ := w.agent.seen(); return n >= 2*streams })
	if took > 2500*time.Millisecond {
		t.Errorf("back after %v, want about a second", took)
	}
	t.Logf("back after %v", took)
	other := spiffeid.RequireFromString("spiffe://td.test/ns/shop/sa/other")
	w.agent.set(t, "default", certificateSecret(t, w.ca.SVID(t, other, time.Hour)))
	w.becomes(t, 503) // the new stream is heard
}

// TestStrangersHoldAllConnections: whoever holds all that the inbound listener
// bears fails no probe and no call of the application.
func TestStrangersHoldAllConnections(t *testing.T) {
	other := newLiveWorld(t)
	const most = 5
	dir, err := os.MkdirTemp("", "mesh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{ca: other.ca, agent: newAgent(t, filepath.Join(dir, "agent.sock"))}
	ports := freePorts(t, 3)
	w.sidecar = other.sidecar
	w.sidecar.Outbound = slices.Clone(other.sidecar.Outbound)
	w.sidecar.Workload, w.sidecar.AgentSocket, w.sidecar.RuntimeDir = clientID, w.agent.socket, dir
	w.sidecar.StatusAddress, w.sidecar.Inbound.Listen, w.sidecar.Outbound[0].Listen = ports[0], ports[1], ports[2]
	config, err := mesh.Bootstrap(w.sidecar)
	if err != nil {
		t.Fatal(err)
	}
	limit, err := anypb.New(&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: most})
	if err != nil {
		t.Fatal(err)
	}
	config.OverloadManager.ResourceMonitors[0].GetTypedConfig().Value = limit.Value
	w.Envoy = envoy.Start(t, envoy.Config{Proto: config, Early: true})
	w.agent.identify(t, w.ca, w.ca.SVID(t, clientID, time.Hour))
	w.untilOpen(t)
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	// A stranger that is turned away comes again: what counts for a moment, such
	// as the look at whether the port is open, leaves a place free afterwards.
	within(t, 10*time.Second, "all connections are held", func() bool {
		c, err := net.Dial("tcp", w.sidecar.Inbound.Listen)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		// Those that have said nothing yet count, and are counted elsewhere.
		n, _ := w.Stat(t, "listener.inbound.downstream_cx_active")
		silent, ok := w.Stat(t, "listener.inbound.downstream_pre_cx_active")
		if n+silent > most || !ok {
			t.Fatalf("%d connections, and %d silent ones, are held", n, silent)
		}
		return n+silent == most && len(held) > 2*most
	})
	for _, url := range []string{"http://" + ports[0] + "/ready", "http://" + ports[2] + "/"} {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s", url, resp.Status)
		}
	}
}

// TestIdleStatusConnection: a stranger holds no connection of the status
// listener by asking nothing, before or after a request.
func TestIdleStatusConnection(t *testing.T) {
	t.Parallel()
	w := newLiveWorld(t)
	var conns []net.Conn
	for _, request := range []string{"", "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"} {
		c, err := net.Dial("tcp", w.sidecar.StatusAddress)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, request)
		conns = append(conns, c)
	}
	for _, c := range conns {
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("still open: %v", err)
		}
	}
}
