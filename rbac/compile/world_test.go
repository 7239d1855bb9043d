package compile_test

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// A world is a real Envoy whose inbound connection manager is our sidecar's,
// with one virtual host a policy set, named "c0", "c1", and so on. It trusts
// one CA and looks at no name in its certificates: that is the filter's to do.
// Two more listeners lack what the filter needs: TLS, and the path's state.
type world struct {
	ca                       *authority
	mtls, insecure, pathless netip.AddrPort
}

// start runs an Envoy that enforces the sets.
func start(t testing.TB, ca *authority, sets []rbac.Set) *world {
	t.Helper()
	hosts := make([]*routev3.VirtualHost, len(sets))
	for i, set := range sets {
		packed, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		filter := &rbacfilterv3.RBAC{}
		if err := packed.UnmarshalTo(filter); err != nil {
			t.Fatal(err)
		}
		hosts[i] = answers(t, fmt.Sprintf("c%d", i))
		hosts[i].TypedPerFilterConfig = map[string]*anypb.Any{mesh.RBACFilter: pack(t, &rbacfilterv3.RBACPerRoute{Rbac: filter})}
	}
	manager := sidecarManager(t)
	manager.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{Name: "sets", VirtualHosts: hosts}}
	pathless := proto.CloneOf(manager)
	pathless.HttpFilters = slices.DeleteFunc(pathless.HttpFilters, func(f *hcmv3.HttpFilter) bool { return f.Name == compile.PathKey })
	e := envoy.Start(t, envoy.Config{Proto: &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{
		Listeners: []*listenerv3.Listener{
			listener(t, "mtls", manager, ca.transportSocket(t)),
			listener(t, "insecure", manager, nil),
			listener(t, "pathless", pathless, ca.transportSocket(t)),
		},
	}}})
	return &world{ca, e.Address(t, "mtls"), e.Address(t, "insecure"), e.Address(t, "pathless")}
}

// sidecarManager is the inbound connection manager of mesh.Bootstrap, with two
// changes: the policy comes with the route, and every answer tells which line of
// the filter decided.
func sidecarManager(t testing.TB) *hcmv3.HttpConnectionManager {
	t.Helper()
	config, err := mesh.Bootstrap(mesh.Sidecar{
		Workload:        spiffeid.RequireFromSegments(rbactest.TrustDomain, "ns", rbactest.Namespace, "sa", "web"),
		AgentSocket:     "/agent.sock",
		RuntimeDir:      "/run",
		CertificateLife: 24 * time.Hour,
		Inbound:         mesh.Inbound{Listen: "127.0.0.1:1", App: "127.0.0.1:2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	manager := &hcmv3.HttpConnectionManager{}
	for _, l := range config.StaticResources.Listeners {
		if l.Name == "inbound" {
			if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(manager); err != nil {
				t.Fatal(err)
			}
		}
	}
	found := false
	for _, f := range manager.HttpFilters {
		if f.Name == mesh.RBACFilter {
			found = true
			f.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: f.GetConfigDiscovery().GetDefaultConfig()}
		}
	}
	if !found || manager.PathWithEscapedSlashesAction != hcmv3.HttpConnectionManager_REJECT_REQUEST {
		t.Fatal("the sidecar's connection manager is not where this test looks for it")
	}
	manager.AccessLog = nil
	header := func(name, value string) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
	}
	manager.LocalReplyConfig = &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
			Comparison: &accesslogv3.ComparisonFilter{Op: accesslogv3.ComparisonFilter_GE, Value: &corev3.RuntimeUInt32{DefaultValue: 100, RuntimeKey: "none"}},
		}}},
		HeadersToAdd: []*corev3.HeaderValueOption{
			header("x-line", "%DYNAMIC_METADATA(envoy.filters.http.rbac:"+compile.StatPrefix+"enforced_effective_policy_id)%"),
			header("x-details", "%RESPONSE_CODE_DETAILS%"),
			header("x-path", "%FILTER_STATE("+compile.PathKey+":PLAIN)%"),
		},
	}}}
	return manager
}

