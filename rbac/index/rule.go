package index

import (
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// An answer is as in rbac/eval.
type answer int8

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

// A rule is a rbac.Rule, taken apart once.
type rule struct {
	policy, name string
	order        int // of the policy, for CUSTOM
	least        answer
	istio        bool
	from, to     []clause
	when         clause
	expression   *expression
}

type clause []test

type test struct {
	attribute     *attribute
	in, notIn     list
	asks, forbids bool // there is an In, a NotIn
}

type expression struct {
	op          rbac.Op
	terms       []expression
	test        test
	comparison  rbac.Comparison
	left, right *attribute
}

func (r *rule) matches(c *call) bool {
	return r.oneOf(c, r.from) >= r.least && r.oneOf(c, r.to) >= r.least && r.clause(c, r.when) >= r.least &&
		(r.expression == nil || r.express(c, r.expression) >= r.least)
}

func (r *rule) oneOf(c *call, clauses []clause) answer {
	if len(clauses) == 0 {
		return yes
	}
	greatest := no
	for _, tests := range clauses {
		greatest = max(greatest, r.clause(c, tests))
	}
	return greatest
}

// clause is the least of the answers, or any that is too little for the rule.
func (r *rule) clause(c *call, tests clause) answer {
	least := yes
	for i := range tests {
		if least = min(least, r.test(c, &tests[i])); least < r.least {
			return least
		}
	}
	return least
}

func (r *rule) test(c *call, t *test) answer {
	if !c.known(t.attribute) {
		return maybe
	}
	if t.forbids && !r.istio && !c.has(t.attribute) {
		if t.asks {
			return no
		}
		return maybe
	}
	a := yes
	if t.asks {
		if a = c.some(t.attribute, &t.in); a == no {
			return no
		}
	}
	if t.forbids {
		a = min(a, yes-c.some(t.attribute, &t.notIn))
	}
	return a
}

func (r *rule) express(c *call, e *expression) answer {
	switch e.op {
	case rbac.All:
		least := yes
		for i := range e.terms {
			least = min(least, r.express(c, &e.terms[i]))
		}
		return least
	case rbac.Any:
		greatest := no
		for i := range e.terms {
			greatest = max(greatest, r.express(c, &e.terms[i]))
		}
		return greatest
	case rbac.Matches:
		return r.test(c, &e.test)
	case rbac.Compare:
		return compare(c, e)
	}
	return no
}

func compare(c *call, e *expression) answer {
	if !c.known(e.left) || !c.known(e.right) {
		return maybe
	}
	var leftBuffer, rightBuffer [8]string
	left, right := c.texts(leftBuffer[:0], e.left), c.texts(rightBuffer[:0], e.right)
	if (len(left) == 0 || len(right) == 0) && e.comparison.Not {
		return maybe
	}
	holds := no
	for _, l := range left {
		for _, r := range right {
			asIs := isTrue(e.comparison.Holds(l, r))
			if r == "" || e.left.kind == rbac.Path && (asIs == yes) != e.comparison.HoldsFolded(l, r) {
				asIs = maybe
			}
			holds = max(holds, asIs)
		}
	}
	if e.comparison.Not {
		return yes - holds
	}
	return holds
}

// A builder takes policies apart. Its attributes are numbered.
type builder struct {
	domains    rbac.Domains
	attributes map[rbac.Attribute]*attribute
}

func (b *builder) rule(p rbac.Policy, i int) rule {
	r := rule{policy: p.Key(), name: p.RuleName(i), least: yes, istio: p.IstioCompat, when: b.clause(p.Rules[i].When)}
	if p.Action != rbac.Allow {
		r.least = maybe
	}
	for _, c := range p.Rules[i].From {
		r.from = append(r.from, b.clause(c))
	}
	for _, c := range p.Rules[i].To {
		r.to = append(r.to, b.clause(c))
	}
	if e := p.Rules[i].Expression; e != nil {
		taken := b.expression(*e)
		r.expression = &taken
	}
	return r
}

func (b *builder) clause(c rbac.Clause) clause {
	taken := make(clause, 0, len(c))
	for _, t := range c {
		taken = append(taken, b.test(t))
	}
	return taken
}

func (b *builder) test(t rbac.Test) test {
	return test{
		attribute: b.attribute(t.Attribute),
		in:        b.list(t.Attribute, t.In), notIn: b.list(t.Attribute, t.NotIn),
		asks: len(t.In) > 0, forbids: len(t.NotIn) > 0,
	}
}

func (b *builder) expression(e rbac.Expression) expression {
	taken := expression{op: e.Op, comparison: e.Comparison}
	for _, term := range e.Terms {
		taken.terms = append(taken.terms, b.expression(term))
	}
	switch e.Op {
	case rbac.Matches:
		taken.test = b.test(e.Test)
	case rbac.Compare:
		taken.left, taken.right = b.attribute(e.Comparison.Left), b.attribute(e.Comparison.Right)
	}
	return taken
}

func (b *builder) attribute(a rbac.Attribute) *attribute {
	if known, ok := b.attributes[a]; ok {
		return known
	}
	taken := &attribute{kind: a.Kind(), header: a.HeaderName(), claim: a.ClaimPath(), number: uint64(len(b.attributes)) + 1, http: a.OfHTTP()}
	switch a.Kind() {
	case rbac.Audience:
		taken.claim = []string{"aud"}
	case rbac.Presenter:
		taken.claim = []string{"azp"}
	}
	b.attributes[a] = taken
	return taken
}

func (b *builder) list(a rbac.Attribute, patterns []rbac.Pattern) list {
	if a.Kind() == rbac.Principal {
		var expanded []rbac.Pattern
		for _, p := range patterns {
			expanded = append(expanded, b.domains.Expand(p)...)
		}
		patterns = expanded
	}
	exact := 0
	for _, p := range patterns {
		if p.Kind() == rbac.Exact {
			exact++
		}
	}
	var l list
	for _, p := range patterns {
		taken := b.pattern(a, p)
		if p.Kind() != rbac.Exact || exact <= many || !ofOneText(a.Kind()) {
			l.patterns = append(l.patterns, taken)
			continue
		}
		if l.exact == nil {
			l.exact, l.folded = map[string]bool{}, map[string]bool{}
		}
		if l.exact[taken.text] = true; a.Kind() == rbac.Path {
			l.folded[taken.folded] = true
		}
	}
	return l
}

// ofOneText tells of which attributes an exact pattern is compared with a text,
// whole.
func ofOneText(kind rbac.AttributeKind) bool {
	switch kind {
	case rbac.TrustDomain, rbac.ServiceAccount, rbac.AnyServiceAccount, rbac.RequestPrincipal,
		rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP, rbac.DestinationPort:
		return false
	}
	return true
}

func (b *builder) pattern(a rbac.Attribute, p rbac.Pattern) pattern {
	taken := pattern{kind: p.Kind(), text: p.Text(), segments: p.Segments(), network: p.Network(), port: -1}
	switch a.Kind() {
	case rbac.Path:
		switch p.Kind() {
		case rbac.Exact, rbac.Suffix:
			taken.folded = strings.TrimSuffix(p.FoldedText(), "/")
		case rbac.Prefix:
			taken.folded = p.FoldedText()
		case rbac.Template:
			taken.foldedSegments = p.FoldedSegments()
		}
	case rbac.DestinationPort:
		taken.port = portOf(p)
	case rbac.TrustDomain:
		for _, td := range b.domains.Family() {
			taken.family = taken.family || p.Match(td.Name())
		}
	}
	if p.Kind() == rbac.Pair {
		first, second := p.Halves()
		taken.halves = &[2]pattern{b.pattern(rbac.Attribute{}, first), b.pattern(rbac.Attribute{}, second)}
	}
	return taken
}

// portOf is the port that a pattern of DestinationPort matches, or -1: there is
// no other kind of pattern than one port.
func portOf(p rbac.Pattern) int {
	n := 0
	if p.Kind() != rbac.Exact {
		return -1
	}
	for i := range len(p.Text()) {
		if n = n*10 + int(p.Text()[i]-'0'); n > 65535 {
			return -1
		}
	}
	return n
}
