package mesh

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"sigs.k8s.io/yaml"
)

// Bootstrap is the whole configuration of the sidecar. It is checked with the
// rules that Envoy itself has for it. The error is [Sidecar.Validate]'s, where
// the Sidecar is to blame.
func Bootstrap(s Sidecar) (*bootstrapv3.Bootstrap, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("sidecar: %w", err)
	}
	b := &builder{sidecar: s, spans: spansOf(s.CertificateLife)}
	config := b.bootstrap()
	if b.err != nil {
		return nil, fmt.Errorf("sidecar: writing the configuration: %w", b.err)
	}
	if err := config.ValidateAll(); err != nil {
		return nil, fmt.Errorf("sidecar: the configuration breaks Envoy's own rules: %w", err)
	}
	return config, nil
}

// JSON is [Bootstrap] as indented JSON, the same for the same Sidecar.
func JSON(s Sidecar) ([]byte, error) {
	config, err := Bootstrap(s)
	if err != nil {
		return nil, err
	}
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("sidecar: writing JSON: %w", err)
	}
	// protojson varies its white space on purpose.
	var tree any
	if err := json.Unmarshal(data, &tree); err != nil {
		return nil, fmt.Errorf("sidecar: writing JSON: %w", err)
	}
	data, err = json.MarshalIndent(tree, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("sidecar: writing JSON: %w", err)
	}
	return append(data, '\n'), nil
}

// YAML is [Bootstrap] as YAML, the same for the same Sidecar.
func YAML(s Sidecar) ([]byte, error) {
	data, err := JSON(s)
	if err != nil {
		return nil, err
	}
	data, err = yaml.JSONToYAML(data)
	if err != nil {
		return nil, fmt.Errorf("sidecar: writing YAML: %w", err)
	}
	return data, nil
}

// Arguments are what Envoy's command line adds to a bootstrap of this package:
// no shared memory between processes, so that two sidecars may live on one
// host, and an access log that is written at once instead of every ten seconds.
func Arguments() []string {
	return []string{"--disable-hot-restart", "--file-flush-interval-msec", "100", "--drain-time-s", "5"}
}

// A builder writes the parts of one sidecar's configuration. The first error
// sticks.
type builder struct {
	sidecar Sidecar
	spans   spans
	err     error
}

// checked are messages with Envoy's own rules (protoc-gen-validate).
type checked interface {
	proto.Message
	ValidateAll() error
}

// any packs an extension's configuration, once Envoy's own rules accept it:
// validation of the whole does not reach inside.
func (b *builder) any(m checked) *anypb.Any {
	if err := m.ValidateAll(); err != nil && b.err == nil {
		b.err = err
	}
	packed := new(anypb.Any)
	err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true})
	if err != nil && b.err == nil {
		b.err = err
	}
	return packed
}

func (b *builder) bootstrap() *bootstrapv3.Bootstrap {
	s := b.sidecar
	resources := &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{b.agentCluster()}}
	add := func(l *listenerv3.Listener, c ...*clusterv3.Cluster) {
		resources.Listeners = append(resources.Listeners, l)
		resources.Clusters = append(resources.Clusters, c...)
	}
	if s.Inbound != (Inbound{}) {
		add(b.inbound(), b.appCluster())
		for _, p := range s.Providers {
			resources.Clusters = append(resources.Clusters, b.providerCluster(p))
		}
	}
	for _, u := range s.Outbound {
		add(b.outbound(u), b.upstreamCluster(u))
	}
	if s.StatusAddress != "" {
		add(b.status(), b.adminCluster())
		add(b.probe(), b.probeCluster())
	}
	return &bootstrapv3.Bootstrap{
		// Who we are the agent learns from the socket; this is for its log.
		Node:             &corev3.Node{Id: s.Workload.String(), Cluster: "istio-auth"},
		StaticResources:  resources,
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{AdsConfig: agentStream()},
		Admin:            &bootstrapv3.Admin{Address: pipe(b.socket("admin"))},
		StatsConfig: &metricsv3.StatsConfig{StatsMatcher: &metricsv3.StatsMatcher{
			StatsMatcher: &metricsv3.StatsMatcher_InclusionList{InclusionList: kept()},
		}},
		OverloadManager: &overloadv3.OverloadManager{ResourceMonitors: []*overloadv3.ResourceMonitor{{
			Name: "envoy.resource_monitors.global_downstream_max_connections",
			ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: b.any(&connectionsv3.DownstreamConnectionsConfig{
				MaxActiveDownstreamConnections: maxConnections,
			})},
		}}},
	}
}

// maxConnections bounds what strangers may hold open of the inbound listener.
// Others do not count: a probe must not fail, nor the application's own calls,
// because strangers hold all connections.
const maxConnections = 20_000

// kept are the statistics that are worth their memory and their scrape: about
// two hundred series, of more than a thousand.
func kept() *matcherv3.ListStringMatcher {
	list := &matcherv3.ListStringMatcher{}
	for _, names := range []string{
		`http\.(inbound|outbound-[^.]+)\.(rbac\..*|downstream_(rq|cx)_(total|active|[1-5]xx|max_duration_reached|drain_close)|downstream_rq_time)`,
		`http\.inbound\.(.*rbac\..*|jwt_authn\..*|ext_authz\..*|lua\.errors)`,
		`listener\.(inbound|probe)\.(downstream_pre_cx_(active|timeout)|downstream_cx_(total|active|transport_socket_connect_timeout)|ssl\.(handshake|session_reused|fail_.*|connection_error|no_certificate|versions\..*|curves\..*|certificate\..*))`,
		`cluster\.(app|outbound-[^.]+|provider-[^.]+)\.(upstream_(rq|cx)_(total|active|[1-5]xx|timeout|retry|connect_fail|max_duration_reached|overflow)|ssl\.(handshake|session_reused|fail_.*|connection_error|certificate\..*))`,
		`(listener\.inbound\.server_ssl_socket_factory|cluster\..*\.client_ssl_socket_factory)\..*`,
		`sds\.[^.]+\.(update_.*|version|control_plane\.connected_state)`,
		`extension_config_discovery\..*\.(config_(reload|fail)|update_(success|rejected)|version)`,
		`control_plane\.connected_state`,
		`listener_manager\.(listener_modified|listener_create_failure|total_listeners_(active|warming|draining))`,
		`server\.(live|state|uptime|version|memory_allocated|total_connections)`,
	} {
		list.Patterns = append(list.Patterns, &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: names}},
		})
	}
	return list
}

// socket is the path of one of our own Unix sockets.
func (b *builder) socket(name string) string {
	return filepath.Join(b.sidecar.RuntimeDir, name+".sock")
}

func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: 0o600}}}
}

// limit is how much a connection may buffer: enough for headers, and no lever
// for whoever sends slowly or reads slowly.
func limit() *wrapperspb.UInt32Value { return wrapperspb.UInt32(32 << 10) }
