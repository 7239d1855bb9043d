package parse_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// times repeats a list's item.
func times(n int, item string) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }

// ofKind begins an object of another kind.
func ofKind(kind string) string {
	return "apiVersion: security.istio.io/v1\nkind: " + kind + "\nmetadata: {name: a, namespace: shop}\nspec: "
}

// rule is a RequestAuthentication of one rule with more fields.
func rule(more string) string { return "{jwtRules: [{issuer: a.test" + more + "}]}" }

// requests are specs of RequestAuthentications: what, why they are refused (""
// accepts), and where.
var requests = []struct{ name, spec, reason, at string }{
	{"an issuer", rule(""), "", ""},
	{"nothing", "{}", "empty-value", "4:1"},
	{"no rules", "{selector: {matchLabels: {a: b}}}", "missing-field", "4:1"},
	{"empty rules", "{jwtRules: []}", "empty-value", "4:8"},
	{"an empty rule", "{jwtRules: [{}]}", "empty-value", "4:19"},
	{"64 rules", "{jwtRules: [" + times(64, "{issuer: a}") + "]}", "", ""},
	{"65 rules", "{jwtRules: [" + times(65, "{issuer: a}") + "]}", "too-many", "4:8"},
	{"no issuer", "{jwtRules: [{audiences: [a]}]}", "missing-field", "4:19"},
	{"an empty issuer", "{jwtRules: [{issuer: \"\"}]}", "empty-value", "4:20"},
	{"an issuer as a number", "{jwtRules: [{issuer: 1}]}", "wrong-type", "4:20"},
	{"an issuer of one hyphen", "{jwtRules: [{issuer: \"-\"}]}", "bad-issuer", "4:20"},
	{"a long issuer", "{jwtRules: [{issuer: " + strings.Repeat("a", 2049) + "}]}", "too-long", "4:20"},
	{"an issuer with a blank that is none", "{jwtRules: [{issuer: \"a\\u00a0b\"}]}", "bad-character", "4:20"},
	{"empty audiences", rule(", audiences: []"), "empty-value", "4:36"},
	{"an empty audience", rule(", audiences: [\"\"]"), "empty-value", "4:48"},
	{"a long audience", rule(", audiences: [" + strings.Repeat("a", 2049) + "]"), "too-long", "4:48"},
	{"a field that is not supported", rule(", spaceDelimitedClaims: [a]"), "not-supported", "4:36"},
	{"an unknown field", rule(", jwksURI: \"https://a.test\""), "unknown-field", "4:36"},
	{"jwks_uri", rule(", jwks_uri: \"https://a.test\""), "unknown-field", "4:36"},

	{"a URI", rule(", jwksUri: \"https://a.test:8443/keys?a=b%20c\""), "", ""},
	{"a URI of an address", rule(", jwksUri: \"https://[2001:db8::1]:8443/keys\""), "", ""},
	{"http", rule(", jwksUri: \"http://a.test/keys\""), "not-https", "4:36"},
	{"HTTPS in capitals", rule(", jwksUri: \"HTTPS://a.test/keys\""), "not-https", "4:36"},
	{"a file", rule(", jwksUri: \"file:///keys\""), "not-https", "4:36"},
	{"no scheme", rule(", jwksUri: a.test/keys"), "not-https", "4:36"},
	{"no host", rule(", jwksUri: \"https:///keys\""), "bad-uri", "4:36"},
	{"a user in a URI", rule(", jwksUri: \"https://a@b.test/keys\""), "bad-uri", "4:36"},
	{"a password in a URI", rule(", jwksUri: \"https://a:b@b.test/keys\""), "bad-uri", "4:36"},
	{"a port that is none", rule(", jwksUri: \"https://a.test:x/keys\""), "bad-uri", "4:36"},
	{"an empty port", rule(", jwksUri: \"https://a.test:/keys\""), "bad-uri", "4:36"},
	{"a fragment", rule(", jwksUri: \"https://a.test/keys#a\""), "bad-uri", "4:36"},
	{"a backslash", rule(", jwksUri: 'https://a.test\\b.test/keys'"), "bad-uri", "4:36"},
	{"a blank in a URI", rule(", jwksUri: \"https://a.test/a b\""), "bad-uri", "4:36"},
	{"a URI beyond ASCII", rule(", jwksUri: \"https://a.test/é\""), "bad-uri", "4:36"},
	{"a long URI", rule(", jwksUri: \"https://a.test/" + strings.Repeat("a", 2048) + "\""), "too-long", "4:36"},
	{"both keys and a URI", rule(", jwks: '{\"keys\": []}', jwksUri: \"https://a.test\""), "conflict", "4:36"},
	{"keys that are no JSON", rule(", jwks: keys"), "jwks-not-json", "4:36"},
	{"keys that are none", rule(", jwks: '{}'"), "jwks-not-a-key-set", "4:36"},
	{"no key", rule(", jwks: '{\"keys\": []}'"), "jwks-no-usable-key", "4:36"},
	{"a symmetric key", rule(", jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}]}'"), "jwks-symmetric-key", "4:36"},
	{"keys as a mapping", rule(", jwks: {keys: []}"), "wrong-type", "4:36"},
	{"a timeout", rule(", jwksUri: \"https://a.test\", timeout: 100ms"), "", ""},
	{"a timeout of nothing", rule(", timeout: 5s"), "conflict", "4:36"},
	{"a timeout without a unit", rule(", jwksUri: \"https://a.test\", timeout: \"5\""), "bad-duration", "4:63"},
	{"a timeout as a number", rule(", jwksUri: \"https://a.test\", timeout: 5"), "wrong-type", "4:63"},
	{"a timeout of zero", rule(", jwksUri: \"https://a.test\", timeout: 0s"), "bad-duration", "4:63"},
	{"a timeout below zero", rule(", jwksUri: \"https://a.test\", timeout: -5s"), "bad-duration", "4:63"},
	{"an hour", rule(", jwksUri: \"https://a.test\", timeout: 1h"), "bad-duration", "4:63"},

	{"places", rule(", fromHeaders: [{name: A, prefix: \"B \"}], fromParams: [a], fromCookies: [b]"), "", ""},
	{"empty fromHeaders", rule(", fromHeaders: []"), "empty-value", "4:36"},
	{"a header as a string", rule(", fromHeaders: [a]"), "wrong-type", "4:50"},
	{"a header without a name", rule(", fromHeaders: [{prefix: a}]"), "missing-field", "4:50"},
	{"a header with a blank", rule(", fromHeaders: [{name: \"a b\"}]"), "bad-header", "4:51"},
	{"a pseudo header", rule(", fromHeaders: [{name: \":path\"}]"), "bad-header", "4:51"},
	{"an empty prefix", rule(", fromHeaders: [{name: a, prefix: \"\"}]"), "empty-value", "4:60"},
	{"a prefix with a comma of another world", rule(", fromHeaders: [{name: a, prefix: \"Bearer，\"}]"), "bad-prefix", "4:60"},
	{"a prefix of two blanks", rule(", fromHeaders: [{name: a, prefix: \"a  \"}]"), "bad-prefix", "4:60"},
	{"17 headers", rule(", fromHeaders: [" + times(17, "{name: a}") + "]"), "too-many", "4:36"},
	{"a parameter with an equals sign", rule(", fromParams: [\"a=\"]"), "bad-param", "4:49"},
	{"a parameter that is encoded", rule(", fromParams: [\"a%20b\"]"), "bad-param", "4:49"},
	{"17 parameters", rule(", fromParams: [" + times(17, "a") + "]"), "too-many", "4:36"},
	{"a cookie with a semicolon", rule(", fromCookies: [\"a;\"]"), "bad-cookie", "4:50"},
	{"an empty cookie", rule(", fromCookies: [\"\"]"), "empty-value", "4:50"},
	{"17 cookies", rule(", fromCookies: [" + times(17, "a") + "]"), "too-many", "4:36"},

	{"forward", rule(", forwardOriginalToken: false"), "", ""},
	{"forward as a string", rule(", forwardOriginalToken: \"true\""), "wrong-type", "4:36"},
	{"forward: yes", rule(", forwardOriginalToken: yes"), "wrong-type", "4:36"},
	{"forward: null", rule(", forwardOriginalToken: null"), "wrong-type", "4:36"},
	{"a payload's header", rule(", outputPayloadToHeader: X-A"), "", ""},
	{"the payload for the host", rule(", outputPayloadToHeader: Host"), "bad-header", "4:36"},
	{"the payload for a length", rule(", outputPayloadToHeader: Content-Length"), "reserved-header", "4:36"},
	{"the payload for Envoy", rule(", outputPayloadToHeader: x-envoy-original-path"), "reserved-header", "4:36"},
	{"the payload for a proxy", rule(", outputPayloadToHeader: X-Forwarded-For"), "reserved-header", "4:36"},
	{"a claim's header", rule(", outputClaimToHeaders: [{header: x-a, claim: a.b}]"), "", ""},
	{"a claim's header without claim", rule(", outputClaimToHeaders: [{header: x-a}]"), "missing-field", "4:59"},
	{"a claim's header without header", rule(", outputClaimToHeaders: [{claim: a}]"), "missing-field", "4:59"},
	{"a claim with brackets", rule(", outputClaimToHeaders: [{header: x-a, claim: \"a[b]\"}]"), "bad-claim", "4:73"},
	{"a claim with an empty key", rule(", outputClaimToHeaders: [{header: x-a, claim: a..b}]"), "bad-claim", "4:73"},
	{"a claim for the connection", rule(", outputClaimToHeaders: [{header: Connection, claim: a}]"), "reserved-header", "4:60"},
	{"two claims, one header", rule(", outputClaimToHeaders: [{header: x-a, claim: a}, {header: X-A, claim: b}]"), "conflict", "4:85"},
	{"a claim and the payload, one header", rule(", outputPayloadToHeader: x-a, outputClaimToHeaders: [{header: x-a, claim: a}]"), "conflict", "4:88"},
	{"17 claims", rule(", outputClaimToHeaders: [" + times(17, "{header: x-a, claim: a}") + "]"), "too-many", "4:36"},
	{"a selector and targets", "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}], jwtRules: [{issuer: a}]}", "conflict", "4:8"},
	{"a large canonical form", "{jwtRules: [{issuer: a, audiences: [" + times(512, strings.Repeat("a", 125)) + "]}]}", "too-long", "1:1"},
}

