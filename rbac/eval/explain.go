package eval

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// An Explanation is a verdict, and what it came from. Which of the lists are
// filled depends on the verdict's reason.
type Explanation struct {
	Verdict
	// Because are the tests of the rule that decided, each with what satisfied
	// it. Those that are Uncertain could not be told, and a rule that refuses
	// takes them for satisfied.
	Because []Finding `json:"because,omitempty"`
	// Nearest is, where no ALLOW rule matches, the one with the fewest tests that
	// keep it from matching; of several, the first by name. Empty: there is none.
	Nearest string `json:"nearest,omitempty"`
	// Missing are those tests. Of alternatives it has those of the nearest.
	Missing []Finding `json:"missing,omitempty"`
}

// A Finding is one test, or one comparison, and what the request has for it.
type Finding struct {
	Attribute string   `json:"attribute"`        // as of [rbac.Attribute.String]
	Wanted    []string `json:"wanted,omitempty"` // the patterns of which one had to match; where one did, that one
	Unwanted  []string `json:"unwanted,omitempty"`
	// Has is what the request has; nothing where it does not have the attribute.
	Has []string `json:"has,omitempty"`
	// Uncertain says that it cannot be told: the attribute has several values or
	// none that can be decided upon, or applications read it in different ways.
	Uncertain bool `json:"uncertain,omitempty"`
}

// Explain decides as [Decide] does, and says why.
func Explain(set rbac.Set, req rbac.Request) Explanation {
	e := Explanation{Verdict: Decide(set, req)}
	c, refused := about(set, req)
	if refused != "" {
		return e
	}
	for action := rbac.Allow; action <= rbac.Custom; action++ {
		for _, p := range set.Policies(action) {
			for i, rule := range p.Rules {
				if e.Rule != "" && p.RuleName(i) == e.Rule {
					e.Because = reading{c, p.IstioCompat}.findings(rule, false)
				}
				if action != rbac.Allow || e.Reason != NoAllowMatch {
					continue
				}
				missing := reading{c, p.IstioCompat}.findings(rule, true)
				if e.Nearest == "" || len(missing) < len(e.Missing) {
					e.Nearest, e.Missing = p.RuleName(i), missing
				}
			}
		}
	}
	return e
}

// String says it in a few lines.
func (e Explanation) String() string {
	var out strings.Builder
	word := map[bool]string{true: "allowed", false: "denied"}[e.Allowed]
	fmt.Fprintf(&out, "%s: %s", word, e.Reason)
	if e.Rule != "" {
		fmt.Fprintf(&out, ", rule %s", e.Rule)
	}
	if len(e.Ask) > 0 {
		fmt.Fprintf(&out, ", if %s says yes", strings.Join(e.Ask, " and "))
	}
	for _, f := range e.Because {
		fmt.Fprintf(&out, "\n  since %s", f)
	}
	if e.Nearest != "" {
		fmt.Fprintf(&out, "\n  nearest is rule %s", e.Nearest)
	}
	for _, f := range e.Missing {
		fmt.Fprintf(&out, "\n  but %s", f)
	}
	if e.Audit != "" {
		fmt.Fprintf(&out, "\n  marked by rule %s", e.Audit)
	}
	return out.String()
}

// String says what the request has and what was asked for.
func (f Finding) String() string {
	has := "is absent"
	if len(f.Has) > 0 {
		has = fmt.Sprintf("is %q", f.Has)
	}
	if f.Uncertain {
		has += ", which cannot be told for certain"
	}
	text := f.Attribute + " " + has
	if len(f.Wanted) > 0 {
		text += fmt.Sprintf("; wanted %q", f.Wanted)
	}
	if len(f.Unwanted) > 0 {
		text += fmt.Sprintf("; not wanted %q", f.Unwanted)
	}
	return text
}

