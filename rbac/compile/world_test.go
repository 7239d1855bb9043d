package compile_test

import (
	"fmt"
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
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// A world is a real Envoy whose inbound connection manager is our sidecar's,
// with one virtual host a policy set, named "c0", "c1", and so on, which the
// header [setHeader] chooses. It trusts one CA and looks at no name in its
// certificates: that is the filter's to do. A connection may tell its addresses
// by the PROXY protocol. Two more listeners lack what the filter needs: TLS, and
// the filters that say what a request's target is.
type world struct {
	ca                       *authority
	envoy                    *envoy.Envoy
	mtls, insecure, pathless netip.AddrPort
}

// start runs an Envoy that enforces the sets.
func start(t testing.TB, ca *authority, sets []rbac.Set) *world {
	t.Helper()
	manager := sidecarManager(t)
	for _, f := range manager.HttpFilters {
		if f.Name == mesh.TokenFilter {
			// The same for all sets that have any.
			compiled, err := compile.Tokens(rbactest.Case{Target: rbactest.Target(), Tokens: true}.Selected(testTokens.keys()))
			if err != nil {
				t.Fatal(err)
			}
			f.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: compiled}
		}
	}
	hosts := make([]*routev3.VirtualHost, len(sets))
	for i, set := range sets {
		hosts[i] = answers(fmt.Sprintf("c%d", i))
		hosts[i].TypedPerFilterConfig = perRoute(t, set)
	}
	manager.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{Name: "sets", VirtualHosts: hosts, VhostHeader: setHeader}}
	pathless := proto.CloneOf(manager)
	pathless.HttpFilters = slices.DeleteFunc(pathless.HttpFilters, func(f *hcmv3.HttpFilter) bool {
		return f.Name != mesh.RBACFilter && f.Name != "envoy.filters.http.router"
	})
	e := envoy.Start(t, envoy.Config{Proto: &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{
		Listeners: []*listenerv3.Listener{
			listener(t, "mtls", manager, ca.transportSocket(t)),
			listener(t, "insecure", manager, nil),
			listener(t, "pathless", pathless, ca.transportSocket(t)),
		},
	}}})
	return &world{ca, e, e.Address(t, "mtls"), e.Address(t, "insecure"), e.Address(t, "pathless")}
}

// perRoute are the set's filters, by the names of the sidecar's.
func perRoute(t testing.TB, set rbac.Set) map[string]*anypb.Any {
	t.Helper()
	filters := map[string]*anypb.Any{}
	add := func(name string, compiled *anypb.Any, err error) {
		if err != nil {
			t.Fatal(err)
		}
		filter := &rbacfilterv3.RBAC{}
		if err := compiled.UnmarshalTo(filter); err != nil {
			t.Fatal(err)
		}
		filters[name] = pack(t, &rbacfilterv3.RBACPerRoute{Rbac: filter})
	}
	var c compile.Compiler
	compiled, err := c.HTTP(set)
	add(mesh.RBACFilter, compiled, err)
	compiled, err = c.Audit(set)
	add(mesh.AuditFilter, compiled, err)
	for _, provider := range rbactest.Providers {
		compiled, err = c.Custom(set, provider)
		add(mesh.CustomFilter+provider, compiled, err)
	}
	if len(set.Tokens()) == 0 {
		filters[mesh.TokenFilter] = pack(t, &jwtv3.PerRouteConfig{RequirementSpecifier: &jwtv3.PerRouteConfig_Disabled{Disabled: true}})
	}
	return filters
}

