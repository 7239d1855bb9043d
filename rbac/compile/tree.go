package compile

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
)

// A tree writes the part of a filter whose lines all take one action. What is
// matched is an or over boxes, so that their order does not matter, and a box
// may lie wherever a request that it matches comes by.
//
// A level is a chain of Envoy's matcher trees, by one index each, and at its end
// a list. Whoever is found under no key, or is found and matched by nothing
// there, goes on to the next of the chain: Envoy falls back to a shorter prefix,
// a wider network, and then to on_no_match. What a request costs is a look-up
// for each link, and what lies under its own keys.
type tree struct {
	do     action
	lead   string // before the names of rules
	levels int    // how many trees lie in each other at most
	// before and now are the trees of the first level, in their order.
	before, now []link
	once        bool // nothing is kept
	scratch     []byte
	report      Report
	inCommon    bool // what is common has been asked
}

// How long chains are at most. Past it there is a list.
const (
	maxLevels   = 3
	firstChain  = 8
	deeperChain = 3
)

// A link is what lies under the keys of one tree of the first level.
type link struct {
	by   index
	keys map[string]*branch
}

// A branch is what lies under a key of the first level, as it was written.
type branch struct {
	boxes   []*box
	wire    []byte
	deep    int
	invalid bool
	report  Report
}

// matcher writes the content of a Matcher: one of the boxes, of which there is
// one at least, and none without terms; or else what otherwise writes into an
// OnMatch. Nil is nothing.
func (t *tree) matcher(w *wire, boxes []*box, level, chain int, otherwise func()) {
	if level == 0 && t.common(w, boxes, chain, otherwise) {
		return
	}
	by, ok := t.choose(boxes, level, chain)
	if !ok {
		t.list(w, boxes)
		t.rest(w, nil, level, chain, otherwise)
		return
	}
	groups, left := divide(boxes, by)
	if level == 0 && !t.once {
		t.now = append(t.now, link{by, make(map[string]*branch, len(groups))})
	}
	open := w.opens(level)
	m := open(2)
	in := w.open(1)
	w.input(by.in)
	w.close(in)
	switch by.how {
	case isExactly:
		t.keys(w, 2, groups, level)
	case beginsWith:
		t.keys(w, 3, groups, level)
	case isWithin:
		custom := w.open(4)
		w.extension(matcherName, typeIPTree, func() { t.networks(w, groups, level) })
		w.close(custom)
	}
	w.close(m)
	t.rest(w, left, level, chain+1, otherwise)
}

// rest writes what comes behind a link of a chain, where something does.
func (t *tree) rest(w *wire, left []*box, level, chain int, otherwise func()) {
	if len(left) == 0 && otherwise == nil {
		return
	}
	open := w.opens(level)
	m := open(3)
	switch b := unconditional(left); {
	case len(left) == 0:
		otherwise()
	case b != nil:
		t.take(w, b)
	default:
		inner := open(1)
		t.matcher(w, left, level, chain, otherwise)
		w.close(inner)
	}
	w.close(m)
}

// A group is what lies under one key.
type group struct {
	key   *literal
	by    index
	boxes []*box
}

// divide puts boxes under the keys of an index, in the order of the keys.
func divide(boxes []*box, by index) (groups []group, left []*box) {
	at := make(map[string]int, len(boxes))
	for _, b := range boxes {
		if !b.found(by.in).may {
			left = append(left, b)
			continue
		}
		d := b.divide(by)
		for i, key := range d.keys {
			k := key.key()
			j, ok := at[k]
			if !ok {
				j = len(groups)
				at[k] = j
				groups = append(groups, group{key: key, by: by})
			}
			if g := &groups[j]; d.under[i] != nil && (len(g.boxes) == 0 || g.boxes[len(g.boxes)-1] != d.under[i]) {
				g.boxes = append(g.boxes, d.under[i])
			}
		}
		if d.left != nil {
			left = append(left, d.left)
		}
	}
	slices.SortFunc(groups, func(a, b group) int { return cmp.Compare(a.key.key(), b.key.key()) })
	return groups, left
}

// keys writes a MatchMap.
func (t *tree) keys(w *wire, field int, groups []group, level int) {
	m := w.opens(level)(field)
	for i := range groups {
		g := &groups[i]
		entry := w.open(1)
		w.authored(1, g.key.key())
		value := w.open(2)
		t.under(w, g, level)
		w.close(value)
		w.close(entry)
	}
	w.close(m)
}

// networks writes the content of an xds.type.matcher.v3.IPMatcher.
func (t *tree) networks(w *wire, groups []group, level int) {
	for i := range groups {
		g := &groups[i]
		r := w.open(1)
		w.network(1, g.key)
		value := w.open(2)
		t.under(w, g, level)
		w.close(value)
		w.close(r)
	}
}

