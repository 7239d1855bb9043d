package compile_test

import (
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// Names of the sidecar's filters.
const (
	tokensFilter = "istio-auth.jwt"
	auditFilter  = "istio-auth.audit"
	customFilter = "istio-auth.custom." // and the provider
)

// supply adds the filters that the sidecar does not have yet, before that of
// policy.
func supply(t testing.TB, manager *hcmv3.HttpConnectionManager) {
	t.Helper()
	has := func(name string) bool {
		return slices.ContainsFunc(manager.HttpFilters, func(f *hcmv3.HttpFilter) bool { return f.Name == name })
	}
	var more []*hcmv3.HttpFilter
	add := func(name string, m proto.Message) {
		if !has(name) {
			more = append(more, &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(t, m)}})
		}
	}
	if !has(tokensFilter) {
		add("peer", &setstatev3.Config{OnRequestHeaders: []*filterstatev3.FilterStateValue{textState(compile.PeerKey, "%DOWNSTREAM_PEER_URI_SAN%")}})
		add(tokensFilter, &jwtv3.JwtAuthentication{})
		add("token", &setstatev3.Config{OnRequestHeaders: []*filterstatev3.FilterStateValue{
			textState(compile.IssuerKey, "%DYNAMIC_METADATA("+compile.TokensNamespace+":"+compile.PayloadKey+":iss)%"),
			textState(compile.SubjectKey, "%DYNAMIC_METADATA("+compile.TokensNamespace+":"+compile.PayloadKey+":sub)%"),
		}})
	}
	for _, provider := range rbactest.Providers {
		add(customFilter+provider, &rbacfilterv3.RBAC{})
	}
	add(auditFilter, &rbacfilterv3.RBAC{})
	at := slices.IndexFunc(manager.HttpFilters, func(f *hcmv3.HttpFilter) bool { return f.Name == mesh.RBACFilter })
	manager.HttpFilters = slices.Insert(manager.HttpFilters, at, more...)
}

// textState puts a text into filter state, unless it is empty.
func textState(key, format string) *filterstatev3.FilterStateValue {
	return &filterstatev3.FilterStateValue{
		Key:         &filterstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
		FactoryKey:  "envoy.string",
		ReadOnly:    true,
		SkipIfEmpty: true,
		Value: &filterstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
			OmitEmptyValues: true,
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: format},
			}},
		}},
	}
}