// sidecarManager is the inbound connection manager of mesh.Bootstrap, with three
// changes: the policy comes with the route, every answer tells which line of
// which filter decided, and providers are not asked: whether they would be is
// among what is told.
func sidecarManager(t testing.TB) *hcmv3.HttpConnectionManager {
	t.Helper()
	var providers []mesh.Provider
	for _, name := range rbactest.Providers {
		providers = append(providers, mesh.Provider{Name: name, GRPC: "127.0.0.1:3"})
	}
	config, err := mesh.Bootstrap(mesh.Sidecar{
		Workload:        spiffeid.RequireFromSegments(rbactest.TrustDomain, "ns", rbactest.Namespace, "sa", "web"),
		AgentSocket:     "/agent.sock",
		RuntimeDir:      "/run",
		CertificateLife: 24 * time.Hour,
		Inbound:         mesh.Inbound{Listen: "127.0.0.1:1", App: "127.0.0.1:2"},
		Providers:       providers,
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
	all := len(manager.HttpFilters)
	manager.HttpFilters = slices.DeleteFunc(manager.HttpFilters, func(f *hcmv3.HttpFilter) bool { return strings.HasPrefix(f.Name, "istio-auth.ask.") })
	found := all == len(manager.HttpFilters)+len(providers)
	for _, f := range manager.HttpFilters {
		if discovery := f.GetConfigDiscovery(); discovery != nil {
			f.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: discovery.GetDefaultConfig()}
		}
	}
	if !found || manager.PathWithEscapedSlashesAction != hcmv3.HttpConnectionManager_REJECT_REQUEST {
		t.Fatal("the sidecar's connection manager is not where this test looks for it")
	}
	manager.AccessLog = nil
	manager.LocalReplyConfig = &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
			Comparison: &accesslogv3.ComparisonFilter{Op: accesslogv3.ComparisonFilter_GE, Value: &corev3.RuntimeUInt32{DefaultValue: 100, RuntimeKey: "none"}},
		}}},
		HeadersToAdd: told(),
	}}}
	return manager
}

// told are the headers that an answer says by what was decided: see read.
func told() []*corev3.HeaderValueOption {
	var list []*corev3.HeaderValueOption
	add := func(name, value string) {
		list = append(list, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}})
	}
	metadata := func(name, key string) { add(name, "%DYNAMIC_METADATA(envoy.filters.http.rbac:"+key+")%") }
	metadata("x-line", compile.StatPrefix+"enforced_effective_policy_id")
	metadata("x-dry", compile.TrialPrefix+"shadow_effective_policy_id")
	metadata("x-dry-result", compile.TrialPrefix+"shadow_engine_result")
	metadata("x-audit", compile.AuditPrefix+"enforced_effective_policy_id")
	for i, provider := range rbactest.Providers {
		metadata(fmt.Sprintf("x-ask-%d", i), compile.CustomPrefix+provider+"_shadow_effective_policy_id")
	}
	add("x-hint", "%DYNAMIC_METADATA(envoy.common:access_log_hint)%")
	add("x-details", "%RESPONSE_CODE_DETAILS%")
	add("x-path", "%FILTER_STATE("+compile.PathKey+":PLAIN)%")
	return list
}

// answers is a virtual host that answers 200 to whatever is let in.
func answers(name string) *routev3.VirtualHost {
	return &routev3.VirtualHost{Name: name, Domains: []string{name}, Routes: []*routev3.Route{{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}},
	}}}
}

// address is a port of 127.0.0.1 that the system chooses.
func address() *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 0},
	}}}
}

// inspectors read what comes before the first byte of a request: the addresses
// that a balancer tells, and the server name.
func inspectors(t testing.TB) []*listenerv3.ListenerFilter {
	filter := func(name string, m proto.Message) *listenerv3.ListenerFilter {
		return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(t, m)}}
	}
	return []*listenerv3.ListenerFilter{
		filter("envoy.filters.listener.proxy_protocol", &proxyv3.ProxyProtocol{AllowRequestsWithoutProxyProtocol: true}),
		filter("envoy.filters.listener.tls_inspector", &inspectorv3.TlsInspector{}),
	}
}

func listener(t testing.TB, name string, manager *hcmv3.HttpConnectionManager, tls *corev3.TransportSocket) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:            name,
		Address:         address(),
		ListenerFilters: inspectors(t),
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
