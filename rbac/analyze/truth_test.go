package analyze_test

import (
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/analyze"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestTruth holds the two findings that speak of every request to rbac/eval: what
// never matches never does, and what denies everything always does, for calls
// that are near to what the policy says.
func TestTruth(t *testing.T) {
	// Comparisons are taken as a filter takes them, which is not as eval does.
	g := rbactest.New(11, rbactest.Everything&^rbactest.Comparisons&^rbactest.DryRuns)
	never, everything := 0, 0
	for range 6000 {
		c := g.Case()
		for _, p := range c.Policies {
			if len(p.Rules) == 0 || p.Action != rbac.Allow && p.Action != rbac.Deny {
				continue
			}
			p.Namespace, p.Selector, p.Rules = rbactest.Namespace, nil, []rbac.Rule{alone(p.Rules[0])}
			c.Policies = []rbac.Policy{p}
			codes := map[analyze.Code]bool{}
			for _, f := range analyze.Check(parse.Objects{Policies: c.Policies}, analyze.Mesh{
				TrustDomain: c.Target.TrustDomain, Aliases: c.Target.Aliases, Foreign: c.Target.Foreign, Plaintext: c.Target.Plaintext,
			}) {
				codes[f.Code] = true
			}
			if !codes[analyze.NeverMatches] && !codes[analyze.DeniesEverything] {
				continue
			}
			set := c.Selected("")
			for range 12 {
				c.Call = g.Call(c.Policies)
				req, err := c.Request()
				if err != nil || req.Protocol != rbac.HTTP {
					continue
				}
				v := eval.Decide(set, req)
				switch {
				case codes[analyze.NeverMatches] && (p.Action == rbac.Allow || tellable(p.Rules[0])):
					never++
					if v.Reason == eval.AllowRule || v.Reason == eval.DenyRule {
						t.Fatalf("it was said that this never matches: %+v\n%s", v, c)
					}
				case codes[analyze.DeniesEverything]:
					everything++
					if v.Allowed {
						t.Fatalf("it was said that this denies everything: %+v\n%s", v, c)
					}
				}
			}
		}
	}
	t.Logf("%d calls of what never matches, %d of what denies everything", never, everything)
	if never < 2000 || everything < 500 {
		t.Errorf("%d calls of what never matches, %d of what denies everything: too few to tell", never, everything)
	}
}

// alone is a rule of one alternative, so that what is said of a clause is said of
// the rule.
func alone(r rbac.Rule) rbac.Rule {
	r.From, r.To = r.From[:min(1, len(r.From))], r.To[:min(1, len(r.To))]
	return r
}

// tellable tells that an HTTP request always tells what a rule asks for.
func tellable(r rbac.Rule) bool {
	for _, clauses := range [][]rbac.Clause{r.From, r.To, {r.When}} {
		for _, clause := range clauses {
			for _, test := range clause {
				switch test.Attribute.Kind() {
				case rbac.Header, rbac.Host, rbac.Path:
					return false
				}
			}
		}
	}
	return true
}

// TestCost: a large mesh is looked at in a time that grows with it.
func TestCost(t *testing.T) {
	all := parse.Objects{Policies: rbactest.Policies(10000, 1)}
	m := mesh()
	if found := analyze.Check(all, m); len(found) != 0 {
		t.Errorf("%d findings", len(found))
	}
	m.Around = all
	deny := parse.Objects{}
	for range 200 {
		deny.Policies = append(deny.Policies, read(t, one("DENY", `paths: [/admin]`)).Policies...)
	}
	for i := range deny.Policies {
		deny.Policies[i].Name = strings.Repeat("a", i+1)
	}
	if found := analyze.Check(deny, m); len(found) != 0 {
		t.Errorf("%d findings behind 10,000 fences", len(found))
	}
}
