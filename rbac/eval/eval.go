// Package eval is what a policy means.
//
// It is the reference: short, total, and plain, so that it can be read aloud to
// the author of a policy. Everything else that decides (the compiled filters,
// in real Envoys, and the index behind the libraries) is tested against it. It
// has no bar for speed. Start at [Decide].
//
// # Three answers
//
// A test has three answers: yes, no, and maybe, for what cannot be told. A rule
// of an ALLOW policy matches where the answer is yes. A rule of any other policy
// matches where it is yes or maybe. So what cannot be told never lets anybody
// in, and never keeps a DENY from refusing.
package eval

import (
	"slices"

	"github.com/istio-auth/istio-auth/rbac"
)

// Reason says why a request was decided as it was. The words are stable.
type Reason string

const (
	UnknownSet   Reason = "unknown-set"    // refused: it is not known which policies apply
	NoProtocol   Reason = "no-protocol"    // refused: neither HTTP nor TCP
	NoIdentity   Reason = "no-identity"    // refused: the peer is no workload of an accepted trust domain
	BadPath      Reason = "bad-path"       // refused: the path is not one to decide upon (rbac.PlainPath)
	NoMethod     Reason = "no-method"      // refused: the method is not one to decide upon (rbac.PlainMethod)
	NoProvider   Reason = "no-provider"    // refused: a rule of a CUSTOM policy matches, and nobody knows whom it asks
	DenyRule     Reason = "deny-rule"      // refused: a rule of a DENY policy matches
	AllowRule    Reason = "allow-rule"     // allowed: a rule of an ALLOW policy matches
	NoAllowMatch Reason = "no-allow-match" // refused: there are ALLOW policies, and none matches
	NoAllow      Reason = "no-allow"       // allowed: no ALLOW policy applies, and no DENY rule matches
)

// A Verdict is a decision and where it came from. The zero Verdict refuses.
type Verdict struct {
	Allowed bool `json:"allowed"`
	// Ask names the providers of the CUSTOM policies that match: what is allowed
	// is let in only if each of them says yes.
	Ask    []string `json:"ask,omitempty"`
	Policy string   `json:"policy,omitempty"` // "namespace/name" of the policy that decided; empty for none
	Rule   string   `json:"rule,omitempty"`   // "namespace/name/index" of the rule that decided; empty for none
	Reason Reason   `json:"reason"`
	// Audit is the rule of an AUDIT policy that matches; empty for none.
	Audit string `json:"audit,omitempty"`
}

// Decide says whether set lets req in. DENY comes before ALLOW, and the first
// rule that matches, by the policies' names, is the one that is told.
func Decide(set rbac.Set, req rbac.Request) Verdict {
	call, refused := about(set, req)
	if refused != "" {
		return Verdict{Reason: refused}
	}
	var v Verdict
	for _, p := range set.Policies(rbac.Custom) {
		policy, rule, ok := call.first([]rbac.Policy{p})
		if ok && !slices.Contains(set.Providers(), p.Provider) {
			return Verdict{Policy: policy, Rule: rule, Reason: NoProvider}
		}
		if ok && !slices.Contains(v.Ask, p.Provider) {
			v.Ask = append(v.Ask, p.Provider)
		}
	}
	_, v.Audit, _ = call.first(set.Policies(rbac.Audit))
	switch policy, rule, ok := call.first(set.Deny()); {
	case ok:
		v.Policy, v.Rule, v.Reason = policy, rule, DenyRule
		return v
	case len(set.Allow()) == 0:
		v.Allowed, v.Reason = true, NoAllow
		return v
	}
	var ok bool
	if v.Policy, v.Rule, ok = call.first(set.Allow()); ok {
		v.Allowed, v.Reason = true, AllowRule
		return v
	}
	v.Reason = NoAllowMatch
	return v
}

