// Package index decides as rbac/eval does, fast.
//
// It is for programs that decide for themselves, a request at a time: a set is
// indexed once, and then asked. [Index.Decide] gives the very verdict of
// eval.Decide, which judges it; here there is nothing to be read about what a
// policy means. It is no help where a verdict must be explained.
//
// # How
//
// A rule that matches has a condition that is satisfied: that the peer is one of
// three, say. Of each rule's conditions that can be looked up in a table, the
// one that fewest rules share is, under a hash of each of its values. A request
// is looked up by what it has, and the rules that are found, and those that have
// no such condition, are asked one by one, in the order of their names. So the
// cost is that of the rules that share the request's rarest traits. Where very
// many rules share all their traits, it grows with their number.
//
// Nothing is allocated, but for a path or a host that is not written as it
// folds, for expressions that compare attributes, and where two providers must
// be asked.
package index

import (
	"slices"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
)

// An Index is a set, made ready to be asked by many at once. The zero Index, and
// the one of the zero Set, refuses everything.
type Index struct {
	set     rbac.Set
	allows  bool // there are ALLOW policies, with rules or without
	deny    *table
	allow   *table
	audit   *table
	nobody  *table // CUSTOM policies whose provider nobody knows
	customs []custom
}

// custom are the CUSTOM policies of one provider.
type custom struct {
	ask []string // the provider alone
	*table
}

// New indexes a set. It takes about ten microseconds a rule, and fifty for one
// with many values.
func New(set rbac.Set) *Index {
	x := &Index{set: set, allows: len(set.Allow()) > 0}
	b := &builder{domains: set.Domains(), attributes: map[rbac.Attribute]*attribute{}}
	x.deny, x.allow, x.audit = b.table(set.Deny()), b.table(set.Allow()), b.table(set.Policies(rbac.Audit))
	var unknown []rbac.Policy
	byProvider := map[string][]rbac.Policy{}
	order := map[string]int{} // of policies, among all of them
	for i, p := range set.Policies(rbac.Custom) {
		if slices.Contains(set.Providers(), p.Provider) {
			byProvider[p.Provider] = append(byProvider[p.Provider], p)
		} else {
			unknown = append(unknown, p)
		}
		order[p.Key()] = i
	}
	x.nobody = b.table(unknown)
	for _, provider := range set.Providers() {
		if policies := byProvider[provider]; len(policies) > 0 {
			t := b.table(policies)
			for i := range t.rules {
				t.rules[i].order = order[t.rules[i].policy]
			}
			x.customs = append(x.customs, custom{[]string{provider}, t})
		}
	}
	return x
}

// Set is what was indexed.
func (x *Index) Set() rbac.Set { return x.set }

// Decide says whether the set lets req in: what eval.Decide says.
func (x *Index) Decide(req rbac.Request) eval.Verdict {
	c := call{Request: req, domains: x.set.Domains()}
	if reason := c.begin(x.set.Plaintext()); reason != "" {
		return eval.Verdict{Reason: reason}
	}
	if r := x.nobody.first(&c); r != nil {
		return eval.Verdict{Policy: r.policy, Rule: r.name, Reason: eval.NoProvider}
	}
	var v eval.Verdict
	if len(x.customs) > 0 {
		v.Ask = x.ask(&c)
	}
	if r := x.audit.first(&c); r != nil {
		v.Audit = r.name
	}
	if r := x.deny.first(&c); r != nil {
		v.Policy, v.Rule, v.Reason = r.policy, r.name, eval.DenyRule
		return v
	}
	if !x.allows {
		v.Allowed, v.Reason = true, eval.NoAllow
		return v
	}
	v.Reason = eval.NoAllowMatch
	if r := x.allow.first(&c); r != nil {
		v.Allowed, v.Policy, v.Rule, v.Reason = true, r.policy, r.name, eval.AllowRule
	}
	return v
}

// ask lists the providers in the order of the first policies that match.
func (x *Index) ask(c *call) []string {
	var list []string
	var orders []int
	for _, custom := range x.customs {
		r := custom.first(c)
		switch {
		case r == nil:
		case list == nil:
			list, orders = custom.ask, []int{r.order}
		default:
			at, _ := slices.BinarySearch(orders, r.order)
			list, orders = slices.Insert(slices.Clone(list), at, custom.ask[0]), slices.Insert(orders, at, r.order)
		}
	}
	return list
}
