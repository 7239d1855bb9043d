package interpret

import (
	"hash/maphash"

	"google.golang.org/protobuf/types/known/anypb"
)

// A Decoder decodes the filters of one workload, one after the other. What lies
// under a key near the top, and lines there, it reads once as long as the bytes
// are the same, and gives the same pointers for them again: nothing of a
// [Filter] may be changed. The zero Decoder is ready. It is not for several
// goroutines at once.
type Decoder struct {
	d *decoder
}

// Decode is [Decode].
func (d *Decoder) Decode(filter *anypb.Any) (*Filter, error) {
	if d.d == nil {
		d.d = newDecoder()
		d.d.known = map[memoKey]memoized{}
	}
	return d.d.decode(filter)
}

// Len is how much a Decoder remembers; of nil, nothing.
func (d *Decoder) Len() int {
	if d == nil || d.d == nil {
		return 0
	}
	return len(d.d.known) + len(d.d.inputs) + len(d.d.shapes)
}

// A memoKey stands for bytes: two hashes with seeds of this process, so that
// nobody can choose bytes that collide.
type memoKey struct {
	a, b  uint64
	size  int
	depth int
	line  bool
}

type memoized struct {
	key  string
	then Then
	line Line
}

var memoSeeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

// remembered is how far from the top, in matchers, what was read is remembered.
const remembered = 5

// remember calls read where these bytes are new at this depth.
func (d *decoder) remember(data []byte, depth int, line bool, read func() (memoized, error)) (memoized, error) {
	if d.known == nil || depth <= maxDepth-remembered {
		return read()
	}
	k := memoKey{maphash.Bytes(memoSeeds[0], data), maphash.Bytes(memoSeeds[1], data), len(data), depth, line}
	if m, ok := d.known[k]; ok {
		return m, nil
	}
	m, err := read()
	if err == nil {
		d.known[k] = m
	}
	return m, err
}
