package mesh

import (
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	filterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// inbound is the only way to the application. There is one filter chain, and
// it is TLS: no plaintext chain exists to be matched.
func (b *builder) inbound() *listenerv3.Listener {
	routes := everythingTo(appCluster)
	// Servers that honour these would see another method, or another path, than
	// policy did.
	routes[0].RequestHeadersToRemove = []string{
		"x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url",
	}
	return b.listener(door{
		name:    "inbound",
		stats:   "inbound",
		address: tcp(b.sidecar.Inbound.Listen),
		tls:     b.serverTLS(),
		log:     true,
		bounded: true,
		filters: []*hcmv3.HttpFilter{b.pathState(), b.policy()},
		routes:  routes,
	})
}

// outbound takes the application's plaintext on loopback.
func (b *builder) outbound(u Upstream) *listenerv3.Listener {
	return b.listener(door{
		name:    outboundCluster(u),
		stats:   outboundCluster(u),
		address: tcp(u.Listen),
		log:     true,
		routes:  everythingTo(outboundCluster(u)),
	})
}

// policy is discovered on the agent's stream by name. Until it is, nobody is
// let in: an ALLOW without policies denies. It does not hold back the listener,
// so that a workload without known policies refuses instead of being absent,
// and a change drains nothing.
func (b *builder) policy() *hcmv3.HttpFilter {
	deny := b.any(&rbacv3.RBAC{Rules: &rbacconfigv3.RBAC{Action: rbacconfigv3.RBAC_ALLOW}})
	return &hcmv3.HttpFilter{
		Name: RBACFilter,
		ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
			ConfigSource:                     fromAgent(),
			TypeUrls:                         []string{deny.TypeUrl},
			DefaultConfig:                    deny,
			ApplyDefaultConfigWithoutWarming: true,
		}},
	}
}

// thePath is the path that the application gets, without its query. A PATH that
// does not say which would prefer the header x-envoy-original-path.
const thePath = "%PATH(NQ:PATH)%"

// pathState gives policy the path without the query, which no input of Envoy's
// matchers is: :path holds both, and a rule for /a would miss /a?x.
func (b *builder) pathState() *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{
		Name: "istio-auth.path",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(&setstatev3.Config{
			OnRequestHeaders: []*filterstatev3.FilterStateValue{{
				Key:         &filterstatev3.FilterStateValue_ObjectKey{ObjectKey: PathState},
				FactoryKey:  "envoy.string",
				ReadOnly:    true,
				SkipIfEmpty: true,
				Value:       &filterstatev3.FilterStateValue_FormatString{FormatString: text(thePath)},
			}},
		})},
	}
}

func text(format string) *corev3.SubstitutionFormatString {
	return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
		TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: format}},
	}}
}

// tcp turns an address that Validate has accepted into Envoy's.
func tcp(address string) *corev3.Address {
	a := netip.MustParseAddrPort(address)
	return socketAddress(a.Addr().String(), uint32(a.Port()))
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// tlsSocket names Envoy's TLS.
func (b *builder) tlsSocket(context checked) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.any(context)},
	}
}
