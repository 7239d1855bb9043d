package mesh

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A Provider is whom CUSTOM policies may ask. A request of which one says no,
// or about which it says nothing in time, is refused with 403; a yes overrides
// neither DENY nor a missing ALLOW. A provider cannot change a request's method,
// host or path, nor what the application is told of its peer, for policy has
// been asked about those already.
type Provider struct {
	// Name is how policies name it: a label of letters, digits and dashes.
	Name string
	// GRPC or HTTP, exactly one of them, is where it listens: host:port, or the
	// absolute path of a Unix socket. GRPC is
	// envoy.service.auth.v3.Authorization; to HTTP the request is repeated
	// without its body, and status 200 means yes.
	GRPC, HTTP string
	// Servers are exactly the identities that may answer there, over mutual TLS.
	// Without any it is spoken to in plaintext, and must be on loopback or
	// behind a socket.
	Servers []spiffeid.ID
	// Timeout is how long an answer may take, at most a minute. Zero is a second.
	Timeout time.Duration
	// PathPrefix stands before the path that an HTTP provider is asked for.
	PathPrefix string
	// Headers are those of the request that an HTTP provider gets, by lower-case
	// names, beside method, host and path; none: no others. A gRPC provider gets all.
	Headers []string
	// Pass are the headers of an HTTP provider's yes that the application gets.
	Pass []string
	// Lines gives a gRPC provider each line of a header apart, in header_map and
	// not in headers, so that it can tell two lines from a comma.
	// [OwnProvider] wants it.
	Lines bool
}

// OwnProvider is the name of Istio-Auth's own provider, rbac/extauthz. Its word
// upon comparisons is the only one that the policy filter takes, and the agent
// alone has this name: it is asked by GRPC, with Lines, on a socket beside the
// AgentSocket.
const OwnProvider = "istio-auth"

// defaultPatience is how long a provider that sets no time may take.
const defaultPatience = time.Second

func providerCluster(p Provider) string { return "provider-" + p.Name }

// ask is the filter that asks p, unless the filter in front of it has found that
// no CUSTOM policy wants it to be asked. Without that finding it asks.
func (b *builder) ask(p Provider) *hcmv3.HttpFilter {
	timeout := durationpb.New(p.patience())
	filter := &authzv3.ExtAuthz{
		TransportApiVersion: corev3.ApiVersion_V3,
		StatPrefix:          p.Name,
		FailureModeAllow:    false,
		StatusOnError:       &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden},
		ValidateMutations:   true,
		// What another provider says of a request is no word upon it.
		EnableDynamicMetadataIngestion: wrapperspb.Bool(p.Name == OwnProvider),
		DecoderHeaderMutationRules: &mutationv3.HeaderMutationRules{
			DisallowSystem:     wrapperspb.Bool(true),
			DisallowExpression: &matcherv3.RegexMatcher{Regex: "x-forwarded-client-cert|x-envoy-.*"},
			DisallowIsError:    wrapperspb.Bool(true),
		},
		FilterEnabledMetadata: &matcherv3.MetadataMatcher{
			Filter: "envoy.filters.http.rbac",
			Path: []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{
				Key: customKeys + p.Name + "_shadow_effective_policy_id",
			}}},
			Value:  &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: exact(noAsk)}},
			Invert: true,
		},
	}
	if p.GRPC != "" {
		filter.MetadataContextNamespaces = []string{"envoy.filters.http.jwt_authn"}
		filter.IncludeTlsSession = true
		filter.EncodeRawHeaders = p.Lines
		filter.Services = &authzv3.ExtAuthz_GrpcService{GrpcService: &corev3.GrpcService{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: providerCluster(p)}},
			Timeout:         timeout,
		}}
	} else {
		filter.AllowedHeaders = list(p.Headers)
		filter.Services = &authzv3.ExtAuthz_HttpService{HttpService: &authzv3.HttpService{
			ServerUri: &corev3.HttpUri{
				Uri:              "http://" + p.Name,
				HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: providerCluster(p)},
				Timeout:          timeout,
			},
			PathPrefix:            p.PathPrefix,
			AuthorizationResponse: &authzv3.AuthorizationResponse{AllowedUpstreamHeaders: list(p.Pass)},
		}}
	}
	return &hcmv3.HttpFilter{
		Name:       "istio-auth.ask." + p.Name,
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(filter)},
	}
}

func (p Provider) patience() time.Duration {
	if p.Timeout == 0 {
		return defaultPatience
	}
	return p.Timeout
}

func exact(text string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: text}}
}

// list matches these names. Nothing is not everything: where it would be, a name
// that no header has stands for it.
func list(names []string) *matcherv3.ListStringMatcher {
	if len(names) == 0 {
		names = []string{":none"}
	}
	l := &matcherv3.ListStringMatcher{}
	for _, name := range names {
		l.Patterns = append(l.Patterns, exact(name))
	}
	return l
}

