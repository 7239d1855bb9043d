package analyze

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/istio-auth/istio-auth/rbac"
)

// policy looks at a whole policy, and at each of its rules.
func (c *checker) policy(p rbac.Policy) {
	c.attachment(p.Namespace, p.Selector, p.Targets, Warning)
	if p.DryRun {
		c.say(DryRun, Note, "metadata.annotations.istio.io/dry-run", "what it would do is counted and logged, and nothing is refused or allowed by it")
	}
	if p.IstioCompat {
		c.say(CompatIstio, Warning, "metadata.annotations.istio-auth.io/compat",
			"what a request does not have satisfies every negation, and namespaces and service accounts are those of any accepted trust domain")
	}
	if p.Action == rbac.Custom && !slices.Contains(c.Providers, p.Provider) {
		c.say(UnknownProvider, Error, "spec.provider.name", fmt.Sprintf("nobody knows a provider %q, so what the policy matches is refused", p.Provider))
	}
	for i, rule := range p.Rules {
		r := ruleCheck{checker: c, policy: p, rule: rule, field: "spec.rules[" + strconv.Itoa(i) + "]"}
		r.domains()
		r.contradictions()
		if !r.everything() {
			r.onTCP()
		}
		r.tokens()
		r.expression(rule.Expression)
	}
	c.paths(p)
}

// attachment looks at whom an object is for.
func (c *checker) attachment(namespace string, selector map[string]string, targets []rbac.TargetRef, wide Severity) {
	switch {
	case len(targets) > 0:
		c.say(TargetsIgnored, Warning, "spec.targetRefs", "it is for gateways or waypoints, and applies to no sidecar")
	case namespace == c.RootNamespace && len(selector) == 0:
		c.say(MeshWide, wide, "metadata.namespace", "it is in the root namespace and selects nothing in particular, so it applies to every workload of the mesh")
	case len(selector) > 0 && c.Workloads != nil && len(c.selected(namespace, selector, nil)) == 0:
		c.say(SelectorMatchesNothing, Warning, "spec.selector", "no workload that there is has these labels")
	}
}

// paths: applications differ in how they read a path, and a DENY knows the usual
// ways only. What an ALLOW around it does not name is refused however it is read.
func (c *checker) paths(p rbac.Policy) {
	if p.Action != rbac.Deny || p.DryRun || len(p.Targets) > 0 || c.fenced(p) {
		return
	}
	for i, rule := range p.Rules {
		for j, clause := range rule.To {
			if slices.ContainsFunc(clause, func(t rbac.Test) bool { return t.Attribute.Kind() == rbac.Path && len(t.In) > 0 }) {
				c.say(DenyByPathAlone, Warning, fmt.Sprintf("spec.rules[%d].to[%d].operation.paths", i, j),
					"applications differ in how they read a path, and one may serve this under a path that is not denied: add an ALLOW policy for what is meant to be reached")
				return
			}
		}
	}
}

// fenced tells that wherever p applies, an ALLOW policy does.
func (c *checker) fenced(p rbac.Policy) bool {
	return slices.ContainsFunc(c.reach(p.Namespace), func(namespace string) bool {
		return slices.ContainsFunc(c.fences[namespace], func(q rbac.Policy) bool {
			for key, value := range q.Selector {
				if got, ok := p.Selector[key]; !ok || got != value {
					return false
				}
			}
			return true
		})
	})
}

// A ruleCheck looks at one rule.
type ruleCheck struct {
	*checker
	policy rbac.Policy
	rule   rbac.Rule
	field  string
	dead   map[string]bool // fields of which it was said that nothing satisfies them
}

// noOp is how bad it is that a rule does nothing.
func (r *ruleCheck) noOp() Severity {
	if r.policy.Action == rbac.Deny {
		return Error
	}
	return Warning
}

func (r *ruleCheck) reading() reading {
	return reading{allow: r.policy.Action == rbac.Allow, istio: r.policy.IstioCompat}
}

// clauses calls look for each clause of the rule, by its field.
func (r *ruleCheck) clauses(look func(field string, clause rbac.Clause)) {
	for i, clause := range r.rule.From {
		look(fmt.Sprintf("%s.from[%d].source", r.field, i), clause)
	}
	for i, clause := range r.rule.To {
		look(fmt.Sprintf("%s.to[%d].operation", r.field, i), clause)
	}
	if len(r.rule.When) > 0 {
		look(r.field+".when", r.rule.When)
	}
}

