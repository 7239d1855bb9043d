package eval_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestExplain reads as an author is told.
func TestExplain(t *testing.T) {
	clause := func(texts ...string) (c rbac.Clause) {
		for _, text := range texts {
			c = append(c, test(t, text))
		}
		return c
	}
	policy := func(name string, action rbac.Action, rules ...rbac.Rule) rbac.Policy {
		return rbac.Policy{Namespace: "shop", Name: name, Action: action, Rules: rules}
	}
	web, api := clause("source.principal: td.test/ns/front/sa/web"), clause("source.principal: td.test/ns/front/sa/api")
	read, write := clause("request.method: GET | HEAD", "request.path: /a/*"), clause("request.method: PUT | POST", "request.path: /c/*")
	user := rbac.Expression{Op: rbac.All, Terms: []rbac.Expression{
		{Op: rbac.Matches, Test: test(t, "request.auth.claims[groups]: admins")},
		{Op: rbac.Compare, Comparison: rbac.Comparison{Left: attribute(t, "request.path"), How: rbac.Prefix, Lead: "/", Right: attribute(t, "request.auth.claims[sub]"), Trail: "/"}},
	}}
	rows := []struct {
		name, request string
		policies      []rbac.Policy
		want          string
	}{
		{"allowed by a rule", "base", []rbac.Policy{policy("p", rbac.Allow, rbac.Rule{From: []rbac.Clause{api, web}, To: []rbac.Clause{read}})},
			`allowed: allow-rule, rule shop/p/0
  since source.principal is ["td.test/ns/front/sa/web" "cluster.local/ns/front/sa/web"]; wanted ["td.test/ns/front/sa/web"]
  since request.method is ["GET"]; wanted ["GET"]
  since request.path is ["/a/b"]; wanted ["/a/*"]`},
		{"allowed by nothing", "base", nil, `allowed: no-allow`},
		{"the nearest rule", "/c", []rbac.Policy{
			policy("p", rbac.Allow, rbac.Rule{From: []rbac.Clause{api}, To: []rbac.Clause{write}}, rbac.Rule{From: []rbac.Clause{web}, To: []rbac.Clause{write, read}}, rbac.Rule{From: []rbac.Clause{web}, To: []rbac.Clause{read}}),
		}, `denied: no-allow-match
  nearest is rule shop/p/1
  but request.path is ["/c"]; wanted ["/a/*"]`},
		{"what is absent", "plaintext", []rbac.Policy{policy("p", rbac.Allow, rbac.Rule{From: []rbac.Clause{web}})},
			`denied: no-allow-match
  nearest is rule shop/p/0
  but source.principal is absent; wanted ["td.test/ns/front/sa/web"]`},
		{"what is not wanted", "base", []rbac.Policy{policy("p", rbac.Allow, rbac.Rule{When: clause("request.method: *; not: G* | PUT")})},
			`denied: no-allow-match
  nearest is rule shop/p/0
  but request.method is ["GET"]; wanted ["*"]; not wanted ["G*"]`},
		{"ALLOW policies without rules", "base", []rbac.Policy{policy("p", rbac.Allow)}, `denied: no-allow-match`},
		{"an ambiguous path is denied", "/A/b", []rbac.Policy{policy("p", rbac.Deny, rbac.Rule{To: []rbac.Clause{clause("request.path: /x | /a/b", "request.method: GET")}})},
			`denied: deny-rule, rule shop/p/0
  since request.path is ["/A/b"], which cannot be told for certain; wanted ["/a/b"]
  since request.method is ["GET"]; wanted ["GET"]`},
		{"an ambiguous path is not allowed", "/A/b", []rbac.Policy{policy("p", rbac.Allow, rbac.Rule{To: []rbac.Clause{clause("request.path: /a/b", "request.method: GET")}})},
			`denied: no-allow-match
  nearest is rule shop/p/0
  but request.path is ["/A/b"], which cannot be told for certain; wanted ["/a/b"]`},
		{"a header with two lines", "base", []rbac.Policy{policy("p", rbac.Allow, rbac.Rule{When: clause("request.headers[x-two]: v", "request.headers[x-none]: not: v")})},
			`denied: no-allow-match
  nearest is rule shop/p/0
  but request.headers[x-two] is ["v" "w"], which cannot be told for certain; wanted ["v"]
  but request.headers[x-none] is absent, which cannot be told for certain; not wanted ["v"]`},
		{"a host that is odd", "odd host", []rbac.Policy{policy("p", rbac.Deny, rbac.Rule{When: clause("request.host: x")})},
			`denied: deny-rule, rule shop/p/0
  since request.host is ["u@shop.example"], which cannot be told for certain; wanted ["x"]`},
		{"an expression", "base", []rbac.Policy{policy("p", rbac.Allow, rbac.Rule{Expression: &user})},
			`denied: no-allow-match
  nearest is rule shop/p/0
  but request.auth.claims[groups] is ["dev" "ops"]; wanted ["admins"]
  but request.path is ["/a/b"]; wanted ["\"/\" and request.auth.claims[sub] and \"/\""]`},
		{"an expression of none", "base", []rbac.Policy{policy("p", rbac.Allow, rbac.Rule{Expression: &rbac.Expression{Op: rbac.Any}})},
			`denied: no-allow-match
  nearest is rule shop/p/0
  but nothing is absent`},
		{"one of two", "base", []rbac.Policy{policy("p", rbac.Allow, rbac.Rule{Expression: &rbac.Expression{Op: rbac.Any, Terms: []rbac.Expression{user, user.Terms[0]}}})},
			`denied: no-allow-match
  nearest is rule shop/p/0
  but request.auth.claims[groups] is ["dev" "ops"]; wanted ["admins"]`},
		{"who is nobody", "stranger", []rbac.Policy{policy("p", rbac.Allow, rbac.Rule{})}, `denied: no-identity`},
		{"a token's pair, marked and asked", "base", []rbac.Policy{
			policy("p", rbac.Allow, rbac.Rule{When: clause("request.auth.principal: */u")}), policy("a", rbac.Audit, rbac.Rule{}),
			{Namespace: "shop", Name: "c", Action: rbac.Custom, Provider: "opa", Rules: []rbac.Rule{{}}},
		}, `allowed: allow-rule, rule shop/p/0, if opa says yes
  since request.auth.principal is ["https://i.example/u"]; wanted ["*/u"]
  marked by rule shop/a/0`},
		{"nobody to ask", "base", []rbac.Policy{{Namespace: "shop", Name: "c", Action: rbac.Custom, Provider: "x", Rules: []rbac.Rule{{To: []rbac.Clause{read}}}}},
			`denied: no-provider, rule shop/c/0
  since request.method is ["GET"]; wanted ["GET"]
  since request.path is ["/a/b"]; wanted ["/a/*"]`},
	}
	if got, want := len(rows), 16; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	all := requests()
	for _, row := range rows {
		if got := eval.Explain(rbac.Select(row.policies, world()), all[row.request]).String(); got != row.want {
			t.Errorf("%s: got\n%s\nwant\n%s", row.name, got, row.want)
		}
	}
}

