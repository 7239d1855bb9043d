package compile

import (
	"strings"
	"unicode/utf8"
)

// A wire is a message in protobuf's wire format that grows at its end. Nothing
// here is reflected upon or copied into messages first: ten thousand policies
// are a third of a million of them. Tests decode what is written, check Envoy's
// constraints, and marshal it again to the same bytes.
type wire struct {
	b []byte
	// depth is how many messages are open, and deepest the most there ever were:
	// Envoy reads a hundred at most.
	depth, deepest int
	// long is about how long the whole will be.
	long int
	// invalid tells that a text was written that is not UTF-8.
	invalid bool
}

// open begins a message that is a field. Its end is for close.
func (w *wire) open(field int) (mark int) {
	w.b = append(w.b, byte(field<<3|2), 1) // one byte for the length, as it says
	w.depth++
	w.deepest = max(w.deepest, w.depth)
	return len(w.b)
}

// openLong is open for a message that may be as long as the whole.
func (w *wire) openLong(field int) (mark int) {
	w.open(field)
	for n := w.long; n >= 0x80; n >>= 7 {
		w.b[len(w.b)-1]++
		w.b = append(w.b, w.b[len(w.b)-1])
	}
	return len(w.b)
}

// opens is openLong on the first level of a tree, and open below.
func (w *wire) opens(level int) func(field int) int {
	if level == 0 {
		return w.openLong
	}
	return w.open
}

// close ends the message, and moves it where its length needs more bytes, or
// less, than were left for it.
func (w *wire) close(mark int) {
	w.depth--
	n, left, size := len(w.b)-mark, int(w.b[mark-1]), 1
	for v := n; v >= 0x80; v >>= 7 {
		size++
	}
	if size != left {
		for range size - left {
			w.b = append(w.b, 0)
		}
		copy(w.b[mark+size-left:], w.b[mark:mark+n])
		w.b = w.b[:mark+size-left+n]
	}
	at := mark - left
	for ; n >= 0x80; n >>= 7 {
		w.b[at] = byte(n) | 0x80
		at++
	}
	w.b[at] = byte(n)
}

func (w *wire) varint(field int, v uint64) {
	w.b = append(w.b, byte(field<<3))
	w.number(v)
}

func (w *wire) number(v uint64) {
	for ; v >= 0x80; v >>= 7 {
		w.b = append(w.b, byte(v)|0x80)
	}
	w.b = append(w.b, byte(v))
}

func (w *wire) text(field int, s string) {
	w.b = append(w.b, byte(field<<3|2))
	w.number(uint64(len(s)))
	w.b = append(w.b, s...)
}

// authored is text that an author wrote.
func (w *wire) authored(field int, s string) {
	w.invalid = w.invalid || !utf8.ValidString(s)
	w.text(field, s)
}

// raw is bytes of fields that were written before, and how deep they are.
func (w *wire) raw(b []byte, deep int) {
	w.b = append(w.b, b...)
	w.deepest = max(w.deepest, w.depth+deep)
}

// Names of the extensions. Envoy finds them by the type of their configuration;
// the names say to a reader what they are, and are in the filter ten thousand
// times.
const (
	actionName  = "do"
	inputName   = "in"
	matcherName = "is"
)

const typeURL = "type.googleapis.com/"

// Types of what the filter carries as an Any.
const (
	typeAction      = typeURL + "envoy.config.rbac.v3.Action"
	typeURISAN      = typeURL + "envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput"
	typeHeader      = typeURL + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
	typeFilterState = typeURL + "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput"
	typeMetadata    = typeURL + "envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput"
	typeSource      = typeURL + "envoy.extensions.matching.common_inputs.network.v3.DirectSourceIPInput"
	typeRemote      = typeURL + "envoy.extensions.matching.common_inputs.network.v3.SourceIPInput"
	typeDestination = typeURL + "envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput"
	typePort        = typeURL + "envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput"
	typeSNI         = typeURL + "envoy.extensions.matching.common_inputs.network.v3.ServerNameInput"

	typeIsMetadata = typeURL + "envoy.extensions.matching.input_matchers.metadata.v3.Metadata"
	typeIsIP       = typeURL + "envoy.extensions.matching.input_matchers.ip.v3.Ip"
	typeIPTree     = typeURL + "xds.type.matcher.v3.IPMatcher"
)

// extension is the content of an xds.core.v3.TypedExtensionConfig.
func (w *wire) extension(name, kind string, config func()) {
	w.text(1, name)
	packed := w.open(2)
	w.text(1, kind)
	value := w.open(2)
	config()
	if len(w.b) == value { // an empty message is left out
		w.b = w.b[:value-2]
		w.depth--
	} else {
		w.close(value)
	}
	w.close(packed)
}

// onMatchAction is the content of an OnMatch that takes the action.
func (w *wire) onMatchAction(name string, do action) {
	m := w.open(2)
	w.extension(actionName, typeAction, func() {
		w.text(1, name)
		if do != 0 {
			w.varint(2, uint64(do))
		}
	})
	w.close(m)
}

// An action is an envoy.config.rbac.v3.RBAC.Action.
type action uint8

const (
	doAllow action = 0
	doDeny  action = 1
	doLog   action = 2
)

// filterStates are the keys of those inputs that come by filter state.
var filterStates = map[inputKind]string{
	inPeerText: PeerKey, inPath: PathKey, inFold: FoldKey, inHost: HostKey, inIssuer: IssuerKey, inSubject: SubjectKey,
}

