package prove

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/istio-auth/istio-auth/rbac/interpret"
)

// An attrKind is what an atom asks about. Path and fold are two views of one
// thing; of a claim its two forms are attributes of their own, of which a
// request has one at the most.
type attrKind uint8

const (
	peer    attrKind = iota + 1 // the URI SANs, joined by commas
	path                        // filter state
	fold                        // filter state: rbac.FoldPath of it
	method                      // header
	host                        // filter state: rbac.FoldHost of the authority
	header                      // by name; several lines are joined by commas
	issuer                      // filter state
	subject                     // filter state
	text                        // a claim that is a string, by its path
	list                        // the strings of a claim that is a list, by its path
	direct                      // addresses
	source
	destination
	port
	server
	word // of our own provider, by its list and a name
)

// An attribute is a kind and, for headers and claims, which one.
type attribute struct {
	kind attrKind
	name string
}

func (a attribute) isAddress() bool {
	return a.kind == direct || a.kind == source || a.kind == destination
}

// A relation is how an atom compares.
type relation uint8

const (
	present relation = iota + 1 // there is a value, an empty one too
	exact
	prefix
	suffix
	contains
	regex
	within // a network
)

// An atom is a question about one attribute that is true or false. Of an
// attribute that is not there it is false. Of a list it is true where it is of
// one of its strings.
type atom struct {
	of         attribute
	how        relation
	literal    string
	ignoreCase bool
	network    netip.Prefix
}

// A literal is an atom's number, twice, plus one where it is negated.
type literal int32

func (l literal) atom() int32       { return int32(l >> 1) }
func (l literal) negated() bool     { return l&1 != 0 }
func (l literal) not() literal      { return l ^ 1 }
func positive(number int32) literal { return literal(number << 1) }

// A table numbers atoms.
type table struct {
	atoms   []atom
	numbers map[atom]int32
	shapes  map[string]*interpret.Shape
	folds   map[string]string
}

func newTable() *table {
	return &table{numbers: map[atom]int32{}, shapes: map[string]*interpret.Shape{}, folds: map[string]string{}}
}

func (t *table) number(a atom) int32 {
	if n, ok := t.numbers[a]; ok {
		return n
	}
	n := int32(len(t.atoms))
	t.atoms = append(t.atoms, a)
	t.numbers[a] = n
	return n
}

// shape reads a regular expression, once. Those of filters have been read
// before, and ours are tested.
func (t *table) shape(source string) *interpret.Shape {
	s, ok := t.shapes[source]
	if !ok {
		s, _ = interpret.ParseShape(source)
		t.shapes[source] = s
	}
	return s
}

func (t *table) of(l literal) attribute { return t.atoms[l.atom()].of }

// holds tells whether an atom holds of a string that is there.
func (t *table) holds(a *atom, s string) bool {
	literal := a.literal
	if a.ignoreCase {
		literal, s = lower(literal), lower(s)
	}
	switch a.how {
	case present:
		return true
	case exact:
		return s == literal
	case prefix:
		return strings.HasPrefix(s, literal)
	case suffix:
		return strings.HasSuffix(s, literal)
	case contains:
		return strings.Contains(s, literal)
	case regex:
		shape := t.shape(a.literal)
		return shape != nil && shape.Match(s)
	}
	return false
}

// lower is ASCII's, byte by byte.
func lower(s string) string {
	out := []byte(s)
	for i, b := range out {
		if 'A' <= b && b <= 'Z' {
			out[i] = b + 'a' - 'A'
		}
	}
	return string(out)
}

// folded is rbac.FoldPath, once for each path.
func (t *table) folded(p string) string {
	f, ok := t.folds[p]
	if !ok {
		f = foldPath(p)
		t.folds[p] = f
	}
	return f
}

// A truth is what is known of an atom.
type truth int8

const (
	unknown truth = iota
	isTrue
	isFalse
)

func known(b bool) truth {
	if b {
		return isTrue
	}
	return isFalse
}

func (k truth) not() truth {
	switch k {
	case isTrue:
		return isFalse
	case isFalse:
		return isTrue
	}
	return unknown
}

