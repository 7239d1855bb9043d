package analyze_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/analyze"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

func object(kind, metadata, spec string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: %s\nmetadata: {%s}\nspec: %s\n---\n", kind, metadata, spec)
}

// policy is a policy of shop with this spec.
func policy(spec string) string {
	return object("AuthorizationPolicy", "name: a, namespace: shop", spec)
}

// one is a policy of one rule: source, operation or when, as its fields say.
func one(action, fields string) string {
	rule := "{from: [{source: {" + fields + "}}]}"
	switch {
	case strings.HasPrefix(fields, "key:"):
		rule = "{when: [{" + fields + "}]}"
	case strings.ContainsAny(fields[:1], "hmp") && !strings.HasPrefix(fields, "principals"), strings.HasPrefix(fields, "notM"), strings.HasPrefix(fields, "notPa"), strings.HasPrefix(fields, "notH"):
		rule = "{to: [{operation: {" + fields + "}}]}"
	}
	return policy("{action: " + action + ", rules: [" + rule + "]}")
}

func read(t *testing.T, text string) parse.Objects {
	t.Helper()
	if text == "" {
		return parse.Objects{}
	}
	o, err := parse.ReadObjects("test", []byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
}

func domain(name string) spiffeid.TrustDomain { return spiffeid.RequireTrustDomainFromString(name) }

func mesh() analyze.Mesh {
	return analyze.Mesh{
		TrustDomain: domain("td.test"), Aliases: []spiffeid.TrustDomain{domain("old.test")},
		Foreign: []spiffeid.TrustDomain{domain("partner.test")}, RootNamespace: "root", Providers: []string{"known"},
	}
}

// tokens is a RequestAuthentication, and fence an ALLOW policy, that are there
// already.
var (
	tokens = object("RequestAuthentication", "name: tokens, namespace: shop", "{jwtRules: [{issuer: https://issuer.test, jwksUri: \"https://issuer.test/keys\"}]}")
	fence  = object("AuthorizationPolicy", "name: fence, namespace: shop", "{rules: [{to: [{operation: {paths: [\"/public/*\"]}}]}]}")
	from   = "spec.rules[0].from[0].source"
	to     = "spec.rules[0].to[0].operation"
)

// A row is objects, what is around them, and each finding: its severity, code and
// field.
type row struct{ name, objects, around, want string }

// rows has, for each code, what produces it, and beside it what nearly does.
var rows = []row{
	{"our principal", one("ALLOW", `principals: ["td.test/ns/a/sa/b", "old.test/ns/a/*", "partner.test/*"]`), "", ""},
	{"a foreign principal allowed", one("ALLOW", `principals: ["other.test/ns/a/sa/b", "td.test/ns/a/sa/b"]`), "", "warning foreign-trust-domain " + from + ".principals[0]"},
	{"a foreign principal denied", one("DENY", `principals: ["td.test/ns/a/sa/b", "other.test/ns/a/sa/b"]`), "", "error foreign-trust-domain " + from + ".principals[1]"},
	{"cluster.local is no alias", one("DENY", `principals: ["cluster.local/ns/a/sa/b"]`), "", "error foreign-trust-domain " + from + ".principals[0]"},
	{"a foreign exception", one("DENY", `notPrincipals: ["other.test/ns/a/sa/b", "td.test/ns/a/sa/b"]`), "", "warning foreign-trust-domain " + from + ".notPrincipals[0]"},
	{"a foreign domain denied", one("DENY", `trustDomains: [other.test]`), "", "error foreign-trust-domain " + from + ".trustDomains[0]"},
	{"an accepted domain denied", one("DENY", `trustDomains: ["partner.*"]`), "", ""},
	{"a foreign principal in a condition", one("AUDIT", `key: source.principal, values: ["*", "other.test/*"]`), "", "warning foreign-trust-domain spec.rules[0].when[0].values[1]"},

	{"any trust domain by a star", one("ALLOW", `principals: ["*/ns/a/sa/b"]`), "", "warning any-trust-domain " + from + ".principals[0]"},
	{"the star, and our trust domain", one("ALLOW", `principals: ["*/ns/a/sa/b"], trustDomains: [td.test]`), "", ""},
	{"the star, denied", one("DENY", `principals: ["*/ns/a/sa/b"]`), "", ""},
	{"any workload", one("ALLOW", `principals: ["*"]`), "", ""},
	{"a namespace of any trust domain", one("ALLOW", `namespaces: [a], trustDomains: ["*"]`), "", "warning any-trust-domain " + from + ".trustDomains[0]"},
	{"any trust domain and no more", one("ALLOW", `trustDomains: ["*"]`), "", ""},

	{"an absence allowed", one("ALLOW", `notRequestPrincipals: ["*"]`), tokens, "warning never-matches " + from},
	{"an absence denied", one("DENY", `notRequestPrincipals: ["*"]`), tokens, ""},
	{"nobody denied, as a second line", one("DENY", `notPrincipals: ["*"]`), "", "warning never-matches " + from},
	{"an absence allowed as Istio does", strings.Replace(one("ALLOW", `notRequestPrincipals: ["*"]`), "namespace: shop", "namespace: shop, annotations: {istio-auth.io/compat: istio}", 1), tokens, "warning compat-istio metadata.annotations.istio-auth.io/compat"},
	{"a method that is and is not", one("ALLOW", `methods: [GET], notMethods: ["G*"]`), "", "warning never-matches " + to},
	{"a method that is not another", one("ALLOW", `methods: [GET], notMethods: ["P*"]`), "", ""},
	{"no method denied", one("DENY", `notMethods: ["*"]`), "", "error never-matches " + to},
	{"no path denied", one("DENY", `notPaths: ["/*"]`), "", "error never-matches " + to},
	{"an address that is and is not", one("DENY", `ipBlocks: [10.1.0.0/16], notIpBlocks: [10.0.0.0/8]`), "", "error never-matches " + from},
	{"an address but one", one("DENY", `ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16]`), "", ""},
	{"a namespace of another principal", one("DENY", `principals: ["td.test/ns/a/sa/b"], namespaces: [c]`), "", "error never-matches " + from},
	{"a namespace of the principal", one("DENY", `principals: ["td.test/ns/a/sa/b"], namespaces: ["a*"]`), "", ""},
	{"two names of one principal", policy(`{action: DENY, rules: [{from: [{source: {principals: ["td.test/ns/a/sa/b"]}}], when: [{key: source.principal, values: ["old.test/ns/a/sa/b"]}]}]}`), "", ""},
	{"two principals", policy(`{action: DENY, rules: [{from: [{source: {principals: ["td.test/ns/a/sa/b"]}}], when: [{key: source.principal, values: ["old.test/ns/a/sa/c"]}]}]}`), "", "error never-matches " + from},
	{"our namespace in a foreign domain", policy(`{action: DENY, rules: [{from: [{source: {namespaces: [a]}}], when: [{key: source.trustDomain, values: [partner.test]}]}]}`), "", "error never-matches " + from},
	{"our namespace, not in a foreign domain", one("DENY", `namespaces: [a], notTrustDomains: [partner.test]`), "", ""},
	{"our namespace, not in ours", one("DENY", `namespaces: [a], notTrustDomains: [old.test]`), "", "error never-matches " + from},
	{"a namespace of the foreign domain", one("DENY", `namespaces: [a], trustDomains: [partner.test]`), "", ""},
	{"one of two sources", policy(`{rules: [{from: [{source: {namespaces: [a], notNamespaces: [a]}}, {source: {namespaces: [b]}}]}]}`), "", "warning never-matches " + from},
	{"two audiences at once", policy(`{rules: [{when: [{key: request.auth.audiences, values: [a]}, {key: request.auth.audiences, values: [b]}]}]}`), tokens, ""},
	{"two server names at once", policy(`{rules: [{when: [{key: connection.sni, values: [a.test]}, {key: connection.sni, values: [b.test]}]}]}`), "", "warning never-matches spec.rules[0].when"},
	{"a request principal of two issuers", policy(`{rules: [{from: [{source: {requestPrincipals: ["https://issuer.test/*"]}}], when: [{key: request.auth.principal, values: ["*issuer.test/a"]}]}]}`), tokens, ""},

	{"everything by a star", one("DENY", `principals: ["*"]`), "", "error denies-everything spec.rules[0]"},
	{"everything by a path", one("DENY", `paths: ["/*"]`), fence, "error denies-everything spec.rules[0]"},
	{"everything by two networks", one("DENY", `ipBlocks: [0.0.0.0/0, "::/0"]`), "", "error denies-everything spec.rules[0]"},
	{"one network of all", one("DENY", `ipBlocks: [0.0.0.0/0]`), "", ""},
	{"everything but nobody", one("DENY", `notPrincipals: ["other.test/*"]`), "", "error denies-everything spec.rules[0]\nwarning foreign-trust-domain " + from + ".notPrincipals[0]"},
	{"everything on purpose", policy("{action: DENY, rules: [{}]}"), "", "warning denies-everything spec.rules[0]"},
	{"all of ours, and a foreign domain stays", one("DENY", `principals: ["td.test/*"]`), "", ""},
	{"all domains, one by one", one("DENY", `principals: ["td.test/*", "partner.test/*"]`), "", "error denies-everything spec.rules[0]"},
	{"everything allowed", one("ALLOW", `principals: ["*"]`), "", ""},

	{"a path denied without a fence", one("DENY", `paths: [/admin]`), "", "warning deny-by-path-alone " + to + ".paths"},
	{"a path denied behind a fence", one("DENY", `paths: [/admin]`), fence, ""},
	{"a path denied, with all allowed", one("DENY", `paths: [/admin]`), object("AuthorizationPolicy", "name: all, namespace: shop", "{rules: [{}]}"), "warning deny-by-path-alone " + to + ".paths"},
	{"a path denied behind another workload's fence", one("DENY", `paths: [/admin]`), object("AuthorizationPolicy", "name: some, namespace: shop", "{selector: {matchLabels: {app: b}}, rules: []}"), "warning deny-by-path-alone " + to + ".paths"},
	{"a path denied behind the mesh's fence", one("DENY", `paths: [/admin]`), object("AuthorizationPolicy", "name: some, namespace: root", "{}"), ""},
	{"all paths but one", one("DENY", `notPaths: [/public]`), "", ""},
	{"a path denied in a dry run", strings.Replace(one("DENY", `paths: [/admin]`), "namespace: shop", "namespace: shop, annotations: {istio.io/dry-run: \"true\"}", 1), "", "note dry-run metadata.annotations.istio.io/dry-run"},

	{"a dry run that is none", strings.Replace(one("ALLOW", `methods: [GET]`), "namespace: shop", "namespace: shop, annotations: {istio.io/dry-run: \"false\"}", 1), "", ""},

	{"a gateway's", policy("{targetRefs: [{kind: Service, name: a}], rules: [{}]}"), "", "warning targets-ignored spec.targetRefs"},
	{"tokens at a gateway", object("RequestAuthentication", "name: a, namespace: shop", "{targetRefs: [{kind: Service, name: a}], jwtRules: [{issuer: a, jwksUri: \"https://a.test\"}]}"), "", "warning targets-ignored spec.targetRefs"},

	{"an unknown provider", policy("{action: CUSTOM, provider: {name: unknown}, rules: [{}]}"), "", "error unknown-provider spec.provider.name"},
	{"a known provider", policy("{action: CUSTOM, provider: {name: known}, rules: [{}]}"), "", ""},

	{"a request principal without authentication", one("ALLOW", `requestPrincipals: ["*"]`), "", "warning request-principal-without-authentication " + from},
	{"a claim denied without authentication", one("DENY", `key: "request.auth.claims[a]", values: [b]`), "", "error request-principal-without-authentication spec.rules[0].when"},
	{"a token required without authentication", one("DENY", `notRequestPrincipals: ["*"]`), "", "warning request-principal-without-authentication spec.rules[0]"},
	{"a request principal with authentication", one("ALLOW", `requestPrincipals: ["*"]`), tokens, ""},
	{"authentication of another workload", policy(`{selector: {matchLabels: {app: a}}, rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}`),
		object("RequestAuthentication", "name: a, namespace: shop", "{selector: {matchLabels: {app: b}}, jwtRules: [{issuer: a, jwksUri: \"https://a.test\"}]}"), "warning request-principal-without-authentication " + from},
	{"authentication of another namespace", one("ALLOW", `requestPrincipals: ["*"]`), strings.Replace(tokens, "namespace: shop", "namespace: other", 1), "warning request-principal-without-authentication " + from},
	{"authentication of the mesh", one("ALLOW", `requestPrincipals: ["*"]`), strings.Replace(tokens, "namespace: shop", "namespace: root", 1), ""},
	{"authentication of some namespace, for the mesh", strings.Replace(one("ALLOW", `requestPrincipals: ["*"]`), "namespace: shop", "namespace: root", 1), tokens, "warning mesh-wide metadata.namespace"},
	{"authentication that is replaced", one("ALLOW", `requestPrincipals: ["*"]`) + strings.Replace(tokens, "jwtRules", "targetRefs: [{kind: Service, name: a}], jwtRules", 1), tokens,
		"warning request-principal-without-authentication " + from + "\nwarning targets-ignored spec.targetRefs"},

	{"an unknown issuer", one("ALLOW", `requestPrincipals: ["https://other.test/*"]`), tokens, "warning unknown-issuer " + from + ".requestPrincipals[0]"},
	{"an unknown issuer denied", one("DENY", `requestPrincipals: ["https://issuer.test/a", "https://other.test/a"]`), tokens, "error unknown-issuer " + from + ".requestPrincipals[1]"},
	{"a known issuer", one("ALLOW", `requestPrincipals: ["https://issuer.test/*", "*/a", "https://issuer.test/s*"]`), tokens, ""},

	{"a boolean claim", one("DENY", `key: "request.auth.claims[suspended]", values: ["true"]`), tokens, "warning claim-not-text spec.rules[0].when[0].values[0]"},
	{"a number", one("ALLOW", `key: "request.auth.claims[level]", values: [low, "7"], notValues: ["-1.5"]`), tokens, "warning claim-not-text spec.rules[0].when[0].values[1]\nwarning claim-not-text spec.rules[0].when[0].notValues[0]"},
	{"a text with digits", one("ALLOW", `key: "request.auth.claims[level]", values: [v7, "7*", "true story"]`), tokens, ""},
	{"an issuer without keys", object("RequestAuthentication", "name: a, namespace: shop", "{jwtRules: [{issuer: a, jwksUri: \"https://a.test\"}, {issuer: b}]}"), "", "warning issuer-without-keys spec.jwtRules[1]"},
	{"an issuer with keys", tokens, "", ""},

	{"the mesh", strings.Replace(one("ALLOW", `methods: [GET]`), "namespace: shop", "namespace: root", 1), "", "warning mesh-wide metadata.namespace"},
	{"some of the mesh", strings.Replace(policy("{selector: {matchLabels: {app: a}}}"), "namespace: shop", "namespace: root", 1), "", ""},
	{"mutual TLS of the mesh", object("PeerAuthentication", "name: a, namespace: root", "{mtls: {mode: STRICT}}"), "", "note mesh-wide metadata.namespace"},

	{"a selector in the root", object("PeerAuthentication", "name: a, namespace: root", "{selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}}"), "", "warning selector-in-root spec.selector"},
	{"a selector elsewhere", object("PeerAuthentication", "name: a, namespace: shop", "{selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}}"), "", ""},

	{"an older one", object("PeerAuthentication", "name: a, namespace: shop, creationTimestamp: 2026-01-02T00:00:00Z", "{mtls: {mode: STRICT}}"),
		object("PeerAuthentication", "name: b, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z", "{}"), "warning shadowed "},
	{"a younger one", object("PeerAuthentication", "name: a, namespace: shop, creationTimestamp: 2026-01-02T00:00:00Z", "{mtls: {mode: STRICT}}"),
		object("PeerAuthentication", "name: b, namespace: shop, creationTimestamp: 2026-01-03T00:00:00Z", "{}"), ""},
	{"an older one of another scope", object("PeerAuthentication", "name: a, namespace: shop, creationTimestamp: 2026-01-02T00:00:00Z", "{mtls: {mode: STRICT}}"),
		object("PeerAuthentication", "name: b, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z", "{selector: {matchLabels: {a: b}}}"), ""},
}

// withWorkloads are rows for a mesh whose workloads are known: shop/web, with the
// labels app: web, where 3306 is TCP.
var withWorkloads = []row{
	{"a method on TCP", one("ALLOW", `methods: [GET]`), "", "warning http-on-tcp spec.rules[0]"},
	{"no method on TCP", one("ALLOW", `namespaces: [a]`), "", ""},
	{"a method or a namespace on TCP", policy(`{rules: [{from: [{source: {namespaces: [a]}}, {source: {requestPrincipals: ["*"]}}]}]}`), tokens, ""},
	{"a method on another port", one("ALLOW", `methods: [GET], ports: ["80"]`), "", ""},
	{"a method on all ports but", one("ALLOW", `methods: [GET], notPorts: ["3306"]`), "", ""},
	{"a method on this port", one("ALLOW", `methods: [GET], ports: ["3306"]`), "", "warning http-on-tcp spec.rules[0]"},
	{"a method denied on TCP", one("DENY", `methods: [GET]`), "", "error denies-everything spec.rules[0]"},
	{"a method denied on another port", one("DENY", `methods: [GET], ports: ["80"]`), "", ""},
	{"a method of a namespace denied on TCP", policy(`{action: DENY, rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {methods: [GET]}}]}]}`), "", "warning http-on-tcp spec.rules[0]"},
	{"a header audited on TCP", one("AUDIT", `key: "request.headers[a]", values: [b]`), "", "warning http-on-tcp spec.rules[0]"},
	{"another workload's method on TCP", policy(`{selector: {matchLabels: {app: api}}, rules: [{to: [{operation: {methods: [GET]}}]}]}`), "", ""},
	{"labels of nobody", policy(`{selector: {matchLabels: {app: wbe}}}`), "", "warning selector-matches-nothing spec.selector"},
	{"labels of somebody", policy(`{selector: {matchLabels: {app: web}}}`), "", ""},
	{"labels of somebody elsewhere", strings.Replace(policy(`{selector: {matchLabels: {app: web}}}`), "namespace: shop", "namespace: other", 1), "", "warning selector-matches-nothing spec.selector"},
	{"tokens for nobody", object("RequestAuthentication", "name: a, namespace: shop", "{selector: {matchLabels: {app: wbe}}, jwtRules: [{issuer: a, jwksUri: \"https://a.test\"}]}"), "", "warning selector-matches-nothing spec.selector"},
	{"mutual TLS for nobody", object("PeerAuthentication", "name: a, namespace: shop", "{selector: {matchLabels: {app: wbe}}}"), "", "warning selector-matches-nothing spec.selector"},
}

// withPlaintext are rows for a mesh that listens to peers without a certificate.
var withPlaintext = []row{
	{"every certificate denied", one("DENY", `principals: ["*"]`), "", ""},
	{"every certificate excepted", one("DENY", `notPrincipals: ["*"]`), "", ""},
	{"no certificate allowed", one("ALLOW", `notPrincipals: ["*"]`), "", "warning never-matches " + from},
}

func findings(found []analyze.Finding) string {
	var lines []string
	for _, f := range found {
		lines = append(lines, fmt.Sprintf("%s %s %s", f.Severity, f.Code, f.Field))
	}
	return strings.Join(lines, "\n")
}

func TestCheck(t *testing.T) {
	if got, want := len(rows)+len(withWorkloads)+len(withPlaintext), 101; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	seen := map[analyze.Code]bool{analyze.NeedsProvider: true, analyze.HostWithPort: true} // in TestExpressions
	try := func(r row, m analyze.Mesh) {
		t.Run(r.name, func(t *testing.T) {
			m.Around = read(t, r.around)
			found := analyze.Check(read(t, r.objects), m)
			if diff := cmp.Diff(r.want, findings(found)); diff != "" {
				t.Errorf("%s", diff)
			}
			for _, f := range found {
				seen[f.Code] = true
				if f.Message == "" || f.Object == "" || f.Kind == "" || !slices.Contains(analyze.Codes(), f.Code) {
					t.Errorf("incomplete: %+v", f)
				}
			}
		})
	}
	for _, r := range rows {
		try(r, mesh())
	}
	for _, r := range withWorkloads {
		m := mesh()
		m.Workloads = []analyze.Workload{{Namespace: "shop", Name: "web", Labels: map[string]string{"app": "web", "v": "1"}, TCP: []uint16{3306}}, {Namespace: "shop", Name: "api", Labels: map[string]string{"app": "api"}}}
		try(r, m)
	}
	for _, r := range withPlaintext {
		m := mesh()
		m.Plaintext = true
		try(r, m)
	}
	for _, code := range analyze.Codes() {
		if !seen[code] {
			t.Errorf("no row for %s", code)
		}
	}
}

// TestExpressions: what no author of an AuthorizationPolicy can write.
func TestExpressions(t *testing.T) {
	compare := func(left rbac.Attribute, lead, trail string) *rbac.Expression {
		return &rbac.Expression{Op: rbac.All, Terms: []rbac.Expression{{Op: rbac.Compare, Comparison: rbac.Comparison{
			Left: left, How: rbac.Exact, Lead: lead, Right: rbac.Attr(rbac.Namespace), Trail: trail,
		}}}}
	}
	post, err := rbac.ParseValue(rbac.Attr(rbac.Method), "POST", "")
	if err != nil {
		t.Fatal(err)
	}
	matches := &rbac.Expression{Op: rbac.Any, Terms: []rbac.Expression{{Op: rbac.Matches, Test: rbac.Test{Attribute: rbac.Attr(rbac.Method), In: []rbac.Pattern{post}}}}}
	const at = "spec.rules[0].expression"
	for _, row := range []struct {
		name   string
		action rbac.Action
		e      *rbac.Expression
		want   string
	}{
		{"a comparison allowed", rbac.Allow, compare(rbac.Attr(rbac.Path), "/", ""), "warning needs-provider " + at},
		{"a comparison denied", rbac.Deny, compare(rbac.Attr(rbac.Path), "/", ""), "error denies-everything spec.rules[0]\nwarning needs-provider " + at},
		{"a comparison for a provider", rbac.Custom, compare(rbac.Attr(rbac.Path), "/", ""), ""},
		{"a test", rbac.Deny, matches, ""},
		{"a host with a port", rbac.Allow, compare(rbac.Attr(rbac.Host), "", ".shop.test:80"), "warning host-with-port " + at + "\nwarning needs-provider " + at},
		{"a host with a port denied", rbac.Deny, compare(rbac.Attr(rbac.Host), "", ":80"), "error denies-everything spec.rules[0]\nerror host-with-port " + at + "\nwarning needs-provider " + at},
		{"a host without", rbac.Allow, compare(rbac.Attr(rbac.Host), "", ".shop.test"), "warning needs-provider " + at},
		{"an address", rbac.Custom, compare(rbac.Attr(rbac.Host), "[2001:db8::", "]"), ""},
		{"an address with a port", rbac.Custom, compare(rbac.Attr(rbac.Host), "[2001:db8::1]:", ""), "warning host-with-port " + at},
	} {
		p := rbac.Policy{Namespace: "shop", Name: "a", Action: row.action, Rules: []rbac.Rule{{Expression: row.e}}}
		if row.action == rbac.Custom {
			p.Provider = "known"
		}
		got := findings(analyze.Check(parse.Objects{Policies: []rbac.Policy{p}}, mesh()))
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s: %s", row.name, diff)
		}
	}
}