// input is the content of the TypedExtensionConfig of an input.
func (w *wire) input(in input) {
	switch in.kind {
	case inPeer:
		w.extension(inputName, typeURISAN, func() {})
	case inMethod:
		w.extension(inputName, typeHeader, func() { w.text(1, ":method") })
	case inHeader:
		w.extension(inputName, typeHeader, func() { w.text(1, in.name) })
	case inPort:
		w.extension(inputName, typePort, func() {})
	case inSNI:
		w.extension(inputName, typeSNI, func() {})
	case inSource:
		w.extension(inputName, typeSource, func() {})
	case inRemote:
		w.extension(inputName, typeRemote, func() {})
	case inDestination:
		w.extension(inputName, typeDestination, func() {})
	case inClaim:
		w.extension(inputName, typeMetadata, func() {
			w.text(1, tokenMetadata)
			w.segment(tokenPayload)
			for key := range strings.SplitSeq(in.name, "\x00") {
				w.segment(key)
			}
		})
	case inWord:
		w.extension(inputName, typeMetadata, func() {
			w.text(1, WordFilter)
			w.segment(in.name)
		})
	default:
		w.extension(inputName, typeFilterState, func() { w.text(1, filterStates[in.kind]) })
	}
}

// Where envoy.filters.http.jwt_authn puts a verified token's payload.
const (
	tokenMetadata = "envoy.filters.http.jwt_authn"
	tokenPayload  = "payload"
)

func (w *wire) segment(key string) {
	s := w.open(2)
	w.authored(1, key)
	w.close(s)
}

// formula is the content of a Predicate. It depends on the request.
func (w *wire) formula(f *formula) {
	switch f.op {
	case opLiteral:
		w.literals([]*literal{f.lit})
	case opAnd:
		w.list(3, len(f.kids), func(i int) { w.formula(&f.kids[i]) })
	case opOr:
		if one := sameInput(f); one != nil {
			w.literals(one)
			return
		}
		w.list(2, len(f.kids), func(i int) { w.formula(&f.kids[i]) })
	}
}

// list is an and_matcher or or_matcher of n predicates, n at least two.
func (w *wire) list(field, n int, predicate func(i int)) {
	list := w.open(field)
	for i := range n {
		p := w.open(1)
		predicate(i)
		w.close(p)
	}
	w.close(list)
}

// sameInput lists the literals of an or that are all of one input and not
// negated; else nil.
func sameInput(f *formula) []*literal {
	for i := range f.kids {
		k := &f.kids[i]
		if k.op != opLiteral || k.lit.not || k.lit.in != f.kids[0].lit.in {
			return nil
		}
	}
	list := make([]*literal, len(f.kids))
	for i := range f.kids {
		list[i] = f.kids[i].lit
	}
	return list
}

// literals is the content of a Predicate: one of them, which are of one input,
// and which are not negated where they are several.
func (w *wire) literals(list []*literal) {
	if l := list[0]; l.not {
		plain := *l
		plain.not = false
		n := w.open(4)
		w.literals([]*literal{&plain})
		w.close(n)
		return
	}
	custom := list[0].in.kind.isList() || list[0].how == isWithin
	if len(list) > 1 && !custom {
		w.list(2, len(list), func(i int) { w.literals(list[i : i+1]) })
		return
	}
	single := w.open(1)
	in := w.open(1)
	w.input(list[0].in)
	w.close(in)
	switch {
	case list[0].how == isWithin:
		m := w.open(3)
		w.extension(matcherName, typeIsIP, func() { w.networks(list) })
		w.close(m)
	case custom:
		m := w.open(3)
		w.extension(matcherName, typeIsMetadata, func() { w.claims(list) })
		w.close(m)
	default:
		m := w.open(2)
		w.stringMatcher(list[0])
		w.close(m)
	}
	w.close(single)
}

// stringMatcher is the content of an xds.type.matcher.v3.StringMatcher, whose
// fields have the numbers of envoy.type.matcher.v3's.
func (w *wire) stringMatcher(l *literal) {
	switch l.how {
	case isExactly:
		w.authored(1, l.text)
	case beginsWith:
		w.authored(2, l.text)
	case endsWith:
		w.authored(3, l.text)
	case contains:
		w.authored(7, l.text)
	case isLike:
		m := w.open(5)
		if !l.in.kind.isList() {
			w.b = append(w.b, 1<<3|2, 0) // google_re2, which Envoy's own type has deprecated
		}
		w.authored(2, l.text)
		w.close(m)
	}
}

func (w *wire) networks(list []*literal) {
	for _, l := range list {
		w.network(1, l)
	}
	w.text(2, rbacStat)
}

// rbacStat is a name that Envoy wants for the statistics of a matcher.
const rbacStat = "rbac"

// network is a CidrRange, envoy.config.core.v3's or xds.core.v3's.
func (w *wire) network(field int, l *literal) {
	c := w.open(field)
	w.text(1, l.network.Addr().String())
	length := w.open(2)
	if bits := l.network.Bits(); bits != 0 {
		w.varint(1, uint64(bits))
	}
	w.close(length)
	w.close(c)
}

// claims is the content of a Metadata matcher: a string, or one string of a list.
func (w *wire) claims(list []*literal) {
	value := w.open(1)
	or := w.open(7)
	for _, l := range list {
		v := w.open(1)
		w.claim(l)
		w.close(v)
		v = w.open(1)
		of := w.open(6)
		one := w.open(1)
		w.claim(l)
		w.close(one)
		w.close(of)
		w.close(v)
	}
	w.close(or)
	w.close(value)
}

func (w *wire) claim(l *literal) {
	s := w.open(3)
	w.stringMatcher(l)
	w.close(s)
}
