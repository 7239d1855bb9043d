package rbactest

import (
	"maps"
	"slices"

	"github.com/istio-auth/istio-auth/rbac"
)

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
	for _, t := range smallerTargets(c.Target) {
		d := c
		d.Target = t
		list = append(list, d)
	}
	if c.Tokens {
		d := c
		d.Tokens = false
		list = append(list, d)
	}
	for _, call := range smallerCalls(c.Call) {
		d := c
		d.Call = call
		list = append(list, d)
	}
	return list
}

func smallerTargets(t rbac.Target) []rbac.Target {
	var list []rbac.Target
	add := func(change func(*rbac.Target)) {
		u := t
		change(&u)
		list = append(list, u)
	}
	for i := range t.Aliases {
		add(func(u *rbac.Target) { u.Aliases = without(t.Aliases, i) })
	}
	for i := range t.Foreign {
		add(func(u *rbac.Target) { u.Foreign = without(t.Foreign, i) })
	}
	for i := range t.Providers {
		add(func(u *rbac.Target) { u.Providers = without(t.Providers, i) })
	}
	if t.Plaintext {
		add(func(u *rbac.Target) { u.Plaintext = false })
	}
	return list
}

// smallerCalls keep the connection, which a test has open.
func smallerCalls(c Call) []Call {
	var list []Call
	add := func(change func(*Call)) {
		d := c
		change(&d)
		list = append(list, d)
	}
	if c.HTTP2 {
		add(func(d *Call) { d.HTTP2 = false })
	}
	if c.Claims != nil {
		add(func(d *Call) { d.Claims = nil })
	}
	for _, key := range slices.Sorted(maps.Keys(c.Claims)) {
		if key != "iss" {
			add(func(d *Call) {
				d.Claims = maps.Clone(c.Claims)
				delete(d.Claims, key)
			})
		}
	}
	for i := range c.Headers {
		add(func(d *Call) { d.Headers = without(c.Headers, i) })
	}
	for i := range c.Authority {
		if len(c.Authority) > 1 {
			add(func(d *Call) { d.Authority = c.Authority[:i] + c.Authority[i+1:] })
		}
	}
	for i := range c.Target {
		if i > 0 {
			add(func(d *Call) { d.Target = c.Target[:i] + c.Target[i+1:] })
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
	if p.DryRun {
		q := p
		q.DryRun = false
		list = append(list, q)
	}
	if p.IstioCompat {
		q := p
		q.IstioCompat = false
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
		for _, smaller := range smallerExpressions(*r.Expression) {
			list = append(list, rbac.Rule{From: r.From, To: r.To, When: r.When, Expression: &smaller})
		}
	}
	return list
}

// smallerExpressions lists the terms of an expression, and it with one term less
// or smaller.
func smallerExpressions(e rbac.Expression) []rbac.Expression {
	list := slices.Clone(e.Terms)
	with := func(terms []rbac.Expression) {
		list = append(list, rbac.Expression{Op: e.Op, Terms: terms})
	}
	for i, term := range e.Terms {
		if len(e.Terms) > 1 {
			with(without(e.Terms, i))
		}
		for _, smaller := range smallerExpressions(term) {
			with(replaced(e.Terms, i, smaller))
		}
	}
	if e.Op == rbac.Matches {
		for _, c := range smallerClauses(rbac.Clause{e.Test}, 1) {
			list = append(list, rbac.Expression{Op: rbac.Matches, Test: c[0]})
		}
	}
	if c := e.Comparison; e.Op == rbac.Compare && c.Trail != "" {
		c.Trail = ""
		list = append(list, rbac.Expression{Op: rbac.Compare, Comparison: c})
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
