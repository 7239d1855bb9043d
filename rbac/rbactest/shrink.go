package rbactest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// A Case is one question: do these policies let this peer's call in?
type Case struct {
	Set      int // the caller's number for the policies
	Policies []rbac.Policy
	Peer     spiffeid.ID
	Call     Call
}

// String is the case as one can run it again: each policy's canonical source,
// and the call.
func (c Case) String() string {
	var s strings.Builder
	for _, p := range c.Policies {
		fmt.Fprintf(&s, "%s\n", parse.JSON(p))
	}
	fmt.Fprintf(&s, "peer %s: %s %q", c.Peer, c.Call.Method, c.Call.Target)
	return s.String()
}

// Shrink makes a case smaller as long as it goes on failing. failing gets all
// cases that are one step smaller, and returns the index of one that fails, or
// -1. The result fails as first does, and nothing that is one step smaller does.
func Shrink(first Case, failing func([]Case) int) Case {
	for {
		next := smaller(first)
		if len(next) == 0 {
			return first
		}
		i := failing(next)
		if i < 0 {
			return first
		}
		first = next[i]
	}
}

// smaller lists the cases with one thing less: large things first.
func smaller(c Case) []Case {
	var list []Case
	for i := range c.Policies {
		list = append(list, c.with(without(c.Policies, i)))
	}
	for i, p := range c.Policies {
		for _, q := range smallerPolicies(p) {
			list = append(list, c.with(replaced(c.Policies, i, q)))
		}
	}
	for i := range c.Call.Target {
		if i > 0 {
			d := c
			d.Call.Target = c.Call.Target[:i] + c.Call.Target[i+1:]
			list = append(list, d)
		}
	}
	return list
}

func (c Case) with(policies []rbac.Policy) Case {
	c.Policies = policies
	return c
}

func smallerPolicies(p rbac.Policy) []rbac.Policy {
	var list []rbac.Policy
	add := func(rules []rbac.Rule) {
		q := p
		q.Rules = rules
		list = append(list, q)
	}
	if len(p.Selector) > 0 {
		q := p
		q.Selector = nil
		list = append(list, q)
	}
	for i, rule := range p.Rules {
		if len(p.Rules) > 1 || p.Action == rbac.Allow {
			add(without(p.Rules, i))
		}
		for _, r := range smallerRules(rule) {
			add(replaced(p.Rules, i, r))
		}
	}
	return list
}

func smallerRules(r rbac.Rule) []rbac.Rule {
	var list []rbac.Rule
	for i, clause := range r.From {
		list = append(list, rbac.Rule{From: without(r.From, i), To: r.To, When: r.When, Expression: r.Expression})
		for _, smaller := range smallerClauses(clause, 1) {
			list = append(list, rbac.Rule{From: replaced(r.From, i, smaller), To: r.To, When: r.When, Expression: r.Expression})
		}
	}
	for i, clause := range r.To {
		list = append(list, rbac.Rule{From: r.From, To: without(r.To, i), When: r.When, Expression: r.Expression})
		for _, smaller := range smallerClauses(clause, 1) {
			list = append(list, rbac.Rule{From: r.From, To: replaced(r.To, i, smaller), When: r.When, Expression: r.Expression})
		}
	}
	for _, smaller := range smallerClauses(r.When, 0) {
		list = append(list, rbac.Rule{From: r.From, To: r.To, When: smaller, Expression: r.Expression})
	}
	if r.Expression != nil {
		list = append(list, rbac.Rule{From: r.From, To: r.To, When: r.When})
	}
	return list
}

// smallerClauses lists the clauses with one value, or one test, less, which have
// least tests at the least: an empty source or operation cannot be written, and
// its rule is listed without it anyway.
func smallerClauses(c rbac.Clause, least int) []rbac.Clause {
	var list []rbac.Clause
	for i, test := range c {
		if len(c) > least {
			list = append(list, without(c, i))
		}
		for j := range test.In {
			if len(test.In)+len(test.NotIn) > 1 {
				list = append(list, replaced(c, i, rbac.Test{Attribute: test.Attribute, In: without(test.In, j), NotIn: test.NotIn}))
			}
		}
		for j := range test.NotIn {
			if len(test.In)+len(test.NotIn) > 1 {
				list = append(list, replaced(c, i, rbac.Test{Attribute: test.Attribute, In: test.In, NotIn: without(test.NotIn, j)}))
			}
		}
	}
	return list
}

// without returns a copy; of the last value it leaves nil.
func without[V any](list []V, i int) []V {
	if len(list) == 1 {
		return nil
	}
	return slices.Delete(slices.Clone(list), i, i+1)
}

func replaced[V any](list []V, i int, v V) []V {
	list = slices.Clone(list)
	list[i] = v
	return list
}