// about is what is known of a request, or why it is refused before any rule is
// looked at.
func about(set rbac.Set, req rbac.Request) (call, Reason) {
	c := call{Request: req, domains: set.Domains()}
	if set.IsZero() {
		return c, UnknownSet
	}
	if req.Protocol != rbac.HTTP && req.Protocol != rbac.TCP {
		return c, NoProtocol
	}
	c.names = c.domains.Names(req.Peer.ID)
	if anonymous := req.Peer.ID.IsZero() && set.Plaintext(); len(c.names) == 0 && !anonymous {
		return c, NoIdentity
	}
	if req.Protocol == rbac.HTTP && !rbac.PlainPath(req.Path) {
		return c, BadPath
	}
	if req.Protocol == rbac.HTTP && !rbac.PlainMethod(req.Method) {
		return c, NoMethod
	}
	return c, ""
}

// first finds the first rule that matches. A policy without rules has none.
func (c call) first(policies []rbac.Policy) (policy, rule string, ok bool) {
	for _, p := range policies {
		for i, r := range p.Rules {
			a := reading{c, p.IstioCompat}.rule(r)
			if a == yes || a == maybe && p.Action != rbac.Allow {
				return p.Key(), p.RuleName(i), true
			}
		}
	}
	return "", "", false
}

// An answer to a question about a request.
type answer int

const (
	no answer = iota
	maybe
	yes
)

func isTrue(b bool) answer {
	if b {
		return yes
	}
	return no
}

func not(a answer) answer { return yes - a }

// all is the least of the answers, and yes where nothing is asked.
func all[V any](list []V, ask func(V) answer) answer {
	least := yes
	for _, v := range list {
		least = min(least, ask(v))
	}
	return least
}

// some is the greatest of the answers, and no where nothing is asked.
func some[V any](list []V, ask func(V) answer) answer {
	greatest := no
	for _, v := range list {
		greatest = max(greatest, ask(v))
	}
	return greatest
}

// A reading of a call: by the letter, or as Istio reads negations.
type reading struct {
	call
	istio bool
}

func (r reading) rule(rule rbac.Rule) answer {
	a := min(r.anyOf(rule.From), r.anyOf(rule.To), r.clause(rule.When))
	if rule.Expression != nil {
		a = min(a, r.expression(*rule.Expression))
	}
	return a
}

// anyOf is one of the clauses, or nothing asked.
func (r reading) anyOf(clauses []rbac.Clause) answer {
	if len(clauses) == 0 {
		return yes
	}
	return some(clauses, r.clause)
}

func (r reading) clause(tests rbac.Clause) answer { return all(tests, r.test) }

// test: one of In, where there are any, and none of NotIn. What the request does
// not have is none of In, and whether it is none of NotIn cannot be told.
func (r reading) test(t rbac.Test) answer {
	values, known := r.values(t.Attribute)
	if !known {
		return maybe
	}
	if len(values) == 0 && !r.istio && len(t.NotIn) > 0 {
		return min(isTrue(len(t.In) == 0), maybe)
	}
	match := func(p rbac.Pattern) answer {
		return some(values, func(v value) answer { return v.matches(t.Attribute, p) })
	}
	a := not(some(t.NotIn, match))
	if len(t.In) > 0 {
		a = min(a, some(t.In, match))
	}
	return a
}

func (r reading) expression(e rbac.Expression) answer {
	switch e.Op {
	case rbac.All:
		return all(e.Terms, r.expression)
	case rbac.Any:
		return some(e.Terms, r.expression)
	case rbac.Matches:
		return r.test(e.Test)
	case rbac.Compare:
		return r.compare(e.Comparison)
	}
	return no
}

// compare: one value on the left is, begins with, or ends with, one on the
// right, between two texts. An empty one on the right begins and ends everything,
// which its author cannot have meant.
func (r reading) compare(c rbac.Comparison) answer {
	left, leftKnown := r.values(c.Left)
	right, rightKnown := r.values(c.Right)
	switch {
	case !leftKnown || !rightKnown:
		return maybe
	case (len(left) == 0 || len(right) == 0) && c.Not:
		return maybe
	}
	holds := some(left, func(l value) answer {
		return some(right, func(r value) answer {
			asIs := c.Holds(l.text, r.text)
			if r.text == "" || c.Left.Kind() == rbac.Path && asIs != c.HoldsFolded(l.text, r.text) {
				return maybe
			}
			return isTrue(asIs)
		})
	})
	if c.Not {
		return not(holds)
	}
	return holds
}
