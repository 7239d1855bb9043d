package interpret

import (
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// maxPositions bounds a regular expression: the bytes and classes in it.
const maxPositions = 4096

// A Shape is a regular expression of a small language, read structurally:
// literals, classes, groups, alternatives, and the quantifiers ?, * and +. It
// is run as an automaton over bytes, so that two of them can be compared, and
// matches whole texts only, as Envoy's matchers do. What RE2 knows beyond is
// refused. As in RE2, "." and negated classes are of one valid UTF-8
// character, and "." is no line feed but after (?s).
type Shape struct {
	nullable    bool
	first, last positions
	sets        []ByteSet   // what a position takes
	follow      []positions // what may come after a position
}

// A ByteSet is a set of bytes.
type ByteSet [4]uint64

// Has tells whether b is of s.
func (s *ByteSet) Has(b byte) bool { return s[b>>6]&(1<<(b&63)) != 0 }

func (s *ByteSet) add(from, to byte) {
	for b := int(from); b <= int(to); b++ {
		s[b>>6] |= 1 << (b & 63)
	}
}

// positions lists places in a Shape, without order and each once.
type positions []int32

func (p positions) with(q positions) positions {
	out := append(positions(nil), p...)
next:
	for _, x := range q {
		for _, y := range p {
			if x == y {
				continue next
			}
		}
		out = append(out, x)
	}
	return out
}

// A piece is a part of an expression that is being read.
type piece struct {
	nullable    bool
	first, last positions
}

type shapeParser struct {
	source string
	at     int
	dotAll bool
	depth  int
	shape  *Shape
	err    error
}

// ParseShape reads a regular expression. Errors wrap [ErrUnknown].
func ParseShape(source string) (*Shape, error) {
	p := &shapeParser{source: source, shape: new(Shape)}
	if len(source) > 4 && source[:4] == "(?s)" {
		p.dotAll, p.at = true, 4
	}
	all := p.alternatives()
	if p.err == nil && p.at < len(source) {
		p.refuse()
	}
	if p.err != nil {
		return nil, p.err
	}
	s := p.shape
	s.nullable, s.first, s.last = all.nullable, all.first, all.last
	return s, nil
}

func (p *shapeParser) refuse() {
	if p.err == nil {
		p.err = fmt.Errorf("%w: regular expression %.200q, at byte %d", ErrUnknown, p.source, p.at)
	}
}

func (p *shapeParser) peek() byte {
	if p.at < len(p.source) && p.err == nil {
		return p.source[p.at]
	}
	return 0
}

func (p *shapeParser) alternatives() piece {
	out := p.sequence()
	for p.peek() == '|' {
		p.at++
		out = or(out, p.sequence())
	}
	return out
}

func or(a, b piece) piece {
	return piece{a.nullable || b.nullable, a.first.with(b.first), a.last.with(b.last)}
}

func (p *shapeParser) sequence() piece {
	out := piece{nullable: true}
	for {
		switch p.peek() {
		case 0, '|', ')':
			if p.peek() == 0 && p.at < len(p.source) {
				p.refuse() // a NUL
			}
			return out
		}
		out = p.then(out, p.quantified())
	}
}

// then joins two pieces, one after the other.
func (p *shapeParser) then(a, b piece) piece {
	for _, x := range a.last {
		p.shape.follow[x] = p.shape.follow[x].with(b.first)
	}
	out := piece{nullable: a.nullable && b.nullable, first: a.first, last: b.last}
	if a.nullable {
		out.first = a.first.with(b.first)
	}
	if b.nullable {
		out.last = b.last.with(a.last)
	}
	return out
}

func (p *shapeParser) quantified() piece {
	one := p.atom()
	switch p.peek() {
	case '?':
		one.nullable = true
	case '*', '+':
		for _, x := range one.last {
			p.shape.follow[x] = p.shape.follow[x].with(one.first)
		}
		one.nullable = one.nullable || p.peek() == '*'
	case '{':
		p.refuse()
		return one
	default:
		return one
	}
	p.at++
	switch p.peek() {
	case '?', '*', '+', '{': // lazy, possessive or twice
		p.refuse()
	}
	return one
}

func (p *shapeParser) atom() piece {
	switch c := p.peek(); c {
	case '(':
		return p.group()
	case '[':
		return p.class()
	case '.':
		p.at++
		var ascii ByteSet
		ascii.add(0, 0x7f)
		if !p.dotAll {
			ascii[0] &^= 1 << '\n'
		}
		return p.character(ascii)
	case '\\':
		p.at++
		if next := p.peek(); next >= 0x80 || next <= ' ' || isWord(next) {
			p.refuse()
			return piece{}
		}
		return p.literal()
	case '*', '+', '?', '{', '}', '^', '$', ']':
		p.refuse()
		return piece{}
	default:
		return p.literal()
	}
}

func isWord(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '_'
}

// literal reads one character, of one or more bytes.
func (p *shapeParser) literal() piece {
	_, size := utf8.DecodeRuneInString(p.source[p.at:])
	out := piece{nullable: true}
	for range size {
		var set ByteSet
		set.add(p.source[p.at], p.source[p.at])
		p.at++
		out = p.then(out, p.place(set))
	}
	return out
}

func (p *shapeParser) group() piece {
	p.at++
	if p.depth++; p.depth > 50 {
		p.refuse()
		return piece{}
	}
	if p.peek() == '?' {
		p.at++
		if p.peek() != ':' {
			p.refuse()
			return piece{}
		}
		p.at++
	}
	out := p.alternatives()
	if p.peek() != ')' {
		p.refuse()
		return piece{}
	}
	p.at++
	p.depth--
	return out
}

// class reads [...]: of ASCII, without escapes and named classes. A negated one
// also takes every character beyond ASCII.
func (p *shapeParser) class() piece {
	p.at++
	negated := p.peek() == '^'
	if negated {
		p.at++
	}
	var set ByteSet
	for first := true; p.peek() != ']'; first = false {
		low := p.peek()
		if low < ' ' || low >= 0x7f || low == '[' || low == '\\' || low == '^' || low == '-' && !first && p.ahead(1) != ']' {
			p.refuse()
			return piece{}
		}
		p.at++
		high := low
		if p.peek() == '-' && p.ahead(1) != ']' {
			p.at++
			high = p.peek()
			if !isWord(low) || !isWord(high) || high < low {
				p.refuse()
				return piece{}
			}
			p.at++
		}
		set.add(low, high)
	}
	p.at++
	if !negated {
		if set == (ByteSet{}) {
			p.refuse() // "[]": RE2 reads on
		}
		return p.place(set)
	}
	if set == (ByteSet{}) {
		p.refuse()
	}
	return p.character(ByteSet{^set[0], ^set[1]})
}

func (p *shapeParser) ahead(n int) byte {
	if p.at+n < len(p.source) {
		return p.source[p.at+n]
	}
	return 0
}

// place is a new position.
func (p *shapeParser) place(set ByteSet) piece {
	n := positions{int32(len(p.shape.sets))}
	p.shape.sets = append(p.shape.sets, set)
	p.shape.follow = append(p.shape.follow, nil)
	if len(p.shape.sets) > maxPositions {
		p.refuse()
	}
	return piece{first: n, last: n}
}

// character is one of ascii, or any character beyond it (Unicode 16, table 3-7).
func (p *shapeParser) character(ascii ByteSet) piece {
	out := p.place(ascii)
	for _, ranges := range [][][2]byte{
		{{0xc2, 0xdf}, {0x80, 0xbf}},
		{{0xe0, 0xe0}, {0xa0, 0xbf}, {0x80, 0xbf}},
		{{0xe1, 0xec}, {0x80, 0xbf}, {0x80, 0xbf}},
		{{0xed, 0xed}, {0x80, 0x9f}, {0x80, 0xbf}},
		{{0xee, 0xef}, {0x80, 0xbf}, {0x80, 0xbf}},
		{{0xf0, 0xf0}, {0x90, 0xbf}, {0x80, 0xbf}, {0x80, 0xbf}},
		{{0xf1, 0xf3}, {0x80, 0xbf}, {0x80, 0xbf}, {0x80, 0xbf}},
		{{0xf4, 0xf4}, {0x80, 0x8f}, {0x80, 0xbf}, {0x80, 0xbf}},
	} {
		one := piece{nullable: true}
		for _, r := range ranges {
			var set ByteSet
			set.add(r[0], r[1])
			one = p.then(one, p.place(set))
		}
		out = or(out, one)
	}
	return out
}

// A Run is where a Shape stands in a text: a set of positions, and whether it
// is at the beginning.
type Run struct {
	begin bool
	at    []uint64
}

// Begin is a run before the first byte.
func (s *Shape) Begin() Run {
	return Run{begin: true, at: make([]uint64, (len(s.sets)+63)/64)}
}

// Next is the run after one more byte.
func (s *Shape) Next(r Run, b byte) Run {
	out := Run{at: make([]uint64, len(r.at))}
	enter := func(list positions) {
		for _, x := range list {
			if s.sets[x].Has(b) {
				out.at[x>>6] |= 1 << (x & 63)
			}
		}
	}
	if r.begin {
		enter(s.first)
	}
	for i, word := range r.at {
		for ; word != 0; word &= word - 1 {
			enter(s.follow[i<<6+bits.TrailingZeros64(word)])
		}
	}
	return out
}

// Accepts tells whether the text that ends here matches.
func (s *Shape) Accepts(r Run) bool {
	if r.begin {
		return s.nullable
	}
	for _, x := range s.last {
		if r.at[x>>6]&(1<<(x&63)) != 0 {
			return true
		}
	}
	return false
}

// Key is equal for equal runs of one Shape.
func (r Run) Key() string {
	out := make([]byte, 0, 1+8*len(r.at))
	if r.begin {
		out = append(out, 1)
	}
	for _, word := range r.at {
		for i := range 8 {
			out = append(out, byte(word>>(8*i)))
		}
	}
	return string(out)
}

// Match tells whether the whole text matches.
func (s *Shape) Match(text string) bool {
	r := s.Begin()
	for i := range len(text) {
		r = s.Next(r, text[i])
	}
	return s.Accepts(r)
}

// Sets lists what the positions take, for whoever looks for a text that matches.
func (s *Shape) Sets() []ByteSet { return s.sets }

// Stuck tells that no text that begins so matches.
func (r Run) Stuck() bool {
	if r.begin {
		return false
	}
	for _, word := range r.at {
		if word != 0 {
			return false
		}
	}
	return true
}
