package compile

import (
	"net/netip"
	"slices"
)

// A box is what one rule asks, all of its terms: each a literal, or an or. It
// does not change once it is made, so that a box that is the same as before has
// the same pointer.
type box struct {
	rule  string // its name
	whole formula
	terms []formula // of an and, or the one
	// weight is how many literals the terms have, and spread how many times as
	// many were written for the rule so far, since a box lies under each of its
	// keys.
	weight int
	spread float64

	divisions []division // that were asked for
	without   without
}

// maxSpread bounds what a rule may grow to: past it, alternatives stay
// alternatives in a list, and are not multiplied out. See Report.
const maxSpread = 8

// An index is how a tree finds boxes: by one input, exactly, by its beginnings,
// or by networks.
type index struct {
	in  input
	how comparison // isExactly, beginsWith or isWithin
}

// under tells how a literal can be found, and by which key. A regular expression
// is found by how it begins, and asked then.
func (l *literal) under() (by index, key string, ok bool) {
	switch {
	case l.not || l.in.kind.isList():
		return index{}, "", false
	case l.how == isExactly, l.how == beginsWith:
		return index{l.in, l.how}, l.text, true
	case l.how == isLike && l.lead != "":
		return index{l.in, beginsWith}, l.lead, true
	case l.how == isWithin:
		return index{l.in, isWithin}, "", true
	}
	return index{}, "", false
}

// inputs appends those by which something of f can be found.
func (f *formula) inputs(list []input) []input {
	if f.op == opLiteral {
		by, _, ok := f.lit.under()
		if !ok || slices.Contains(list, by.in) {
			return list
		}
		return append(list, by.in)
	}
	for i := range f.kids {
		list = f.kids[i].inputs(list)
	}
	return list
}

// count is how many keys f has of an input, and whether all of f is under them:
// f is then an or over the keys, and nothing of it is left.
func (f *formula) count(in input) (keys int, whole bool) {
	switch f.op {
	case opLiteral:
		if f.lit.in != in {
			return 0, false
		}
		_, _, ok := f.lit.under()
		return int(of(ok)), ok
	case opAnd:
		i := pick(f.kids, in)
		if i < 0 {
			return 0, false
		}
		return f.kids[i].count(in)
	}
	whole = true
	for i := range f.kids {
		n, w := f.kids[i].count(in)
		keys += n
		whole = whole && w
	}
	return keys, whole
}