// TestOwnProvider: a comparison needs no more where our own provider is asked
// wherever the policy is.
func TestOwnProvider(t *testing.T) {
	compare := &rbac.Expression{Op: rbac.Compare, Comparison: rbac.Comparison{Left: rbac.Attr(rbac.Path), How: rbac.Prefix, Lead: "/", Right: rbac.Attr(rbac.Namespace)}}
	ask := func(change func(*rbac.Policy)) rbac.Policy {
		p := rbac.Policy{Namespace: "shop", Name: "ask", Action: rbac.Custom, Provider: rbac.OwnProvider, Rules: []rbac.Rule{{}}}
		change(&p)
		return p
	}
	const at = "spec.rules[0].expression"
	allow, deny := "warning needs-provider "+at, "error denies-everything spec.rules[0]\nwarning needs-provider "+at
	for _, row := range []struct {
		name string
		ask  rbac.Policy
		told bool
	}{
		{"asked", ask(func(*rbac.Policy) {}), true},
		{"asked everywhere", ask(func(p *rbac.Policy) { p.Namespace = "root" }), true},
		{"asked there", ask(func(p *rbac.Policy) { p.Selector = map[string]string{"app": "web"} }), true},
		{"asked elsewhere", ask(func(p *rbac.Policy) { p.Namespace = "other" }), false},
		{"asked at another's", ask(func(p *rbac.Policy) { p.Selector = map[string]string{"app": "api"} }), false},
		{"another asked", ask(func(p *rbac.Policy) { p.Provider = "known" }), false},
		{"asked in a dry run", ask(func(p *rbac.Policy) { p.DryRun = true }), false},
		{"never asked", ask(func(p *rbac.Policy) { p.Rules = nil }), false},
	} {
		m := mesh()
		m.Providers = append(m.Providers, rbac.OwnProvider)
		m.Around.Policies = []rbac.Policy{row.ask}
		for action, want := range map[rbac.Action]string{rbac.Allow: allow, rbac.Deny: deny} {
			if row.told {
				want = ""
			}
			p := rbac.Policy{Namespace: "shop", Name: "a", Action: action, Selector: map[string]string{"app": "web"}, Rules: []rbac.Rule{{Expression: compare}}}
			got := findings(analyze.Check(parse.Objects{Policies: []rbac.Policy{p}}, m))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %v: %s", row.name, action, diff)
			}
			m.Providers = []string{"known"} // our own is not one of the mesh's
			if got := findings(analyze.Check(parse.Objects{Policies: []rbac.Policy{p}}, m)); got == "" {
				t.Errorf("%s, %v: nothing said without the provider", row.name, action)
			}
			m.Providers = append(m.Providers, rbac.OwnProvider)
		}
	}
}

func TestString(t *testing.T) {
	found := analyze.Check(read(t, policy("{action: DENY, rules: [{}]}")), mesh())
	want := "warning: AuthorizationPolicy shop/a: spec.rules[0]: an empty rule denies every request (denies-everything)"
	if len(found) != 1 || found[0].String() != want {
		t.Errorf("got %v, want %s", found, want)
	}
}