// under writes the content of an OnMatch: one of the boxes of a group. What lies
// under the first level's keys is kept, and taken again as it is where the boxes
// are the same.
func (t *tree) under(w *wire, g *group, level int) {
	if level > 0 || t.once {
		t.onMatch(w, g.boxes, level)
		return
	}
	key, last := g.key.key(), len(t.now)-1
	var b *branch
	if last < len(t.before) && t.before[last].by == g.by {
		b = t.before[last].keys[key]
	}
	if b == nil || !slices.Equal(b.boxes, g.boxes) {
		outer := t.report
		t.report = Report{}
		own := wire{b: t.scratch[:0]}
		t.onMatch(&own, g.boxes, level)
		t.scratch = own.b
		b = &branch{boxes: g.boxes, wire: bytes.Clone(own.b), deep: own.deepest, invalid: own.invalid, report: t.report}
		t.report = outer
	}
	t.now[last].keys[key] = b
	t.report.add(b.report)
	w.raw(b.wire, b.deep)
	w.invalid = w.invalid || b.invalid
}

func (t *tree) onMatch(w *wire, boxes []*box, level int) {
	if b := unconditional(boxes); b != nil {
		t.take(w, b)
		return
	}
	m := w.open(1)
	t.matcher(w, boxes, level+1, 0, nil)
	w.close(m)
}

// unconditional is a box of the list that asks nothing: it stands for them all.
func unconditional(boxes []*box) *box {
	for _, b := range boxes {
		if len(b.terms) == 0 {
			return b
		}
	}
	return nil
}

func (t *tree) take(w *wire, b *box) {
	t.report.Boxes++
	w.onMatchAction(t.lead+b.rule, t.do)
}

// list writes a MatcherList, of which each line asks all that a box asks. A
// line that was there before is left out.
func (t *tree) list(w *wire, boxes []*box) {
	seen := map[string]bool{}
	written := make([]*box, 0, len(boxes))
	list := w.open(1)
	for _, b := range boxes {
		start := len(w.b)
		line := w.open(1)
		p := w.open(1)
		from := len(w.b)
		w.conjunction(b.terms)
		if len(boxes) > 1 {
			if what := string(w.b[from:]); seen[what] {
				w.b = w.b[:start]
				w.depth -= 2
				continue
			} else {
				seen[what] = true
			}
		}
		w.close(p)
		m := w.open(2)
		t.take(w, b)
		w.close(m)
		w.close(line)
		written = append(written, b)
	}
	w.close(list)
	t.report.listed(written)
}

// conjunction is the content of a Predicate: all of the terms, one at least.
func (w *wire) conjunction(terms []formula) {
	if len(terms) == 1 {
		w.formula(&terms[0])
		return
	}
	w.list(3, len(terms), func(i int) { w.formula(&terms[i]) })
}

// A choice is what looking up an input would do.
type choice struct {
	in     input
	boxes  int                          // that may lie under its keys
	whole  int                          // of these, those of which nothing would be left
	more   int                          // literals that would be written once more
	groups [isWithin + 1]map[string]int // boxes by key, by how it is compared
	keys   [isWithin + 1]int            // by how they are compared
}

// spared is how many boxes fewer a request meets: those under keys but the ones
// of its own.
func (c *choice) spared() float64 {
	squares, keys := 0, 0
	for _, groups := range c.groups {
		for _, n := range groups {
			squares += n * n
			keys += n
		}
	}
	return float64(c.boxes+c.whole)/2 - float64(squares)/float64(max(keys, 1))
}

// choose finds the index that spares most, or nearly, and of these the one that
// repeats least. It is false where a list does as well.
func (t *tree) choose(boxes []*box, level, chain int) (index, bool) {
	links := deeperChain
	if level == 0 {
		links = firstChain
	}
	if len(boxes) < 2 || level >= t.levels || chain >= links {
		return index{}, false
	}
	choices := map[input]*choice{}
	var list []input
	for _, b := range boxes {
		list = list[:0]
		for i := range b.terms {
			list = b.terms[i].inputs(list)
		}
		for _, in := range list {
			f := b.found(in)
			if !f.may {
				continue
			}
			c := choices[in]
			if c == nil {
				c = &choice{in: in}
				choices[in] = c
			}
			c.boxes++
			c.whole += int(of(f.whole))
			c.more += f.more
			b.terms[f.term].keys(in, func(by index, l *literal) {
				if c.groups[by.how] == nil {
					c.groups[by.how] = make(map[string]int, len(boxes)/4)
				}
				c.groups[by.how][l.key()]++
				c.keys[by.how]++
			})
		}
	}
	most := 1.0
	for _, c := range choices {
		most = max(most, c.spared())
	}
	var best *choice
	for _, c := range slices.SortedFunc(maps.Values(choices), func(a, b *choice) int { return a.in.compare(b.in) }) {
		if c.spared() >= most*0.9 && (best == nil || c.more < best.more) {
			best = c
		}
	}
	if best == nil {
		return index{}, false
	}
	by := index{best.in, isExactly}
	for _, how := range []comparison{beginsWith, isWithin} {
		if best.keys[how] > best.keys[by.how] {
			by.how = how
		}
	}
	return by, true
}

// compare orders inputs: identities before paths, as their kinds are.
func (i input) compare(j input) int {
	return cmp.Or(cmp.Compare(i.kind, j.kind), cmp.Compare(i.name, j.name))
}
