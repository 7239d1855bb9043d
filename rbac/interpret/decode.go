package interpret

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/anypb"
)

// Types of the filters that [Decode] takes.
const (
	httpFilter    = "envoy.extensions.filters.http.rbac.v3.RBAC"
	networkFilter = "envoy.extensions.filters.network.rbac.v3.RBAC"
)

// A decoder remembers what it has read of inputs and regular expressions, which
// come again and again in one filter.
type decoder struct {
	inputs map[string]Input
	shapes map[string]*Shape
	known  map[memoKey]memoized // nil: nothing is remembered
}

func newDecoder() *decoder {
	return &decoder{inputs: map[string]Input{}, shapes: map[string]*Shape{}}
}

// Decode reads an RBAC filter of HTTP or of the network. Errors wrap
// [ErrUnknown] or [ErrMalformed].
func Decode(filter *anypb.Any) (*Filter, error) { return newDecoder().decode(filter) }

func (d *decoder) decode(filter *anypb.Any) (*Filter, error) {
	kind := filter.GetTypeUrl()
	switch {
	case len(filter.ProtoReflect().GetUnknown()) > 0:
		return nil, fmt.Errorf("%w: google.protobuf.Any has more fields", ErrUnknown)
	case kind == typeURLPrefix+httpFilter:
		return d.filter(httpFilter, filter.GetValue(), httpFields)
	case kind == typeURLPrefix+networkFilter:
		return d.filter(networkFilter, filter.GetValue(), networkFields)
	}
	return nil, fmt.Errorf("%w: type %.80q", ErrUnknown, kind)
}

// Numbers of the fields that the two filters have alike.
type filterFields struct {
	rules, shadowRules, matcher, shadowMatcher, stat, shadowStat int
	perRule                                                      int // of HTTP only
}

var (
	httpFields    = filterFields{rules: 1, shadowRules: 2, shadowStat: 3, matcher: 4, shadowMatcher: 5, stat: 6, perRule: 7}
	networkFields = filterFields{rules: 1, shadowRules: 2, stat: 3, shadowStat: 5, matcher: 6, shadowMatcher: 7, perRule: -1}
)

func (d *decoder) filter(name string, data []byte, numbers filterFields) (*Filter, error) {
	out := &Filter{Network: name == networkFilter}
	m := read(name, data)
	var f field
	for m.next(&f) {
		var err error
		switch int(f.num) {
		case numbers.rules:
			m.once(f)
			out.Rules, err = d.rules(m.part(f))
		case numbers.shadowRules:
			m.once(f)
			out.ShadowRules, err = d.rules(m.part(f))
		case numbers.matcher:
			m.once(f)
			out.Matcher, err = d.matcher(m.part(f), maxDepth)
		case numbers.shadowMatcher:
			m.once(f)
			out.Shadow, err = d.matcher(m.part(f), maxDepth)
		case numbers.stat:
			out.StatPrefix = m.text(f)
		case numbers.shadowStat:
			out.ShadowStatPrefix = m.text(f)
		case numbers.perRule:
			m.flag(f) // statistics only
		default:
			m.unknown(f)
		}
		if err != nil {
			return nil, err
		}
	}
	if m.err != nil {
		return nil, m.err
	}
	if out.Matcher != nil && out.Rules != nil || out.Shadow != nil && out.ShadowRules != nil {
		return nil, fmt.Errorf("%w: %s: a matcher and rules, of which Envoy and grpc-go take different ones", ErrUnknown, name)
	}
	return out, nil
}

