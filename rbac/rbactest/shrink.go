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
	for i, s := range r.From {
		list = append(list, rbac.Rule{From: without(r.From, i), To: r.To})
		for _, smaller := range smallerSources(s) {
			list = append(list, rbac.Rule{From: replaced(r.From, i, smaller), To: r.To})
		}
	}
	for i, o := range r.To {
		list = append(list, rbac.Rule{From: r.From, To: without(r.To, i)})
		for _, smaller := range smallerOperations(o) {
			list = append(list, rbac.Rule{From: r.From, To: replaced(r.To, i, smaller)})
		}
	}
	return list
}

func smallerSources(s rbac.Source) []rbac.Source {
	list := fewer(s,
		func(s *rbac.Source) *[]rbac.Pattern { return &s.Principals },
		func(s *rbac.Source) *[]rbac.Pattern { return &s.NotPrincipals },
		func(s *rbac.Source) *[]rbac.Pattern { return &s.Namespaces },
		func(s *rbac.Source) *[]rbac.Pattern { return &s.NotNamespaces },
	)
	return append(list, fewer(s,
		func(s *rbac.Source) *[]rbac.ServiceAccount { return &s.ServiceAccounts },
		func(s *rbac.Source) *[]rbac.ServiceAccount { return &s.NotServiceAccounts },
	)...)
}

func smallerOperations(o rbac.Operation) []rbac.Operation {
	return fewer(o,
		func(o *rbac.Operation) *[]rbac.Pattern { return &o.Methods },
		func(o *rbac.Operation) *[]rbac.Pattern { return &o.NotMethods },
		func(o *rbac.Operation) *[]rbac.Pattern { return &o.Paths },
		func(o *rbac.Operation) *[]rbac.Pattern { return &o.NotPaths },
	)
}

// fewer lists the wholes with one value less in one of the fields. A source or
// an operation without any value cannot be written, and its rule is listed
// without it anyway.
func fewer[W, V any](whole W, fields ...func(*W) *[]V) []W {
	var list []W
	for _, field := range fields {
		values := *field(&whole)
		for i := range values {
			smaller := whole
			*field(&smaller) = without(values, i)
			if !isEmpty(smaller) {
				list = append(list, smaller)
			}
		}
	}
	return list
}

func isEmpty(whole any) bool {
	switch w := whole.(type) {
	case rbac.Source:
		return len(w.Principals)+len(w.NotPrincipals)+len(w.Namespaces)+len(w.NotNamespaces)+len(w.ServiceAccounts)+len(w.NotServiceAccounts) == 0
	case rbac.Operation:
		return len(w.Methods)+len(w.NotMethods)+len(w.Paths)+len(w.NotPaths) == 0
	}
	return false
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
