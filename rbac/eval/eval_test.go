package eval_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// spec is a policy of shop with this name, action and rules.
func spec(name, text string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: shop}\nspec: %s\n---\n", name, text)
}

func set(t *testing.T, sources ...string) rbac.Set {
	t.Helper()
	var policies []rbac.Policy
	for _, s := range sources {
		p, err := parse.Policies("test", []byte(s))
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p...)
	}
	return rbac.Select(policies, rbactest.Target())
}

func request(id, method, path string) rbac.Request {
	r := rbac.Request{Protocol: rbac.HTTP, Method: method, Path: path}
	if id != "" {
		r.Peer.ID = spiffeid.RequireFromString(id)
	}
	return r
}

const web = "spiffe://td.test/ns/front/sa/web"

// TestDecide reads as the language does: policies, a request, what is decided by
// which rule and why.
func TestDecide(t *testing.T) {
	allowGET := spec("get", "{rules: [{to: [{operation: {methods: [GET]}}]}]}")
	denyAdmin := spec("admin", `{action: DENY, rules: [{to: [{operation: {paths: [/admin, "/admin/*"]}}]}]}`)
	for _, row := range []struct {
		name     string
		policies []string
		request  rbac.Request
		want     eval.Verdict
	}{
		{"nothing applies", nil, request(web, "GET", "/"), eval.Verdict{Allowed: true, Reason: eval.NoAllow}},
		{"spec {} allows nothing", []string{spec("a", "{}")}, request(web, "GET", "/"), eval.Verdict{Reason: eval.NoAllowMatch}},
		{"no rules allow nothing", []string{spec("a", "{rules: []}")}, request(web, "GET", "/"), eval.Verdict{Reason: eval.NoAllowMatch}},
		{"an empty rule allows all", []string{spec("a", "{rules: [{}]}")}, request(web, "GET", "/"), eval.Verdict{Allowed: true, Policy: "shop/a", Rule: "shop/a/0", Reason: eval.AllowRule}},
		{"an empty rule denies all", []string{spec("a", "{action: DENY, rules: [{}]}")}, request(web, "GET", "/"), eval.Verdict{Policy: "shop/a", Rule: "shop/a/0", Reason: eval.DenyRule}},
		{"DENY comes first", []string{allowGET, denyAdmin}, request(web, "GET", "/admin/x"), eval.Verdict{Policy: "shop/admin", Rule: "shop/admin/0", Reason: eval.DenyRule}},
		{"ALLOW comes second", []string{denyAdmin, allowGET}, request(web, "GET", "/x"), eval.Verdict{Allowed: true, Policy: "shop/get", Rule: "shop/get/0", Reason: eval.AllowRule}},
		{"ALLOW allows no more", []string{denyAdmin, allowGET}, request(web, "POST", "/x"), eval.Verdict{Reason: eval.NoAllowMatch}},
		{"DENY alone leaves the rest open", []string{denyAdmin}, request(web, "POST", "/x"), eval.Verdict{Allowed: true, Reason: eval.NoAllow}},
		{"the first rule by name is told", []string{spec("b", "{rules: [{}]}"), spec("a", "{rules: [{to: [{operation: {methods: [PUT]}}]}, {}, {}]}")}, request(web, "GET", "/"), eval.Verdict{Allowed: true, Policy: "shop/a", Rule: "shop/a/1", Reason: eval.AllowRule}},
		{"unknown", []string{allowGET}, rbac.Request{}, eval.Verdict{Reason: eval.NoProtocol}},
		{"nobody where all are allowed", []string{spec("a", "{rules: [{}]}")}, request("", "GET", "/"), eval.Verdict{Reason: eval.NoIdentity}},
		{"nobody where nothing applies", nil, request("", "GET", "/"), eval.Verdict{Reason: eval.NoIdentity}},
		{"nobody is not a notPrincipal", []string{spec("a", `{rules: [{from: [{source: {notPrincipals: ["td.test/ns/a/sa/b"]}}]}]}`)}, request("", "GET", "/"), eval.Verdict{Reason: eval.NoIdentity}},
		{"a stranger is not a notNamespace", []string{spec("a", `{rules: [{from: [{source: {notNamespaces: [b]}}]}]}`)}, request("spiffe://other.test/ns/front/sa/web", "GET", "/"), eval.Verdict{Reason: eval.NoIdentity}},
		{"our own services are no peers", nil, request("spiffe://td.test/istio-auth/manager", "GET", "/"), eval.Verdict{Reason: eval.NoIdentity}},
		{"no path", nil, request(web, "GET", ""), eval.Verdict{Reason: eval.BadPath}},
		{"a star for a path", nil, request(web, "OPTIONS", "*"), eval.Verdict{Reason: eval.BadPath}},
		{"two slashes", nil, request(web, "GET", "//"), eval.Verdict{Reason: eval.BadPath}},
		{"dots with parameters", nil, request(web, "GET", "/a/..;/admin"), eval.Verdict{Reason: eval.BadPath}},
		{"no method", nil, request(web, "", "/"), eval.Verdict{Reason: eval.NoMethod}},
		{"a method in small letters", nil, request(web, "delete", "/"), eval.Verdict{Reason: eval.NoMethod}},
	} {
		if got := eval.Decide(set(t, row.policies...), row.request); !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: got %+v, want %+v", row.name, got, row.want)
		}
	}
	if got, want := eval.Decide(rbac.Set{}, request(web, "GET", "/")), (eval.Verdict{Reason: eval.UnknownSet}); !reflect.DeepEqual(got, want) {
		t.Errorf("the zero Set: got %+v, want %+v", got, want)
	}
}

