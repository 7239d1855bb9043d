package eval_test

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
)

// TestExpressions: terms take the least or the greatest of their answers, and
// comparisons hold one attribute against another.
func TestExpressions(t *testing.T) {
	const yes, maybe, no = "yes", "maybe", "no"
	leaf := func(text string) rbac.Expression { return rbac.Expression{Op: rbac.Matches, Test: test(t, text)} }
	y, m, n := leaf("request.method: GET"), leaf("request.headers[x-two]: v"), leaf("request.method: PUT")
	op := func(op rbac.Op, terms ...rbac.Expression) rbac.Expression {
		return rbac.Expression{Op: op, Terms: terms}
	}
	compare := func(left string, how rbac.Kind, lead, right, trail string) rbac.Expression {
		return rbac.Expression{Op: rbac.Compare, Comparison: rbac.Comparison{Left: attribute(t, left), How: how, Lead: lead, Right: attribute(t, right), Trail: trail}}
	}
	not := func(e rbac.Expression) rbac.Expression {
		e.Comparison.Not = true
		return e
	}
	const path, name, host, method = "request.path", "request.auth.claims[sub]", "request.host", "request.method"
	const groups, gone, two = "request.auth.claims[groups]", "request.auth.claims[gone]", "request.headers[x-two]"
	under := compare(path, rbac.Prefix, "/", name, "/")
	rows := []struct {
		e             rbac.Expression
		request, want string
	}{
		{op(rbac.All), "base", yes}, {op(rbac.Any), "base", no}, {op(0, y), "base", no}, {rbac.Expression{Op: 99}, "base", no}, {y, "base", yes}, {m, "base", maybe}, {n, "base", no},
		{op(rbac.All, y, y), "base", yes}, {op(rbac.All, y, m), "base", maybe}, {op(rbac.All, m, n), "base", no}, {op(rbac.All, y, n), "base", no},
		{op(rbac.Any, n, n), "base", no}, {op(rbac.Any, m, n), "base", maybe}, {op(rbac.Any, n, y), "base", yes}, {op(rbac.Any, m, y), "base", yes},
		{op(rbac.All, op(rbac.Any, n, m), y), "base", maybe}, {op(rbac.Any, op(rbac.All, m, n), y), "base", yes}, {op(rbac.Any, op(rbac.All), n), "base", yes}, {op(rbac.All, op(rbac.Any), y), "base", no},
		{under, "/u/x", yes}, {under, "/v/x", no}, {under, "/u", no}, {under, "/U/x", maybe}, {under, "/;/u/x", maybe}, {under, "no token", no}, {under, "tcp", maybe},
		{not(under), "/u/x", no}, {not(under), "/v/x", yes}, {not(under), "/U/x", maybe}, {not(under), "no token", maybe}, {not(under), "tcp", maybe},
		{compare(path, rbac.Exact, "/", name, ""), "/u", yes}, {compare(path, rbac.Exact, "/", name, ""), "/u/", no}, {compare(path, rbac.Exact, "/", name, ""), "/U", maybe}, {compare(path, rbac.Exact, "/", name, ""), "/uu", no},
		{compare(path, rbac.Suffix, "/", name, ""), "/x/u", yes}, {compare(path, rbac.Suffix, "/", name, ""), "/x/U", maybe}, {compare(path, rbac.Suffix, "", name, ""), "/xu", yes}, {compare(path, rbac.Suffix, "/", name, ""), "/xu", no},
		{compare(path, rbac.Prefix, "/", groups, "/"), "/ops/x", yes}, {compare(path, rbac.Prefix, "/", groups, "/"), "/dev/x", yes}, {compare(path, rbac.Prefix, "/", groups, "/"), "/u/x", no}, {not(compare(path, rbac.Prefix, "/", groups, "/")), "/ops/x", no}, {not(compare(path, rbac.Prefix, "/", groups, "/")), "/u/x", yes},
		{compare(host, rbac.Exact, "", "connection.sni", ""), "base", yes}, {compare(host, rbac.Exact, "x", "connection.sni", ""), "base", no}, {compare(host, rbac.Suffix, "", "connection.sni", ""), "odd host", maybe}, {compare(host, rbac.Exact, "", "connection.sni", ""), "nowhere", no}, {not(compare(host, rbac.Exact, "", "connection.sni", "")), "nowhere", maybe},
		{compare(method, rbac.Exact, "", gone, ""), "base", no}, {not(compare(method, rbac.Exact, "", gone, "")), "base", maybe}, {compare(method, rbac.Exact, "", two, ""), "base", maybe}, {not(compare(method, rbac.Exact, "", two, "")), "base", maybe}, {compare(two, rbac.Exact, "", method, ""), "base", maybe},
		{compare(method, rbac.Exact, "", method, ""), "base", yes}, {not(compare(method, rbac.Exact, "", method, "")), "base", no}, {compare(method, 0, "", method, ""), "base", no}, {compare(method, rbac.Present, "", method, ""), "base", no}, {compare(method, rbac.Prefix, "", "request.auth.claims[empty]", ""), "base", maybe}, {not(compare(method, rbac.Prefix, "", "request.auth.claims[empty]", "")), "base", maybe}, {compare(path, rbac.Prefix, "/a/", "request.auth.claims[empty]", ""), "base", maybe},
		{compare("source.namespace", rbac.Exact, "", "request.headers[x-ns]", ""), "base", yes}, {compare("source.namespace", rbac.Exact, "", "request.headers[x-ns]", ""), "plaintext", no}, {compare("source.namespace", rbac.Exact, "", "request.headers[x-ns]", ""), "foreign", no}, {compare("source.principal", rbac.Suffix, "/sa/", "request.headers[x-sa]", ""), "alias", yes},
	}
	if got, want := len(rows), 65; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	all := requests()
	for _, row := range rows {
		req, ok := all[row.request]
		if !ok {
			req = base()
			req.Path = row.request
		}
		if req.Headers != nil {
			req.Headers["x-ns"], req.Headers["x-sa"] = []string{"front"}, []string{"web"}
		}
		if got := answer(t, rbac.Rule{Expression: &row.e}, req, false); got != row.want {
			t.Errorf("%+v, %s: got %s, want %s", row.e, row.request, got, row.want)
		}
	}
}

