package compile_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// A tokenWorld is a real Envoy with one listener for each set of token rules,
// that runs what compile.Tokens made of them. Every answer tells what Envoy
// thinks of the token, and what the application would have seen.
type tokenWorld struct {
	envoy     *envoy.Envoy
	listeners map[string]netip.AddrPort
}

// tokenSet is a set with nothing but the rules.
func tokenSet(rules []rbac.TokenRule) rbac.Set {
	target := rbac.Target{Namespace: "shop", TrustDomain: spiffeid.RequireTrustDomainFromString("td.test")}
	return rbac.Select(nil, target).WithTokens([]rbac.RequestAuthentication{{Namespace: "shop", Name: "a", Rules: rules}}, target)
}

// startTokens runs an Envoy with a listener for each of the named rules. Seen
// are the headers whose values answers have.
func startTokens(t testing.TB, sets map[string][]rbac.TokenRule, seen ...string) *tokenWorld {
	t.Helper()
	var listeners []*listenerv3.Listener
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		packed, err := compile.Tokens(tokenSet(sets[name]))
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, plainListener(t, name, tokenManager(t, packed, seen)))
	}
	e := envoy.Start(t, envoy.Config{Proto: &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{Listeners: listeners}}})
	w := &tokenWorld{e, map[string]netip.AddrPort{}}
	for name := range sets {
		w.listeners[name] = e.Address(t, name)
	}
	return w
}

func tokenManager(t testing.TB, filter *anypb.Any, seen []string) *hcmv3.HttpConnectionManager {
	add := func(name, value string) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
	}
	headers := []*corev3.HeaderValueOption{
		add("x-details", "%RESPONSE_CODE_DETAILS%"),
		add("x-payload", "%DYNAMIC_METADATA("+compile.TokensNamespace+":"+compile.PayloadKey+")%"),
		add("x-path", "%REQ(:PATH)%"),
	}
	for _, name := range seen {
		headers = append(headers, add("x-seen-"+name, "%REQ("+name+")%"))
	}
	return &hcmv3.HttpConnectionManager{
		StatPrefix: "tokens",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{VirtualHosts: []*routev3.VirtualHost{{
			Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}},
			}},
		}}}},
		HttpFilters: []*hcmv3.HttpFilter{
			{Name: "jwt", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: filter}},
			{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: anyOf(t, &routerv3.Router{})}},
		},
		LocalReplyConfig: &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
			Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
				Comparison: &accesslogv3.ComparisonFilter{Op: accesslogv3.ComparisonFilter_GE, Value: &corev3.RuntimeUInt32{DefaultValue: 100, RuntimeKey: "none"}},
			}}},
			HeadersToAdd: headers,
		}}},
	}
}

func anyOf(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	packed, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func plainListener(t testing.TB, name string, manager *hcmv3.HttpConnectionManager) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name: name,
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 0},
		}}},
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(t, manager)},
		}}}},
	}
}

// A tokenRequest is what a client sends: lines of "name: value", and a query.
type tokenRequest struct {
	method  string // empty: GET
	headers []string
	query   string
}

// lower are the headers as rbac.Request has them.
func (r tokenRequest) lower() map[string][]string {
	headers := map[string][]string{}
	for _, line := range r.headers {
		name, value, _ := strings.Cut(line, ":")
		name = strings.ToLower(name)
		headers[name] = append(headers[name], strings.Trim(value, " \t"))
	}
	return headers
}

// A tokenAnswer is what Envoy says of it.
type tokenAnswer struct {
	code    int
	details string
	payload map[string]any // nil: no metadata
	header  http.Header
}

// tokenClient keeps one connection to one listener.
type tokenClient struct {
	address netip.AddrPort
	conn    net.Conn
	in      *bufio.Reader
}

func (c *tokenClient) do(r tokenRequest) (tokenAnswer, error) {
	if c.conn == nil {
		conn, err := net.Dial("tcp", c.address.String())
		if err != nil {
			return tokenAnswer{}, err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	// Else an answer that never comes would be waited for.
	if err := c.conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return tokenAnswer{}, err
	}
	method := cmp.Or(r.method, "GET")
	var text strings.Builder
	fmt.Fprintf(&text, "%s /%s HTTP/1.1\r\nHost: a\r\n", method, r.query)
	for _, line := range r.headers {
		text.WriteString(line + "\r\n")
	}
	if _, err := fmt.Fprint(c.conn, text.String()+"\r\n"); err != nil {
		return tokenAnswer{}, err
	}
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.close()
		return tokenAnswer{}, err
	}
	defer resp.Body.Close()
	if resp.Close {
		c.close()
	}
	a := tokenAnswer{code: resp.StatusCode, details: resp.Header.Get("x-details"), header: resp.Header}
	if payload := resp.Header.Get("x-payload"); payload != "" && payload != "-" {
		if err := json.Unmarshal([]byte(payload), &a.payload); err != nil {
			return a, fmt.Errorf("the metadata %s: %w", payload, err)
		}
	}
	return a, nil
}

func (c *tokenClient) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (w *tokenWorld) client(t testing.TB, set string) *tokenClient {
	t.Helper()
	if !w.listeners[set].IsValid() {
		t.Fatalf("no rules are named %q", set)
	}
	c := &tokenClient{address: w.listeners[set]}
	t.Cleanup(c.close)
	return c
}
