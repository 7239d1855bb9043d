package mesh_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/test/envoy"
)

var (
	domain   = spiffeid.RequireTrustDomainFromString("td.test")
	serverID = spiffeid.RequireFromString("spiffe://td.test/ns/shop/sa/cart")
	clientID = spiffeid.RequireFromString("spiffe://td.test/ns/shop/sa/web")
)

// A world is one sidecar in a real Envoy, with an application behind it and an
// agent beside it. Its outbound "self" calls its own inbound, so that one
// process shows both sides.
type world struct {
	*envoy.Envoy
	sidecar mesh.Sidecar
	ca      *catest.CA
	agent   *agent
	app     *app
	dir     string
}

// newWorld starts everything but gives the sidecar nothing: the test does.
func newWorld(t *testing.T, change ...func(*mesh.Sidecar)) *world {
	t.Helper()
	return newEditedWorld(t, nil, change...)
}

// newEditedWorld is a new world whose configuration the test spoils, or looks
// into.
func newEditedWorld(t *testing.T, edit func(*bootstrapv3.Bootstrap), change ...func(*mesh.Sidecar)) *world {
	t.Helper()
	envoy.Path(t)
	dir, err := os.MkdirTemp("", "mesh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{ca: catest.New(t, domain), app: newApp(t), dir: dir}
	w.agent = newAgent(t, filepath.Join(dir, "agent.sock"))
	ports := freePorts(t, 3)
	w.sidecar = mesh.Sidecar{
		Workload:        serverID,
		AgentSocket:     w.agent.socket,
		RuntimeDir:      dir,
		CertificateLife: time.Hour,
		StatusAddress:   ports[0],
		Inbound:         mesh.Inbound{Listen: ports[1], App: w.app.address},
		Outbound:        []mesh.Upstream{{Name: "self", Listen: ports[2], Address: ports[1], Servers: []spiffeid.ID{serverID}}},
	}
	for _, f := range change {
		f(&w.sidecar)
	}
	config := envoy.Config{Early: true, Args: []string{"--file-flush-interval-msec", "20"}}
	if edit == nil {
		config.YAML, err = mesh.YAML(w.sidecar)
	} else if config.Proto, err = mesh.Bootstrap(w.sidecar); err == nil {
		edit(config.Proto)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Envoy = envoy.Start(t, config)
	return w
}

// editInbound changes the connection manager of the inbound listener.
func editInbound(t *testing.T, b *bootstrapv3.Bootstrap, edit func(*hcmv3.HttpConnectionManager)) {
	t.Helper()
	for _, l := range b.StaticResources.Listeners {
		if l.Name != "inbound" {
			continue
		}
		filter, manager := l.FilterChains[0].Filters[0], &hcmv3.HttpConnectionManager{}
		if err := filter.GetTypedConfig().UnmarshalTo(manager); err != nil {
			t.Fatal(err)
		}
		edit(manager)
		body, err := anypb.New(manager)
		if err != nil {
			t.Fatal(err)
		}
		filter.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: body}
		return
	}
	t.Fatal("there is no inbound listener")
}

// newLiveWorld has a certificate and a policy that lets everything through.
func newLiveWorld(t *testing.T, change ...func(*mesh.Sidecar)) *world {
	t.Helper()
	w := newWorld(t, change...)
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.agent.allow(t, allowAll())
	w.untilOpen(t)
	within(t, 10*time.Second, "the policy is in force", func() bool {
		resp, err := w.client(t, clientID).Get(w.url("/"))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	w.app.take()
	return w
}

func (w *world) untilOpen(t *testing.T) {
	t.Helper()
	within(t, 20*time.Second, "the inbound listener is open", func() bool {
		c, err := net.Dial("tcp", w.sidecar.Inbound.Listen)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

func (w *world) url(path string) string { return "https://" + w.sidecar.Inbound.Listen + path }

// tls is a client's configuration, with whatever certificates the test likes.
// What the server shows is another test's business.
func (w *world) tls(svids ...*x509svid.SVID) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	for _, s := range svids {
		chain := tls.Certificate{PrivateKey: s.PrivateKey}
		for _, cert := range s.Certificates {
			chain.Certificate = append(chain.Certificate, cert.Raw)
		}
		c.Certificates = append(c.Certificates, chain)
	}
	return c
}

func (w *world) client(t *testing.T, id spiffeid.ID) *http.Client {
	return clientOf(t, w.tls(w.ca.SVID(t, id, time.Hour)))
}

func clientOf(t *testing.T, c *tls.Config) *http.Client {
	tr := &http.Transport{TLSClientConfig: c}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 5 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// raw sends one request as written, on a connection of its own, and returns
// the status code: zero where the connection was closed instead.
func (w *world) raw(t *testing.T, c *tls.Config, request string) int {
	t.Helper()
	conn, err := tls.Dial("tcp", w.sidecar.Inbound.Listen, c)
	if err != nil {
		return 0
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(conn, request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// logged returns the first line of the access log that fits.
func (w *world) logged(t *testing.T, fits func(map[string]any) bool) map[string]any {
	t.Helper()
	var found map[string]any
	within(t, 15*time.Second, "the line is in the access log", func() bool {
		for text := range strings.Lines(w.Stdout()) {
			line := map[string]any{}
			if json.Unmarshal([]byte(text), &line) == nil && fits(line) {
				found = line
				return true
			}
		}
		return false
	})
	return found
}

// An app is the workload behind the sidecar. It remembers what reached it.
type app struct {
	address string
	mu      sync.Mutex // guards got
	got     []*http.Request
}

func newApp(t *testing.T) *app {
	a := &app{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.got = append(a.got, r)
		a.mu.Unlock()
		if r.URL.Path == "/stream" {
			for r.Context().Err() == nil {
				fmt.Fprintln(w, "more")
				w.(http.Flusher).Flush()
				select {
				case <-time.After(20 * time.Millisecond):
				case <-r.Context().Done():
				}
			}
		}
		fmt.Fprintln(w, "ok")
	}))
	t.Cleanup(s.Close)
	a.address = s.Listener.Addr().String()
	return a
}

// take returns the requests since the last take.
func (a *app) take() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	got := a.got
	a.got = nil
	return got
}

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	ports := map[string]bool{}
	var listeners []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		ports[l.Addr().String()] = true
	}
	for _, l := range listeners {
		l.Close()
	}
	var list []string
	for p := range maps.Keys(ports) {
		list = append(list, p)
	}
	return list
}

func allowAll() *rbacv3.RBAC {
	return &rbacv3.RBAC{Rules: &rbacconfigv3.RBAC{Action: rbacconfigv3.RBAC_ALLOW, Policies: map[string]*rbacconfigv3.Policy{
		"test/all/0": {
			Permissions: []*rbacconfigv3.Permission{{Rule: &rbacconfigv3.Permission_Any{Any: true}}},
			Principals:  []*rbacconfigv3.Principal{{Identifier: &rbacconfigv3.Principal_Any{Any: true}}},
		},
	}}}
}
