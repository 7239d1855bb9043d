package mesh

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// patienceWithStrangers is how long whoever connects may take for the first
// bytes of a handshake, and then for the rest of it.
const patienceWithStrangers = 5 * time.Second

// A door is one listener for HTTP.
type door struct {
	name    string // of the listener
	stats   string // prefix of its HTTP statistics
	address *corev3.Address
	tls     *corev3.TransportSocket // nil: plaintext
	log     bool
	bounded bool                // by maxConnections
	idle    time.Duration       // after which a connection without a request ends; zero: an hour
	filters []*hcmv3.HttpFilter // in front of the router
	routes  []*routev3.Route
}

// listener opens the door. Its connection manager is as strict as Envoy can be;
// what is not named here (upgrades, CONNECT, HTTP/1.0, custom methods) is off.
func (b *builder) listener(d door) *listenerv3.Listener {
	manager := b.manager(d)
	if d.log {
		manager.AccessLog = b.requestLog(d.stats)
	}
	chain := &listenerv3.FilterChain{
		Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: b.any(manager)},
		}},
		TransportSocket: d.tls,
	}
	if d.tls != nil {
		// A stranger who connects and says nothing goes.
		chain.TransportSocketConnectTimeout = durationpb.New(patienceWithStrangers)
	}
	l := &listenerv3.Listener{
		Name:                          d.name,
		StatPrefix:                    d.name,
		Address:                       d.address,
		FilterChains:                  []*listenerv3.FilterChain{chain},
		PerConnectionBufferLimitBytes: limit(),
		// SO_REUSEPORT would let another process of our user take a share of
		// the connections, unseen.
		EnableReusePort:       wrapperspb.Bool(false),
		IgnoreGlobalConnLimit: !d.bounded,
	}
	if d.tls != nil && d.log {
		l.AccessLog = b.refusalLog()
	}
	return l
}

func (b *builder) manager(d door) *hcmv3.HttpConnectionManager {
	manager := &hcmv3.HttpConnectionManager{
		CodecType:  hcmv3.HttpConnectionManager_AUTO,
		StatPrefix: d.stats,
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			MaxConnectionDuration: durationpb.New(b.spans.accept),
			MaxStreamDuration:     durationpb.New(b.spans.stream),
			MaxHeadersCount:       wrapperspb.UInt32(100),
			// To many servers a_b and a-b are one header.
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST,
		},
		// In plaintext no certificate ages, so an HTTP/1 client is told of the end
		// with an answer. Else it would meet it by chance, with a request under way.
		Http1SafeMaxConnectionDuration: d.tls == nil,
		DrainTimeout:                   durationpb.New(b.spans.drain),
		RequestHeadersTimeout:          durationpb.New(10 * time.Second),
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			MaxConcurrentStreams:        wrapperspb.UInt32(100),
			InitialStreamWindowSize:     wrapperspb.UInt32(64 << 10),
			InitialConnectionWindowSize: wrapperspb.UInt32(1 << 20),
		},
		// Policy speaks of one path and one host: the same that the
		// application gets, or the request is refused.
		NormalizePath:                wrapperspb.Bool(true),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,
		StripTrailingHostDot:         true,
		StripPortMode:                &hcmv3.HttpConnectionManager_StripAnyHostPort{StripAnyHostPort: true},
		// The peer's address is the connection's, whatever a header says, and
		// nobody is "internal": x-envoy-* from outside is dropped. An empty list
		// would mean every private address, so it names one that no peer has.
		UseRemoteAddress: wrapperspb.Bool(true),
		InternalAddressConfig: &hcmv3.HttpConnectionManager_InternalAddressConfig{
			CidrRanges: []*corev3.CidrRange{{AddressPrefix: "255.255.255.255", PrefixLen: wrapperspb.UInt32(32)}},
		},
		// A forged x-forwarded-client-cert goes; the proved one is set.
		ForwardClientCertDetails:    hcmv3.HttpConnectionManager_SANITIZE_SET,
		SetCurrentClientCertDetails: &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true},
		ServerHeaderTransformation:  hcmv3.HttpConnectionManager_PASS_THROUGH,
		HttpFilters: append(d.filters, &hcmv3.HttpFilter{
			Name:       "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(&routerv3.Router{SuppressEnvoyHeaders: true})},
		}),
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name:             d.name,
			ValidateClusters: wrapperspb.Bool(true),
			VirtualHosts:     []*routev3.VirtualHost{{Name: d.name, Domains: []string{"*"}, Routes: d.routes}},
		}},
	}
	if d.idle > 0 {
		manager.CommonHttpProtocolOptions.IdleTimeout = durationpb.New(d.idle)
	}
	return manager
}

// everythingTo routes all requests to a cluster. A request is repeated only
// where it has not been sent: the other side closed as we picked its
// connection.
func everythingTo(cluster string) []*routev3.Route {
	return []*routev3.Route{{
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			// Streams are bounded by their whole duration instead.
			Timeout: durationpb.New(0),
			RetryPolicy: &routev3.RetryPolicy{
				RetryOn:    "connect-failure,refused-stream,reset-before-request",
				NumRetries: wrapperspb.UInt32(2),
				RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
					BaseInterval: durationpb.New(10 * time.Millisecond),
					MaxInterval:  durationpb.New(100 * time.Millisecond),
				},
			},
		}},
	}}
}