// peers are specs of PeerAuthentications, likewise.
var peers = []struct{ name, spec, reason, at string }{
	{"nothing", "{}", "", ""},
	{"a mode", "{mtls: {mode: STRICT}}", "", ""},
	{"no mode", "{mtls: {}}", "empty-value", "4:8"},
	{"a mode in lower case", "{mtls: {mode: strict}}", "unknown-value", "4:15"},
	{"a mode that is none", "{mtls: {mode: MUTUAL}}", "unknown-value", "4:15"},
	{"a mode as a mapping", "{mtls: {mode: {}}}", "wrong-type", "4:15"},
	{"a null", "{mtls: null}", "wrong-type", "4:8"},
	{"a mode beside mtls", "{mode: STRICT}", "unknown-field", "4:8"},
	{"an empty selector", "{selector: {}}", "empty-value", "4:8"},
	{"a selector with a star", "{selector: {matchLabels: {a: \"*\"}}}", "bad-label", "4:33"},
	{"targets", "{targetRefs: [{kind: Service, name: a}]}", "unknown-field", "4:8"},
	{"ports", "{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRICT}, \"81\": {mode: UNSET}}}", "", ""},
	{"ports without a selector", "{portLevelMtls: {80: {mode: STRICT}}}", "conflict", "4:8"},
	{"no ports", "{selector: {matchLabels: {a: b}}, portLevelMtls: {}}", "empty-value", "4:41"},
	{"port zero", "{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}", "bad-port", "4:57"},
	{"a port too large", "{selector: {matchLabels: {a: b}}, portLevelMtls: {65536: {mode: STRICT}}}", "bad-port", "4:57"},
	{"a port in octal", "{selector: {matchLabels: {a: b}}, portLevelMtls: {080: {mode: STRICT}}}", "bad-key", "4:57"},
	{"a port in hexadecimal", "{selector: {matchLabels: {a: b}}, portLevelMtls: {0x50: {mode: STRICT}}}", "bad-port", "4:57"},
	{"a port's name", "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}", "bad-port", "4:57"},
	{"a port twice", "{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRICT}, \"80\": {mode: DISABLE}}}", "duplicate-key", "4:77"},
	{"a port without a mode", "{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {}}}", "empty-value", "4:57"},
	{"a port with a word", "{selector: {matchLabels: {a: b}}, portLevelMtls: {80: STRICT}}", "wrong-type", "4:57"},
	{"a port with another field", "{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mtls: STRICT}}}", "unknown-field", "4:62"},
}

