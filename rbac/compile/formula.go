package compile

import "net/netip"

// An inputKind is what Envoy can be asked for. The zero value is nothing.
type inputKind uint8

const (
	inPeer     inputKind = iota + 1 // the URI SAN of the peer's certificate
	inPeerText                      // the same from filter state: see PeerKey
	inPath
	inFold
	inHost
	inIssuer
	inSubject
	inMethod
	inHeader // by name
	inPort
	inSNI
	inSource
	inRemote
	inDestination
	inClaim // by path, as rbac.Attribute writes it
	inWord  // of our own provider: WordYes or WordNo
)

// isList tells of what may be a list, of which no tree looks anything up.
func (k inputKind) isList() bool { return k == inClaim || k == inWord }

// An input is one of them, of a header, a claim or a word with its name.
type input struct {
	kind inputKind
	name string
}

// A comparison is how a literal compares.
type comparison uint8

const (
	isExactly comparison = iota + 1
	beginsWith
	endsWith
	contains
	isLike   // a regular expression of our own, over the whole
	isWithin // a network
)

// A literal asks one thing of one input. An input that is not there satisfies
// no literal but a negated one.
type literal struct {
	in   input
	how  comparison
	not  bool
	text string
	// lead is a beginning that every text has that is like text. Empty: nothing
	// is known of it.
	lead    string
	network netip.Prefix
}

// An operator joins what a formula has.
type operator uint8

const (
	opNever operator = iota // the zero formula
	opAlways
	opLiteral
	opAnd
	opOr
)

// A formula is what a rule asks of Envoy's inputs. Negations are in the
// literals. And and or have at least two kids, none of them a constant or of
// their own operator.
type formula struct {
	op   operator
	lit  *literal
	kids []formula
}

var (
	never  = formula{}
	always = formula{op: opAlways}
)

func constant(b bool) formula {
	if b {
		return always
	}
	return never
}

func lit(in input, how comparison, text string) formula {
	return formula{op: opLiteral, lit: &literal{in: in, how: how, text: text}}
}

// and of nothing is always.
func and(kids ...formula) formula { return join(opAnd, opAlways, opNever, kids) }

// or of nothing is never.
func or(kids ...formula) formula { return join(opOr, opNever, opAlways, kids) }

// join drops what is neutral to op, and is the zero of it where one kid is.
func join(op, neutral, zero operator, kids []formula) formula {
	n, last := 0, -1
	for i := range kids {
		switch kids[i].op {
		case zero:
			return formula{op: zero}
		case neutral:
		case op:
			n += len(kids[i].kids)
			last = i
		default:
			n++
			last = i
		}
	}
	switch {
	case n == 0:
		return formula{op: neutral}
	case n == 1:
		return kids[last]
	}
	list := make([]formula, 0, n)
	for i := range kids {
		switch kids[i].op {
		case neutral:
		case op:
			list = append(list, kids[i].kids...)
		default:
			list = append(list, kids[i])
		}
	}
	return formula{op: op, kids: list}
}

func not(f formula) formula {
	switch f.op {
	case opNever:
		return always
	case opAlways:
		return never
	case opLiteral:
		l := *f.lit
		l.not = !l.not
		return formula{op: opLiteral, lit: &l}
	}
	kids := make([]formula, len(f.kids))
	for i := range f.kids {
		kids[i] = not(f.kids[i])
	}
	if f.op == opAnd {
		return or(kids...)
	}
	return and(kids...)
}

// weight is how many literals f has.
func (f *formula) weight() int {
	if f.op == opLiteral {
		return 1
	}
	n := 0
	for i := range f.kids {
		n += f.kids[i].weight()
	}
	return n
}

// asks tells whether f has a literal over an input of the kind.
func (f *formula) asks(kind inputKind) bool {
	if f.op == opLiteral {
		return f.lit.in.kind == kind
	}
	for i := range f.kids {
		if f.kids[i].asks(kind) {
			return true
		}
	}
	return false
}
