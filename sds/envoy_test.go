package sds_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"

	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/sdstest"
	"github.com/istio-auth/istio-auth/sds/secret"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// bootstrap is an Envoy whose one listener wants mutual TLS with secrets from
// our socket, and answers every request with the peer's identity.
var bootstrap = template.Must(template.New("").Parse(`
node: {id: test, cluster: test}
{{if .ADS}}
dynamic_resources:
  ads_config:
    api_type: {{.API}}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{envoy_grpc: {cluster_name: sds, retry_policy: {retry_back_off: {base_interval: 0.1s, max_interval: 1s}}}}]
{{if .LDS}}  lds_config: {resource_api_version: V3, ads: {}}{{end}}
{{end}}
static_resources:
  clusters:
  - name: sds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: sds
      endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: {{.Socket}}}}}}]}]
{{if not .LDS}}
  listeners:
  - {{.Listener}}
{{end}}
`))

// A setup is one way to run that Envoy.
type setup struct {
	Socket  string
	ADS     bool
	API     string // GRPC or DELTA_GRPC
	LDS     bool
	Port    int
	Prefix  string // of the identities that the static half accepts
	Timeout string // initial_fetch_timeout
}

// Listener is the listener as one line of YAML.
func (s setup) Listener() string {
	source := fmt.Sprintf(`{resource_api_version: V3, initial_fetch_timeout: %s, ads: {}}`, s.Timeout)
	if !s.ADS {
		source = fmt.Sprintf(`{resource_api_version: V3, initial_fetch_timeout: %s, api_config_source: {api_type: %s, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: sds, retry_policy: {retry_back_off: {base_interval: 0.1s, max_interval: 1s}}}}]}}`, s.Timeout, s.API)
	}
	return strings.Join(strings.Fields(fmt.Sprintf(`{name: in, address: {socket_address: {address: 127.0.0.1, port_value: %d}}, filter_chains: [{
		transport_socket: {name: envoy.transport_sockets.tls, typed_config: {
			"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
			require_client_certificate: true, disable_stateless_session_resumption: true,
			common_tls_context: {
				tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3},
				tls_certificate_sds_secret_configs: [{name: default, sds_config: %s}],
				combined_validation_context: {
					default_validation_context: {match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: "%s"}}]},
					validation_context_sds_secret_config: {name: ROOTCA, sds_config: %s}}}}},
		filters: [{name: envoy.filters.network.http_connection_manager, typed_config: {
			"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
			stat_prefix: in, http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}],
			route_config: {response_headers_to_add: [{header: {key: x-peer, value: "%%DOWNSTREAM_PEER_URI_SAN%%"}}],
				virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}}}]}]}`,
		s.Port, source, s.Prefix, source)), " ")
}

func (s setup) yaml(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := bootstrap.Execute(&out, s); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// protocols are the four ways in which Envoy asks for secrets.
var protocols = map[string]setup{
	"sotw":      {API: "GRPC"},
	"delta":     {API: "DELTA_GRPC"},
	"ads":       {API: "GRPC", ADS: true},
	"delta-ads": {API: "DELTA_GRPC", ADS: true},
}

// A world is one Envoy, our server, and an authority.
type world struct {
	ca     *sdstest.Authority
	source *secret.Source
	events *recorder
	socket *sdstest.Socket
	server *sds.Server
	envoy  *envoy.Envoy
	ctx    context.Context
}

func newWorld(t *testing.T, sources ...sds.Source) *world {
	t.Helper()
	envoy.Path(t) // skips early where there is none
	ca, err := sdstest.NewAuthority(td)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{ca: ca, source: &secret.Source{}, events: newRecorder(), ctx: within(t, 30*time.Second)}
	if len(sources) == 0 {
		sources = []sds.Source{w.source}
	}
	w.server = &sds.Server{Sources: fixed(sources...), Observe: w.events.observe}
	w.socket = serve(t, w.server)
	return w
}

func (w *world) start(t *testing.T, s setup, early bool) {
	t.Helper()
	s.Socket = w.socket.Path
	if s.Prefix == "" {
		s.Prefix = "spiffe://td.test/ns/"
	}
	if s.Timeout == "" {
		s.Timeout = "0s"
	}
	w.envoy = envoy.Start(t, envoy.Config{YAML: s.yaml(t), Early: early})
}

func (w *world) svid(t *testing.T, path string, leaf sdstest.Leaf) *x509svid.SVID {
	t.Helper()
	svid, err := w.ca.SVID(spiffeid.RequireFromPath(w.ca.TrustDomain, path), leaf)
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

func (w *world) set(t *testing.T, svid *x509svid.SVID, others ...*sdstest.Authority) {
	t.Helper()
	if err := w.source.Set(secret.Material{SVID: svid, Bundle: w.ca.Bundle(others...)}); err != nil {
		t.Fatal(err)
	}
}

// get makes one request on a new connection, and returns who the peer says that
// we are and the serial number of its certificate.
func get(ctx context.Context, address string, svid *x509svid.SVID) (peer, serial string, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, // Envoy is the one to judge here
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert := &tls.Certificate{PrivateKey: svid.PrivateKey}
			for _, c := range svid.Certificates {
				cert.Certificate = append(cert.Certificate, c.Raw)
			}
			return cert, nil
		},
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/", nil)
	if err != nil {
		return "", "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", "", errors.New(response.Status)
	}
	return response.Header.Get("x-peer"), response.TLS.PeerCertificates[0].SerialNumber.String(), nil
}

func acked(name string) func(sds.Event) bool {
	return func(e sds.Event) bool { return e.Kind == sds.Acked && e.Name == name }
}

func nacked(e sds.Event) bool { return e.Kind == sds.Nacked }

// Leaves and roots change under requests, each on a new connection, and none
// fails.
func TestEnvoyRotation(t *testing.T) {
	for name, how := range protocols {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			next, err := sdstest.NewAuthority(td)
			if err != nil {
				t.Fatal(err)
			}
			w.set(t, w.svid(t, "/ns/a/sa/server", sdstest.Leaf{}))
			w.start(t, how, false)
			address := w.envoy.Address(t, "in").String()
			client := w.svid(t, "/ns/a/sa/client", sdstest.Leaf{})

			ctx, stop := context.WithCancel(w.ctx)
			type outcome struct {
				requests int
				err      error
			}
			done, answered := make(chan outcome, 1), make(chan struct{}, 1)
			go func() {
				var o outcome
				for ; ctx.Err() == nil && o.err == nil; o.requests++ {
					if _, _, err := get(w.ctx, address, client); err != nil {
						o.err = err
					}
					select {
					case answered <- struct{}{}:
					default:
					}
				}
				done <- o
			}()
			leaves, roots := 1, 1
			rotate := func(others ...*sdstest.Authority) *x509svid.SVID {
				svid := w.svid(t, "/ns/a/sa/server", sdstest.Leaf{})
				w.set(t, svid, others...)
				leaves++
				w.events.until(w.ctx, t, leaves, acked("default"))
				for range 3 { // a change falls into a request, not only between them
					select {
					case <-answered:
					case <-w.ctx.Done():
						t.Fatal("requests stopped")
					}
				}
				return svid
			}
			for range 10 {
				rotate()
			}
			rotate(next)
			roots++
			w.events.until(w.ctx, t, roots, acked("ROOTCA"))
			last := rotate(next)
			stop()
			o := <-done
			if o.err != nil || o.requests < 25 {
				t.Fatalf("%d requests: %v", o.requests, o.err)
			}
			peer, serial, err := get(w.ctx, address, client)
			if err != nil || peer != client.ID.String() || serial != last.Certificates[0].SerialNumber.String() {
				t.Errorf("in the end: peer %s, serial %s, %v", peer, serial, err)
			}
			if n := w.events.count(nacked); n != 0 {
				t.Errorf("%d refusals", n)
			}
			// No unchanged key was sent again: one answer for each change.
			if got := w.events.count(acked("default")); got != leaves {
				t.Errorf("%d certificates sent for %d changes", got, leaves)
			}
			t.Logf("%d requests on new connections, %d leaf and %d root changes, no failure", o.requests, leaves-1, roots-1)
		})
	}
}

