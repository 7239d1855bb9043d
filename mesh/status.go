package mesh

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// idleStatus is how long whoever reaches the status listener may hold one of its
// connections and ask nothing: no limit counts them, and nobody has shown who
// they are.
const idleStatus = 5 * time.Second

// status serves two GETs, in plaintext, to whoever asks: a kubelet and a
// scraper have no certificate. Nothing else of the admin interface is reachable
// through it, not even by a query.
func (b *builder) status() *listenerv3.Listener {
	return b.listener(door{
		name:    "status",
		stats:   "status",
		address: tcp(b.sidecar.StatusAddress),
		idle:    idleStatus,
		routes: []*routev3.Route{
			exactly("/ready", probeCluster),
			exactly("/stats/prometheus", adminCluster),
		},
	})
}

// exactly routes a GET of this path without a query.
func exactly(path, cluster string) *routev3.Route {
	is := func(header, value string) *routev3.HeaderMatcher {
		return &routev3.HeaderMatcher{Name: header, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
			StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: value}},
		}}
	}
	return &routev3.Route{
		Match: &routev3.RouteMatch{
			PathSpecifier: &routev3.RouteMatch_Path{Path: path},
			Headers:       []*routev3.HeaderMatcher{is(":path", path), is(":method", "GET")},
		},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			Timeout:          durationpb.New(2 * time.Second),
		}},
	}
}

// probe answers /ready at the far end of a handshake of this sidecar with
// itself, in the same TLS as inbound's. Envoy's own /ready is green without a
// certificate, and stays so when the certificate expires; a handshake needs
// one that is held, is valid now, chains to the roots that we hold, and names
// the workload that the configuration names.
func (b *builder) probe() *listenerv3.Listener {
	return b.listener(door{
		name:    "probe",
		stats:   "probe",
		address: pipe(b.socket("probe")),
		tls:     b.serverTLS(),
		routes: []*routev3.Route{{
			Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: "/ready"}},
			Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
				Status: 200,
				Body:   &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "ready\n"}},
			}},
		}},
	})
}

func (b *builder) probeCluster() *clusterv3.Cluster {
	c := b.cluster(probeCluster, unix(b.socket("probe")), once())
	c.TransportSocket = b.clientTLS(b.sidecar.Workload)
	return c
}

func (b *builder) adminCluster() *clusterv3.Cluster {
	return b.cluster(adminCluster, unix(b.socket("admin")), once())
}