// fieldNames are those of sources and operations.
var fieldNames = map[rbac.AttributeKind][2]string{
	rbac.Principal: {"principals", "notPrincipals"}, rbac.RequestPrincipal: {"requestPrincipals", "notRequestPrincipals"},
	rbac.Namespace: {"namespaces", "notNamespaces"}, rbac.ServiceAccount: {"serviceAccounts", "notServiceAccounts"},
	rbac.AnyNamespace: {"namespaces", "notNamespaces"}, rbac.AnyServiceAccount: {"serviceAccounts", "notServiceAccounts"},
	rbac.TrustDomain: {"trustDomains", "notTrustDomains"}, rbac.SourceIP: {"ipBlocks", "notIpBlocks"},
	rbac.RemoteIP: {"remoteIpBlocks", "notRemoteIpBlocks"}, rbac.Host: {"hosts", "notHosts"},
	rbac.DestinationPort: {"ports", "notPorts"}, rbac.Method: {"methods", "notMethods"}, rbac.Path: {"paths", "notPaths"},
}

// valueField is the field of a value: the k-th of In, or of NotIn.
func (r *ruleCheck) valueField(clause string, test int, t rbac.Test, negated bool, k int) string {
	which := 0
	if negated {
		which = 1
	}
	if clause == r.field+".when" {
		return fmt.Sprintf("%s[%d].%s[%d]", clause, test, [...]string{"values", "notValues"}[which], k)
	}
	return fmt.Sprintf("%s.%s[%d]", clause, fieldNames[t.Attribute.Kind()][which], k)
}

// domains looks for trust domains that are not accepted, and for foreign ones
// that are let in by a star.
func (r *ruleCheck) domains() {
	r.dead = map[string]bool{}
	r.clauses(func(field string, clause rbac.Clause) {
		for i, t := range clause {
			kind := t.Attribute.Kind()
			if kind != rbac.Principal && kind != rbac.TrustDomain {
				continue
			}
			unknown := 0
			for k, p := range t.In {
				switch at := r.valueField(field, i, t, false, k); {
				case !r.accepted(kind, p):
					unknown++
					r.say(ForeignTrustDomain, r.noOp(), at, fmt.Sprintf("no workload of an accepted trust domain is %q", p))
				case r.letsForeignIn(clause, i, p):
					r.say(AnyTrustDomain, Warning, at, fmt.Sprintf("%q lets in workloads of foreign trust domains too: name the trust domain", p))
				}
			}
			r.dead[field] = r.dead[field] || unknown > 0 && unknown == len(t.In)
			for k, p := range t.NotIn {
				if !r.accepted(kind, p) {
					r.say(ForeignTrustDomain, Warning, r.valueField(field, i, t, true, k), fmt.Sprintf("no workload of an accepted trust domain is %q, so that it excepts nobody", p))
				}
			}
		}
	})
}

// accepted tells that a workload can be called so.
func (r *ruleCheck) accepted(kind rbac.AttributeKind, p rbac.Pattern) bool {
	return slices.ContainsFunc(r.classes, func(of class) bool {
		if of.domains.Own.IsZero() {
			return false
		}
		if kind == rbac.TrustDomain {
			return of.isCalled([]rbac.Pattern{p})
		}
		return len(of.domains.Expand(p)) > 0
	})
}

// letsForeignIn tells that a star for the trust domain, in the i-th test of an
// ALLOW rule's clause, lets in somebody of a foreign one. "*" alone says that it
// lets in everybody.
func (r *ruleCheck) letsForeignIn(clause rbac.Clause, i int, p rbac.Pattern) bool {
	names := len(clause) > 1 // what else is asked for is of any trust domain
	kind := clause[i].Attribute.Kind()
	star := kind == rbac.Principal && p.Kind() == rbac.Suffix || kind == rbac.TrustDomain && p.Kind() == rbac.Present && names
	if r.policy.Action != rbac.Allow || !star {
		return false
	}
	only := slices.Clone(clause)
	only = slices.DeleteFunc(only, func(t rbac.Test) bool { return !t.Attribute.OfPeer() })
	for j, t := range only {
		if t.Attribute == clause[i].Attribute {
			only[j] = rbac.Test{Attribute: t.Attribute, In: []rbac.Pattern{p}, NotIn: t.NotIn}
		}
	}
	return slices.ContainsFunc(r.classes, func(of class) bool {
		return !of.ours && !of.domains.Own.IsZero() && of.satisfies(r.reading(), only)
	})
}