// The agent restarts: Envoy serves on, is not sent what it holds (delta), and
// gets what changed meanwhile.
func TestEnvoyReconnects(t *testing.T) {
	for name, how := range protocols {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			server := w.svid(t, "/ns/a/sa/server", sdstest.Leaf{})
			w.set(t, server)
			w.start(t, how, false)
			address, client := w.envoy.Address(t, "in").String(), w.svid(t, "/ns/a/sa/client", sdstest.Leaf{})
			before := w.events.count(acked("default"))
			w.socket.Stop()
			if _, _, err := get(w.ctx, address, client); err != nil {
				t.Fatalf("without the agent: %v", err)
			}
			w.source = &secret.Source{} // a new process knows nothing
			w.set(t, server)
			w.server = &sds.Server{Sources: fixed(w.source), Observe: w.events.observe}
			if err := w.socket.Restart(func(g *grpc.Server) { w.server.Register(g) }); err != nil {
				t.Fatal(err)
			}
			streams := w.events.count(func(e sds.Event) bool { return e.Kind == sds.Connected })
			w.events.until(w.ctx, t, streams+1, func(e sds.Event) bool { return e.Kind == sds.Connected })
			renewed := w.svid(t, "/ns/a/sa/server", sdstest.Leaf{})
			w.set(t, renewed)
			w.envoy.Until(t, "the renewed certificate", func() bool {
				_, serial, err := get(w.ctx, address, client)
				return err == nil && serial == renewed.Certificates[0].SerialNumber.String()
			})
			if got := w.events.count(acked("default")) - before; how.API == "DELTA_GRPC" && got != 1 {
				t.Errorf("%d certificates sent after the restart, want the renewed one", got)
			}
		})
	}
}

// ENVOY trap: with initial_fetch_timeout 0 a listener without its secret does
// not listen at all, and Envoy is not ready.
func TestEnvoyListenerWithoutSecretStaysClosed(t *testing.T) {
	w := newWorld(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	// The bundle alone is no reason to open.
	w.set(t, nil)
	w.start(t, setup{API: "DELTA_GRPC", ADS: true, Port: port}, true)
	w.events.until(w.ctx, t, 1, acked("ROOTCA"))
	if conn, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			conn.Close()
		}
		t.Fatalf("without a certificate: %v, want a refused connection", err)
	}
	if info := w.envoy.Admin(t, "/server_info"); !strings.Contains(info, `"state": "INITIALIZING"`) {
		t.Errorf("Envoy is not initializing: %s", info)
	}
	w.set(t, w.svid(t, "/ns/a/sa/server", sdstest.Leaf{}))
	client := w.svid(t, "/ns/a/sa/client", sdstest.Leaf{})
	w.envoy.Until(t, "the listener to open", func() bool {
		_, _, err := get(w.ctx, address, client)
		return err == nil
	})
}
