package prove

import (
	"fmt"
	"slices"
	"strings"
)

// A share is what a filter says of one rule: an or of items with its name.
type share struct {
	first *node // nil: nothing
	more  []*node
	sum   sum
}

func (s *share) add(n *node) {
	s.sum.add(n.id())
	if s.first == nil {
		s.first = n
	} else {
		s.more = append(s.more, n)
	}
}

func (s *share) node() *node {
	switch {
	case s.first == nil:
		return no
	case len(s.more) == 0:
		return s.first
	}
	return or(append([]*node{s.first}, s.more...)...)
}

func (s *share) entries() []entry {
	if s.first == nil {
		return nil
	}
	out := []entry{{when: s.first}}
	for _, n := range s.more {
		out = append(out, entry{when: n})
	}
	return out
}

// pairs are one part of a filter, and of the set, rule by rule.
type pairs struct {
	part   part
	shares []share // of each rule
	failed []int   // rules that are not shown alone
	strays []item  // with a name that is none of the part's
}

// open tells that something is left to show.
func (x *pairs) open() bool { return len(x.failed)+len(x.strays) > 0 }

// pair compares the items of one part with the rules, name by name. A name is a
// hint of where to look and nothing else: where a rule and what bears its name
// are the same for all requests, both sides have the same in it, whatever the
// rest is.
func (p *proof) pair(w *world, items []item, part part) *pairs {
	x := &pairs{part: part, shares: make([]share, len(part.rules))}
	byName := make(map[string]int, len(part.rules))
	for i := range part.rules {
		byName[part.rules[i].name] = i
	}
	for i := range items {
		if at, ok := byName[items[i].name]; ok {
			x.shares[at].add(items[i].when)
		} else {
			x.strays = append(x.strays, items[i])
		}
	}
	for i := range x.shares {
		r, s := &part.rules[i], &x.shares[i]
		k := hashOf(r.sum.a, r.sum.b, s.sum.a, s.sum.b, uint64(len(s.more)))
		if w.proved[k] {
			continue
		}
		if p.same(s.node(), w.says(r, p.lowering), w.facts) {
			w.proved[k] = true
		} else {
			x.failed = append(x.failed, i)
		}
	}
	p.again(w, x)
	return x
}

// again leaves out failed rules that say what a rule says that is shown: of two
// that are the same a filter has one.
func (p *proof) again(w *world, x *pairs) {
	if len(x.failed) == 0 {
		return
	}
	shown := make(map[sum]bool, len(x.shares))
	failed := x.failed
	for i := range x.shares {
		if len(failed) > 0 && failed[0] == i {
			failed = failed[1:]
		} else {
			shown[w.says(&x.part.rules[i], p.lowering).id()] = true
		}
	}
	x.failed = slices.DeleteFunc(x.failed, func(i int) bool {
		return x.shares[i].first == nil && shown[w.says(&x.part.rules[i], p.lowering).id()]
	})
}

// groups are both sides, with what is shown as common.
func (p *proof) groups(w *world, x *pairs) (filter, says group) {
	filter, says = group{then: x.part.then}, group{then: x.part.then}
	for _, it := range x.strays {
		filter.entries = append(filter.entries, entry{when: it.when})
	}
	for _, i := range x.failed {
		filter.entries = append(filter.entries, x.shares[i].entries()...)
		says.entries = append(says.entries, entry{when: w.says(&x.part.rules[i], p.lowering)})
	}
	filter.entries, says.entries = p.apart(filter.entries), p.apart(says.entries)
	p.common(filter.entries, says.entries)
	failed := x.failed
	for i := range x.shares {
		if len(failed) > 0 && failed[0] == i {
			failed = failed[1:]
			continue
		}
		if n := w.says(&x.part.rules[i], p.lowering); n != no {
			both := entry{when: n, common: true, size: n.leaves()}
			filter.entries, says.entries = append(filter.entries, both), append(says.entries, both)
		}
	}
	return filter, says
}

// A run is items that follow each other, with one outcome.
type run struct {
	then  outcome
	items []item
}

// runs groups items as they come.
func runs(items []item) (out []run, last outcome) {
	last = deny // nothing matched
	for i, it := range items {
		if it.when == yes {
			return out, it.then
		}
		if n := len(out); n == 0 || out[n-1].then != it.then {
			out = append(out, run{then: it.then, items: items[i:i:len(items)]})
		}
		r := &out[len(out)-1]
		r.items = r.items[:len(r.items)+1]
	}
	return out, last
}

// inOrder gives each part its run; false where the filter has others, or in
// another order.
func inOrder(runs []run, parts []part) ([]run, bool) {
	out := make([]run, len(parts))
	for i, part := range parts {
		if out[i].then = part.then; len(runs) > 0 && runs[0].then == part.then {
			out[i], runs = runs[0], runs[1:]
		}
	}
	return out, len(runs) == 0
}

// behind shows that both sides do the same where facts hold.
func (p *proof) behind(items []item, facts []literal) error {
	w := p.world(p.lowering, facts)
	kept := make([]item, 0, len(items))
	for _, it := range items {
		if n := w.simple(it.when); n != no {
			kept = append(kept, item{n, it.then, it.name})
			if n == yes {
				break
			}
		}
	}
	found, last := runs(kept)
	filter, says := side{last: last}, side{last: p.claim.last}
	ordered, ok := inOrder(found, p.claim.parts)
	if !ok {
		p.asTheyStand(w, found, &filter, &says)
		return p.regions(filter, says, facts)
	}
	open, all, strays := last != p.claim.last, make([]*pairs, len(ordered)), []item(nil)
	for i, part := range p.claim.parts {
		all[i] = p.pair(w, ordered[i].items, part)
		open, strays = open || all[i].open(), append(strays, all[i].strays...)
	}
	if !open {
		return nil
	}
	for _, x := range all {
		inFilter, inSet := p.groups(w, x)
		filter.groups, says.groups = append(filter.groups, inFilter), append(says.groups, inSet)
	}
	if err := p.regions(filter, says, facts); err != nil {
		return err
	}
	for _, it := range strays {
		if strings.Contains(it.name, "/") { // else it is a guard's
			return fmt.Errorf("%w: an action is named %.80q, which is no rule of its part", ErrUnknown, it.name)
		}
	}
	return nil
}

// asTheyStand makes sides of a filter whose parts are not those of the set, or
// not in their order.
func (p *proof) asTheyStand(w *world, found []run, filter, says *side) {
	for _, r := range found {
		g := group{then: r.then}
		for _, it := range r.items {
			g.entries = append(g.entries, entry{when: it.when})
		}
		g.entries = p.apart(g.entries)
		filter.groups = append(filter.groups, g)
	}
	for _, part := range p.claim.parts {
		g := group{then: part.then}
		for i := range part.rules {
			if n := w.says(&part.rules[i], p.lowering); n != no {
				g.entries = append(g.entries, entry{when: n})
			}
		}
		if len(g.entries) > 0 {
			g.entries = p.apart(g.entries)
			says.groups = append(says.groups, g)
		}
	}
}
