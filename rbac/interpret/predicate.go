package interpret

import (
	"fmt"
	"net/netip"
	"strings"
)

func (d *decoder) predicate(data []byte, depth int) (*Predicate, error) {
	if depth <= 0 {
		return nil, fmt.Errorf("%w: deeper than %d", ErrUnknown, maxDepth)
	}
	out := new(Predicate)
	m := read("Predicate", data)
	var f field
	for m.next(&f) {
		var err error
		switch f.num {
		case 1:
			m.one(f)
			err = d.single(m.part(f), out)
		case 2, 3:
			m.one(f)
			if out.Op = Or; f.num == 3 {
				out.Op = And
			}
			out.Terms, err = d.terms(m.part(f), depth)
		case 4:
			m.one(f)
			out.Op = Not
			var term *Predicate
			term, err = d.predicate(m.part(f), depth-1)
			out.Terms = []*Predicate{term}
		default:
			m.unknown(f)
		}
		if err != nil {
			return nil, err
		}
	}
	if m.err == nil && m.seen == 0 {
		return nil, fmt.Errorf("%w: an empty predicate", ErrMalformed)
	}
	return out, m.err
}

func (d *decoder) terms(data []byte, depth int) ([]*Predicate, error) {
	var out []*Predicate
	m := read("PredicateList", data)
	var f field
	for m.next(&f) {
		if f.num != 1 {
			m.unknown(f)
			continue
		}
		term, err := d.predicate(m.part(f), depth-1)
		if err != nil {
			return nil, err
		}
		out = append(out, term)
	}
	if len(out) < 2 {
		m.fail(fmt.Errorf("%w: a list of %d predicates, want two", ErrMalformed, len(out)))
	}
	return out, m.err
}

func (d *decoder) single(data []byte, out *Predicate) error {
	m := read("SinglePredicate", data)
	var f field
	for m.next(&f) {
		var err error
		switch f.num {
		case 1:
			m.once(f)
			out.Input, err = d.input(m.part(f))
		case 2:
			m.one(f)
			out.Text, err = d.text(m.part(f))
		case 3:
			m.one(f)
			err = d.custom(m.part(f), out)
		default:
			m.unknown(f)
		}
		if err != nil {
			return err
		}
	}
	switch kind := out.Input.Kind; {
	case m.err != nil:
	case kind == 0 || out.Text == nil && out.Networks == nil && out.Value == nil:
		m.err = fmt.Errorf("%w: SinglePredicate: no input or nothing to compare it with", ErrMalformed)
	case out.Value != nil && kind != Metadata, out.Networks != nil && !out.Input.ofAddress(),
		out.Text != nil && (kind == Metadata || out.Input.ofAddress()):
		m.err = fmt.Errorf("%w: SinglePredicate: an input that is of another kind than its matcher", ErrUnknown)
	}
	return m.err
}

// custom reads the matchers that are extensions. The CEL matcher is one, and is
// not taken: what it does where something is missing is not known here.
func (d *decoder) custom(data []byte, out *Predicate) error {
	kind, value, err := extension(data)
	if err != nil {
		return err
	}
	switch kind {
	case "envoy.extensions.matching.input_matchers.metadata.v3.Metadata":
		out.Value, err = d.metadata(value)
	case "envoy.extensions.matching.input_matchers.ip.v3.Ip":
		out.Networks, err = networks(value)
	default:
		err = fmt.Errorf("%w: matcher %.80q", ErrUnknown, kind)
	}
	return err
}

func networks(data []byte) ([]netip.Prefix, error) {
	var out []netip.Prefix
	m := read("Ip", data)
	var f field
	for m.next(&f) {
		switch f.num {
		case 1:
			p, err := network(m.part(f))
			if err != nil {
				return nil, err
			}
			out = append(out, p)
		case 2:
			m.text(f) // statistics
		default:
			m.unknown(f)
		}
	}
	if len(out) == 0 {
		m.fail(fmt.Errorf("%w: Ip: no networks", ErrMalformed))
	}
	return out, m.err
}