// TestActions: CUSTOM is asked first, then DENY, then ALLOW; AUDIT only marks; a
// dry run decides in the trial alone.
func TestActions(t *testing.T) {
	policy := func(name string, action rbac.Action, when ...string) rbac.Policy {
		p := rbac.Policy{Namespace: "shop", Name: name, Action: action, Rules: []rbac.Rule{{}}}
		for _, text := range when {
			p.Rules[0].When = append(p.Rules[0].When, test(t, text))
		}
		return p
	}
	asks := func(p rbac.Policy, provider string) rbac.Policy {
		p.Provider = provider
		return p
	}
	dry := func(p rbac.Policy) rbac.Policy {
		p.DryRun = true
		return p
	}
	const get, put = "request.method: GET", "request.method: PUT"
	allow, deny, audit := policy("allow", rbac.Allow, get), policy("deny", rbac.Deny, get), policy("audit", rbac.Audit, get)
	opa, other, unknown := asks(policy("c1", rbac.Custom, get), "opa"), asks(policy("c2", rbac.Custom, get), "other"), asks(policy("c3", rbac.Custom, get), "nobody")
	rows := []struct {
		name     string
		policies []rbac.Policy
		want     string
	}{
		{"asks and lets in", []rbac.Policy{opa}, "true no-allow  [opa] "},
		{"asks two", []rbac.Policy{opa, other, allow}, "true allow-rule shop/allow/0 [opa other] "},
		{"asks one of two policies", []rbac.Policy{opa, asks(policy("c4", rbac.Custom), "opa")}, "true no-allow  [opa] "},
		{"asks and is denied", []rbac.Policy{opa, deny, allow}, "false deny-rule shop/deny/0 [opa] "},
		{"does not ask", []rbac.Policy{asks(policy("c", rbac.Custom, put), "opa"), allow}, "true allow-rule shop/allow/0 [] "},
		{"asks nobody", []rbac.Policy{unknown, allow}, "false no-provider shop/c3/0 [] "},
		{"asks nobody before it is denied", []rbac.Policy{opa, unknown, deny}, "false no-provider shop/c3/0 [] "},
		{"would ask nobody", []rbac.Policy{asks(policy("c", rbac.Custom, put), "nobody"), allow}, "true allow-rule shop/allow/0 [] "},
		{"a CUSTOM without rules asks nobody", []rbac.Policy{{Namespace: "shop", Name: "c", Action: rbac.Custom}}, "true no-allow  [] "},
		{"is marked", []rbac.Policy{audit}, "true no-allow  [] shop/audit/0"},
		{"is marked and denied", []rbac.Policy{audit, deny}, "false deny-rule shop/deny/0 [] shop/audit/0"},
		{"is marked and not allowed", []rbac.Policy{audit, policy("allow", rbac.Allow, put)}, "false no-allow-match  [] shop/audit/0"},
		{"is not marked", []rbac.Policy{policy("audit", rbac.Audit, put), allow}, "true allow-rule shop/allow/0 [] "},
		{"a dry DENY", []rbac.Policy{dry(deny), allow}, "true allow-rule shop/allow/0 [] ; trial false deny-rule shop/deny/0 [] "},
		{"a dry ALLOW", []rbac.Policy{dry(policy("a", rbac.Allow, put))}, "true no-allow  [] ; trial false no-allow-match  [] "},
		{"a dry CUSTOM", []rbac.Policy{dry(unknown)}, "true no-allow  [] ; trial false no-provider shop/c3/0 [] "},
		{"an action that is none", []rbac.Policy{policy("a", 0), policy("b", 9)}, "true no-allow  [] "},
	}
	if got, want := len(rows), 17; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	target := world()
	target.Providers = []string{"opa", "other"}
	show := func(v eval.Verdict) string {
		return fmt.Sprintf("%v %s %s %v %s", v.Allowed, v.Reason, v.Rule, v.Ask, v.Audit)
	}
	for _, row := range rows {
		set := rbac.Select(row.policies, target)
		got := show(eval.Decide(set, base()))
		if trial, ok := set.Trial(); ok {
			got += "; trial " + show(eval.Decide(trial, base()))
		}
		if got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

// TestGuards: what is refused before any rule, whatever the rules say.
func TestGuards(t *testing.T) {
	all := requests()
	for name, want := range map[string]eval.Reason{
		"base": eval.NoAllow, "alias": eval.NoAllow, "foreign": eval.NoAllow, "plaintext": eval.NoAllow, "tcp": eval.NoAllow, "odd host": eval.NoAllow, "nowhere": eval.NoAllow,
		"stranger": eval.NoIdentity, "service": eval.NoIdentity,
	} {
		if got, want := eval.Decide(rbac.Select(nil, world()), all[name]), (eval.Verdict{Allowed: want == eval.NoAllow, Reason: want}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	strict := world()
	strict.Plaintext = false
	if got := eval.Decide(rbac.Select(nil, strict), all["plaintext"]); got.Reason != eval.NoIdentity {
		t.Errorf("a peer without a certificate: got %+v", got)
	}
	tcp := all["tcp"]
	tcp.Path, tcp.Method = "//", "get"
	if got := eval.Decide(rbac.Select(nil, world()), tcp); !got.Allowed {
		t.Errorf("a connection is looked at as a request: got %+v", got)
	}
	odd := base()
	odd.Protocol = 3
	if got := eval.Decide(rbac.Select(nil, world()), odd); got.Reason != eval.NoProtocol {
		t.Errorf("a protocol that is none: got %+v", got)
	}
}
