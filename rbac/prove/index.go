package prove

import (
	"slices"
	"sort"
	"strings"
)

// An index finds the entries of one group that may hold where literals do. Each
// lies under texts of one attribute, of which it needs one, whole or as a
// beginning; a region that speaks of that attribute meets few of them.
type index struct {
	entries []entry
	columns map[attribute]*column
	rest    []int // under no text
}

// A column is the texts of one attribute, in order.
type column struct {
	whole, begin map[string][]int
	texts        []string
	longest      int // of begin
}

// index makes an index. Of the texts that an entry could lie under it takes the
// rarest.
func (p *proof) index(entries []entry) *index {
	x := &index{entries: entries, columns: map[attribute]*column{}}
	count := map[int32]int{}
	choices := make([][][]int32, len(entries))
	for i, e := range entries {
		choices[i] = p.choices(e.when)
		for _, atoms := range choices[i] {
			for _, a := range atoms {
				count[a]++
			}
		}
	}
	for i := range entries {
		var best []int32
		least := 0
		for _, atoms := range choices[i] {
			most := 0
			for _, a := range atoms {
				most = max(most, count[a])
			}
			if best == nil || most < least {
				best, least = atoms, most
			}
		}
		if best == nil {
			x.rest = append(x.rest, i)
		}
		for _, a := range best {
			x.put(&p.atoms[a], i)
		}
	}
	for _, c := range x.columns {
		for s := range c.whole {
			c.texts = append(c.texts, s)
		}
		for s := range c.begin {
			if c.longest = max(c.longest, len(s)); c.whole[s] == nil {
				c.texts = append(c.texts, s)
			}
		}
		slices.Sort(c.texts)
	}
	return x
}

func (x *index) put(a *atom, i int) {
	c := x.columns[a.of]
	if c == nil {
		c = &column{whole: map[string][]int{}, begin: map[string][]int{}}
		x.columns[a.of] = c
	}
	if a.how == exact {
		c.whole[a.literal] = append(c.whole[a.literal], i)
	} else {
		c.begin[a.literal] = append(c.begin[a.literal], i)
	}
}

// choices are atoms of one attribute each, of which n needs one.
func (p *proof) choices(n *node) [][]int32 {
	terms := n.terms
	if n.op != allOf {
		terms = []*node{n}
	}
	var out [][]int32
	for _, t := range terms {
		if t.op == isLiteral {
			if p.isText(t.lit) {
				out = append(out, []int32{t.lit.atom()})
			}
			continue
		}
		var all []int32
		for _, alternative := range t.terms {
			under := alternative.under(allOf)
			at := slices.IndexFunc(under, func(t *node) bool {
				return t.op == isLiteral && p.isText(t.lit) && (all == nil || p.of(t.lit) == p.atoms[all[0]].of)
			})
			if at < 0 {
				all = nil
				break
			}
			all = append(all, under[at].lit.atom())
		}
		if all != nil {
			out = append(out, all)
		}
	}
	return out
}

// isText tells whether a literal needs a text of an attribute that has one.
func (p *proof) isText(l literal) bool {
	a := &p.atoms[l.atom()]
	return !l.negated() && (a.how == exact || a.how == prefix) && !a.ignoreCase && a.of.kind != list
}

// in lists the entries that may hold where literals do.
func (x *index) in(p *proof, so []literal) []entry {
	found := slices.Clone(x.rest)
	for of, c := range x.columns {
		var need *atom // the whole text, or the longest beginning
		for _, l := range so {
			if a := &p.atoms[l.atom()]; a.of == of && p.isText(l) && (need == nil || a.how == exact || need.how == prefix && len(a.literal) > len(need.literal)) {
				need = a
			}
		}
		found = append(found, c.near(need)...)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	out := make([]entry, len(found))
	for i, at := range found {
		out[i] = x.entries[at]
	}
	return out
}

func (c *column) near(need *atom) (out []int) {
	switch {
	case need == nil:
		for _, s := range c.texts {
			out = append(append(out, c.whole[s]...), c.begin[s]...)
		}
		return out
	case need.how == exact:
		out = append(out, c.whole[need.literal]...)
	default:
		first := sort.SearchStrings(c.texts, need.literal)
		for _, s := range c.texts[first:] {
			if !strings.HasPrefix(s, need.literal) {
				break
			}
			if out = append(out, c.whole[s]...); s != need.literal {
				out = append(out, c.begin[s]...)
			}
		}
	}
	for n := range min(c.longest, len(need.literal)) + 1 {
		out = append(out, c.begin[need.literal[:n]]...)
	}
	return out
}