func (d *decoder) matcher(data []byte, depth int) (*Matcher, error) {
	if depth == 0 {
		return nil, fmt.Errorf("%w: deeper than %d", ErrUnknown, maxDepth)
	}
	out := new(Matcher)
	m := read("Matcher", data)
	var f field
	for m.next(&f) {
		var err error
		switch f.num {
		case 1:
			m.one(f)
			out.List, err = d.list(m.part(f), depth)
		case 2:
			m.one(f)
			out.Tree, err = d.tree(m.part(f), depth)
		case 3:
			m.once(f)
			out.NoMatch = new(Then)
			*out.NoMatch, err = d.then(m.part(f), depth)
		default:
			m.unknown(f)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, m.err
}

func (d *decoder) then(data []byte, depth int) (Then, error) {
	var out Then
	m := read("OnMatch", data)
	var f field
	for m.next(&f) {
		var err error
		switch f.num {
		case 1:
			m.one(f)
			out.Matcher, err = d.matcher(m.part(f), depth-1)
		case 2:
			m.one(f)
			out.Action, err = d.action(m.part(f))
		default:
			m.unknown(f) // keep_matching, which Envoy refuses, with the rest
		}
		if err != nil {
			return Then{}, err
		}
	}
	if m.err == nil && out.Matcher == nil && out.Action == nil {
		return Then{}, fmt.Errorf("%w: OnMatch: neither matcher nor action", ErrMalformed)
	}
	return out, m.err
}

func (d *decoder) action(data []byte) (*Action, error) {
	kind, value, err := extension(data)
	if err != nil {
		return nil, err
	}
	if kind != "envoy.config.rbac.v3.Action" {
		return nil, fmt.Errorf("%w: action %.80q", ErrUnknown, kind)
	}
	out := new(Action)
	m := read(kind, value)
	var f field
	for m.next(&f) {
		switch f.num {
		case 1:
			out.Name = m.text(f)
		case 2:
			out.Kind = actionKind(&m, f)
		default:
			m.unknown(f)
		}
	}
	if out.Name == "" {
		m.fail(fmt.Errorf("%w: an action without name", ErrMalformed))
	}
	return out, m.err
}

func actionKind(m *message, f field) Kind {
	n := m.number(f)
	if n > uint64(Log) {
		m.fail(fmt.Errorf("%w: %s: action %d", ErrUnknown, m.name, n))
	}
	return Kind(n)
}

func (d *decoder) list(data []byte, depth int) ([]Line, error) {
	var lines []Line
	m := read("MatcherList", data)
	var f field
	for m.next(&f) {
		if f.num != 1 {
			m.unknown(f)
			continue
		}
		data := m.part(f)
		known, err := d.remember(data, depth, true, func() (memoized, error) {
			line, err := d.line(data, depth)
			return memoized{line: line}, err
		})
		if err != nil {
			return nil, err
		}
		lines = append(lines, known.line)
	}
	if len(lines) == 0 {
		m.fail(fmt.Errorf("%w: a list without lines", ErrMalformed))
	}
	return lines, m.err
}

func (d *decoder) line(data []byte, depth int) (Line, error) {
	var out Line
	m := read("FieldMatcher", data)
	var f field
	for m.next(&f) {
		var err error
		switch f.num {
		case 1:
			m.once(f)
			out.When, err = d.predicate(m.part(f), depth-1)
		case 2:
			m.once(f)
			out.Then, err = d.then(m.part(f), depth)
		default:
			m.unknown(f)
		}
		if err != nil {
			return Line{}, err
		}
	}
	if out.When == nil || out.Then == (Then{}) {
		m.fail(fmt.Errorf("%w: a line without predicate or without end", ErrMalformed))
	}
	return out, m.err
}

func (d *decoder) tree(data []byte, depth int) (*Tree, error) {
	out := new(Tree)
	m := read("MatcherTree", data)
	var f field
	for m.next(&f) {
		var err error
		switch f.num {
		case 1:
			m.once(f)
			out.Input, err = d.input(m.part(f))
		case 2, 3:
			m.one(f)
			if out.Kind = ExactTree; f.num == 3 {
				out.Kind = PrefixTree
			}
			out.Keys, err = d.keys(m.part(f), depth)
		case 4:
			m.one(f)
			out.Kind = RangeTree
			out.Ranges, err = d.ranges(m.part(f), depth)
		default:
			m.unknown(f)
		}
		if err != nil {
			return nil, err
		}
	}
	if m.err == nil {
		m.err = out.check()
	}
	return out, m.err
}

// check refuses what Envoy refuses, or, with metadata, takes and never matches.
func (t *Tree) check() error {
	ofAddress := t.Input.ofAddress()
	switch {
	case t.Kind == 0 || t.Input.Kind == 0:
		return fmt.Errorf("%w: a tree without input or without branches", ErrMalformed)
	case t.Input.Kind == Metadata:
		return fmt.Errorf("%w: a tree over metadata, which never matches", ErrUnknown)
	case t.Kind == RangeTree && !ofAddress:
		return fmt.Errorf("%w: networks of what is no address", ErrUnknown)
	case t.Kind != RangeTree && ofAddress:
		return fmt.Errorf("%w: an address as text", ErrUnknown)
	}
	return nil
}

func (i Input) ofAddress() bool {
	return i.Kind == DirectSource || i.Kind == Source || i.Kind == Destination
}

func (d *decoder) keys(data []byte, depth int) (map[string]Then, error) {
	out := map[string]Then{}
	m := read("MatchMap", data)
	var f field
	for m.next(&f) {
		if f.num != 1 {
			m.unknown(f)
			continue
		}
		data := m.part(f)
		known, err := d.remember(data, depth, false, func() (memoized, error) {
			key, then, err := d.entry(data, depth)
			return memoized{key: key, then: then}, err
		})
		if err != nil {
			return nil, err
		}
		key, then := known.key, known.then
		if _, again := out[key]; again || key == "" {
			return nil, fmt.Errorf("%w: MatchMap: the key %.80q is empty or comes again", ErrUnknown, key)
		}
		out[key] = then
	}
	if len(out) == 0 {
		m.fail(fmt.Errorf("%w: MatchMap: no keys", ErrMalformed))
	}
	return out, m.err
}

func (d *decoder) entry(data []byte, depth int) (key string, then Then, err error) {
	m := read("MatchMap.MapEntry", data)
	var f field
	for m.next(&f) {
		switch f.num {
		case 1:
			key = m.text(f)
		case 2:
			m.once(f)
			if then, err = d.then(m.part(f), depth); err != nil {
				return "", Then{}, err
			}
		default:
			m.unknown(f)
		}
	}
	if then == (Then{}) {
		m.fail(fmt.Errorf("%w: MatchMap: a key without end", ErrMalformed))
	}
	return key, then, m.err
}

func (d *decoder) ranges(data []byte, depth int) ([]Range, error) {
	kind, value, err := extension(data)
	if err != nil {
		return nil, err
	}
	if kind != "xds.type.matcher.v3.IPMatcher" {
		return nil, fmt.Errorf("%w: custom tree %.80q", ErrUnknown, kind)
	}
	var out []Range
	m := read(kind, value)
	var f field
	for m.next(&f) {
		if f.num != 1 {
			m.unknown(f)
			continue
		}
		list, err := d.rangeMatcher(m.part(f), depth)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	if m.err != nil {
		return nil, m.err
	}
	slices.SortStableFunc(out, func(a, b Range) int { return cmp.Compare(b.Network.Bits(), a.Network.Bits()) })
	seen := map[string]bool{}
	for _, r := range out {
		if seen[r.Network.String()] {
			return nil, fmt.Errorf("%w: the network %s comes again", ErrUnknown, r.Network)
		}
		seen[r.Network.String()] = true
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: IPMatcher: no networks", ErrMalformed)
	}
	return out, nil
}

func (d *decoder) rangeMatcher(data []byte, depth int) ([]Range, error) {
	var one Range
	var out []Range
	m := read("IPRangeMatcher", data)
	var f field
	for m.next(&f) {
		var err error
		switch f.num {
		case 1:
			var r Range
			r.Network, err = network(m.part(f))
			out = append(out, r)
		case 2:
			m.once(f)
			one.Then, err = d.then(m.part(f), depth)
		case 3:
			one.Exclusive = m.flag(f)
		default:
			m.unknown(f)
		}
		if err != nil {
			return nil, err
		}
	}
	if one.Then == (Then{}) || len(out) == 0 {
		m.fail(fmt.Errorf("%w: IPRangeMatcher: no network or no end", ErrMalformed))
	}
	for i := range out {
		out[i].Then, out[i].Exclusive = one.Then, one.Exclusive
	}
	return out, m.err
}