// providerCluster is where p listens.
func (b *builder) providerCluster(p Provider) *clusterv3.Cluster {
	protocol := &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
	}
	at := p.HTTP
	if p.GRPC != "" {
		at = p.GRPC
		protocol.ProtocolConfig = &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}
	}
	options := &upstreamsv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: protocol},
	}
	if strings.HasPrefix(at, "/") {
		return b.cluster(providerCluster(p), unix(at), options)
	}
	if len(p.Servers) == 0 {
		return b.cluster(providerCluster(p), tcp(at), options)
	}
	options.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{MaxConnectionDuration: durationpb.New(b.spans.dial)}
	host, port, _ := net.SplitHostPort(at) // Validate has accepted it
	number, _ := strconv.ParseUint(port, 10, 16)
	c := b.cluster(providerCluster(p), socketAddress(host, uint32(number)), options)
	lookUp(c, host)
	c.TransportSocket = b.clientTLS(p.Servers...)
	return c
}

// lookUp finds a host by DNS, unless it is an address.
func lookUp(c *clusterv3.Cluster, host string) {
	if _, err := netip.ParseAddr(host); err != nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		c.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
	}
}

func (c *checker) provider(field string, p Provider, td spiffeid.TrustDomain) {
	if isLabel(p.Name) {
		c.take(field+".name", "provider", p.Name)
	} else {
		c.add(field+".name", "name-malformed", "want 1 to 63 lower-case letters, digits and dashes, not %q", p.Name)
	}
	at, where := p.GRPC, field+".grpc"
	if at == "" {
		at, where = p.HTTP, field+".http"
	}
	switch {
	case (p.GRPC == "") == (p.HTTP == ""):
		c.add(field, "provider-protocol", "give one of grpc and http")
	case strings.HasPrefix(at, "/"):
		c.path(where, at, maxSocketPath)
		if len(p.Servers) > 0 {
			c.add(field+".servers", "servers-of-a-socket", "a socket is spoken to in plaintext: whom it belongs to is the file system's business")
		}
	case len(p.Servers) == 0:
		c.loopback(where, at)
	default:
		c.target(where, at)
		c.servers(field, p.Servers, td)
	}
	if p.Timeout < 0 || p.Timeout > time.Minute {
		c.add(field+".timeout", "timeout-out-of-range", "want at most a minute, not %v", p.Timeout)
	}
	if p.GRPC != "" && (p.PathPrefix != "" || len(p.Headers)+len(p.Pass) > 0) || p.HTTP != "" && p.Lines {
		c.add(field, "provider-protocol", "pathPrefix, headers and pass are for http, lines is for grpc")
	}
	if p.PathPrefix != "" && (p.PathPrefix[0] != '/' || !printable(p.PathPrefix) || strings.ContainsAny(p.PathPrefix, "?#")) {
		c.add(field+".pathPrefix", "path-malformed", "want a path from a slash on, not %q", p.PathPrefix)
	}
	for i, name := range append(append([]string{}, p.Headers...), p.Pass...) {
		if !isHeader(name) || i >= len(p.Headers) && (name == "host" || strings.HasPrefix(name, "x-envoy-") || name == "x-forwarded-client-cert") {
			c.add(field, "header-malformed", "%q is not the lower-case name of a header, or not a provider's to set", name)
		}
	}
}

// own wants our own provider to be the agent's: who answers by its name is
// believed, and answers for the workload whose socket it is.
func (c *checker) own(field string, p Provider, agentSocket string) {
	if p.Name == OwnProvider && (!p.Lines || !filepath.IsAbs(p.GRPC) || filepath.Dir(p.GRPC) != filepath.Dir(agentSocket) || p.GRPC == agentSocket) {
		c.add(field, "provider-not-ours", "%s is asked by grpc, with lines, on a socket beside the agent's", OwnProvider)
	}
}

// loopback wants an address of this machine, where plaintext does not leave it.
func (c *checker) loopback(field, address string) {
	a, err := netip.ParseAddrPort(address)
	switch {
	case err != nil || a.Port() == 0 || a.String() != address:
		c.add(field, "address-malformed", "want IP:port on loopback or a socket's path, or say which servers may answer; not %q", address)
	case !a.Addr().IsLoopback():
		c.add(field, "servers-missing", "%s is not on loopback: name the identities that may answer there", address)
	}
}

// isHeader is RFC 9110 §5.1 in small letters, without the underscore.
func isHeader(name string) bool {
	if name == "" || len(name) > 256 {
		return false
	}
	for _, b := range []byte(name) {
		if (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' && b != '.' {
			return false
		}
	}
	return true
}

// servers are identities of which at least one is there.
func (c *checker) servers(field string, servers []spiffeid.ID, td spiffeid.TrustDomain) {
	if len(servers) == 0 {
		c.add(field+".servers", "servers-missing", "name the identities that may answer: none means anybody")
	}
	seen := map[spiffeid.ID]bool{}
	for j, id := range servers {
		at := fmt.Sprintf("%s.servers[%d]", field, j)
		c.workload(at, id)
		if !id.IsZero() && id.TrustDomain() != td {
			c.add(at, "server-foreign", "%s is of another trust domain, whose roots this sidecar does not hold", id)
		}
		if seen[id] {
			c.add(at, "server-repeated", "%s is named twice", id)
		}
		seen[id] = true
	}
}
