package access_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// object is one document, in namespace shop.
func object(kind, name, spec string) string {
	version := access.APIVersion
	if !strings.HasPrefix(kind, "Access") {
		version = "security.istio.io/v1"
	}
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: shop}\nspec: %s\n", version, kind, name, spec)
}

func annotated(kind, annotation, spec string) string {
	return strings.Replace(object(kind, "x", spec), "namespace: shop", "namespace: shop, annotations: {"+annotation+"}", 1)
}

// grant has this beside a role.
func grant(rest string) string { return object("AccessGrant", "x", "{roleRef: {name: r}, "+rest+"}") }

func role(permission string) string {
	return object("AccessRole", "x", "{permissions: ["+permission+"]}")
}

func rule(rest string) string { return object("AccessRule", "x", "{action: DENY, "+rest+"}") }

const users = "endUsers: {issuer: https://idp.test}, "

// refusals are documents and the reason for which each is refused; the empty
// reason takes it.
var refusals = []struct{ name, document, reason string }{
	{"a role", role(`{operations: [{methods: [GET]}]}`), ""},
	{"a role with everything", role(`{operations: [{hosts: [a.test], ports: ["80"], paths: [/a], notMethods: [GET]}], when: [{key: "request.headers[x]", values: [a]}], expression: 'source.namespace == "a"'}`), ""},
	{"a permission of everything", role(`{operations: [{paths: ["*"]}]}`), ""},
	{"an expression of two lines", object("AccessRole", "x", "\n  permissions:\n  - expression: |\n      source.namespace == \"a\" &&\n      request.method == \"GET\"\n"), ""},
	{"no permissions", object("AccessRole", "x", "{}"), "missing-field"},
	{"an empty list of permissions", role(""), "empty-value"},
	{"an empty permission", role("{}"), "empty-value"},
	{"too many permissions", role(strings.Repeat("{operations: [{methods: [GET]}]},", 65)), "too-many"},
	{"a typo in a role", object("AccessRole", "x", "{permission: []}"), "unknown-field"},
	{"a typo in a permission", role(`{operation: [{methods: [GET]}]}`), "unknown-field"},
	{"a typo in an operation", role(`{operations: [{method: [GET]}]}`), "unknown-field"},
	{"the form of an AuthorizationPolicy", role(`{operations: [{operation: {methods: [GET]}}]}`), "unknown-field"},
	{"an empty operation", role(`{operations: [{}]}`), "empty-value"},
	{"no operations", role(`{operations: []}`), "empty-value"},
	{"operations of null", role(`{operations: null}`), "wrong-type"},
	{"a bad method", role(`{operations: [{methods: [get]}]}`), "bad-method"},
	{"a bad path", role(`{operations: [{paths: [a]}]}`), "bad-path"},
	{"too many operations", role(`{operations: [` + strings.Repeat("{methods: [GET]},", 65) + `]}`), "too-many"},
	{"an empty when", role(`{when: []}`), "empty-value"},
	{"an unknown key", role(`{when: [{key: source.x, values: [a]}]}`), "unknown-key"},
	{"a condition without values", role(`{when: [{key: source.namespace}]}`), "missing-field"},
	{"an empty expression", role(`{expression: ""}`), "empty-value"},
	{"an expression of a number", role(`{expression: 1}`), "wrong-type"},
	{"an expression with a regular expression", role(`{expression: 'request.path.matches("a")'}`), "not-supported"},
	{"an expression of an unknown attribute", role(`{expression: 'source.x == "a"'}`), "unknown-attribute"},
	{"an expression that does not end", role(`{expression: 'source.namespace =='}`), "bad-syntax"},
	{"an expression with a star", role(`{expression: 'source.namespace == "a*"'}`), "bad-star"},
	{"expressions without end", role(strings.Repeat(`{expression: 'source.namespace == "a"`+strings.Repeat(" ", 2000)+`'},`, 9)), "too-long"},
	{"a selector in a role", object("AccessRole", "x", "{permissions: [{operations: [{methods: [GET]}]}], selector: {matchLabels: {a: b}}}"), "unknown-field"},
	{"a dry run of a role", annotated("AccessRole", `istio.io/dry-run: "true"`, "{permissions: [{operations: [{methods: [GET]}]}]}"), "not-supported"},
	{"a role of another version", strings.Replace(role(`{operations: [{methods: [GET]}]}`), "v1alpha1", "v1", 1), "wrong-kind"},
	{"a Role of Kubernetes", strings.Replace(role(`{operations: [{methods: [GET]}]}`), "AccessRole", "Role", 1), "wrong-kind"},
	{"a role without a spec", "apiVersion: istio-auth.io/v1alpha1\nkind: AccessRole\nmetadata: {name: x, namespace: shop}\n", "missing-field"},
	{"a long name", object("AccessRole", strings.Repeat("x", 201), `{permissions: [{operations: [{methods: [GET]}]}]}`), "too-long"},

	{"a grant", grant(`subjects: [{serviceAccounts: [web]}]`), ""},
	{"a grant to all kinds", grant(users + `subjects: [{serviceAccounts: [web, front/api]}, {principals: [td/ns/a/sa/b]}, {namespaces: [a, "b*"]}, {requestPrincipals: [i/s]}, {groups: [ops]}, {namespaces: [a], groups: [ops]}, {serviceAccounts: [web], requestPrincipals: [i/s]}]`), ""},
	{"a grant with a selector and an expression", grant(`selector: {matchLabels: {app: web}}, expression: 'source.namespace == "a"', subjects: [{namespaces: [a]}]`), ""},
	{"a grant of a role elsewhere", object("AccessGrant", "x", `{roleRef: {name: r, namespace: root}, subjects: [{namespaces: [a]}]}`), ""},
	{"another claim", grant(`endUsers: {issuer: i, groupsClaim: roles}, subjects: [{groups: [a]}]`), ""},
	{"a nested claim", grant(`endUsers: {issuer: i, groupsClaim: "[realm_access][roles]"}, subjects: [{groups: [a]}]`), ""},
	{"an issuer that ends with a slash", grant(`endUsers: {issuer: "https://idp.test/"}, subjects: [{groups: [a]}]`), ""},
	{"a dry run of a grant", annotated("AccessGrant", `istio.io/dry-run: "true"`, "{roleRef: {name: r}, subjects: [{namespaces: [a]}]}"), ""},
	{"no role", object("AccessGrant", "x", `{subjects: [{namespaces: [a]}]}`), "missing-field"},
	{"an empty role", object("AccessGrant", "x", `{roleRef: {}, subjects: [{namespaces: [a]}]}`), "missing-field"},
	{"a role of another kind", object("AccessGrant", "x", `{roleRef: {name: r, kind: Role}, subjects: [{namespaces: [a]}]}`), "unknown-field"},
	{"a role with a bad name", object("AccessGrant", "x", `{roleRef: {name: R}, subjects: [{namespaces: [a]}]}`), "bad-name"},
	{"a role in a bad namespace", object("AccessGrant", "x", `{roleRef: {name: r, namespace: a.b}, subjects: [{namespaces: [a]}]}`), "bad-name"},
	{"no subjects", grant(``), "missing-field"},
	{"an empty list of subjects", grant(`subjects: []`), "empty-value"},
	{"an empty subject", grant(`subjects: [{}]`), "empty-value"},
	{"too many subjects", grant(`subjects: [` + strings.Repeat("{namespaces: [a]},", 257) + `]`), "too-many"},
	{"a typo in a subject", grant(`subjects: [{serviceAccount: [web]}]`), "unknown-field"},
	{"a negation in a subject", grant(`subjects: [{notNamespaces: [a]}]`), "unknown-field"},
	{"an empty list of accounts", grant(`subjects: [{serviceAccounts: []}]`), "empty-value"},
	{"a bad account", grant(`subjects: [{serviceAccounts: ["web*"]}]`), "bad-service-account"},
	{"a bad namespace", grant(`subjects: [{namespaces: [A]}]`), "bad-namespace"},
	{"a bad principal", grant(`subjects: [{principals: ["spiffe://td/ns/a/sa/b"]}]`), "bad-principal"},
	{"a bad end user", grant(`subjects: [{requestPrincipals: [alice]}]`), "bad-request-principal"},
	{"accounts and namespaces", grant(`subjects: [{serviceAccounts: [web], namespaces: [a]}]`), "conflict"},
	{"principals and namespaces", grant(`subjects: [{principals: [td/ns/a/sa/b], namespaces: [a]}]`), "conflict"},
	{"end users and groups", grant(users + `subjects: [{requestPrincipals: [i/s], groups: [a]}]`), "conflict"},
	{"groups of nobody", grant(`subjects: [{groups: [a]}]`), "missing-field"},
	{"endUsers for nothing", grant(users + `subjects: [{namespaces: [a]}]`), "conflict"},
	{"endUsers without an issuer", grant(`endUsers: {groupsClaim: a}, subjects: [{groups: [a]}]`), "missing-field"},
	{"any issuer", grant(`endUsers: {issuer: "*"}, subjects: [{groups: [a]}]`), "bad-star"},
	{"an issuer that begins so", grant(`endUsers: {issuer: "https://idp*"}, subjects: [{groups: [a]}]`), "bad-star"},
	{"a claim with a bracket", grant(`endUsers: {issuer: i, groupsClaim: "a]"}, subjects: [{groups: [a]}]`), "bad-claim"},
	{"a claim without a name", grant(`endUsers: {issuer: i, groupsClaim: "[]"}, subjects: [{groups: [a]}]`), "bad-claim"},
	{"an empty group", grant(users + `subjects: [{groups: [""]}]`), "empty-value"},
	{"an empty selector", grant(`selector: {}, subjects: [{namespaces: [a]}]`), "missing-field"},
	{"a selector without labels", grant(`selector: {matchLabels: {}}, subjects: [{namespaces: [a]}]`), "empty-value"},
	{"targetRefs", grant(`targetRefs: [], subjects: [{namespaces: [a]}]`), "unknown-field"},
	{"an action", grant(`action: DENY, subjects: [{namespaces: [a]}]`), "unknown-field"},
	{"a bad expression", grant(`expression: 'true', subjects: [{namespaces: [a]}]`), "constant"},
	{"compat", annotated("AccessGrant", `istio-auth.io/compat: istio`, "{roleRef: {name: r}, subjects: [{namespaces: [a]}]}"), "unknown-annotation"},
	{"a dry run that is no boolean", annotated("AccessGrant", `istio.io/dry-run: "yes"`, "{roleRef: {name: r}, subjects: [{namespaces: [a]}]}"), "unknown-value"},

	{"a rule", rule(`expression: 'source.namespace == "a"'`), ""},
	{"a rule with everything", rule(`selector: {matchLabels: {a: b}}, sources: [{namespaces: [a], notPrincipals: [td/ns/a/sa/b]}, {ipBlocks: [10.0.0.0/8]}], operations: [{methods: [GET]}], when: [{key: connection.sni, values: [a]}], expression: 'request.path == "/a"'`), ""},
	{"a rule to be audited", object("AccessRule", "x", `{action: AUDIT, operations: [{methods: [GET]}]}`), ""},
	{"a dry run of a rule", annotated("AccessRule", `istio.io/dry-run: "false"`, `{action: DENY, operations: [{methods: [GET]}]}`), ""},
	{"a rule without an action", object("AccessRule", "x", `{operations: [{methods: [GET]}]}`), "missing-field"},
	{"a rule that asks", object("AccessRule", "x", `{action: CUSTOM, operations: [{methods: [GET]}]}`), "unknown-value"},
	{"a rule about nothing", object("AccessRule", "x", `{action: DENY}`), "empty-value"},
	{"a rule with rules", rule(`rules: [{}]`), "unknown-field"},
	{"a rule with from", rule(`from: [{source: {namespaces: [a]}}]`), "unknown-field"},
	{"an empty source", rule(`sources: [{}]`), "empty-value"},
	{"a typo in a source", rule(`sources: [{namespace: [a]}]`), "unknown-field"},
	{"accounts with namespaces", rule(`sources: [{serviceAccounts: [a], namespaces: [a]}]`), "conflict"},
	{"a dry run of what is audited", annotated("AccessRule", `istio.io/dry-run: "true"`, `{action: AUDIT, operations: [{methods: [GET]}]}`), "not-supported"},

	{"an AuthorizationPolicy", object("AuthorizationPolicy", "x", "{}"), ""},
	{"a RequestAuthentication", object("RequestAuthentication", "x", "{jwtRules: [{issuer: i, jwksUri: https://idp.test/keys}]}"), ""},
	{"a PeerAuthentication", object("PeerAuthentication", "x", "{}"), ""},
	{"all in one file", role(`{operations: [{methods: [GET]}]}`) + "---\n" + grant(`subjects: [{namespaces: [a]}]`) + "---\n" + rule(`operations: [{methods: [GET]}]`) + "---\n" + object("AuthorizationPolicy", "x", "{}"), ""},
	{"one twice", grant(`subjects: [{namespaces: [a]}]`) + "---\n" + grant(`subjects: [{namespaces: [b]}]`), "duplicate-policy"},
	{"a policy with the name of a grant", object("AuthorizationPolicy", "accessgrant.x", "{}"), "reserved-name"},
	{"a policy with the name of a rule", object("AuthorizationPolicy", "accessrule.x", "{}"), "reserved-name"},
	{"a policy with the name of tokens", object("AuthorizationPolicy", "requestauthentication.x", "{}"), "reserved-name"},
	{"nothing", "", "empty"},
}