func TestRefusalsOfOtherKinds(t *testing.T) {
	if got, want := len(requests), 84; got != want {
		t.Errorf("%d rows of RequestAuthentication, want %d", got, want)
	}
	if got, want := len(peers), 23; got != want {
		t.Errorf("%d rows of PeerAuthentication, want %d", got, want)
	}
	for _, r := range requests {
		t.Run("request/"+r.name, func(t *testing.T) {
			_, err := parse.ReadObjects("x", []byte(ofKind("RequestAuthentication")+r.spec+"\n"))
			judge(t, err, r.reason, r.at)
		})
	}
	for _, r := range peers {
		t.Run("peer/"+r.name, func(t *testing.T) {
			_, err := parse.ReadObjects("x", []byte(ofKind("PeerAuthentication")+r.spec+"\n"))
			judge(t, err, r.reason, r.at)
		})
	}
	for _, kind := range []string{"RequestAuthentication", "PeerAuthentication"} {
		for _, annotation := range []string{"istio.io/dry-run: \"true\"", "istio-auth.io/compat: istio"} {
			text := fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: %s\nmetadata: {name: a, namespace: b, annotations: {%s}}\nspec: {%s}\n",
				kind, annotation, map[string]string{"RequestAuthentication": "jwtRules: [{issuer: a}]"}[kind])
			_, err := parse.ReadObjects("x", []byte(text))
			judge(t, err, "unknown-annotation", "3:49")
		}
	}
}