// network reads a CidrRange, of xds.core.v3 or envoy.config.core.v3.
func network(data []byte) (netip.Prefix, error) {
	var address string
	var bits uint64
	m := read("CidrRange", data)
	var f field
	for m.next(&f) {
		switch f.num {
		case 1:
			address = m.text(f)
		case 2:
			m.once(f)
			w := read("UInt32Value", m.part(f))
			var g field
			for w.next(&g) {
				if g.num != 1 {
					w.unknown(g)
					continue
				}
				bits = w.number(g)
			}
			if w.err != nil {
				return netip.Prefix{}, w.err
			}
		default:
			m.unknown(f)
		}
	}
	if m.err != nil {
		return netip.Prefix{}, m.err
	}
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Zone() != "" || ip.Is4In6() || bits > uint64(ip.BitLen()) {
		return netip.Prefix{}, fmt.Errorf("%w: CidrRange: %.80q/%d", ErrUnknown, address, bits)
	}
	p := netip.PrefixFrom(ip, int(bits))
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%w: CidrRange: %s has bits beyond its length", ErrUnknown, p)
	}
	return p, nil
}

const (
	networkInputs = "envoy.extensions.matching.common_inputs.network.v3."
	uriSANInput   = "envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput"
	headerInput   = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
)

var plainInputs = map[string]InputKind{
	uriSANInput:                            URISAN,
	networkInputs + "DirectSourceIPInput":  DirectSource,
	networkInputs + "SourceIPInput":        Source,
	networkInputs + "DestinationIPInput":   Destination,
	networkInputs + "DestinationPortInput": Port,
	networkInputs + "ServerNameInput":      ServerName,
}

// input reads an input. The same bytes are read once.
func (d *decoder) input(data []byte) (Input, error) {
	if in, ok := d.inputs[string(data)]; ok {
		return in, nil
	}
	kind, value, err := extension(data)
	if err != nil {
		return Input{}, err
	}
	var in Input
	switch plain := plainInputs[kind]; {
	case plain != 0:
		in, err = Input{Kind: plain}, empty(kind, value)
	case kind == headerInput:
		in, err = named(Header, kind, value)
		if err == nil && (in.Name != strings.ToLower(in.Name) || in.Name[0] == ':' && in.Name != ":method" || in.Name == "host") {
			// A path has its query there, and a host its port.
			err = fmt.Errorf("%w: header %.80q", ErrUnknown, in.Name)
		}
	case kind == networkInputs+"FilterStateInput":
		in, err = named(State, kind, value)
	case kind == networkInputs+"DynamicMetadataInput":
		in, err = metadataInput(kind, value)
	default:
		err = fmt.Errorf("%w: input %.80q", ErrUnknown, kind)
	}
	if err != nil {
		return Input{}, err
	}
	d.inputs[string(data)] = in
	return in, nil
}

// named reads an input that has a name as its first field and no other.
func named(kind InputKind, name string, data []byte) (Input, error) {
	in := Input{Kind: kind}
	m := read(name, data)
	var f field
	for m.next(&f) {
		if f.num != 1 {
			m.unknown(f)
			continue
		}
		in.Name = m.text(f)
	}
	if in.Name == "" {
		m.fail(fmt.Errorf("%w: %s: no name", ErrMalformed, name))
	}
	return in, m.err
}

func metadataInput(name string, data []byte) (Input, error) {
	in := Input{Kind: Metadata}
	m := read(name, data)
	var f field
	for m.next(&f) {
		switch f.num {
		case 1:
			in.Name = m.text(f)
		case 2:
			segment, err := named(Metadata, "PathSegment", m.part(f))
			if err != nil {
				return Input{}, err
			}
			in.Path = append(in.Path, segment.Name)
		default:
			m.unknown(f)
		}
	}
	if in.Name == "" || len(in.Path) == 0 {
		m.fail(fmt.Errorf("%w: %s: no filter or no path", ErrMalformed, name))
	}
	return in, m.err
}

