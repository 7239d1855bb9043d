package eval_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestMonotone (THREATS 4.4), with every feature on: one DENY, AUDIT or CUSTOM
// policy more never allows more, one rule of an ALLOW policy less never allows
// more, a rule with a test more matches no more, what is not known never
// helps, and order and names change nothing.
func TestMonotone(t *testing.T) {
	g := rbactest.New(11, rbactest.Everything)
	asked := map[string]int{}
	for range 3000 {
		c := g.Case()
		c.Call = g.Call(c.Policies)
		req, err := c.Request()
		if err != nil {
			continue
		}
		decide := func(p []rbac.Policy) eval.Verdict { return eval.Decide(rbac.Select(p, c.Target), req) }
		before := decide(c.Policies)
		asked[string(before.Reason)]++
		var renamed []rbac.Policy
		for i, p := range c.Policies {
			p.Name = fmt.Sprintf("n%d", len(c.Policies)-i)
			renamed = append([]rbac.Policy{p}, renamed...)
		}
		if after := decide(renamed); after.Allowed != before.Allowed || len(after.Ask) != len(before.Ask) || (after.Audit == "") != (before.Audit == "") {
			t.Fatalf("renamed and reordered, it is decided otherwise: %v", c)
		}
		less := func(what string, policies []rbac.Policy) {
			asked[what]++
			if after := decide(policies); after.Allowed && !before.Allowed || after.Allowed && len(after.Ask) < len(before.Ask) {
				t.Fatalf("%s allows more: %v\nafter: %v", what, c, policies)
			}
		}
		for _, more := range g.Policies() {
			if more.Action != rbac.Allow {
				less("a "+more.Action.String()+" policy more", append(slices.Clip(c.Policies), more))
			}
		}
		for i, p := range c.Policies {
			for j, rule := range p.Rules {
				if p.Action != rbac.Allow {
					continue
				}
				less("a rule less", replaced(c.Policies, i, withRules(p, slices.Delete(slices.Clone(p.Rules), j, j+1))))
				rule.When = append(slices.Clip(rule.When), tests(g.Policies())...)
				less("a test more", replaced(c.Policies, i, withRules(p, replaced(p.Rules, j, rule))))
			}
		}
	}
	for what, least := range map[string]int{"allow-rule": 100, "deny-rule": 100, "no-allow-match": 100, "no-provider": 10, "a DENY policy more": 1000, "a CUSTOM policy more": 100, "a rule less": 1000, "a test more": 200} {
		if asked[what] < least {
			t.Errorf("%s: %d times, want %d at least", what, asked[what], least)
		}
	}
}

func replaced[V any](list []V, i int, v V) []V {
	list = slices.Clone(list)
	list[i] = v
	return list
}

func withRules(p rbac.Policy, rules []rbac.Rule) rbac.Policy {
	p.Rules = rules
	return p
}

// tests is one test of the policies, or none.
func tests(policies []rbac.Policy) rbac.Clause {
	for _, p := range policies {
		for _, rule := range p.Rules {
			for _, c := range slices.Concat(rule.From, rule.To, []rbac.Clause{rule.When}) {
				if len(c) > 0 {
					return c[:1]
				}
			}
		}
	}
	return nil
}
