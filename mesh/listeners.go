package mesh

import (
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	"google.golang.org/protobuf/types/known/durationpb"
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
	l := b.listener(door{
		name:    "inbound",
		stats:   "inbound",
		address: tcp(b.sidecar.Inbound.Listen),
		tls:     b.serverTLS(),
		log:     true,
		bounded: true,
		filters: b.policies(),
		routes:  routes,
	})
	// Rules may ask for the server name, which only this reads. Whoever says
	// nothing is turned away no later than without it.
	l.ListenerFilters = []*listenerv3.ListenerFilter{{
		Name:       "envoy.filters.listener.tls_inspector",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.any(&inspectorv3.TlsInspector{})},
	}}
	l.ListenerFiltersTimeout = durationpb.New(patienceWithStrangers)
	return l
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