// findings are those of a rule's tests: all that hold or may hold, or, where
// failing is set, all that are not certain. Of alternatives they are those of the
// one that is satisfied best, and among equals has the fewest that fail.
func (r reading) findings(rule rbac.Rule, failing bool) []Finding {
	out := slices.Concat(r.best(rule.From, failing), r.best(rule.To, failing), r.ofClause(rule.When, failing))
	if rule.Expression != nil {
		out = append(out, r.ofExpression(*rule.Expression, failing)...)
	}
	return out
}

func (r reading) best(clauses []rbac.Clause, failing bool) []Finding {
	if len(clauses) == 0 {
		return nil
	}
	return r.ofClause(slices.MinFunc(clauses, func(a, b rbac.Clause) int {
		return cmp.Or(cmp.Compare(r.clause(b), r.clause(a)), cmp.Compare(len(r.ofClause(a, true)), len(r.ofClause(b, true))))
	}), failing)
}

func (r reading) ofClause(tests rbac.Clause, failing bool) (out []Finding) {
	for _, t := range tests {
		if a := r.test(t); (a == yes) != failing || a == maybe {
			out = append(out, r.finding(t, a))
		}
	}
	return out
}

// ofExpression goes down to the tests that decide it.
func (r reading) ofExpression(e rbac.Expression, failing bool) (out []Finding) {
	a := r.expression(e)
	switch {
	case failing && a == yes:
		return nil
	case e.Op == rbac.All:
		for _, term := range e.Terms {
			out = append(out, r.ofExpression(term, failing)...)
		}
		return out
	case e.Op == rbac.Any && len(e.Terms) > 0:
		return r.ofExpression(slices.MinFunc(e.Terms, func(s, t rbac.Expression) int {
			return cmp.Or(cmp.Compare(r.expression(t), r.expression(s)), cmp.Compare(len(r.ofExpression(s, true)), len(r.ofExpression(t, true))))
		}), failing)
	case e.Op == rbac.Matches:
		return []Finding{r.finding(e.Test, a)}
	case e.Op == rbac.Compare:
		c := e.Comparison
		text := fmt.Sprintf("%q and %s and %q", c.Lead, c.Right, c.Trail)
		f := Finding{Attribute: c.Left.String(), Has: r.has(c.Left), Uncertain: a == maybe}
		if f.Wanted = []string{text}; c.Not {
			f.Wanted, f.Unwanted = nil, []string{text}
		}
		return []Finding{f}
	}
	return []Finding{{Attribute: "nothing"}} // of no terms, or no operation: it never holds
}

func (r reading) finding(t rbac.Test, a answer) Finding {
	f := Finding{Attribute: t.Attribute.String(), Has: r.has(t.Attribute), Uncertain: a == maybe}
	values, _ := r.values(t.Attribute)
	matched := func(patterns []rbac.Pattern) (all, some []string) {
		for _, p := range patterns {
			all = append(all, p.String())
			if slices.ContainsFunc(values, func(v value) bool { return v.matches(t.Attribute, p) != no }) {
				some = append(some, p.String())
			}
		}
		return all, some
	}
	all, some := matched(t.In)
	if f.Wanted = all; len(some) > 0 {
		f.Wanted = some
	}
	all, some = matched(t.NotIn)
	if f.Unwanted = all; len(some) > 0 {
		f.Unwanted = some
	}
	return f
}

// has is what the request has of an attribute, also where it cannot be decided
// upon. Of a token's claims it is what policy reads of them.
func (r reading) has(a rbac.Attribute) (out []string) {
	values, known := r.values(a)
	switch {
	case !known && a.Kind() == rbac.Header:
		return r.Headers[a.HeaderName()]
	case !known && a.Kind() == rbac.Host && r.Host != "":
		return []string{r.Host}
	}
	for _, v := range values {
		if text := v.text; v.second != "" {
			out = append(out, text+"/"+v.second)
		} else {
			out = append(out, text)
		}
	}
	return out
}
