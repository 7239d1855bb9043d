package analyze

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// onTCP looks at what becomes of a rule on ports of whose bytes nobody knows the
// meaning. The first such port speaks for all.
func (r *ruleCheck) onTCP() {
	if !r.asks(rbac.Attribute.OfHTTP) {
		return
	}
	for _, w := range r.selected(r.policy.Namespace, r.policy.Selector, r.policy.Targets) {
		for _, port := range w.TCP {
			rule, ok := atPort(r.rule, port)
			if !ok {
				continue
			}
			where := fmt.Sprintf("port %d of %s/%s is TCP", port, w.Namespace, w.Name)
			switch {
			case r.policy.Action == rbac.Allow && !needsHTTP(rule):
				continue
			case r.policy.Action == rbac.Allow:
				r.say(HTTPOnTCP, Warning, r.field, where+", where nobody tells methods, paths, hosts, headers and tokens: the rule lets nobody in there")
			case r.policy.Action == rbac.Deny && r.truth(rule, true):
				r.say(DeniesEverything, Error, r.field, where+", where nobody tells methods, paths, hosts, headers and tokens: the rule denies every connection to it; name the ports that it is for")
			default:
				r.say(HTTPOnTCP, Warning, r.field, where+", where nobody tells methods, paths, hosts, headers and tokens: there the rule matches whatever the rest of it does")
			}
			return
		}
	}
}

// asks tells that the rule asks for an attribute of a sort.
func (r *ruleCheck) asks(sort func(rbac.Attribute) bool) bool {
	found := false
	r.clauses(func(_ string, clause rbac.Clause) { found = found || has(clause, sort) })
	r.rule.Expression.Attributes(func(a rbac.Attribute) { found = found || sort(a) })
	return found
}

func has(clause rbac.Clause, sort func(rbac.Attribute) bool) bool {
	return slices.ContainsFunc(clause, func(t rbac.Test) bool { return sort(t.Attribute) })
}

// atPort is the rule for one port, with no tests of it left. It is false where
// the rule is for other ports.
func atPort(rule rbac.Rule, port uint16) (rbac.Rule, bool) {
	text := strconv.Itoa(int(port))
	match := func(p rbac.Pattern) bool { return p.Match(text) }
	of := func(clause rbac.Clause) (left rbac.Clause, ok bool) {
		for _, t := range clause {
			switch {
			case t.Attribute.Kind() != rbac.DestinationPort:
				left = append(left, t)
			case len(t.In) > 0 && !slices.ContainsFunc(t.In, match), slices.ContainsFunc(t.NotIn, match):
				return nil, false
			}
		}
		return left, true
	}
	var ok bool
	if rule.When, ok = of(rule.When); !ok {
		return rule, false
	}
	var to []rbac.Clause
	for _, clause := range rule.To {
		if left, ok := of(clause); ok {
			to = append(to, left)
		}
	}
	if len(to) == 0 && len(rule.To) > 0 {
		return rule, false
	}
	rule.To = to
	return rule, true
}

// needsHTTP tells that a rule matches nothing where HTTP is not told.
func needsHTTP(rule rbac.Rule) bool {
	all := func(clauses []rbac.Clause) bool {
		return len(clauses) > 0 && !slices.ContainsFunc(clauses, func(c rbac.Clause) bool { return !has(c, rbac.Attribute.OfHTTP) })
	}
	return all(rule.From) || all(rule.To) || has(rule.When, rbac.Attribute.OfHTTP)
}