// contradictions looks for what nothing satisfies.
func (r *ruleCheck) contradictions() {
	when := r.field + ".when"
	if r.contradicts(r.reading(), r.rule.When) {
		if !r.dead[when] {
			r.never(when, r.rule.When)
		}
		return
	}
	r.clauses(func(field string, clause rbac.Clause) {
		tests := slices.Concat(clause, r.rule.When)
		if field != when && !r.dead[field] && r.contradicts(r.reading(), tests) {
			r.never(field, tests)
		}
	})
}

func (r *ruleCheck) never(field string, tests rbac.Clause) {
	if r.policy.Action != rbac.Allow && r.ofNobody(tests) {
		// Istio's documentation has authors write this as a second line of defence.
		r.say(NeverMatches, Warning, field, "only a peer without a certificate satisfies this, and it is refused before, since no workload listens to such peers")
		return
	}
	message := "no request that can be told satisfies this"
	if r.policy.Action == rbac.Allow {
		message += "; that something is absent lets nobody in"
	}
	r.say(NeverMatches, r.noOp(), field, message)
}

// ofNobody tells that a peer without a certificate would satisfy tests that no
// other does.
func (r *ruleCheck) ofNobody(tests rbac.Clause) bool {
	with := *r.checker
	with.classes = append(slices.Clone(r.classes), class{})
	return !with.contradicts(r.reading(), tests)
}

// everything looks for a DENY rule that denies all.
func (r *ruleCheck) everything() bool {
	switch {
	case r.policy.Action != rbac.Deny:
		return false
	case isEmptyRule(r.rule):
		r.say(DeniesEverything, Warning, r.field, "an empty rule denies every request")
		return true
	case r.truth(r.rule, false):
		r.say(DeniesEverything, Error, r.field, "it is true of every request; to deny everything, write an empty rule, {}")
		return true
	}
	return false
}

// truth tells that a rule is true, as far as a filter can tell, of every request,
// or of every connection.
func (r *ruleCheck) truth(rule rbac.Rule, tcp bool) bool {
	isTrue := func(clause rbac.Clause) bool { return r.isTrue(clause, tcp) }
	return (len(rule.From) == 0 || slices.ContainsFunc(rule.From, isTrue)) &&
		(len(rule.To) == 0 || slices.ContainsFunc(rule.To, isTrue)) &&
		isTrue(rule.When) && r.expressionTruth(rule.Expression, tcp)
}

// expressionTruth: a comparison of two attributes is never told by a filter by
// itself.
func (r *ruleCheck) expressionTruth(e *rbac.Expression, tcp bool) bool {
	if e == nil {
		return true
	}
	term := func(t rbac.Expression) bool { return r.expressionTruth(&t, tcp) }
	switch e.Op {
	case rbac.All:
		return !slices.ContainsFunc(e.Terms, func(t rbac.Expression) bool { return !term(t) })
	case rbac.Any:
		return slices.ContainsFunc(e.Terms, term)
	case rbac.Matches:
		return r.isTrue(rbac.Clause{e.Test}, tcp)
	}
	return e.Op == rbac.Compare && (tcp || !r.told(r.policy))
}

// expression looks at comparisons.
func (r *ruleCheck) expression(e *rbac.Expression) {
	if e == nil {
		return
	}
	field := r.field + ".expression"
	if e.Op == rbac.Compare {
		if c := e.Comparison; c.Left.Kind() == rbac.Host && isPorted(c.Lead, c.Trail) {
			r.say(HostWithPort, r.noOp(), field, "a host is compared without its port, so that it never is what ends with one")
		}
		if r.policy.Action != rbac.Custom && !r.told(r.policy) {
			r.say(NeedsProvider, Warning, field, fmt.Sprintf("no filter compares %s with %s: an ALLOW lets nobody in by it, and any other policy takes it as true; ask the provider istio-auth with CUSTOM", e.Comparison.Left, e.Comparison.Right))
		}
	}
	for i := range e.Terms {
		r.expression(&e.Terms[i])
	}
}

// isPorted tells that a host between two texts would have a port. Colons within
// brackets are an address's.
func isPorted(lead, trail string) bool {
	for _, text := range []string{lead, trail} {
		depth := 0
		for _, b := range text {
			switch b {
			case '[':
				depth++
			case ']':
				depth = 0
			case ':':
				if depth == 0 {
					return true
				}
			}
		}
		if text == lead && depth > 0 {
			return false
		}
	}
	return false
}
