package compile_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	filterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// TestEnvoyMarks: a real Envoy writes whether a provider must be asked, sets the
// hint for the access log where an AUDIT rule matches, tells what a dry run would
// do, and reads a plaintext peer from filter state. The peer and the folded path
// come in headers here.
func TestEnvoyMarks(t *testing.T) {
	rule := func(name string, action rbac.Action, path string) rbac.Policy {
		p, err := rbac.ParseValue(rbac.Attr(rbac.Path), path, rbactest.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		return rbac.Policy{Namespace: rbactest.Namespace, Name: name, Action: action, Rules: []rbac.Rule{{
			To: []rbac.Clause{{{Attribute: rbac.Attr(rbac.Path), In: []rbac.Pattern{p}}}},
		}}}
	}
	ask, other, dry := rule("ask", rbac.Custom, "/ask/*"), rule("other", rbac.Custom, "/other"), rule("dry", rbac.Deny, "/dry")
	ask.Provider, other.Provider, dry.DryRun = "p-1", "p-2", true
	id, err := rbac.ParseValue(rbac.Attr(rbac.Principal), "td.test/ns/bad/sa/bad", "")
	if err != nil {
		t.Fatal(err)
	}
	bad := rbac.Policy{Namespace: rbactest.Namespace, Name: "bad", Action: rbac.Deny, Rules: []rbac.Rule{{
		From: []rbac.Clause{{{Attribute: rbac.Attr(rbac.Principal), In: []rbac.Pattern{id}}}},
	}}}
	target := rbactest.Target()
	target.Plaintext, target.Providers = true, []string{"p-1", "p-2"}
	set := rbac.Select([]rbac.Policy{ask, other, dry, bad, rule("audit", rbac.Audit, "/audited")}, target)

	filter := func(packed *anypb.Any, err error) *hcmv3.HttpFilter {
		if err != nil {
			t.Fatal(err)
		}
		return &hcmv3.HttpFilter{Name: fmt.Sprintf("f%p", packed), ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed}}
	}
	state := func(key, format string) *filterstatev3.FilterStateValue {
		return &filterstatev3.FilterStateValue{
			Key: &filterstatev3.FilterStateValue_ObjectKey{ObjectKey: key}, FactoryKey: "envoy.string", SkipIfEmpty: true,
			Value: &filterstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
				OmitEmptyValues: true,
				Format:          &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: format}}},
			}},
		}
	}
	metadata := func(key string) string { return "%DYNAMIC_METADATA(" + key + ")%" }
	host := answers("marks")
	host.Domains = []string{"*"}
	for name, key := range map[string]string{
		"x-ask-1": "envoy.filters.http.rbac:" + compile.CustomPrefix + "p-1_shadow_effective_policy_id",
		"x-ask-2": "envoy.filters.http.rbac:" + compile.CustomPrefix + "p-2_shadow_effective_policy_id",
		"x-hint":  "envoy.common:access_log_hint",
		"x-audit": "envoy.filters.http.rbac:" + compile.AuditPrefix + "enforced_effective_policy_id",
		"x-trial": "envoy.filters.http.rbac:" + compile.TrialPrefix + "shadow_effective_policy_id",
		"x-line":  "envoy.filters.http.rbac:" + compile.StatPrefix + "enforced_effective_policy_id",
	} {
		host.ResponseHeadersToAdd = append(host.ResponseHeadersToAdd, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: metadata(key)}})
	}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:     "marks",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{Name: "marks", VirtualHosts: []*routev3.VirtualHost{host}}},
		HttpFilters: []*hcmv3.HttpFilter{
			filter(anypb.New(&setstatev3.Config{OnRequestHeaders: []*filterstatev3.FilterStateValue{
				state(compile.PathKey, "%PATH(NQ:PATH)%"), state(compile.FoldKey, "%REQ(X-FOLD)%"), state(compile.PeerKey, "%REQ(X-PEER)%"),
			}})),
			filter(compile.Custom(set, "p-1")),
			filter(compile.Custom(set, "p-2")),
			filter(compile.Audit(set)),
			filter(compile.HTTP(set)),
			filter(anypb.New(&routerv3.Router{})),
		},
	}
	e := envoy.Start(t, envoy.Config{Proto: &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{
		Listeners: []*listenerv3.Listener{listener(t, "marks", manager, nil)},
	}}})
	const nobody, web = "", "spiffe://td.test/ns/a/sa/web"
	for _, row := range []struct {
		path, peer string
		code       int
		want       string // ask-1 ask-2 hint trial line
	}{
		{"/", nobody, 200, "no-ask no-ask false no-allow no-allow"},
		{"/", web, 200, "no-ask no-ask false no-allow no-allow"},
		{"/ask/x", web, 200, "ask/shop/ask/0 no-ask false no-allow no-allow"},
		{"/other", nobody, 200, "no-ask ask/shop/other/0 false no-allow no-allow"},
		{"/audited", web, 200, "no-ask no-ask true no-allow no-allow"},
		{"/dry", web, 200, "no-ask no-ask false shop/dry/0 no-allow"},
		{"/", "spiffe://td.test/ns/bad/sa/bad", 403, ""},
		{"/", "spiffe://td.other/ns/a/sa/web", 403, ""},
		{"/", "-", 403, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+e.Address(t, "marks").String()+row.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("x-fold", rbac.FoldPath(row.path))
		if row.peer != "" {
			req.Header.Set("x-peer", row.peer)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		var got []string
		for _, name := range []string{"x-ask-1", "x-ask-2", "x-hint", "x-trial", "x-line"} {
			got = append(got, resp.Header.Get(name))
		}
		if line := strings.Join(got, " "); resp.StatusCode != row.code || row.code == 200 && line != row.want {
			t.Errorf("%s of %q: got %d %s, want %d %s", row.path, row.peer, resp.StatusCode, line, row.code, row.want)
		}
	}
}
