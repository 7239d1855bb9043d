package compile

import (
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// A lowering turns rules into formulas, for the workload of one set.
type lowering struct {
	domains          rbac.Domains
	family, accepted []spiffeid.TrustDomain
	plaintext        bool
	tcp              bool // nothing of HTTP can be told
	words            bool // our own provider is asked first: see compared
	peer             input

	// Of the policy that is being read: what cannot be told is taken for a match
	// by all but ALLOW, and Istio's reading of negations.
	wide, istio bool
	err         error // the first of any
}

func newLowering(set rbac.Set, tcp bool) *lowering {
	l := &lowering{
		domains: set.Domains(), family: set.Domains().Family(), accepted: set.Domains().Accepted(),
		plaintext: set.Plaintext(), tcp: tcp, peer: input{kind: inPeer},
	}
	if l.plaintext {
		l.peer.kind = inPeerText
	}
	return l
}

// rule is what makes a rule match behind the guards. A test has three answers,
// and rules are monotone in their tests, so that each test is resolved by
// itself: what cannot be told is a match in all policies but those that allow.
func (l *lowering) rule(r rbac.Rule) formula {
	f := and(l.anyOf(r.From), l.anyOf(r.To), l.clause(r.When))
	if r.Expression != nil {
		f = and(f, l.expression(r.Expression))
	}
	return f
}

func (l *lowering) anyOf(clauses []rbac.Clause) formula {
	switch len(clauses) {
	case 0:
		return always
	case 1:
		return l.clause(clauses[0])
	}
	kids := make([]formula, len(clauses))
	for i := range clauses {
		kids[i] = l.clause(clauses[i])
	}
	return or(kids...)
}

func (l *lowering) clause(tests rbac.Clause) formula {
	if len(tests) == 1 {
		return l.test(&tests[0])
	}
	kids := make([]formula, len(tests))
	for i := range tests {
		kids[i] = l.test(&tests[i])
	}
	return and(kids...)
}

func (l *lowering) expression(e *rbac.Expression) formula {
	switch e.Op {
	case rbac.All, rbac.Any:
		kids := make([]formula, len(e.Terms))
		for i := range e.Terms {
			kids[i] = l.expression(&e.Terms[i])
		}
		if e.Op == rbac.All {
			return and(kids...)
		}
		return or(kids...)
	case rbac.Matches:
		return l.test(&e.Test)
	case rbac.Compare:
		return l.compared(e.Comparison)
	}
	return never
}

// test is "yes" in an ALLOW policy, "yes or maybe" in all others.
func (l *lowering) test(t *rbac.Test) formula {
	a := t.Attribute
	if l.tcp && a.OfHTTP() {
		return constant(l.wide)
	}
	f := always
	if len(t.In) == 1 {
		f = l.match(a, t.In[0], l.wide)
	} else if len(t.In) > 1 {
		kids := make([]formula, len(t.In))
		for i, p := range t.In {
			kids[i] = l.match(a, p, l.wide)
		}
		f = absorb(or(kids...))
	}
	if len(t.NotIn) > 0 {
		kids := make([]formula, 0, len(t.NotIn)+2)
		kids = append(kids, f)
		for _, p := range t.NotIn {
			// What may be one of them is none of them for sure only where it is
			// not even perhaps.
			kids = append(kids, not(l.match(a, p, !l.wide)))
		}
		// Whether what is not there is none of them cannot be told. Positive
		// literals see to it by themselves.
		if !l.wide && !l.istio && len(t.In) == 0 {
			kids = append(kids, l.present(a))
		}
		f = absorb(and(kids...))
	}
	if l.knownAnyway(t) {
		return f
	}
	if l.wide {
		return or(not(l.known(a)), f)
	}
	return and(f, l.known(a))
}

// known is where it can be told what the request has of an attribute.
func (l *lowering) known(a rbac.Attribute) formula {
	switch a.Kind() {
	case rbac.Host:
		return anything(input{kind: inHost})
	case rbac.Header:
		return not(lit(header(a), contains, ","))
	}
	return always
}

// knownAnyway tells whether the literals of t do what known would.
func (l *lowering) knownAnyway(t *rbac.Test) bool {
	switch t.Attribute.Kind() {
	case rbac.Host:
		// Literals over a host that is not there are false, and their negations
		// true.
		return !l.wide && len(t.In) > 0 || l.wide && len(t.In) == 0
	case rbac.Header:
		// What is exactly a value has no comma, since no value has one.
		if l.wide {
			return len(t.In) == 0 && allExact(t.NotIn)
		}
		return len(t.In) > 0 && allExact(t.In)
	}
	return true
}

func allExact(list []rbac.Pattern) bool {
	for _, p := range list {
		if p.Kind() != rbac.Exact {
			return false
		}
	}
	return true
}

// present is where the request has an attribute of which everything is known.
func (l *lowering) present(a rbac.Attribute) formula {
	switch a.Kind() {
	case rbac.Principal, rbac.AnyNamespace, rbac.AnyServiceAccount, rbac.TrustDomain:
		return l.peerOf(l.accepted)
	case rbac.Namespace, rbac.ServiceAccount:
		return l.peerOf(l.family)
	case rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP:
		return or(within(address(a), netAll4), within(address(a), netAll6))
	case rbac.ServerName:
		return something(input{kind: inSNI})
	case rbac.Header:
		return anything(header(a))
	case rbac.RequestPrincipal:
		return and(named(inIssuer), named(inSubject))
	case rbac.Audience, rbac.Presenter, rbac.Claim:
		return anything(claim(a))
	}
	// Method, path, host that is known, and port are always there.
	return always
}

// match is where a value of a, which is known, matches p: for a path, and for a
// header that may be empty, where it does for sure, or, wide, perhaps.
func (l *lowering) match(a rbac.Attribute, p rbac.Pattern, wide bool) formula {
	if p.Kind() == 0 {
		return never // a pattern that nobody parsed
	}
	switch a.Kind() {
	case rbac.Principal, rbac.Namespace, rbac.AnyNamespace, rbac.ServiceAccount, rbac.AnyServiceAccount, rbac.TrustDomain:
		return l.ofPeer(a.Kind(), p)
	case rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP:
		if p.Kind() == rbac.Network {
			return within(address(a), p.Network())
		}
	case rbac.DestinationPort:
		return l.text(input{kind: inPort}, p, true)
	case rbac.ServerName:
		return l.text(input{kind: inSNI}, p, false)
	case rbac.Method:
		return l.text(input{kind: inMethod}, p, true)
	case rbac.Host:
		return l.text(input{kind: inHost}, p, false)
	case rbac.Header:
		if p.Kind() == rbac.Present && wide {
			return anything(header(a)) // an empty one may be there or not
		}
		return l.text(header(a), p, false)
	case rbac.Path:
		return l.path(p, wide)
	case rbac.RequestPrincipal:
		if p.Kind() == rbac.Pair {
			issuer, subject := p.Halves()
			return and(l.ofToken(inIssuer, issuer), l.ofToken(inSubject, subject))
		}
	case rbac.Audience, rbac.Presenter, rbac.Claim:
		return l.text(claim(a), p, false)
	}
	return l.cannot(a, p)
}

// cannot is what has no meaning here. It is an error, since in a negation it
// would widen.
func (l *lowering) cannot(a any, p rbac.Pattern) formula {
	l.err = errors.Join(l.err, fmt.Errorf("compile: %v cannot be compared with %.80q", a, p))
	return never
}

// text compares an input that is a string, or a claim, one value at a time.
// Filled tells that the input is always there, and never empty.
func (l *lowering) text(in input, p rbac.Pattern, filled bool) formula {
	switch p.Kind() {
	case rbac.Exact:
		return lit(in, isExactly, p.Text())
	case rbac.Prefix:
		return lit(in, beginsWith, p.Text())
	case rbac.Suffix:
		return lit(in, endsWith, p.Text())
	case rbac.Present:
		if filled {
			return always
		}
		return something(in)
	}
	return l.cannot("a text", p)
}