// TestKinds: others' kinds are read beside ours, in one file, and a name is one
// kind's.
func TestKinds(t *testing.T) {
	var o parse.Objects
	var labels []string
	kinds := o.Kinds()
	kinds[parse.Kind{APIVersion: "example.com/v1", Kind: "Thing"}] = func(d *parse.Document) error {
		m, err := d.Spec().Mapping("from", "to", "when", "selector", "on")
		if err != nil {
			return err
		}
		from, err := m.At("from").Source(d.Namespace)
		if err != nil {
			return err
		}
		to, err := m.At("to").Operation()
		if err != nil {
			return err
		}
		when, err := m.At("when").Conditions(d.Namespace)
		if err != nil {
			return err
		}
		selector, err := m.At("selector").Selector()
		if err != nil {
			return err
		}
		if _, err := m.At("on").Flag(); err != nil {
			return err
		}
		labels = append(labels, fmt.Sprint(from, to, when, selector))
		return nil
	}
	thing := func(spec string) string {
		return "---\napiVersion: example.com/v1\nkind: Thing\nmetadata: {name: a, namespace: shop}\nspec: " + spec + "\n"
	}
	whole := thing("{from: {serviceAccounts: [b]}, to: {methods: [GET]}, when: [{key: source.ip, values: [10.0.0.1]}], selector: {matchLabels: {a: b}}, on: true}")
	if err := parse.Read("x", []byte(header("a")+"spec: {}\n"+whole), kinds); err != nil || len(o.Policies) != 1 || len(labels) != 1 {
		t.Fatalf("read %d policies, %q, %v", len(o.Policies), labels, err)
	}
	for spec, want := range map[string]string{
		"{}":                                    "missing-field 5:1",
		"{form: {}}":                            "unknown-field 5:8",
		"{from: {serviceAccounts: [\"*\"]}}":    "bad-service-account 5:33",
		"{from: {}}":                            "empty-value 5:8",
		"{from: {hosts: [a]}}":                  "unknown-field 5:15",
		"{from: {namespaces: [b]}, to: null}":   "wrong-type 5:33",
		"{from: {namespaces: [b]}, to: {}}":     "empty-value 5:33",
		"[]":                                    "wrong-type 5:1",
		"{from: {namespaces: [b]}, to: {a: b}}": "unknown-field 5:38",
	} {
		err := parse.Read("x", []byte(thing(spec)), kinds)
		reason, at, _ := strings.Cut(want, " ")
		judge(t, err, reason, at)
	}
	err := parse.Read("x", []byte(strings.Replace(whole, "Thing", "Think", 1)), kinds)
	judge(t, err, "wrong-kind", "3:1")
	if err := parse.Read("x", []byte(whole), parse.Kinds{}); !errors.Is(err, parse.ErrRefused) {
		t.Errorf("no kinds: %v", err)
	}
}

