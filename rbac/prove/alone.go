package prove

// A pairing compares what a filter says of one rule with what the rule says,
// apart from all others. Most rules are shown by that; where it finds nothing,
// nothing is said of the whole.
type pairing struct {
	*proof
	left int          // of effort
	done map[sum]bool // pairs that are the same, whatever holds
}

// pairEffort is how many pairs of formulas are looked at for one rule, and
// pairSteps how long values are searched for. They are beside effort.
const (
	pairEffort = 2000
	pairSteps  = 200_000
)

// same tells whether two formulas are the same where facts hold.
func (p *proof) same(a, b *node, facts []literal) bool {
	if a.id() == b.id() {
		return true
	}
	q := &pairing{proof: p, left: pairEffort, done: map[sum]bool{}}
	rest := p.left
	p.left = pairSteps
	ok, _ := q.same(a, b, facts)
	p.left = rest
	return ok
}

// same compares where literals hold. Everywhere tells that they were not needed.
func (q *pairing) same(a, b *node, so []literal) (same, everywhere bool) {
	idA, idB := a.id(), b.id()
	if idA == idB {
		return true, true
	}
	if a.constant() && b.constant() {
		return q.impossible(so), false
	}
	if q.left--; q.left < 0 {
		return false, false
	}
	id := hashOf(idA.a, idA.b, idB.a, idB.b)
	if q.done[id] {
		return true, true
	}
	if op, restA, restB, common := cancel(a, b); len(common) > 0 {
		same, everywhere, exact := q.rest(op, restA, restB, common, so)
		if same || exact {
			if same && everywhere {
				q.done[id] = true
			}
			return same, everywhere
		}
	}
	l := q.pick(a, b)
	everywhere = true
	for _, l := range []literal{l, l.not()} {
		next := append(so[:len(so):len(so)], l)
		if !q.possible(next) {
			everywhere = false
			continue
		}
		ok, all := q.same(q.assume(a, l), q.assume(b, l), next)
		if !ok {
			return false, false
		}
		everywhere = everywhere && all
	}
	if everywhere {
		q.done[id] = true
	}
	return true, everywhere
}

func (q *pairing) assume(n *node, l literal) *node { return q.shorter(q.table.assume(n, l)) }

// rest compares what two formulas do not have in common, where what they have
// leaves it open. Exact tells that they differ if the rest does.
func (q *pairing) rest(op nodeOp, a, b *node, common []*node, so []literal) (same, everywhere, exact bool) {
	exact = true
	so = so[:len(so):len(so)]
	for _, t := range common {
		if t.op != isLiteral {
			exact = false
			continue
		}
		l := t.lit
		if op == oneOf {
			l = l.not()
		}
		so = append(so, l)
		if !q.possible(so) {
			return true, false, true
		}
		a, b = q.assume(a, l), q.assume(b, l)
	}
	same, everywhere = q.same(a, b, so)
	return same, everywhere, exact
}

// cancel takes two ands, or two ors, apart: what is left of each, and what both
// have.
func cancel(a, b *node) (op nodeOp, restA, restB *node, common []*node) {
	if op = a.op; op != allOf && op != oneOf {
		op = b.op
	}
	if op != allOf && op != oneOf {
		return op, a, b, nil
	}
	termsA, termsB := a.under(op), b.under(op)
	ofB := make(map[sum]bool, len(termsB))
	for _, t := range termsB {
		ofB[t.id()] = true
	}
	both := map[sum]bool{}
	left := func(terms []*node, common func(*node) bool) *node {
		var out []*node
		for _, t := range terms {
			if !common(t) {
				out = append(out, t)
			}
		}
		if op == allOf {
			return and(out...)
		}
		return or(out...)
	}
	restA = left(termsA, func(t *node) bool {
		if !ofB[t.id()] {
			return false
		}
		if !both[t.id()] {
			both[t.id()] = true
			common = append(common, t)
		}
		return true
	})
	restB = left(termsB, func(t *node) bool { return both[t.id()] })
	return op, restA, restB, common
}

// under is the terms of n as an op: its own, or itself.
func (n *node) under(op nodeOp) []*node {
	if n.op == op {
		return n.terms
	}
	return []*node{n}
}

func (n *node) constant() bool { return n.op == constTrue || n.op == constFalse }

// pick is the literal to look at next: of the peer if there is one, which tells
// the alternatives of most rules apart.
func (q *pairing) pick(a, b *node) literal {
	for _, n := range []*node{a, b} {
		if l, ok := q.ofPeer(n); ok {
			return l
		}
	}
	if a.constant() {
		return b.first()
	}
	return a.first()
}

func (q *pairing) ofPeer(n *node) (literal, bool) {
	if n.op == isLiteral {
		return n.lit, q.of(n.lit).kind == peer
	}
	for _, t := range n.terms {
		if l, ok := q.ofPeer(t); ok {
			return l, true
		}
	}
	return 0, false
}

// impossible tells that no request has literals, as far as the solver sees.
func (q *pairing) impossible(so []literal) bool {
	q.alone = true
	err := q.differ(so)
	q.alone = false
	return err == nil
}
