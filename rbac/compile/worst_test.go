package compile_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// worst are policies of about 64 KiB as text, in shapes that would multiply.
func worst(t testing.TB) map[string]rbac.Policy {
	test := func(a rbac.Attribute, not bool, n int, format string) rbac.Test {
		out := rbac.Test{Attribute: a}
		for i := range n {
			p, err := rbac.ParseValue(a, fmt.Sprintf(format, i), rbactest.Namespace)
			if err != nil {
				t.Fatal(err)
			}
			if not {
				out.NotIn = append(out.NotIn, p)
			} else {
				out.In = append(out.In, p)
			}
		}
		return out
	}
	principal, path, host := rbac.Attr(rbac.Principal), rbac.Attr(rbac.Path), rbac.Attr(rbac.Host)
	env, err := rbac.HeaderAttr("x-env")
	if err != nil {
		t.Fatal(err)
	}
	product := rbac.Rule{
		From: []rbac.Clause{{test(principal, false, 600, "td.test/ns/n/sa/client-%d")}},
		To:   []rbac.Clause{{test(path, false, 600, "/svc/%d/*"), test(host, false, 600, "h%d.test")}},
		When: rbac.Clause{test(env, false, 600, "v%d")},
	}
	policies := map[string]rbac.Policy{"product": {Rules: []rbac.Rule{product}}}
	var many, sources, deep rbac.Policy
	for i := range 512 {
		many.Rules = append(many.Rules, rbac.Rule{
			From: []rbac.Clause{{test(principal, false, 3, "td.test/ns/n/sa/client-%d")}, {test(rbac.Attr(rbac.Namespace), false, 3, "n%d")}},
			To:   []rbac.Clause{{test(path, false, 3, fmt.Sprintf("/s/%d/%%d/*", i))}, {test(path, true, 3, fmt.Sprintf("/t/%d/%%d", i)), test(host, true, 2, "*.h%d")}},
		})
		sources.Rules = append(sources.Rules, rbac.Rule{When: rbac.Clause{test(path, true, 20, fmt.Sprintf("*/s/%d/%%d", i))}})
	}
	e := rbac.Expression{Op: rbac.Matches, Test: test(path, false, 1, "/x%d")}
	for i := range 24 {
		e = rbac.Expression{Op: []rbac.Op{rbac.All, rbac.Any}[i%2], Terms: []rbac.Expression{e, {Op: rbac.Matches, Test: test(path, i%3 == 0, 2, fmt.Sprintf("/%d/%%d*", i))}}}
	}
	deep.Rules = []rbac.Rule{{Expression: &e}}
	policies["many rules"], policies["many negations"], policies["deep"] = many, sources, deep
	return policies
}

// TestWorstShapes: no policy that the language takes grows, or takes time, beyond
// bounds; and ones that differ in it decide as eval does (TestMeaning).
func TestWorstShapes(t *testing.T) {
	for name, p := range worst(t) {
		for _, action := range []rbac.Action{rbac.Allow, rbac.Deny} {
			p.Namespace, p.Name, p.Action = rbactest.Namespace, "worst", action
			set := rbac.Select([]rbac.Policy{p}, rbactest.Target())
			linear, err := compile.Linear(set)
			if err != nil {
				t.Fatal(err)
			}
			var c compile.Compiler
			began := time.Now()
			packed, err := c.HTTP(set)
			took := time.Since(began)
			wellFormed(t, packed, err)
			t.Logf("%s, %v: %d bytes, linear %d, %v, %+v", name, action, len(packed.Value), len(linear.Value), took, c.Report())
			if len(packed.Value) > 8*len(linear.Value) || took > 2*time.Second {
				t.Errorf("%s, %v: grows to %d bytes, from %d, in %v", name, action, len(packed.Value), len(linear.Value), took)
			}
		}
	}
}
