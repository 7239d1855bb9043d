package compile_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/token"
	"github.com/istio-auth/istio-auth/test/envoy"
)

// TestClaims is JW-08: what a rule about a claim does with each kind of value
// that a token may have there. A real Envoy, with both compiled filters, decides
// as rbac/eval does on what rbac/token makes of the same token, and both as the
// row says.
func TestClaims(t *testing.T) {
	target := rbac.Target{Namespace: "shop", TrustDomain: spiffeid.RequireTrustDomainFromString("td.test"), Plaintext: true}
	rules := tokenSets()["one"]
	authn := []rbac.RequestAuthentication{{Namespace: "shop", Name: "a", Rules: rules}}
	// The claim is x or it is not: in an ALLOW and in a DENY, said and denied.
	tests := []struct {
		name   string
		action rbac.Action
		negate bool
	}{{"ALLOW x", rbac.Allow, false}, {"ALLOW not x", rbac.Allow, true}, {"DENY x", rbac.Deny, false}, {"DENY not x", rbac.Deny, true}}
	const (
		isX    = "200 403 403 200" // by test
		isNotX = "403 200 200 403"
		absent = "403 403 200 403" // nothing is let in that was not shown
	)
	paths := map[string][]string{"plain": {"c"}, "nested": {"a", "b"}, "dotted": {"a.b"}, "both": {"a.b", "c.d"}, "scope": {"scope"}}
	rows := []struct{ path, claims, want string }{
		{"plain", `"c":"x"`, isX},
		{"plain", `"c":"y"`, isNotX},
		{"plain", `"c":"X"`, isNotX},
		{"plain", `"c":" x"`, isNotX},
		{"plain", `"c":"x y"`, isNotX},
		{"plain", `"c":"x,y"`, isNotX},
		{"plain", `"c":""`, isNotX},
		{"plain", `"c":["x"]`, isX},
		{"plain", `"c":["y","x"]`, isX},
		{"plain", `"c":["y","z"]`, isNotX},
		{"plain", `"c":["y"]`, isNotX},
		{"plain", `"c":[""]`, isNotX},
		{"plain", `"c":[1,"x"]`, isX},
		{"plain", `"c":["x",null,{}]`, isX},
		{"plain", `"c":[1,"y"]`, isNotX},
		{"plain", `"c":[]`, absent},
		{"plain", `"c":[1,2]`, absent},
		{"plain", `"c":[["x"]]`, absent},
		{"plain", `"c":[{"x":"x"}]`, absent},
		{"plain", `"c":[null]`, absent},
		{"plain", `"c":1`, absent},
		{"plain", `"c":0`, absent},
		{"plain", `"c":true`, absent},
		{"plain", `"c":false`, absent},
		{"plain", `"c":null`, absent},
		{"plain", `"c":{}`, absent},
		{"plain", `"c":{"x":"x"}`, absent},
		{"plain", `"c":{"c":"x"}`, absent},
		{"plain", `"C":"x"`, absent},
		{"plain", `"d":"x"`, absent},
		{"nested", `"a":{"b":"x"}`, isX},
		{"nested", `"a":{"b":["x"]}`, isX},
		{"nested", `"a":{"b":"y"}`, isNotX},
		{"nested", `"a":{}`, absent},
		{"nested", `"a":"x"`, absent},
		{"nested", `"a":["b"]`, absent},
		{"nested", `"a":[{"b":"x"}]`, absent},
		{"nested", `"a":null`, absent},
		{"nested", `"a.b":"x"`, absent},
		{"dotted", `"a.b":"x"`, isX},
		{"dotted", `"a.b":["x"]`, isX},
		{"dotted", `"a":{"b":"x"}`, absent},
		{"both", `"a.b":{"c.d":"x"}`, isX},
		{"both", `"a":{"b":{"c":{"d":"x"}}}`, absent},
		{"scope", `"scope":"x"`, isX},
		{"scope", `"scope":"y x"`, isX},
		{"scope", `"scope":"xy"`, isNotX},
		{"scope", `"scope":""`, isNotX},
		{"scope", `"scope":" "`, isNotX},
		{"scope", `"scope":["y x"]`, isNotX},
		{"scope", `"scope":1`, absent},
	}
	if got, want := len(rows), 51; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	sets := map[string]rbac.Set{}
	for name, keys := range paths {
		claim, err := rbac.ClaimAttr(keys...)
		if err != nil {
			t.Fatal(err)
		}
		x, err := rbac.ParseValue(claim, "x", "")
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range tests {
			is := rbac.Test{Attribute: claim, In: []rbac.Pattern{x}}
			if test.negate {
				is.In, is.NotIn = nil, is.In
			}
			policy := rbac.Policy{Namespace: "shop", Name: "p", Action: test.action, Rules: []rbac.Rule{{When: rbac.Clause{is}}}}
			sets[name+" "+test.name] = rbac.Select([]rbac.Policy{policy}, target).WithTokens(authn, target)
		}
	}
	w := startSets(t, sets)
	now, verifier := time.Now(), token.New(rules)
	for _, r := range rows {
		payload := "{" + r.claims + "," + goodClaims(now).String()[1:]
		request := bearer(keyring()["e256"].raw("ES256", `{"alg":"ES256"}`, payload))
		user, err := verifier.Authenticate(request.lower(), "", now)
		if err != nil {
			t.Fatalf("%s: %v", r.claims, err)
		}
		var byEnvoy, byEval []string
		for _, test := range tests {
			name := r.path + " " + test.name
			answer, err := w.client(t, name).do(request)
			if err != nil {
				t.Fatalf("%s: %v", r.claims, err)
			}
			byEnvoy = append(byEnvoy, fmt.Sprint(answer.code))
			v := eval.Decide(sets[name], rbac.Request{Protocol: rbac.HTTP, Method: "GET", Host: "a", Path: "/", Token: user})
			byEval = append(byEval, map[bool]string{true: "200", false: "403"}[v.Allowed])
		}
		if got := strings.Join(byEnvoy, " "); got != r.want {
			t.Errorf("%s: Envoy answers %s to %s, want %s", r.path, got, r.claims, r.want)
		}
		if got := strings.Join(byEval, " "); got != r.want {
			t.Errorf("%s: eval says %s to %s, want %s", r.path, got, r.claims, r.want)
		}
	}
}