// wires are texts that Wire refuses: what it is, and why.
var wires = []struct{ name, text, reason string }{
	{"nothing", "", "wrong-kind"},
	{"no object", "[]", "wrong-kind"},
	{"an empty object", "{}", "wrong-kind"},
	{"YAML", "kind: AuthorizationPolicy", "wrong-kind"},
	{"two objects", `{"apiVersion":"security.istio.io/v1","kind":"PeerAuthentication","metadata":{"name":"a","namespace":"b"},"spec":{}} {}`, "bad-json"},
	{"a large one", strings.Repeat(" ", parse.MaxWire+1), "too-long"},
	{"an older version", `{"apiVersion":"security.istio.io/v1beta1","kind":"AuthorizationPolicy","metadata":{"name":"a","namespace":"b"},"spec":{"action":"ALLOW"}}`, "wrong-kind"},
	{"another kind", `{"apiVersion":"security.istio.io/v1","kind":"Sidecar","metadata":{"name":"a","namespace":"b"},"spec":{}}`, "wrong-kind"},
	{"no spec", `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"a","namespace":"b"}}`, "missing-field"},
	{"kind twice", `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","kind":"PeerAuthentication","metadata":{"name":"a","namespace":"b"},"spec":{"action":"ALLOW"}}`, "wrong-kind"},
	{"no namespace", `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"a"},"spec":{"action":"ALLOW"}}`, "bad-name"},
	{"a bad name", `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"A","namespace":"b"},"spec":{"action":"ALLOW"}}`, "bad-name"},
	{"labels", `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"a","namespace":"b","labels":{}},"spec":{"action":"ALLOW"}}`, "bad-json"},
	{"an annotation of another", `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"a","namespace":"b","annotations":{"a":"b"}},"spec":{"action":"ALLOW"}}`, "unknown-annotation"},
	{"dry run of another kind", `{"apiVersion":"security.istio.io/v1","kind":"PeerAuthentication","metadata":{"name":"a","namespace":"b","annotations":{"istio.io/dry-run":"true"}},"spec":{}}`, "unknown-annotation"},
	{"created", `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"b"},"spec":{"action":"ALLOW"}}`, "unknown-field"},
	{"no action", wirePolicy(`{}`), "unknown-value"},
	{"another action", wirePolicy(`{"action":"PERMIT"}`), "unknown-value"},
	{"a provider of ALLOW", wirePolicy(`{"action":"ALLOW","provider":{"name":"a"}}`), "bad-name"},
	{"CUSTOM of nobody", wirePolicy(`{"action":"CUSTOM"}`), "bad-name"},
	{"a bad provider", wirePolicy(`{"action":"CUSTOM","provider":{"name":"a/b"}}`), "bad-name"},
	{"an unknown field", wirePolicy(`{"action":"ALLOW","rule":[]}`), "bad-json"},
	{"an empty from", wirePolicy(`{"action":"ALLOW","rules":[{"from":[{}]}]}`), "empty-value"},
	{"an empty source", wirePolicy(`{"action":"ALLOW","rules":[{"from":[{"source":{}}]}]}`), "empty-value"},
	{"an unknown field of a source", wirePolicy(`{"action":"ALLOW","rules":[{"from":[{"source":{"principal":["*"]}}]}]}`), "unknown-field"},
	{"a field of a source in an operation", wirePolicy(`{"action":"ALLOW","rules":[{"to":[{"operation":{"principals":["*"]}}]}]}`), "unknown-field"},
	{"a source without values", wirePolicy(`{"action":"ALLOW","rules":[{"from":[{"source":{"principals":[]}}]}]}`), "empty-value"},
	{"a source and tests", wirePolicy(`{"action":"ALLOW","rules":[{"from":[{"source":{"principals":["*"]},"tests":[]}]}]}`), "conflict"},
	{"when and tests", wirePolicy(`{"action":"ALLOW","rules":[{"tests":[],"when":[{"key":"source.ip","values":["10.0.0.1"]}]}]}`), "conflict"},
	{"a bad value", wirePolicy(`{"action":"ALLOW","rules":[{"from":[{"source":{"principals":["a"]}}]}]}`), "bad-principal"},
	{"a bad condition", wirePolicy(`{"action":"ALLOW","rules":[{"when":[{"key":"request.path","values":["/"]}]}]}`), "removed-key"},
	{"a test of nothing", wirePolicy(`{"action":"ALLOW","rules":[{"tests":[{"key":"none"}]}]}`), "unknown-key"},
	{"a test of a header without name", wirePolicy(`{"action":"ALLOW","rules":[{"tests":[{"key":"request.headers"}]}]}`), "bad-key"},
	{"an empty expression", wirePolicy(`{"action":"ALLOW","rules":[{"expression":{}}]}`), "bad-expression"},
	{"an unknown operation", wirePolicy(`{"action":"ALLOW","rules":[{"expression":{"op":"xor"}}]}`), "bad-expression"},
	{"a test that is not there", wirePolicy(`{"action":"ALLOW","rules":[{"expression":{"op":"matches"}}]}`), "bad-expression"},
	{"a comparison that is not there", wirePolicy(`{"action":"ALLOW","rules":[{"expression":{"op":"compare"}}]}`), "bad-expression"},
	{"terms of a test", wirePolicy(`{"action":"ALLOW","rules":[{"expression":{"op":"matches","terms":[{"op":"all"}],"test":{"key":"source.ip"}}}]}`), "bad-expression"},
	{"a test of all", wirePolicy(`{"action":"ALLOW","rules":[{"expression":{"op":"all","test":{"key":"source.ip"}}}]}`), "bad-expression"},
	{"an unknown comparison", wirePolicy(`{"action":"ALLOW","rules":[{"expression":{"op":"compare","comparison":{"how":"like","left":"source.ip","right":"remote.ip"}}}]}`), "unknown-value"},
	{"a comparison with nothing", wirePolicy(`{"action":"ALLOW","rules":[{"expression":{"op":"compare","comparison":{"how":"exact","left":"source.ip","right":""}}}]}`), "unknown-key"},
	{"a deep expression", wirePolicy(`{"action":"ALLOW","rules":[{"expression":` + strings.Repeat(`{"op":"all","terms":[`, 40) + `{"op":"all"}` + strings.Repeat(`]}`, 40) + `}]}`), "too-deep"},
	{"an expression for authors", wirePolicy(`{"action":"ALLOW","rules":[{"expression":"request.path == '/'"}]}`), "bad-json"},
	{"no issuer", strings.ReplaceAll(wirePolicy(`{"jwtRules":[{"issuer":""}]}`), "AuthorizationPolicy", "RequestAuthentication"), "missing-field"},
	{"a place of nothing", strings.ReplaceAll(wirePolicy(`{"jwtRules":[{"fromParams":[""],"issuer":"a"}]}`), "AuthorizationPolicy", "RequestAuthentication"), "empty-value"},
	{"a timeout of nothing", strings.ReplaceAll(wirePolicy(`{"jwtRules":[{"issuer":"a","timeout":"x"}]}`), "AuthorizationPolicy", "RequestAuthentication"), "bad-duration"},
	{"a mode that is none", strings.ReplaceAll(wirePolicy(`{"mtls":{"mode":"MUTUAL"}}`), "AuthorizationPolicy", "PeerAuthentication"), "unknown-value"},
	{"port zero", strings.ReplaceAll(wirePolicy(`{"portLevelMtls":{"0":{"mode":"STRICT"}}}`), "AuthorizationPolicy", "PeerAuthentication"), "bad-port"},
	{"a bad time", `{"apiVersion":"security.istio.io/v1","kind":"PeerAuthentication","metadata":{"creationTimestamp":"now","name":"a","namespace":"b"},"spec":{}}`, "bad-time"},
}