// tokens looks at what a rule asks of end users' tokens, against whose are taken.
func (r *ruleCheck) tokens() {
	if len(r.policy.Targets) > 0 || !r.asks(rbac.Attribute.OfToken) {
		return
	}
	issuers := r.issuers()
	if issuers == nil {
		field, severity := r.field, Warning
		r.clauses(func(at string, clause rbac.Clause) {
			for _, t := range clause {
				if t.Attribute.OfToken() && len(t.In) > 0 {
					field, severity = at, r.noOp()
				}
			}
		})
		r.say(NoAuthentication, severity, field, "no RequestAuthentication applies where this policy does, so that no request has a token that was verified")
		return
	}
	r.clauses(func(field string, clause rbac.Clause) {
		for i, t := range clause {
			if t.Attribute.Kind() == rbac.Claim {
				r.claims(field, i, t)
			}
			if t.Attribute.Kind() != rbac.RequestPrincipal {
				continue
			}
			for k, p := range t.In {
				if issuer, _ := p.Halves(); !slices.ContainsFunc(issuers, issuer.Match) {
					r.say(UnknownIssuer, r.noOp(), r.valueField(field, i, t, false, k), fmt.Sprintf("no RequestAuthentication that applies takes tokens of such an issuer as in %q", p))
				}
			}
		}
	})
}

// claims looks for values that read like a number or a boolean. In a token they
// mostly are one, and a claim that is no text is as one that is not there.
func (r *ruleCheck) claims(field string, i int, t rbac.Test) {
	look := func(list []rbac.Pattern, negated bool) {
		for k, p := range list {
			text := p.Text()
			digits := strings.Trim(text, "0123456789.-") == ""
			if p.Kind() == rbac.Exact && (digits || text == "true" || text == "false") {
				r.say(ClaimNotText, Warning, r.valueField(field, i, t, negated, k), fmt.Sprintf("a claim that is %s, and not the text %q, is as one that is not there", text, text))
			}
		}
	}
	look(t.In, false)
	look(t.NotIn, true)
}

// issuers are those whose tokens may be taken where the policy applies. Nil: no
// RequestAuthentication applies.
func (r *ruleCheck) issuers() []string {
	namespaces := r.reach(r.policy.Namespace)
	if r.policy.Namespace == r.RootNamespace {
		namespaces = nil
		for namespace := range r.requests {
			namespaces = append(namespaces, namespace)
		}
	}
	var issuers []string
	for _, namespace := range namespaces {
		for _, a := range r.requests[namespace] {
			if canMeet(a.Selector, r.policy.Selector) {
				for _, rule := range a.Rules {
					issuers = append(issuers, rule.Issuer)
				}
			}
		}
	}
	return issuers
}

// canMeet tells that a workload can have the labels of both.
func canMeet(a, b map[string]string) bool {
	for key, value := range a {
		if other, ok := b[key]; ok && other != value {
			return false
		}
	}
	return true
}

func (c *checker) request(a rbac.RequestAuthentication) {
	c.attachment(a.Namespace, a.Selector, a.Targets, Note)
	for i, rule := range a.Rules {
		if rule.Keys == "" && rule.KeysURI == "" {
			c.say(IssuerWithoutKeys, Warning, fmt.Sprintf("spec.jwtRules[%d]", i),
				fmt.Sprintf("there is neither jwks nor jwksUri, and keys are not discovered: every token of %q is rejected", rule.Issuer))
		}
	}
}

func (c *checker) peer(a rbac.PeerAuthentication) {
	if a.Namespace == c.RootNamespace && len(a.Selector) > 0 {
		c.say(SelectorInRoot, Warning, "spec.selector", "a PeerAuthentication of the root namespace applies to the whole mesh or, with a selector, to nothing")
		return
	}
	c.attachment(a.Namespace, a.Selector, nil, Note)
	for _, b := range c.peers[a.Namespace] {
		if a.Key() != b.Key() && sameLabels(a.Selector, b.Selector) && older(b, a) {
			c.say(Shadowed, Warning, "", fmt.Sprintf("%s is older and of the same scope, so that it is in force and this is not", b.Key()))
			return
		}
	}
}

func sameLabels(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			return false
		}
	}
	return true
}

// older tells that a is in force and b is not, where both are of one scope.
func older(a, b rbac.PeerAuthentication) bool {
	if order := a.Created.Compare(b.Created); order != 0 {
		return order < 0
	}
	return a.Compare(b) < 0
}