// startSets runs an Envoy with a plaintext listener for each set, which has the
// filters for tokens and for policy, and before them what the latter reads.
func startSets(t testing.TB, sets map[string]rbac.Set) *tokenWorld {
	t.Helper()
	var listeners []*listenerv3.Listener
	for name, set := range sets {
		tokens, err := compile.Tokens(set)
		if err != nil {
			t.Fatal(err)
		}
		policy, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		manager := tokenManager(t, tokens, nil)
		state := &setstatev3.Config{OnRequestHeaders: []*filterstatev3.FilterStateValue{
			textState(compile.PathKey, "%PATH(NQ:PATH)%"), textState(compile.FoldKey, "%PATH(NQ:PATH)%"), textState(compile.HostKey, "a"),
		}}
		filters := manager.HttpFilters
		manager.HttpFilters = []*hcmv3.HttpFilter{
			{Name: "state", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: anyOf(t, state)}},
			filters[0],
			{Name: "policy", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: policy}},
			filters[1],
		}
		listeners = append(listeners, plainListener(t, name, manager))
	}
	e := envoy.Start(t, envoy.Config{Proto: &bootstrapv3.Bootstrap{StaticResources: &bootstrapv3.Bootstrap_StaticResources{Listeners: listeners}}})
	w := &tokenWorld{e, map[string]netip.AddrPort{}}
	for name := range sets {
		w.listeners[name] = e.Address(t, name)
	}
	return w
}
