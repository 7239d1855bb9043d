package access_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/test/testreq"
)

func read(t *testing.T, documents ...string) access.Objects {
	t.Helper()
	o, err := access.Read("test", []byte(strings.Join(documents, "---\n")))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestDecide: what grants and rules mean, asked of rbac/eval.
func TestDecide(t *testing.T) {
	o := read(t,
		object("AccessRole", "reader", `{permissions: [{operations: [{methods: [GET], paths: ["/items/*"]}]}, {expression: 'request.path.startsWith("/users/" + request.auth.claims["sub"] + "/")'}]}`),
		object("AccessGrant", "readers", `{roleRef: {name: reader}, endUsers: {issuer: https://idp.test}, subjects: [{serviceAccounts: [web]}, {namespaces: [front], groups: [ops, dev]}], expression: '!(source.namespace == "front" && request.host == "secret.test")'}`),
		object("AccessRule", "no-debug", `{action: DENY, expression: 'has(request.headers["x-debug"]) && !source.ip.within("10.0.0.0/8")'}`),
	)
	policies, err := access.Resolve(o, "root")
	if err != nil {
		t.Fatal(err)
	}
	set := rbac.Select(policies, rbac.Target{Namespace: "shop", TrustDomain: spiffeid.RequireTrustDomainFromString("td.test")})
	for _, row := range []struct{ account, call, issuer, group, want string }{
		{"shop/web", "GET a.test /items/1", "", "", "shop/accessgrant.readers/0"},
		{"shop/web", "POST a.test /items/1", "", "", ""},
		{"shop/web", "GET a.test /", "", "", ""},
		{"shop/api", "GET a.test /items/1", "", "", ""},
		{"front/web", "GET a.test /items/1", "", "", ""},
		{"front/web", "GET a.test /items/1", "https://idp.test", "ops", "shop/accessgrant.readers/0"},
		{"front/any", "GET a.test /items/1", "https://idp.test", "dev", "shop/accessgrant.readers/0"},
		{"front/web", "GET a.test /items/1", "https://idp.test", "op", ""},
		{"front/web", "GET a.test /items/1", "https://evil.test", "ops", ""},
		{"front/web", "GET a.test /items/1", "https://idp.test.evil", "ops", ""},
		{"other/web", "GET a.test /items/1", "https://idp.test", "ops", ""},
		{"front/web", "GET secret.test /items/1", "https://idp.test", "ops", ""},
		{"shop/web", "GET secret.test /items/1", "", "", "shop/accessgrant.readers/0"},
		{"shop/web", "POST a.test /users/alice/x", "https://idp.test", "", "shop/accessgrant.readers/1"},
		{"shop/web", "POST a.test /users/bob/x", "https://idp.test", "", ""},
		{"shop/web", "POST a.test /users/alicex/x", "https://idp.test", "", ""},
		{"shop/web", "GET a.test /items/debug", "", "", "-shop/accessrule.no-debug/0"},
	} {
		namespace, account, _ := strings.Cut(row.account, "/")
		call := strings.Fields(row.call)
		req := rbac.Request{Protocol: rbac.HTTP, Method: call[0], Host: call[1], Path: call[2]}
		req.Peer.ID = spiffeid.RequireFromString("spiffe://td.test/ns/" + namespace + "/sa/" + account)
		if strings.HasSuffix(req.Path, "debug") {
			req.Headers = map[string][]string{"x-debug": {"1"}}
		}
		if row.issuer != "" {
			req.Token = &rbac.Token{Claims: map[string]any{"iss": row.issuer, "sub": "alice", "groups": []any{"all", row.group}}}
		}
		v := eval.Decide(set, req)
		got := v.Rule
		if v.Reason == eval.DenyRule {
			got = "-" + got
		}
		if got != row.want || v.Allowed != (row.want != "" && row.want[0] != '-') {
			t.Errorf("%+v: got %+v", row, v)
		}
	}
}

// TestUnresolved: a grant without its role closes what it selects.
func TestUnresolved(t *testing.T) {
	const ok = `{permissions: [{operations: [{methods: [GET]}]}]}`
	inRoot := strings.Replace(object("AccessRole", "shared", ok), "namespace: shop", "namespace: root", 1)
	elsewhere := strings.Replace(object("AccessRole", "other", ok), "namespace: shop", "namespace: elsewhere", 1)
	ref := func(ref string) string {
		return object("AccessGrant", "g", "{roleRef: "+ref+", selector: {matchLabels: {app: web}}, subjects: [{namespaces: [a]}]}")
	}
	many := func(n int, s string) string { return strings.TrimSuffix(strings.Repeat(s+",", n), ",") }
	for _, row := range []struct {
		name    string
		objects []string
		root    string
		rules   int
		reason  string
	}{
		{"here", []string{object("AccessRole", "r", ok), ref("{name: r}")}, "root", 1, ""},
		{"here, said so", []string{object("AccessRole", "r", ok), ref("{name: r, namespace: shop}")}, "root", 1, ""},
		{"in the root namespace", []string{inRoot, ref("{name: shared, namespace: root}")}, "root", 1, ""},
		{"in the root namespace, not said so", []string{inRoot, ref("{name: shared}")}, "root", 0, "missing-role"},
		{"missing", []string{ref("{name: r}")}, "root", 0, "missing-role"},
		{"missing in the root namespace", []string{ref("{name: r, namespace: root}")}, "root", 0, "missing-role"},
		{"elsewhere", []string{elsewhere, ref("{name: other, namespace: elsewhere}")}, "root", 0, "foreign-role"},
		{"no root namespace", []string{inRoot, ref("{name: shared, namespace: root}")}, "", 0, "foreign-role"},
		{"very long", []string{
			object("AccessRole", "r", "{permissions: ["+many(64, "{operations: [{methods: [GET]}]}")+"]}"),
			object("AccessGrant", "g", "{roleRef: {name: r}, subjects: ["+many(256, `{requestPrincipals: ["https://idp.test/0123456789"]}`)+"]}"),
		}, "root", 0, "too-long"},
	} {
		policies, err := access.Resolve(read(t, row.objects...), row.root)
		if len(policies) != 1 || policies[0].Action != rbac.Allow || policies[0].Name != "accessgrant.g" || len(policies[0].Rules) != row.rules {
			t.Errorf("%s: %+v", row.name, policies)
		}
		got := ""
		var u *access.Unresolved
		if errors.As(err, &u) {
			got = u.Reason
			if !errors.Is(err, access.ErrUnresolved) || !strings.Contains(err.Error(), "shop/g") {
				t.Errorf("%s: %v", row.name, err)
			}
		}
		if got != row.reason {
			t.Errorf("%s: got %q (%v), want %q", row.name, got, err, row.reason)
		}
		if row.reason != "too-long" && policies[0].Selector["app"] != "web" {
			t.Errorf("%s: the selector is %v", row.name, policies[0].Selector)
		}
	}
	if policies, _ := access.Resolve(access.Objects{Roles: []access.Role{{Namespace: "a", Name: "r", Permissions: []access.Permission{{}}}}, Grants: []access.Grant{{Namespace: "a", Name: "g", RoleNamespace: "a", RoleName: "r"}}}, ""); len(policies[0].Rules) != 0 {
		t.Errorf("a grant to nobody: %+v", policies)
	}
}

// TestWire: what grants and rules become reaches the agents as it is.
func TestWire(t *testing.T) {
	o := read(t,
		object("AccessRole", "r", `{permissions: [{operations: [{methods: [GET], paths: ["/a/*"]}], when: [{key: "request.headers[x]", notValues: [a]}], expression: 'request.path == "/" + source.namespace || source.namespace == "a"'}, {operations: [{ports: ["80"]}]}]}`),
		object("AccessGrant", "g", `{roleRef: {name: r}, endUsers: {issuer: i, groupsClaim: "[a][b]"}, subjects: [{principals: ["*"], groups: [x]}, {serviceAccounts: [web], requestPrincipals: ["*"]}], expression: 'has(request.auth.presenter) && request.host != "a"'}`),
		object("AccessRule", "d", `{action: DENY, sources: [{notIpBlocks: [10.0.0.0/8], trustDomains: [td], namespaces: [a]}], expression: '`+strings.Repeat("!(", 20)+`source.namespace == "a" && request.method == "GET"`+strings.Repeat(")", 20)+`'}`),
	)
	policies, err := access.Resolve(o, "")
	if err != nil || len(policies) != 2 {
		t.Fatalf("%v %v", policies, err)
	}
	target := rbac.Target{Namespace: "shop", TrustDomain: spiffeid.RequireTrustDomainFromString("td.test")}
	for _, p := range policies {
		back, err := parse.Wire(parse.JSON(p))
		if err != nil {
			t.Fatalf("%v\n%s", err, parse.JSON(p))
		}
		if rbac.Select(back.Policies, target).Digest() != rbac.Select([]rbac.Policy{p}, target).Digest() {
			t.Errorf("got %s\nwant %s", parse.JSON(back.Policies[0]), parse.JSON(p))
		}
	}
}

func TestObjects(t *testing.T) {
	o := read(t, object("AuthorizationPolicy", "b", "{}"), object("AuthorizationPolicy", "a", "{}"), object("RequestAuthentication", "x", "{jwtRules: [{issuer: i, jwksUri: https://idp.test/keys}]}"),
		object("PeerAuthentication", "x", "{}"), role(`{operations: [{methods: [GET]}]}`), grant(`subjects: [{namespaces: [a]}]`), rule(`operations: [{methods: [GET]}]`))
	var twice access.Objects
	twice.Add(o)
	twice.Add(o)
	seen := map[string]int{}
	once := twice.Without(func(key string) bool { seen[key]++; return seen[key] > 1 })
	once.Sort()
	want := []string{
		"AuthorizationPolicy shop/a", "AuthorizationPolicy shop/accessrule.x", "AuthorizationPolicy shop/b", "RequestAuthentication shop/x",
		"PeerAuthentication shop/x", "AccessRole shop/x", "AccessGrant shop/x",
	}
	if diff := cmp.Diff(want, once.Keys()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if n := len(twice.Keys()); n != 14 {
		t.Errorf("%d keys of all", n)
	}
}

// TestExample: what we show is read, and resolved.
func TestExample(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testreq.Tree(t), "deploy", "examples", "access.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	policies, err := access.Resolve(read(t, string(data)), "")
	if err != nil || len(policies) != 2 || len(policies[0].Rules) != 2 {
		t.Errorf("%v %+v", err, policies)
	}
}
