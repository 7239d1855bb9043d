package prove

import (
	"hash/maphash"

	"github.com/istio-auth/istio-auth/rbac"
)

// A rule is one of a set's, and how it is read.
type rule struct {
	name    string
	rule    *rbac.Rule
	istio   bool
	lenient bool
	sum     sum // of its content
}

// rules are those of policies.
func rules(policies []rbac.Policy) []rule {
	out := make([]rule, 0, len(policies))
	for i := range policies {
		p := &policies[i]
		for j := range p.Rules {
			r := rule{name: p.RuleName(j), rule: &p.Rules[j], istio: p.IstioCompat, lenient: p.Action != rbac.Allow}
			r.sum = r.hash()
			out = append(out, r)
		}
	}
	return out
}

// lower is the rule as a formula.
func (r *rule) lower(w *lowering) *node {
	w.istio, w.lenient = r.istio, r.lenient
	return w.rule(*r.rule)
}

// hash covers all of a rule that lower looks at.
func (r *rule) hash() sum {
	var out sum
	for i := range seeds {
		var h hasher
		h.SetSeed(seeds[i])
		h.flags(r.istio, r.lenient, r.rule.Expression != nil)
		h.clauses(r.rule.From)
		h.clauses(r.rule.To)
		h.clause(r.rule.When)
		if r.rule.Expression != nil {
			h.expression(r.rule.Expression)
		}
		if n := h.Sum64(); i == 0 {
			out.a = n
		} else {
			out.b = n
		}
	}
	return out
}

// A hasher writes each list after its length.
type hasher struct{ maphash.Hash }

func (h *hasher) count(n int) { maphash.WriteComparable(&h.Hash, n) }

func (h *hasher) flags(flags ...bool) {
	n := 1
	for _, f := range flags {
		if n *= 2; f {
			n++
		}
	}
	h.count(n)
}

func (h *hasher) clauses(list []rbac.Clause) {
	h.count(len(list))
	for _, c := range list {
		h.clause(c)
	}
}

func (h *hasher) clause(c rbac.Clause) {
	h.count(len(c))
	for i := range c {
		h.test(&c[i])
	}
}

func (h *hasher) test(t *rbac.Test) {
	maphash.WriteComparable(&h.Hash, t.Attribute)
	for _, list := range [][]rbac.Pattern{t.In, t.NotIn} {
		h.count(len(list))
		for _, p := range list {
			maphash.WriteComparable(&h.Hash, p)
		}
	}
}

func (h *hasher) expression(e *rbac.Expression) {
	h.count(int(e.Op))
	h.count(len(e.Terms))
	for i := range e.Terms {
		h.expression(&e.Terms[i])
	}
	h.test(&e.Test)
	maphash.WriteComparable(&h.Hash, e.Comparison)
}