// TestFields asks one rule about one request: does it match?
func TestFields(t *testing.T) {
	const yes, maybe, no = "yes", "maybe", "no"
	rows := []struct {
		field string // of a source, or of an operation
		id    string // the peer below spiffe://td.test
		call  string // method and path
		want  string
	}{
		{`principals: ["td.test/ns/front/sa/web"]`, "/ns/front/sa/web", "GET /", yes},
		{`principals: ["td.test/ns/front/sa/web"]`, "/ns/front/sa/web2", "GET /", no},
		{`principals: ["td.test/ns/front/sa/we"]`, "/ns/front/sa/web", "GET /", no},
		{`principals: ["other.test/ns/front/sa/web"]`, "/ns/front/sa/web", "GET /", no},
		{`principals: ["td.test/ns/front/sa/a.b"]`, "/ns/front/sa/axb", "GET /", no},
		{`principals: ["tdxtest/ns/front/sa/web"]`, "/ns/front/sa/web", "GET /", no},
		{`principals: ["td.test/ns/front/*"]`, "/ns/front/sa/web", "GET /", yes},
		{`principals: ["td.test/ns/front*"]`, "/ns/frontend/sa/web", "GET /", yes},
		{`principals: ["*/sa/web"]`, "/ns/any/sa/web", "GET /", yes},
		{`principals: ["*/sa/web"]`, "/ns/any/sa/xweb", "GET /", no},
		{`principals: ["*"]`, "/ns/any/sa/x", "GET /", yes},
		{`notPrincipals: ["*"]`, "/ns/any/sa/x", "GET /", no},
		{`notPrincipals: ["*/sa/web"]`, "/ns/any/sa/web", "GET /", no},
		{`notPrincipals: ["*/sa/web"]`, "/ns/any/sa/api", "GET /", yes},
		{`principals: ["td.test/ns/a/*"], notPrincipals: ["*/sa/web"]`, "/ns/a/sa/api", "GET /", yes},
		{`principals: ["td.test/ns/a/*"], notPrincipals: ["*/sa/web"]`, "/ns/a/sa/web", "GET /", no},
		{`principals: ["td.test/ns/a/*"], notPrincipals: ["*/sa/web"]`, "/ns/b/sa/api", "GET /", no},
		{`namespaces: [a]`, "/ns/a/sa/x", "GET /", yes},
		{`namespaces: [a]`, "/ns/ab/sa/x", "GET /", no},
		{`namespaces: [a]`, "/ns/b/sa/a", "GET /", no},
		{`namespaces: ["a*"]`, "/ns/ab/sa/x", "GET /", yes},
		{`namespaces: ["*b"]`, "/ns/ab/sa/x", "GET /", yes},
		{`namespaces: ["*b"]`, "/ns/ba/sa/b", "GET /", no},
		{`namespaces: ["*s"]`, "/ns/sa/sa/x", "GET /", no},
		{`namespaces: ["*"]`, "/ns/a/sa/x", "GET /", yes},
		{`notNamespaces: [a]`, "/ns/a/sa/x", "GET /", no},
		{`notNamespaces: [a]`, "/ns/b/sa/x", "GET /", yes},
		{`notNamespaces: ["*"]`, "/ns/b/sa/x", "GET /", no},
		{`serviceAccounts: [x]`, "/ns/shop/sa/x", "GET /", yes},
		{`serviceAccounts: [x]`, "/ns/other/sa/x", "GET /", no},
		{`serviceAccounts: [other/x]`, "/ns/other/sa/x", "GET /", yes},
		{`serviceAccounts: [other/x]`, "/ns/shop/sa/x", "GET /", no},
		{`serviceAccounts: [a.b]`, "/ns/shop/sa/axb", "GET /", no},
		{`notServiceAccounts: [x]`, "/ns/shop/sa/x", "GET /", no},
		{`notServiceAccounts: [x]`, "/ns/other/sa/x", "GET /", yes},
		{`methods: [GET]`, "/ns/a/sa/x", "GET /", yes},
		{`methods: [GET]`, "/ns/a/sa/x", "HEAD /", no},
		{`methods: ["P*"]`, "/ns/a/sa/x", "PATCH /", yes},
		{`methods: ["*T"]`, "/ns/a/sa/x", "PUT /", yes},
		{`methods: ["*T"]`, "/ns/a/sa/x", "PATCH /", no},
		{`methods: ["*"]`, "/ns/a/sa/x", "PATCH /", yes},
		{`notMethods: [GET]`, "/ns/a/sa/x", "GET /", no},
		{`notMethods: [GET]`, "/ns/a/sa/x", "POST /", yes},
		{`paths: [/a]`, "/ns/a/sa/x", "GET /a", yes},
		{`paths: [/a]`, "/ns/a/sa/x", "GET /a/", maybe},
		{`paths: [/a]`, "/ns/a/sa/x", "GET /A", maybe},
		{`paths: [/a.b]`, "/ns/a/sa/x", "GET /axb", no},
		{`paths: ["/a*"]`, "/ns/a/sa/x", "GET /ab", yes},
		{`paths: ["/a/*"]`, "/ns/a/sa/x", "GET /a", no},
		{`paths: ["/a/*"]`, "/ns/a/sa/x", "GET /a/", yes},
		{`paths: ["*.png"]`, "/ns/a/sa/x", "GET /x.png", yes},
		{`paths: ["*.png"]`, "/ns/a/sa/x", "GET /xpng", no},
		{`paths: ["*"]`, "/ns/a/sa/x", "GET /", yes},
		{`notPaths: [/a]`, "/ns/a/sa/x", "GET /a", no},
		{`notPaths: [/a]`, "/ns/a/sa/x", "GET /b", yes},
		{`notPaths: ["*"]`, "/ns/a/sa/x", "GET /b", no},
		{`paths: ["/a*"], notPaths: [/ab]`, "/ns/a/sa/x", "GET /ab", no},
		{`paths: ["/a*"], notPaths: [/ab]`, "/ns/a/sa/x", "GET /ac", yes},
		{`methods: [GET], paths: [/a]`, "/ns/a/sa/x", "GET /b", no},
		{`methods: [GET], paths: [/a]`, "/ns/a/sa/x", "PUT /a", no},
		{`methods: [GET, PUT], paths: [/a, /b]`, "/ns/a/sa/x", "PUT /b", yes},
	}
	if got, want := len(rows), 61; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, row := range rows {
		where := "to: [{operation: {"
		for _, word := range []string{"rincipals", "amespaces", "ccounts"} {
			if strings.Contains(row.field, word) {
				where = "from: [{source: {"
			}
		}
		var method, path string
		if _, err := fmt.Sscan(row.call, &method, &path); err != nil {
			t.Fatal(err)
		}
		req := request("spiffe://td.test"+row.id, method, path)
		allow := set(t, spec("a", "{rules: [{"+where+row.field+"}}]}]}"))
		if got := eval.Decide(allow, req).Allowed; got != (row.want == yes) {
			t.Errorf("ALLOW %s of %s %s: allowed is %v", row.field, row.id, row.call, got)
		}
		deny := set(t, spec("a", "{action: DENY, rules: [{"+where+row.field+"}}]}]}"))
		if got := !eval.Decide(deny, req).Allowed; got != (row.want != no) {
			t.Errorf("DENY %s of %s %s: denied is %v", row.field, row.id, row.call, got)
		}
	}
}

// TestAlternatives: one of from, and one of to; all of a source.
func TestAlternatives(t *testing.T) {
	s := set(t, spec("a", `{rules: [{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b], notPrincipals: ["*/sa/x"]}}], to: [{operation: {paths: [/1]}}, {operation: {methods: [PUT]}}]}]}`))
	for _, row := range []struct {
		id, method, path string
		want             bool
	}{
		{"/ns/a/sa/x", "GET", "/1", true},
		{"/ns/a/sa/x", "PUT", "/2", true},
		{"/ns/a/sa/x", "GET", "/2", false},
		{"/ns/b/sa/x", "GET", "/1", false},
		{"/ns/b/sa/y", "GET", "/1", true},
		{"/ns/c/sa/y", "GET", "/1", false},
	} {
		if got := eval.Decide(s, request("spiffe://td.test"+row.id, row.method, row.path)).Allowed; got != row.want {
			t.Errorf("%v: allowed is %v", row, got)
		}
	}
}