func of(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// pick is which of the kids of an and is looked up: the first that is under keys
// wholly, or else the first that has keys; -1 for none.
func pick(kids []formula, in input) int {
	part := -1
	for i := range kids {
		n, whole := kids[i].count(in)
		if n > 0 && whole {
			return i
		}
		if n > 0 && part < 0 {
			part = i
		}
	}
	return part
}

// keys calls yield for each key that f has of an input.
func (f *formula) keys(in input, yield func(index, *literal)) {
	switch f.op {
	case opLiteral:
		if by, _, ok := f.lit.under(); ok && by.in == in {
			yield(by, f.lit)
		}
	case opAnd:
		if i := pick(f.kids, in); i >= 0 {
			f.kids[i].keys(in, yield)
		}
	case opOr:
		for i := range f.kids {
			f.kids[i].keys(in, yield)
		}
	}
}

// An entry is a key, and what is asked of whoever has it.
type entry struct {
	key  *literal
	then formula
}

// split is f as an or over entries, and over what is left. By is an index of f.
func (f *formula) split(by index) (entries []entry, left formula) {
	switch f.op {
	case opLiteral:
		got, _, ok := f.lit.under()
		if !ok || got != by {
			return nil, *f
		}
		then := always
		if f.lit.how == isLike {
			asked := *f.lit
			asked.lead = "" // is known from now on
			then = formula{op: opLiteral, lit: &asked}
		}
		return []entry{{f.lit, then}}, never
	case opAnd:
		return splitAnd(f.kids, by)
	}
	rest := make([]formula, 0, len(f.kids))
	for i := range f.kids {
		found, left := f.kids[i].split(by)
		entries = append(entries, found...)
		rest = append(rest, left)
	}
	return entries, or(rest...)
}

func splitAnd(kids []formula, by index) (entries []entry, left formula) {
	i := pick(kids, by.in)
	if i < 0 {
		return nil, and(kids...)
	}
	others := make([]formula, 0, len(kids))
	others = append(append(others, kids[:i]...), kids[i+1:]...)
	entries, left = kids[i].split(by)
	rest := and(others...)
	for j := range entries {
		entries[j].then = and(rest, entries[j].then)
	}
	return entries, and(left, rest)
}

// A division is a box by an index: under each key what is still to be asked,
// and what is not under any key.
type division struct {
	by    index
	under []*box // by key
	keys  []*literal
	left  *box // nil: nothing
}

// newBox is nil where f is never satisfied.
func newBox(rule string, f formula, spread float64) *box {
	b := &box{rule: rule, whole: f, weight: f.weight(), spread: spread}
	switch f.op {
	case opNever:
		return nil
	case opAlways:
	case opAnd:
		b.terms = f.kids
	default:
		b.terms = []formula{f} // a literal or an or
	}
	return b
}

// A finding is how a box is under the keys of an input.
type finding struct {
	term  int // that is looked up; -1 for none
	keys  int
	whole bool // nothing is left
	more  int  // literals that would be written once more
	may   bool // the box does not grow beyond bounds
}

func (b *box) found(in input) finding {
	f := finding{term: pick(b.terms, in)}
	if f.term < 0 {
		return f
	}
	f.keys, f.whole = b.terms[f.term].count(in)
	copies := f.keys + 1 - int(of(f.whole))
	f.more = (copies - 1) * (b.weight - f.keys + 1)
	f.may = b.spread*b.grown(copies, f.keys) <= maxSpread
	return f
}

// grown is how many times as many literals b has when it lies under keys.
func (b *box) grown(copies, keys int) float64 {
	tail := max(b.weight-keys, 0)
	return max(1, float64(copies*(tail+1))/float64(keys+tail+1))
}

// divide is b by an index under which it may lie.
func (b *box) divide(by index) *division {
	for i := range b.divisions {
		if b.divisions[i].by == by {
			return &b.divisions[i]
		}
	}
	entries, left := splitAnd(b.terms, by)
	copies := len(entries)
	if left.op != opNever {
		copies++
	}
	spread := b.spread * b.grown(copies, len(entries))
	d := division{by: by, under: make([]*box, len(entries)), keys: make([]*literal, len(entries)), left: newBox(b.rule, left, spread)}
	for i, e := range entries {
		d.keys[i] = e.key
		then := e.then
		if short, changed := then.given(e.key); changed && short.op != opNever {
			then = short
		}
		if i > 0 && d.under[i-1] != nil && same(then, d.under[i-1].whole) {
			d.under[i] = d.under[i-1]
			continue
		}
		d.under[i] = newBox(b.rule, then, spread)
	}
	b.divisions = append(b.divisions, d)
	return &b.divisions[len(b.divisions)-1]
}

// same tells whether two formulas are the same, by their literals' pointers.
func same(a, b formula) bool {
	if a.op != b.op || a.lit != b.lit || len(a.kids) != len(b.kids) {
		return false
	}
	for i := range a.kids {
		if !same(a.kids[i], b.kids[i]) {
			return false
		}
	}
	return true
}

// key is what groups literals of one index.
func (l *literal) key() string {
	if l.how == isWithin {
		return networkKey(l.network)
	}
	_, key, _ := l.under()
	return key
}

func networkKey(n netip.Prefix) string {
	b, _ := n.MarshalBinary() // of a valid prefix there is no error
	return string(b)
}
