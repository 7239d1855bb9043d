package eval_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestCompared: a policy that takes the answers of Compared for its comparisons,
// each resolved as a filter must, decides as the policy does.
func TestCompared(t *testing.T) {
	g := rbactest.New(21, rbactest.Everything)
	told, missing := 0, 0
	for range 1000 {
		c := g.Case()
		set := c.Selected("")
		for range 4 {
			c.Call = g.Call(c.Policies)
			req, err := c.Request()
			if err != nil {
				continue
			}
			yes, no := eval.Compared(set, req)
			told += len(yes) + len(no)
			for _, name := range yes {
				if slices.Contains(no, name) {
					t.Fatalf("%s holds and does not", name)
				}
			}
			full := eval.Decide(set, req)
			if got := eval.Decide(resolved(c, yes, no), req); got.Allowed != full.Allowed || got.Rule != full.Rule || got.Audit != full.Audit {
				t.Fatalf("with answers %+v, without %+v\nyes %q\nno %q\n%s", got, full, yes, no, c)
			}
			// Without the answers it is narrower, and never wider.
			if got := eval.Decide(resolved(c, nil, nil), req); got.Allowed && !full.Allowed {
				t.Fatalf("without answers %+v, by eval %+v\n%s", got, full, c)
			} else if got.Allowed != full.Allowed {
				missing++
			}
		}
	}
	t.Logf("%d answers; without them %d would be refused", told, missing)
	if told == 0 || missing == 0 {
		t.Error("the mixture shows nothing")
	}
}

// resolved is c's set with constants for its comparisons: what a compiled filter
// reads out of the metadata.
func resolved(c rbactest.Case, yes, no []string) rbac.Set {
	set := c.Selected("")
	var resolve func(e rbac.Expression, allow bool) rbac.Expression
	resolve = func(e rbac.Expression, allow bool) rbac.Expression {
		if e.Op == rbac.Compare {
			name := e.Comparison.Name(set.Domains())
			holds := !slices.Contains(no, name)
			if allow {
				holds = slices.Contains(yes, name)
			}
			if holds {
				return rbac.Expression{Op: rbac.All}
			}
			return rbac.Expression{Op: rbac.Any}
		}
		terms := make([]rbac.Expression, len(e.Terms))
		for i := range e.Terms {
			terms[i] = resolve(e.Terms[i], allow)
		}
		e.Terms = terms
		return e
	}
	out := c
	out.Policies = slices.Clone(c.Policies)
	for i, p := range out.Policies {
		if p.Action == rbac.Custom && slices.Contains(set.Providers(), p.Provider) {
			continue
		}
		rules := slices.Clone(p.Rules)
		for j := range rules {
			if rules[j].Expression != nil {
				e := resolve(*rules[j].Expression, p.Action == rbac.Allow)
				rules[j].Expression = &e
			}
		}
		out.Policies[i].Rules = rules
	}
	return out.Selected("")
}

// TestComparisonName: another comparison, another name.
func TestComparisonName(t *testing.T) {
	attr := func(a rbac.Attribute, err error) rbac.Attribute {
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	attributes := []rbac.Attribute{
		rbac.Attr(rbac.Path), rbac.Attr(rbac.Principal), attr(rbac.HeaderAttr("x-a")), attr(rbac.ClaimAttr("sub")), attr(rbac.ClaimAttr("a", "b")),
		attr(rbac.ClaimAttr(`a] is "" + x`[2:])), attr(rbac.ClaimAttr(` is "`)),
	}
	target := rbactest.Target()
	domains := []rbac.Domains{{Own: target.TrustDomain}, {Own: target.TrustDomain, Foreign: target.Foreign}}
	if len(target.Foreign) == 0 {
		domains[1].Foreign = append(domains[1].Foreign, target.TrustDomain)
	}
	seen := map[string]string{}
	for _, d := range domains {
		for _, left := range attributes {
			for _, right := range attributes {
				for _, how := range []rbac.Kind{rbac.Exact, rbac.Prefix, rbac.Suffix} {
					for _, lead := range []string{"", "/", `" + `, "\xff", `\xff`} {
						for _, trail := range []string{"", "/", `" + `} {
							for _, negated := range []bool{false, true} {
								c := rbac.Comparison{Left: left, How: how, Lead: lead, Right: right, Trail: trail, Not: negated}
								is := fmt.Sprintf("%#v", c)
								if left.OfPeer() || right.OfPeer() {
									is += fmt.Sprint(d)
								}
								name := c.Name(d)
								if other, ok := seen[name]; ok && other != is {
									t.Fatalf("%s is %s and %s", name, is, other)
								}
								seen[name] = is
							}
						}
					}
				}
			}
		}
	}
}
