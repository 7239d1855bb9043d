package mesh

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// fromAgent is the source of whatever a listener discovers: the one aggregated
// stream. It waits for ever, for what goes on without its answer goes on
// without a certificate: after the default 15 s a listener opens and is counted
// ready with none.
func fromAgent() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

// fromAgentAlone is the source of a static cluster's secrets: a stream for each
// of the two names, shared by all clusters. They cannot ride on the aggregated
// stream, because Envoy loads static clusters before it has one and crashes on
// the null pointer (envoy#15517, open; seen with 1.40.0).
func fromAgentAlone() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: agentStream()},
	}
}

// agentStream is a delta stream to the agent.
func agentStream() *corev3.ApiConfigSource {
	return &corev3.ApiConfigSource{
		ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
		TransportApiVersion: corev3.ApiVersion_V3,
		// The node is 61 KB of extension names: once a stream is enough.
		SetNodeOnFirstMessageOnly: true,
		GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
			ClusterName: agentCluster,
			// An agent that restarts is back at once; the default waits up to
			// half a minute.
			RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
				BaseInterval: durationpb.New(100 * time.Millisecond),
				MaxInterval:  durationpb.New(time.Second),
			}},
		}}}},
	}
}

// commonTLS is what both directions share: our certificate, the roots of our
// trust domain, TLS 1.3 and nothing else, and a peer that one of sans names.
// Envoy's client would speak at most 1.2 if only the minimum were set.
func commonTLS(source *corev3.ConfigSource, sans []*tlsv3.SubjectAltNameMatcher) *tlsv3.CommonTlsContext {
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			// Hybrid post-quantum first; a misspelt curve loads and resets
			// every connection, hence the test that looks at the handshake.
			EcdhCurves: []string{"X25519MLKEM768", "X25519", "P-256"},
		},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: CertificateSecret, SdsConfig: source}},
		// The SPIFFE validator and its roots arrive in the secret; whom we
		// accept stays here, where no stream can widen it.
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: sans},
				ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: TrustSecret, SdsConfig: source},
			},
		},
	}
}

// serverTLS lets in the workloads of the trust domain, with a certificate shown
// in this very handshake: a ticket would outlive it.
func (b *builder) serverTLS() *corev3.TransportSocket {
	prefix := b.sidecar.Workload.TrustDomain().IDString() + "/ns/"
	common := commonTLS(fromAgent(), []*tlsv3.SubjectAltNameMatcher{{
		SanType: tlsv3.SubjectAltNameMatcher_URI,
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}},
	}})
	common.AlpnProtocols = []string{"h2", "http/1.1"}
	return b.tlsSocket(&tlsv3.DownstreamTlsContext{
		CommonTlsContext:                 common,
		RequireClientCertificate:         wrapperspb.Bool(true),
		DisableStatefulSessionResumption: true,
		SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		PreferClientCiphers:              false,
		OcspStaplePolicy:                 tlsv3.DownstreamTlsContext_LENIENT_STAPLING,
	})
}

// clientTLS shows our certificate and accepts exactly these servers.
func (b *builder) clientTLS(servers ...spiffeid.ID) *corev3.TransportSocket {
	sans := make([]*tlsv3.SubjectAltNameMatcher, len(servers))
	for i, id := range servers {
		sans[i] = &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_URI,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id.String()}},
		}
	}
	return b.tlsSocket(&tlsv3.UpstreamTlsContext{
		CommonTlsContext: commonTLS(fromAgentAlone(), sans),
		MaxSessionKeys:   wrapperspb.UInt32(0),
	})
}
