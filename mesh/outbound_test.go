package mesh_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/mesh"
)

// A remote is a server on the other side of the outbound listener, in Go, so
// that the test sees the handshakes.
type remote struct {
	address string

	mu     sync.Mutex // guards what follows
	states []tls.ConnectionState
}

func newRemote(t *testing.T) (*remote, *httptest.Server) {
	t.Helper()
	r := &remote{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.states = append(r.states, *q.TLS)
		r.mu.Unlock()
		w.Header().Set("Connection", "close") // a handshake for each request
		fmt.Fprintln(w, "hello from afar")
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.address = s.Listener.Addr().String()
	return r, s
}

func (r *remote) take() []tls.ConnectionState {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.states
	r.states = nil
	return got
}

func TestOutbound(t *testing.T) {
	r, server := newRemote(t)
	ports := freePorts(t, 2)
	w := newWorld(t, func(s *mesh.Sidecar) {
		s.Outbound = append(s.Outbound, mesh.Upstream{
			Name: "remote", Listen: ports[0], Address: r.address,
			Servers: []spiffeid.ID{clientID, spiffeid.RequireFromString("spiffe://td.test/ns/shop/sa/web2")},
		}, mesh.Upstream{
			Name: "impostor", Listen: ports[1], Address: r.address, Servers: []spiffeid.ID{serverID},
		})
	})
	server.TLS = w.tls(w.ca.SVID(t, clientID, time.Hour))
	server.TLS.ClientAuth = tls.RequireAnyClientCert
	server.StartTLS()
	t.Cleanup(server.Close)
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.agent.allow(t, allowAll())
	w.untilOpen(t)
	get := func(address string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + address + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}

	t.Run("TestHandshake", func(t *testing.T) {
		for range 3 {
			if code, body := get(ports[0]); code != 200 {
				t.Fatal(code, body)
			}
		}
		states := r.take()
		for _, s := range states {
			if s.Version != tls.VersionTLS13 || s.CurveID != tls.X25519MLKEM768 {
				t.Errorf("version %x, curve %v", s.Version, s.CurveID)
			}
			// The server gives tickets; the sidecar must not use one.
			if s.DidResume {
				t.Error("a session was resumed")
			}
			if got := s.PeerCertificates[0].URIs[0].String(); got != serverID.String() {
				t.Errorf("the sidecar showed %s", got)
			}
		}
		if len(states) != 3 {
			t.Errorf("%d handshakes, want 3", len(states))
		}
	})
	t.Run("TestExactServers", func(t *testing.T) {
		if code, body := get(ports[1]); code != 503 || strings.Contains(body, "afar") {
			t.Errorf("a server of another identity: %d %q, want 503", code, body)
		}
		if got := r.take(); len(got) != 0 {
			t.Errorf("%d requests reached it", len(got))
		}
		line := w.logged(t, func(l map[string]any) bool { return l["direction"] == "outbound" && l["upstream"] == "impostor" })
		if got := fmt.Sprint(line["failure"]); !strings.Contains(got, "CERTIFICATE_VERIFY_FAILED") {
			t.Errorf("failure %q, want the reason", got)
		}
	})
	t.Run("TestThroughBothSidecars", func(t *testing.T) {
		var code int
		within(t, 5*time.Second, "the policy is in force", func() bool { code, _ = get(w.sidecar.Outbound[0].Listen); return code == 200 })
		for direction, upstream := range map[string]string{"outbound": "self", "inbound": "app"} {
			line := w.logged(t, func(l map[string]any) bool {
				return l["direction"] == direction && l["upstream"] == upstream && l["code"] == 200.0
			})
			if line["peer"] != serverID.String() || line["tls"] != "TLSv1.3" {
				t.Errorf("%s: peer %v, tls %v", direction, line["peer"], line["tls"])
			}
		}
	})
	t.Run("TestTLS12Server", func(t *testing.T) {
		old := httptest.NewUnstartedServer(http.NotFoundHandler())
		old.Listener.Close()
		server.Close()
		l, err := net.Listen("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		old.Listener, old.Config.ErrorLog = l, log.New(io.Discard, "", 0)
		old.TLS = w.tls(w.ca.SVID(t, clientID, time.Hour))
		old.TLS.MaxVersion = tls.VersionTLS12
		old.StartTLS()
		defer old.Close()
		if code, _ := get(ports[0]); code != 503 {
			t.Errorf("a server of TLS 1.2: %d, want 503", code)
		}
	})
}

// TestOutboundAge: the sidecar gives its connections up, long before the other
// side must, and no request is lost by it.
func TestOutboundAge(t *testing.T) {
	const life = 5 * time.Second
	w := newLiveWorld(t, func(s *mesh.Sidecar) { s.CertificateLife = life })
	until := time.Now().Add(life)
	n := 0
	for time.Now().Before(until) {
		resp, err := http.Get("http://" + w.sidecar.Outbound[0].Listen + "/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if n++; resp.StatusCode != 200 {
			t.Errorf("request %d: %s", n, resp.Status)
		}
	}
	made, _ := w.Stat(t, "cluster.outbound-self.upstream_cx_total")
	given, _ := w.Stat(t, "cluster.outbound-self.upstream_cx_max_duration_reached")
	if made < 4 || given < 4 {
		t.Errorf("%d connections in %v, %d of them given up, want one each %v", made, life, given, life/5)
	}
	t.Logf("%d requests over %d connections", n, made)
}
