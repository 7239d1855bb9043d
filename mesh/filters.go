package mesh

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	filterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// policies is what a request passes through, in order: what it asks for is
// folded, its end user's token verified, each provider of CUSTOM policies asked,
// what AUDIT policies mark is marked, and DENY and ALLOW decide.
//
// The filters that are discovered do not hold back the listener, so that a
// workload without known policies refuses instead of being absent, and a change
// drains nothing. They change one after another. Until the last one is there
// nobody is let in, whatever the others do.
func (b *builder) policies() []*hcmv3.HttpFilter {
	nobody := &rbacv3.RBAC{Rules: &rbacconfigv3.RBAC{Action: rbacconfigv3.RBAC_ALLOW}}
	filters := []*hcmv3.HttpFilter{
		b.target(),
		// Without it no token is verified, and what a token would prove is not
		// proved: rules that ask for it let nobody in.
		b.discovered(TokenFilter, &jwtv3.JwtAuthentication{}),
		b.peerAndUser(),
	}
	for _, p := range b.sidecar.Providers {
		// Until it is known who is to be asked about, nobody passes.
		filters = append(filters, b.discovered(CustomFilter+p.Name, nobody), b.ask(p))
	}
	return append(filters,
		b.discovered(AuditFilter, &rbacv3.RBAC{}),
		b.discovered(RBACFilter, nobody))
}

// discovered is a filter that the agent gives by name, and what is in force
// until then.
func (b *builder) discovered(name string, until checked) *hcmv3.HttpFilter {
	byDefault := b.any(until)
	return &hcmv3.HttpFilter{
		Name: name,
		ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
			ConfigSource:                     fromAgent(),
			TypeUrls:                         []string{byDefault.TypeUrl},
			DefaultConfig:                    byDefault,
			ApplyDefaultConfigWithoutWarming: true,
		}},
	}
}

// peerAndUser gives policy the peer's URI and the verified token's issuer and
// subject, as texts that may be missing.
func (b *builder) peerAndUser() *hcmv3.HttpFilter {
	const payload = "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:"
	return &hcmv3.HttpFilter{
		Name: "istio-auth.peer-and-user",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(&setstatev3.Config{
			OnRequestHeaders: []*filterstatev3.FilterStateValue{
				stringState(PeerState, "%DOWNSTREAM_PEER_URI_SAN%"),
				stringState(IssuerState, payload+"iss)%"),
				stringState(SubjectState, payload+"sub)%"),
			},
		})},
	}
}