func TestRefusals(t *testing.T) {
	if got, want := len(refusals), 98; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, row := range refusals {
		_, err := access.Read("test", []byte(row.document))
		got := ""
		var e *parse.Error
		if errors.As(err, &e) {
			got = e.Reason
			if e.Line == 0 || e.Name != "test" || !errors.Is(err, parse.ErrRefused) {
				t.Errorf("%s: %v is nowhere", row.name, err)
			}
		} else if err != nil {
			got = err.Error()
		}
		if got != row.reason {
			t.Errorf("%s: got %q (%v), want %q", row.name, got, err, row.reason)
		}
	}
}

// FuzzRead: nothing that anybody writes breaks the reader, and what is read is
// resolved without an empty From, which would be everybody.
func FuzzRead(f *testing.F) {
	for _, row := range refusals {
		f.Add(row.document)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := access.Read("fuzz", []byte(text))
		if err != nil {
			return
		}
		policies, _ := access.Resolve(o, "root")
		for _, p := range policies {
			for _, r := range p.Rules {
				if strings.HasPrefix(p.Name, access.GrantPrefix) && len(r.From) == 0 {
					t.Errorf("a grant to everybody: %q", text)
				}
			}
			if _, err := parse.Wire(parse.JSON(p)); err != nil {
				t.Errorf("%v\n%s", err, parse.JSON(p))
			}
		}
	})
}
