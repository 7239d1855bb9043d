package compile

import (
	"hash/maphash"
	"slices"
)

// What many rules of a part have in common is asked once, in front of a tree of
// these rules without it.

// without is a box without some of its terms, as it was last asked for.
type without struct {
	terms uint64 // their sums
	box   *box
}

// minCommon is how many rules have something in common at least, and
// shareCommon which part of all they are.
const (
	minCommon   = 8
	shareCommon = 4
)

// A habit is a term that boxes have.
type habit struct {
	term  *formula
	sum   uint64
	count int
}

// common writes the content of a Matcher whose first link is what many boxes
// have in common. It is false, and nothing is written, where there is not much.
func (t *tree) common(w *wire, boxes []*box, chain int, otherwise func()) bool {
	if t.inCommon || len(boxes) < minCommon || t.levels < maxLevels || chain >= firstChain {
		return false
	}
	n := 0
	for _, b := range boxes {
		n += len(b.terms)
	}
	sums, slab := make([][]uint64, len(boxes)), make([]uint64, n)
	var best *habit
	all := map[uint64]*habit{}
	for i, b := range boxes {
		sums[i], slab = slab[:len(b.terms):len(b.terms)], slab[len(b.terms):]
		for j := range b.terms {
			if b.terms[j].isExact() {
				continue // a key, which finds more than it saves
			}
			sum := b.terms[j].sum()
			h := all[sum]
			if h == nil {
				h = &habit{term: &b.terms[j], sum: sum}
				all[sum] = h
			}
			if !equal(h.term, &b.terms[j]) {
				continue // two terms of one sum
			}
			sums[i][j] = sum
			h.count++
			if best == nil || h.count > best.count {
				best = h
			}
		}
	}
	if best == nil || best.count < minCommon || best.count*shareCommon < len(boxes) {
		return false
	}
	shared := sharedBy(boxes, sums, best)
	var those, others []*box
	for i, b := range boxes {
		if slices.Contains(sums[i], best.sum) {
			those = append(those, b.less(sums[i], shared))
		} else {
			others = append(others, b)
		}
	}
	terms := make([]formula, len(shared))
	for i, h := range shared {
		terms[i] = *h.term
	}
	list := w.openLong(1)
	line := w.openLong(1)
	p := w.open(1)
	w.conjunction(terms)
	w.close(p)
	m := w.openLong(2)
	if b := unconditional(those); b != nil {
		t.take(w, b)
	} else {
		inner := w.openLong(1)
		t.inCommon = true
		t.matcher(w, those, 0, chain, nil)
		t.inCommon = false
		w.close(inner)
	}
	w.close(m)
	w.close(line)
	w.close(list)
	t.rest(w, others, 0, chain+1, otherwise)
	return true
}

// sharedBy are the habits of all boxes that have one of them, in the order of
// the first such box.
func sharedBy(boxes []*box, sums [][]uint64, one *habit) []*habit {
	var shared []*habit
	for i, b := range boxes {
		if !slices.Contains(sums[i], one.sum) {
			continue
		}
		if shared == nil {
			for j := range b.terms {
				if sums[i][j] != 0 && !slices.ContainsFunc(shared, func(h *habit) bool { return h.sum == sums[i][j] }) {
					shared = append(shared, &habit{term: &b.terms[j], sum: sums[i][j]})
				}
			}
			continue
		}
		shared = slices.DeleteFunc(shared, func(h *habit) bool { return !slices.Contains(sums[i], h.sum) })
	}
	return shared
}

// less is b without the terms of these sums.
func (b *box) less(sums []uint64, shared []*habit) *box {
	key := uint64(len(shared))
	for _, h := range shared {
		key = key*31 + h.sum
	}
	if b.without.box != nil && b.without.terms == key {
		return b.without.box
	}
	rest := make([]formula, 0, len(b.terms))
	for i := range b.terms {
		if !slices.ContainsFunc(shared, func(h *habit) bool { return h.sum == sums[i] }) {
			rest = append(rest, b.terms[i])
		}
	}
	b.without = without{key, newBox(b.rule, and(rest...), b.spread)}
	return b.without.box
}

// isExact tells whether f is a text, or one of several.
func (f *formula) isExact() bool {
	if f.op == opLiteral {
		return f.lit.how == isExactly && !f.lit.not
	}
	return f.op == opOr && !slices.ContainsFunc(f.kids, func(k formula) bool { return !k.isExact() })
}

var sumSeed = maphash.MakeSeed()

// sum is never zero, and equal for equal formulas; see equal.
func (f *formula) sum() uint64 {
	if f.op == opLiteral {
		return maphash.Comparable(sumSeed, *f.lit) | 1
	}
	sum := uint64(f.op)
	for i := range f.kids {
		sum = (sum<<7 | sum>>57) ^ f.kids[i].sum()*0x9e3779b97f4a7c15
	}
	return sum | 1
}

func equal(a, b *formula) bool {
	if a.op != b.op || len(a.kids) != len(b.kids) {
		return false
	}
	if a.op == opLiteral {
		return *a.lit == *b.lit
	}
	for i := range a.kids {
		if !equal(&a.kids[i], &b.kids[i]) {
			return false
		}
	}
	return true
}
