package index

import (
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// A trait is what a request can be looked up by.
type trait struct {
	probe probe
	key   uint64
}

// Traits are such that a request which satisfies a condition has one of them:
// none, where none does.
type traits struct {
	all    []trait
	shared int // by how many rules, summed
}

// A counter finds the rarest traits of conditions, once it has counted how many
// conditions share each.
type counter struct {
	t        *table
	shared   map[uint64]int
	counting bool
}

func (n *counter) one(t trait) (traits, bool) {
	if n.counting {
		n.shared[t.key]++
	}
	return traits{[]trait{t}, n.shared[t.key]}, true
}

// rarer is for conditions that must all be satisfied: each has such traits, or
// none that can be looked up.
type rarer struct {
	traits
	ok bool
}

func (r *rarer) or(t traits, ok bool) {
	if ok && (!r.ok || t.shared < r.shared) {
		r.traits, r.ok = t, true
	}
}

// both is for conditions of which one must be satisfied.
func both(a traits, b traits) traits {
	return traits{append(a.all[:len(a.all):len(a.all)], b.all...), a.shared + b.shared}
}

func (n *counter) ofRule(r *rule) (traits, bool) {
	var best rarer
	for _, clauses := range [][]clause{r.from, r.to} {
		if len(clauses) > 0 {
			best.or(n.ofAny(r, clauses))
		}
	}
	best.or(n.ofClause(r, r.when))
	if r.expression != nil {
		best.or(n.ofExpression(r, r.expression))
	}
	return best.traits, best.ok
}

func (n *counter) ofAny(r *rule, clauses []clause) (out traits, ok bool) {
	ok = true
	for _, c := range clauses {
		one, found := n.ofClause(r, c)
		out, ok = both(out, one), ok && found
	}
	return out, ok
}

func (n *counter) ofClause(r *rule, c clause) (traits, bool) {
	var best rarer
	for i := range c {
		best.or(n.ofTest(r, &c[i]))
	}
	return best.traits, best.ok
}

func (n *counter) ofExpression(r *rule, e *expression) (out traits, ok bool) {
	switch e.op {
	case rbac.All:
		var best rarer
		for i := range e.terms {
			best.or(n.ofExpression(r, &e.terms[i]))
		}
		return best.traits, best.ok
	case rbac.Any:
		ok = true
		for i := range e.terms {
			one, found := n.ofExpression(r, &e.terms[i])
			out, ok = both(out, one), ok && found
		}
		return out, ok
	case rbac.Matches:
		return n.ofTest(r, &e.test)
	}
	return traits{}, false
}

// ofTest: one of In matches, or, for a rule that takes it for satisfied, it
// cannot be told.
func (n *counter) ofTest(r *rule, t *test) (out traits, ok bool) {
	if !t.asks || t.attribute.kind == 0 {
		return traits{}, false
	}
	ok = true
	for i := range t.in.patterns {
		one, found := n.ofPattern(r, t.attribute, &t.in.patterns[i])
		out, ok = both(out, one), ok && found
	}
	for text := range t.in.exact {
		if t.attribute.kind == rbac.Path && r.least == maybe {
			continue // the folded ones are all that is asked for
		}
		one, _ := n.text(probe{attribute: t.attribute, part: whole}, text)
		out = both(out, one)
	}
	if r.least == maybe {
		for text := range t.in.folded {
			one, _ := n.text(probe{attribute: t.attribute, part: whole, folded: true}, text)
			out = both(out, one)
		}
	}
	if r.least == maybe && t.attribute.http {
		p := probe{attribute: t.attribute, part: unknown}
		out.all = append(out.all, trait{p, p.mix()})
	}
	return out, ok
}

// text is the trait of a text, or of its part. There may be none.
func (n *counter) text(p probe, text string) (traits, bool) {
	switch p.part {
	case beginning:
		text = longestBeginning(text)
	case end:
		text = longestEnd(text)
	}
	if text == "" && p.part != whole {
		return traits{}, false
	}
	return n.one(trait{p, n.t.hash(&p, text)})
}

func (n *counter) ofPattern(r *rule, a *attribute, p *pattern) (traits, bool) {
	at := probe{attribute: a}
	switch a.kind {
	case rbac.Path:
		asIs, ok := n.ofText(at, p, p.text, p.segments)
		if r.least == yes {
			return asIs, ok
		}
		at.folded = true
		folded, okFolded := n.ofText(at, p, p.folded, p.foldedSegments)
		if p.kind == rbac.Exact { // folding follows
			return folded, okFolded
		}
		return both(asIs, folded), ok && okFolded
	case rbac.TrustDomain:
		return traits{}, false
	case rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP:
		if p.kind != rbac.Network {
			return traits{}, false
		}
		at.part, at.bits, at.six = network, p.network.Bits(), p.network.Addr().Is6()
		return n.one(trait{at, n.t.hashAddress(&at, p.network.Addr())})
	case rbac.DestinationPort:
		at.part = whole
		return n.one(trait{at, at.hashPort(p.port)})
	case rbac.ServiceAccount, rbac.AnyServiceAccount:
		if p.kind != rbac.Pair || p.halves[0].kind != rbac.Exact || p.halves[1].kind != rbac.Exact {
			return traits{}, false
		}
		at.part = whole
		return n.text(at, p.halves[0].text+"/sa/"+p.halves[1].text)
	case rbac.RequestPrincipal:
		if p.kind != rbac.Pair {
			return traits{}, false
		}
		var best rarer
		for i := range p.halves {
			at.half = i
			best.or(n.ofText(at, &p.halves[i], p.halves[i].text, nil))
		}
		return best.traits, best.ok
	}
	return n.ofText(at, p, p.text, p.segments)
}

// ofText is of a pattern that is compared with a text.
func (n *counter) ofText(at probe, p *pattern, text string, segments []string) (traits, bool) {
	switch p.kind {
	case rbac.Exact:
		at.part = whole
		return n.text(at, text)
	case rbac.Prefix:
		at.part = beginning
		return n.text(at, text)
	case rbac.Suffix:
		at.part = end
		return n.text(at, text)
	case rbac.Template:
		var best rarer
		at.part = beginning
		best.or(n.text(at, beginningOf(segments)))
		if !strings.HasSuffix(p.text, rbac.AnyRest) {
			at.part = end
			best.or(n.text(at, endOf(segments)))
		}
		return best.traits, best.ok
	}
	return traits{}, false
}