// text reads a StringMatcher, of xds.type.matcher.v3 or envoy.type.matcher.v3.
func (d *decoder) text(data []byte) (*Text, error) {
	out := new(Text)
	m := read("StringMatcher", data)
	var f field
	kinds := [...]TextKind{1: Exact, 2: Prefix, 3: Suffix, 5: Regex, 7: Contains}
	for m.next(&f) {
		switch f.num {
		case 1, 2, 3, 7:
			out.Kind, out.Literal = kinds[f.num], m.text(f)
			m.once(field{num: 63})
		case 5:
			m.one(f)
			out.Kind = Regex
			var err error
			if out.Literal, out.Shape, err = d.regex(m.part(f)); err != nil {
				return nil, err
			}
		case 6:
			out.IgnoreCase = m.flag(f)
		default:
			m.unknown(f)
		}
	}
	switch {
	case out.Kind == 0, out.Kind != Exact && out.Literal == "":
		m.fail(fmt.Errorf("%w: StringMatcher: nothing to compare with", ErrMalformed))
	case out.Kind == Regex && out.IgnoreCase:
		m.fail(fmt.Errorf("%w: StringMatcher: ignore_case of a regular expression", ErrUnknown))
	}
	return out, m.err
}

func (d *decoder) regex(data []byte) (string, *Shape, error) {
	var source string
	m := read("RegexMatcher", data)
	var f field
	for m.next(&f) {
		switch f.num {
		case 1:
			m.once(f)
			if err := empty("GoogleRE2", m.part(f)); err != nil {
				return "", nil, err
			}
		case 2:
			source = m.text(f)
		default:
			m.unknown(f)
		}
	}
	if m.err != nil {
		return "", nil, m.err
	}
	if shape, ok := d.shapes[source]; ok {
		return source, shape, nil
	}
	shape, err := ParseShape(source)
	if err == nil {
		d.shapes[source] = shape
	}
	return source, shape, err
}

func (d *decoder) metadata(data []byte) (*Value, error) {
	var out *Value
	m := read("Metadata", data)
	var f field
	for m.next(&f) {
		if f.num != 1 {
			m.unknown(f) // invert: it turns what is missing into a match
			continue
		}
		m.once(f)
		var err error
		if out, err = d.value(m.part(f), 2); err != nil {
			return nil, err
		}
	}
	if out == nil {
		m.fail(fmt.Errorf("%w: Metadata: no value", ErrMalformed))
	}
	return out, m.err
}

// value reads a ValueMatcher: a text, a list of which one is a text, or one of
// several such.
func (d *decoder) value(data []byte, depth int) (*Value, error) {
	out := new(Value)
	m := read("ValueMatcher", data)
	var f field
	for m.next(&f) {
		var err error
		switch {
		case f.num == 3:
			m.one(f)
			out.Text, err = d.text(m.part(f))
		case f.num == 5:
			m.once(field{num: 63})
			if out.Present = m.flag(f); !out.Present {
				m.unknown(f)
			}
		case f.num == 6 && depth > 0:
			m.one(f)
			out.OneOf, err = d.wrapped("ListMatcher", m.part(f), depth)
		case f.num == 7 && depth > 0:
			m.one(f)
			out.Any, err = d.values(m.part(f), depth)
		default:
			m.unknown(f)
		}
		if err != nil {
			return nil, err
		}
	}
	if m.seen == 0 {
		m.fail(fmt.Errorf("%w: ValueMatcher: empty", ErrMalformed))
	}
	return out, m.err
}

func (d *decoder) wrapped(name string, data []byte, depth int) (*Value, error) {
	list, err := d.values(data, depth)
	if err == nil && len(list) != 1 {
		return nil, fmt.Errorf("%w: %s: %d values", ErrMalformed, name, len(list))
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

func (d *decoder) values(data []byte, depth int) ([]Value, error) {
	var out []Value
	m := read("ValueMatchers", data)
	var f field
	for m.next(&f) {
		if f.num != 1 {
			m.unknown(f)
			continue
		}
		v, err := d.value(m.part(f), depth-1)
		if err != nil {
			return nil, err
		}
		out = append(out, *v)
	}
	if len(out) == 0 {
		m.fail(fmt.Errorf("%w: ValueMatcher: none of several", ErrMalformed))
	}
	return out, m.err
}
