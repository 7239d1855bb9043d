package mesh

import (
	"net"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	agentCluster = "agent"
	appCluster   = "app"
	adminCluster = "admin"
	probeCluster = "probe"
)

// outboundCluster names the listener and the cluster of an upstream. It holds no
// dot, for Envoy cuts the names of its statistics at dots.
func outboundCluster(u Upstream) string { return "outbound-" + u.Name }

// agentCluster is the agent's socket.
func (b *builder) agentCluster() *clusterv3.Cluster {
	return b.cluster(agentCluster, unix(b.sidecar.AgentSocket), &upstreamsv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
				// An agent that hangs with its socket open is found out.
				ConnectionKeepalive: &corev3.KeepaliveSettings{Interval: durationpb.New(30 * time.Second), Timeout: durationpb.New(10 * time.Second)},
			}},
		}},
	})
}

// appCluster is the application, in the protocol of the request.
func (b *builder) appCluster() *clusterv3.Cluster {
	return b.cluster(appCluster, tcp(b.sidecar.Inbound.App), asDownstream(nil))
}

// upstreamCluster is another workload's door.
func (b *builder) upstreamCluster(u Upstream) *clusterv3.Cluster {
	host, port, _ := net.SplitHostPort(u.Address) // Validate has accepted it
	number, _ := strconv.ParseUint(port, 10, 16)
	c := b.cluster(outboundCluster(u), socketAddress(host, uint32(number)), asDownstream(&corev3.HttpProtocolOptions{
		MaxConnectionDuration: durationpb.New(b.spans.dial),
	}))
	lookUp(c, host)
	c.TransportSocket = b.clientTLS(u.Servers...)
	return c
}

// cluster has one endpoint.
func (b *builder) cluster(name string, to *corev3.Address, protocol *upstreamsv3.HttpProtocolOptions) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:                durationpb.New(2 * time.Second),
		PerConnectionBufferLimitBytes: limit(),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: to}},
			}}}},
		},
	}
	if protocol != nil {
		c.TypedExtensionProtocolOptions = map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": b.any(protocol),
		}
	}
	return c
}

// asDownstream keeps the protocol of the request from end to end: what came as
// HTTP/2 goes on as HTTP/2, so that gRPC passes and an application that speaks
// only HTTP/1.1 is never spoken to otherwise.
func asDownstream(common *corev3.HttpProtocolOptions) *upstreamsv3.HttpProtocolOptions {
	return &upstreamsv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: common,
		UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_UseDownstreamProtocolConfig{UseDownstreamProtocolConfig: &upstreamsv3.HttpProtocolOptions_UseDownstreamHttpConfig{
			HttpProtocolOptions:  &corev3.Http1ProtocolOptions{},
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
		}},
	}
}

// once is HTTP/1.1 with a connection, and so a handshake, for each request.
func once() *upstreamsv3.HttpProtocolOptions {
	return &upstreamsv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{MaxRequestsPerConnection: wrapperspb.UInt32(1)},
		UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
		}},
	}
}

// unix is a socket to connect to.
func unix(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}
