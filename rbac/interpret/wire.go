package interpret

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrUnknown reports a part of a filter that this package does not know, or
// knows and does not take. Envoy might act on it.
var ErrUnknown = errors.New("interpret: not known")

// ErrMalformed reports bytes that are no message.
var ErrMalformed = errors.New("interpret: malformed")

// maxDepth bounds how deep matchers and predicates may lie in each other, as
// Envoy's own parser does.
const maxDepth = 100

// A field is one of a message: data for what has a length, n for a number.
type field struct {
	num  protowire.Number
	data []byte
	n    uint64
	num8 bool // a number
}

// A message reads one field after the other. Its zero value has none.
type message struct {
	name string
	rest []byte
	seen uint64 // fields up to 63 that came
	err  error
}

func read(name string, data []byte) message { return message{name: name, rest: data} }

// next reads a field. It is false at the end, and after an error.
func (m *message) next(f *field) bool {
	if len(m.rest) == 0 || m.err != nil {
		return false
	}
	num, kind, n := protowire.ConsumeTag(m.rest)
	if n < 0 {
		m.err = fmt.Errorf("%w: %s: a tag", ErrMalformed, m.name)
		return false
	}
	m.rest = m.rest[n:]
	*f = field{num: num}
	switch kind {
	case protowire.BytesType:
		f.data, n = protowire.ConsumeBytes(m.rest)
	case protowire.VarintType:
		f.n, n = protowire.ConsumeVarint(m.rest)
		f.num8 = true
	default:
		m.err = fmt.Errorf("%w: %s: field %d of wire type %d", ErrUnknown, m.name, num, kind)
		return false
	}
	if n < 0 {
		m.err = fmt.Errorf("%w: %s: field %d", ErrMalformed, m.name, num)
		return false
	}
	m.rest = m.rest[n:]
	return true
}

// once is for a field that a message has at most once. Where it comes again,
// parsers merge the two, or take the last.
func (m *message) once(f field) {
	if f.num > 63 || m.seen&(1<<f.num) != 0 {
		m.fail(fmt.Errorf("%w: %s: field %d comes again", ErrUnknown, m.name, f.num))
	}
	m.seen |= 1 << (f.num & 63)
}

// one is for the fields of a oneof, of which a message has one.
func (m *message) one(f field) {
	m.once(f)
	m.once(field{num: 63})
}

func (m *message) fail(err error) {
	if m.err == nil {
		m.err = err
	}
}

func (m *message) unknown(f field) {
	m.fail(fmt.Errorf("%w: %s: field %d", ErrUnknown, m.name, f.num))
}

func (m *message) text(f field) string {
	m.once(f)
	if f.num8 || !utf8.Valid(f.data) {
		m.fail(fmt.Errorf("%w: %s: field %d is no text", ErrMalformed, m.name, f.num))
	}
	return string(f.data)
}

func (m *message) number(f field) uint64 {
	m.once(f)
	if !f.num8 {
		m.fail(fmt.Errorf("%w: %s: field %d is no number", ErrMalformed, m.name, f.num))
	}
	return f.n
}

func (m *message) flag(f field) bool {
	n := m.number(f)
	if n > 1 {
		m.fail(fmt.Errorf("%w: %s: field %d is no flag", ErrMalformed, m.name, f.num))
	}
	return n == 1
}

// part is a message within.
func (m *message) part(f field) []byte {
	if f.num8 {
		m.fail(fmt.Errorf("%w: %s: field %d is no message", ErrMalformed, m.name, f.num))
	}
	return f.data
}

// empty is for a message that has no fields.
func empty(name string, data []byte) error {
	if len(data) != 0 {
		return fmt.Errorf("%w: %s: has fields", ErrUnknown, name)
	}
	return nil
}

const typeURLPrefix = "type.googleapis.com/"

// packed reads a google.protobuf.Any.
func packed(data []byte) (kind string, value []byte, err error) {
	m := read("google.protobuf.Any", data)
	var f field
	for m.next(&f) {
		switch f.num {
		case 1:
			kind = m.text(f)
		case 2:
			m.once(f)
			value = m.part(f)
		default:
			m.unknown(f)
		}
	}
	if m.err != nil {
		return "", nil, m.err
	}
	if len(kind) <= len(typeURLPrefix) || kind[:len(typeURLPrefix)] != typeURLPrefix {
		return "", nil, fmt.Errorf("%w: type %.80q", ErrUnknown, kind)
	}
	return kind[len(typeURLPrefix):], value, nil
}

// extension reads a TypedExtensionConfig, of xds.core.v3 or envoy.config.core.v3.
// Its name decides nothing: Envoy looks the type up.
func extension(data []byte) (kind string, value []byte, err error) {
	m := read("TypedExtensionConfig", data)
	var f field
	var config []byte
	for m.next(&f) {
		switch f.num {
		case 1:
			m.text(f)
		case 2:
			m.once(f)
			config = m.part(f)
		default:
			m.unknown(f)
		}
	}
	if m.err != nil {
		return "", nil, m.err
	}
	return packed(config)
}
