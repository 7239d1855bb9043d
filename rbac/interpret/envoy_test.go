package interpret_test

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	filterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	setmetadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_metadata/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/istio-auth/istio-auth/rbac/interpret"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// payload is the metadata that the test's Envoy has for every request.
var payload = map[string]any{
	"one":   "ab",
	"list":  []any{"a", "abc"},
	"deep":  map[string]any{"one": "a\nb"},
	"mixed": []any{1.0, true, nil, "b", []any{"a"}},
	"empty": []any{},
}

// TestEnvoyDecidesSo asks a real Envoy what random filters do with random
// requests: lists, trees of all kinds in each other, what is missing, and what
// falls through.
func TestEnvoyDecidesSo(t *testing.T) {
	const filters, requests = 400, 30
	m := newMaker(t, 3)
	decoded := make([]*interpret.Filter, filters)
	hosts := make([]*routev3.VirtualHost, filters)
	for i := range hosts {
		filter := m.filter()
		if err := filter.ValidateAll(); err != nil {
			t.Fatal(err)
		}
		var err error
		if decoded[i], err = interpret.Decode(m.any(filter)); err != nil {
			t.Fatal(err)
		}
		hosts[i] = &routev3.VirtualHost{Name: fmt.Sprintf("c%d", i), Domains: []string{fmt.Sprintf("c%d", i)}, Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}},
		}}, TypedPerFilterConfig: map[string]*anypb.Any{"rbac": m.any(&rbacfilterv3.RBACPerRoute{Rbac: filter})}}
	}
	e := envoy.Start(t, envoy.Config{LogLevel: "error", Proto: &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{
		Listeners: []*listenerv3.Listener{m.listener(hosts)},
	}}})
	address := e.Address(t, "in")
	conn, err := net.Dial("tcp", address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	var failures []string
	seen := map[string]int{}
	for i, filter := range decoded {
		for range requests {
			a, wire := m.request(i, address)
			if _, err := io.WriteString(conn, wire); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("filter %d: %q: %v", i, wire, err)
			}
			io.Copy(io.Discard, resp.Body)
			got := resp.Header.Get("x-line")
			if details, refused := strings.CutPrefix(resp.Header.Get("x-details"), "rbac_access_denied_matched_policy["); refused {
				got = strings.TrimSuffix(details, "]")
			}
			d := filter.Decide(a)
			want := map[bool]int{true: 200, false: 403}[d.Allowed]
			seen[fmt.Sprint(d.Allowed, d.Name == "")]++
			// Envoy names none where nothing matched.
			if resp.StatusCode != want || got != d.Name && !(d.Name == "" && got == "none") {
				failures = append(failures, fmt.Sprintf("filter %d: %q: Envoy %d by %q, want %d by %q\n%v", i, wire, resp.StatusCode, got, want, d.Name, hosts[i].TypedPerFilterConfig))
			}
		}
	}
	if len(failures) > 0 {
		short := slices.MinFunc(failures, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
		t.Errorf("%d of %d differ; the shortest:\n%s", len(failures), filters*requests, short)
	}
	for _, outcome := range []string{"true false", "false false", "false true"} {
		if seen[outcome] < filters*requests/20 {
			t.Errorf("%s: %d times", outcome, seen[outcome])
		}
	}
}

// request is one for a filter, and what Envoy knows of it.
func (m *maker) request(i int, to netip.AddrPort) (interpret.Attributes, string) {
	a := interpret.Attributes{
		Headers:      map[string][]string{":method": {m.pick("GET", "POST", "DELETE")}},
		State:        map[string]string{},
		Metadata:     map[string]map[string]any{interpret.JWTFilter: {interpret.PayloadKey: payload}},
		DirectSource: netip.MustParseAddr("127.0.0.1"),
		Destination:  to,
	}
	var wire strings.Builder
	fmt.Fprintf(&wire, "%s / HTTP/1.1\r\nHost: c%d\r\n", a.Headers[":method"][0], i)
	from := m.pick("10.1.2.3", "10.1.2.4", "10.1.9.9", "10.200.0.1", "11.1.1.1", "9.9.9.9", "2001:db8::1", "2001:db8:1::5", "2002::1")
	a.Source = netip.MustParseAddr(from)
	fmt.Fprintf(&wire, "x-forwarded-for: %s\r\n", from)
	for _, name := range []string{"x-a", "x-b"} {
		for range m.r.IntN(3) {
			value := m.word()
			if m.r.IntN(6) == 0 {
				value = ""
			}
			a.Headers[name] = append(a.Headers[name], value)
			fmt.Fprintf(&wire, "%s: %s\r\n", name, value)
		}
	}
	for _, name := range []string{"s1", "s2"} {
		if m.r.IntN(4) > 0 {
			a.State[name] = m.word()
			fmt.Fprintf(&wire, "x-%s: %s\r\n", name, a.State[name])
		}
	}
	return a, wire.String() + "\r\n"
}

func (m *maker) listener(hosts []*routev3.VirtualHost) *listenerv3.Listener {
	state := func(key string) *setstatev3.FilterStateValue {
		return &setstatev3.FilterStateValue{
			Key:         &setstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
			FactoryKey:  "envoy.string",
			SkipIfEmpty: true,
			Value: &setstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
				OmitEmptyValues: true,
				Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
					Specifier: &corev3.DataSource_InlineString{InlineString: "%REQ(x-" + key + ")%"},
				}},
			}},
		}
	}
	value, err := structpb.NewStruct(map[string]any{interpret.PayloadKey: payload})
	if err != nil {
		m.t.Fatal(err)
	}
	filter := func(name string, config *anypb.Any) *hcmv3.HttpFilter {
		return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
	}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: "in",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: "r", VirtualHosts: hosts,
		}},
		HttpFilters: []*hcmv3.HttpFilter{
			filter("state", m.any(&filterstatev3.Config{OnRequestHeaders: []*setstatev3.FilterStateValue{state("s1"), state("s2")}})),
			filter("metadata", m.any(&setmetadatav3.Config{Metadata: []*setmetadatav3.Metadata{{MetadataNamespace: interpret.JWTFilter, Value: value}}})),
			filter("rbac", m.any(&rbacfilterv3.RBAC{RulesStatPrefix: "p_", Matcher: m.matcher(1)})),
			filter("router", m.any(&routerv3.Router{})),
		},
		LocalReplyConfig: &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
			Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
				Comparison: &accesslogv3.ComparisonFilter{Op: accesslogv3.ComparisonFilter_GE, Value: &corev3.RuntimeUInt32{DefaultValue: 100, RuntimeKey: "none"}},
			}}},
			HeadersToAdd: []*corev3.HeaderValueOption{
				{Header: &corev3.HeaderValue{Key: "x-line", Value: "%DYNAMIC_METADATA(envoy.filters.http.rbac:p_enforced_effective_policy_id)%"}},
				{Header: &corev3.HeaderValue{Key: "x-details", Value: "%RESPONSE_CODE_DETAILS%"}},
			},
		}}},
	}
	return &listenerv3.Listener{
		Name: "in",
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 0},
		}}},
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: m.any(manager)},
		}}}},
	}
}
