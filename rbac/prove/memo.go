package prove

import (
	"encoding/binary"
	"hash/maphash"
)

// A sum stands for a formula, or a state: two hashes with seeds of this process,
// so that nobody can choose formulas that collide.
type sum struct{ a, b uint64 }

var seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func hashOf(words ...uint64) sum {
	var buffer [80]byte
	b := buffer[:0]
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return sum{maphash.Bytes(seeds[0], b), maphash.Bytes(seeds[1], b)}
}

func (s *sum) add(t sum) {
	s.a += t.a
	s.b += t.b
}

// id is the sum of a formula; the order of terms makes no difference.
func (n *node) id() sum {
	if n.sum != (sum{}) {
		return n.sum
	}
	var all sum
	for _, t := range n.terms {
		all.add(t.id())
	}
	out := hashOf(uint64(n.op), uint64(uint32(n.lit)), uint64(len(n.terms)), all.a, all.b)
	if n != yes && n != no {
		n.sum = out
	}
	return out
}

// id is the sum of what is left to show. It is equal for states that differ only
// in the literals that led there.
func (s *state) id() sum {
	var words [2]sum
	for i, of := range []*side{&s.filter, &s.set} {
		words[i] = hashOf(uint64(of.last))
		for j, g := range of.groups {
			var all sum
			for _, e := range g.entries {
				id, common := e.when.id(), uint64(0)
				if e.common {
					common = 1
				}
				all.add(hashOf(id.a, id.b, common))
			}
			words[i] = hashOf(words[i].a, words[i].b, uint64(j), uint64(g.then), uint64(len(g.entries)), all.a, all.b)
		}
	}
	pin := s.pin.id()
	return hashOf(words[0].a, words[0].b, words[1].a, words[1].b, pin.a, pin.b)
}