func wirePolicy(spec string) string {
	return `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"a","namespace":"b"},"spec":` + spec + `}`
}

func TestWireRefuses(t *testing.T) {
	if got, want := len(wires), 49; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, r := range wires {
		t.Run(r.name, func(t *testing.T) {
			o, err := parse.Wire([]byte(r.text))
			judge(t, err, r.reason, "")
			if source(o) != nil {
				t.Errorf("read %+v", o)
			}
		})
	}
}

// TestWireAlone: what only a manager can say is refused where authors are read.
func TestWireAlone(t *testing.T) {
	claim, err := rbac.ClaimAttr("sub")
	if err != nil {
		t.Fatal(err)
	}
	e := rbac.Expression{Op: rbac.Any, Source: "x", Terms: []rbac.Expression{
		{Op: rbac.Compare, Comparison: rbac.Comparison{Left: rbac.Attr(rbac.Path), How: rbac.Prefix, Lead: "/users/", Right: claim, Trail: "/", Not: true}},
		{Op: rbac.All},
		{Op: rbac.Matches, Test: rbac.Test{Attribute: claim}},
	}}
	for name, r := range map[string]rbac.Rule{
		"an expression":         {Expression: &e},
		"an empty clause":       {From: []rbac.Clause{{}}, To: []rbac.Clause{{}}},
		"a claim in a source":   {From: []rbac.Clause{{{Attribute: claim, In: present(t, claim)}}}},
		"a path in a source":    {From: []rbac.Clause{{{Attribute: rbac.Attr(rbac.Path), NotIn: present(t, rbac.Attr(rbac.Path))}}}},
		"a method as when":      {When: rbac.Clause{{Attribute: rbac.Attr(rbac.Method), In: present(t, rbac.Attr(rbac.Method))}}},
		"any namespace":         {From: []rbac.Clause{{{Attribute: rbac.Attr(rbac.AnyNamespace), In: present(t, rbac.Attr(rbac.Namespace))}}}},
		"any namespace as when": {When: rbac.Clause{{Attribute: rbac.Attr(rbac.AnyNamespace), In: present(t, rbac.Attr(rbac.Namespace))}}},
		"ours beside a trust domain": {From: []rbac.Clause{{
			{Attribute: rbac.Attr(rbac.Namespace), In: present(t, rbac.Attr(rbac.Namespace))},
			{Attribute: rbac.Attr(rbac.TrustDomain), In: present(t, rbac.Attr(rbac.TrustDomain))},
		}}},
		"another order": {To: []rbac.Clause{{
			{Attribute: rbac.Attr(rbac.Path), In: present(t, rbac.Attr(rbac.Path))},
			{Attribute: rbac.Attr(rbac.Method), In: present(t, rbac.Attr(rbac.Method))},
		}}},
		"one field twice": {To: []rbac.Clause{{
			{Attribute: rbac.Attr(rbac.Path), In: present(t, rbac.Attr(rbac.Path))},
			{Attribute: rbac.Attr(rbac.Path), In: present(t, rbac.Attr(rbac.Path))},
		}}},
		"a test of nothing": {When: rbac.Clause{{Attribute: rbac.Attr(rbac.SourceIP)}}},
	} {
		p := rbac.Policy{Namespace: "shop", Name: "a", Action: rbac.Deny, Rules: []rbac.Rule{r}}
		wired(t, parse.Objects{Policies: []rbac.Policy{p}}, parse.JSON(p))
		if _, err := parse.ReadObjects("x", parse.JSON(p)); !errors.Is(err, parse.ErrRefused) {
			t.Errorf("%s: an author may write %s", name, parse.JSON(p))
		}
	}
	a := rbac.RequestAuthentication{Namespace: "shop", Name: "a", Rules: []rbac.TokenRule{{Issuer: "a", Keys: "{}", KeysURI: "https://a.test"}}}
	wired(t, parse.Objects{Requests: []rbac.RequestAuthentication{a}}, parse.RequestJSON(a))
	if _, err := parse.ReadObjects("x", parse.RequestJSON(a)); !errors.Is(err, parse.ErrRefused) {
		t.Errorf("an author may write %s", parse.RequestJSON(a))
	}
}

func present(t *testing.T, a rbac.Attribute) []rbac.Pattern {
	t.Helper()
	p, err := rbac.ParseValue(a, "*", "shop")
	if err != nil {
		t.Fatal(err)
	}
	return []rbac.Pattern{p}
}

// FuzzWire: what Wire reads, it reads again from the canonical form.
func FuzzWire(f *testing.F) {
	for _, data := range valid(f) {
		o, err := parse.ReadObjects("valid", data)
		if err != nil {
			f.Fatal(err)
		}
		for _, p := range o.Policies {
			f.Add(parse.JSON(p))
		}
		for _, a := range o.Requests {
			f.Add(parse.RequestJSON(a))
		}
		for _, a := range o.Peers {
			f.Add(parse.PeerJSON(a))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := parse.Wire(data)
		if err != nil {
			var e *parse.Error
			if !errors.As(err, &e) || e.Reason == "" {
				t.Errorf("no refusal: %v", err)
			}
			return
		}
		wired(t, o, source(o))
	})
}