// answers is a virtual host that answers 200 to whatever is let in.
func answers(t testing.TB, name string) *routev3.VirtualHost {
	return &routev3.VirtualHost{Name: name, Domains: []string{name}, Routes: []*routev3.Route{{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}},
	}}}
}

func listener(t testing.TB, name string, manager *hcmv3.HttpConnectionManager, tls *corev3.TransportSocket) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name: name,
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 0},
		}}},
		FilterChains: []*listenerv3.FilterChain{{
			TransportSocket: tls,
			Filters: []*listenerv3.Filter{{
				Name:       "envoy.filters.network.http_connection_manager",
				ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, manager)},
			}},
		}},
	}
}

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	packed, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// An authority signs whatever it is asked for, so that certificates which our
// own CA would refuse reach the filter.
type authority struct {
	key  crypto.Signer
	cert *x509.Certificate
	n    int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	ca := &authority{key: newKey(t)}
	ca.cert = ca.sign(t, ca.key, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return ca
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (ca *authority) sign(t testing.TB, key crypto.Signer, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	ca.n++
	template.SerialNumber = big.NewInt(ca.n)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent := ca.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leaf is a certificate with these URI SANs.
func (ca *authority) leaf(t testing.TB, uris ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	for _, uri := range uris {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	key := newKey(t)
	return tls.Certificate{Certificate: [][]byte{ca.sign(t, key, template).Raw}, PrivateKey: key}
}

// transportSocket is TLS that requires a client certificate of the authority,
// and looks at nothing else in it.
func (ca *authority) transportSocket(t testing.TB) *corev3.TransportSocket {
	t.Helper()
	inline := func(kind string, der []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})}}
	}
	own := ca.leaf(t, "spiffe://td.test/ns/shop/sa/web")
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(t, &tlsv3.DownstreamTlsContext{
		RequireClientCertificate: wrapperspb.Bool(true),
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: inline("CERTIFICATE", own.Certificate[0]), PrivateKey: inline("PRIVATE KEY", key)}},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: inline("CERTIFICATE", ca.cert.Raw),
			}},
		},
	})}}
}

// A client has one connection that it keeps, and sends what nobody has tidied.
// It is not for many at once.
type client struct {
	dial func() (conn, error)
	conn conn
	in   *bufio.Reader
}

type conn interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
	Close() error
}

// An answer is what Envoy decided and by which line of the filter.
type answer struct {
	code                int
	line, details, path string
}

// do sends a call to a virtual host. Envoy closes some connections after an
// answer; then the next call opens another.
func (c *client) do(host string, call rbactest.Call) (answer, error) {
	if c.conn == nil {
		conn, err := c.dial()
		if err != nil {
			return answer{}, err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	if _, err := fmt.Fprintf(c.conn, "%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", call.Method, call.Target, host); err != nil {
		return answer{}, err
	}
	resp, err := http.ReadResponse(c.in, &http.Request{Method: call.Method})
	if err != nil {
		return answer{}, err
	}
	if err := resp.Body.Close(); err != nil {
		return answer{}, err
	}
	if resp.Close {
		c.close()
	}
	return answer{resp.StatusCode, resp.Header.Get("x-line"), resp.Header.Get("x-details"), resp.Header.Get("x-path")}, nil
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// client returns one with a certificate of these URI SANs.
func (w *world) client(t testing.TB, uris ...string) *client {
	t.Helper()
	return w.clientOf(t, w.mtls, uris...)
}

func (w *world) clientOf(t testing.TB, address netip.AddrPort, uris ...string) *client {
	t.Helper()
	config := &tls.Config{
		Certificates:       []tls.Certificate{w.ca.leaf(t, uris...)},
		InsecureSkipVerify: true, // the test is of the other side
	}
	c := &client{dial: func() (conn, error) { return tls.Dial("tcp", address.String(), config) }}
	t.Cleanup(c.close)
	return c
}