// TestExplainAgrees: the verdict is Decide's, a decision by a rule names why, a
// rule that lets in is certain of it, and a denial by ALLOW rules names what is
// missing.
func TestExplainAgrees(t *testing.T) {
	g := rbactest.New(12, rbactest.Everything)
	seen := map[eval.Reason]int{}
	for range 3000 {
		c := g.Case()
		c.Call = g.Call(c.Policies)
		req, err := c.Request()
		if err != nil {
			continue
		}
		set := c.Selected("{}")
		e := eval.Explain(set, req)
		seen[e.Reason]++
		if want := eval.Decide(set, req); !reflect.DeepEqual(e.Verdict, want) {
			t.Fatalf("got %+v, want %+v: %v", e.Verdict, want, c)
		}
		for _, f := range e.Because {
			if e.Reason == eval.AllowRule && f.Uncertain {
				t.Fatalf("lets in by %s: %v", f, c)
			}
		}
		rules := 0
		for _, p := range set.Allow() {
			rules += len(p.Rules)
		}
		if near := e.Reason == eval.NoAllowMatch && rules > 0; near != (e.Nearest != "") || near != (len(e.Missing) > 0) {
			t.Fatalf("%s: %v", e, c)
		}
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var back eval.Explanation
		if err := json.Unmarshal(data, &back); err != nil || back.String() != e.String() {
			t.Fatalf("%s becomes %s, %v", e, back, err)
		}
		if strings.Contains(e.String(), "%!") {
			t.Fatalf("%s", e)
		}
	}
	for _, reason := range []eval.Reason{eval.AllowRule, eval.DenyRule, eval.NoAllowMatch, eval.NoProvider, eval.NoIdentity, eval.BadPath} {
		if seen[reason] < 10 {
			t.Errorf("%s: %d times", reason, seen[reason])
		}
	}
}