// implies is what is known of atom q where literal p holds. It knows much and
// not all; what it does not know, the solver finds.
func (t *table) implies(p literal, q int32) truth {
	if p.atom() == q {
		return known(!p.negated())
	}
	a, b := &t.atoms[p.atom()], &t.atoms[q]
	if a.of != b.of {
		return t.across(a, b, p.negated())
	}
	if a.of.isAddress() {
		return impliesNetwork(a.network, b.network, p.negated())
	}
	if a.ignoreCase || b.ignoreCase {
		if !p.negated() && b.how == present {
			return isTrue
		}
		return unknown
	}
	if p.negated() {
		if t.entails(b, a) {
			return isFalse
		}
		return unknown
	}
	switch {
	case a.how == exact && a.of.kind != list:
		return known(t.holds(b, a.literal))
	case t.entails(a, b):
		return isTrue
	case a.of.kind != list && t.excludes(a, b):
		return isFalse
	}
	return unknown
}

// entails tells whether of every string of which a holds, b does.
func (t *table) entails(a, b *atom) bool {
	switch {
	case b.how == present, *a == *b:
		return true
	case a.how == exact:
		return t.holds(b, a.literal)
	case a.how == prefix && b.how == prefix:
		return strings.HasPrefix(a.literal, b.literal)
	case a.how == suffix && b.how == suffix:
		return strings.HasSuffix(a.literal, b.literal)
	case b.how == regex && b.literal == hasSome && (a.how == prefix || a.how == suffix || a.how == contains):
		return a.literal != "-"
	case (a.how == prefix || a.how == suffix || a.how == contains) && b.how == contains:
		return strings.Contains(a.literal, b.literal)
	}
	return false
}

// excludes tells whether of no string both hold.
func (t *table) excludes(a, b *atom) bool {
	switch {
	case b.how == exact:
		return !t.holds(a, b.literal)
	case a.how == prefix && b.how == prefix:
		return !strings.HasPrefix(a.literal, b.literal) && !strings.HasPrefix(b.literal, a.literal)
	case a.how == suffix && b.how == suffix:
		return !strings.HasSuffix(a.literal, b.literal) && !strings.HasSuffix(b.literal, a.literal)
	}
	return false
}

// across is what is known of one attribute by another: a path tells its fold,
// and a claim that is a string is no list.
func (t *table) across(a, b *atom, negated bool) truth {
	switch {
	case a.of.kind == fold && b.of.kind == path && b.how == exact && !b.ignoreCase:
		// The path cannot be one whose fold is not so.
		if t.holds(a, t.folded(b.literal)) == negated {
			return isFalse
		}
		return unknown
	case negated:
		return unknown
	case a.of.kind == path && b.of.kind == fold && a.how == exact && !a.ignoreCase:
		return known(t.holds(b, t.folded(a.literal)))
	case a.of.name == b.of.name && (a.of.kind == text && b.of.kind == list || a.of.kind == list && b.of.kind == text):
		return isFalse
	}
	return unknown
}

func impliesNetwork(a, b netip.Prefix, negated bool) truth {
	inside := a.Overlaps(b) && a.Bits() >= b.Bits() // a lies in b
	switch {
	case negated && a.Overlaps(b) && b.Bits() >= a.Bits():
		return isFalse
	case negated:
		return unknown
	case inside:
		return isTrue
	case !a.Overlaps(b):
		return isFalse
	}
	return unknown
}

// String is the atom for a message.
func (a atom) String() string {
	names := [...]string{peer: "peer", path: "path", fold: "folded path", method: "method", host: "host", header: "header ", issuer: "issuer",
		subject: "subject", text: "claim ", list: "list claim ", direct: "source", source: "remote", destination: "destination", port: "port", server: "server name", word: "word "}
	hows := [...]string{present: "present", exact: "is", prefix: "begins", suffix: "ends", contains: "contains", regex: "matches", within: "within"}
	if a.how == within {
		return fmt.Sprintf("%s within %s", names[a.of.kind], a.network)
	}
	return fmt.Sprintf("%s%s %s %q", names[a.of.kind], a.of.name, hows[a.how], a.literal)
}
