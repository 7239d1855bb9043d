package jwks

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

// decode reads one JSON value. Unlike encoding/json alone it refuses an object
// with two members of one name, of which two readers may take another, text that
// is not UTF-8, and what is nested deeper than MaxDepth.
func decode(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, refuse(NotJSON, "it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	value, err := next(d, MaxDepth)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse(NotJSON, "something stands behind the value")
	}
	return value, nil
}

func next(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, refuse(NotJSON, "byte %d", d.InputOffset())
	}
	open, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if depth == 0 {
		return nil, refuse(TooLarge, "it is nested deeper than %d", MaxDepth)
	}
	if open == '[' {
		return nextList(d, depth)
	}
	return nextObject(d, depth)
}

func nextList(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		value, err := next(d, depth-1)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	return list, closing(d)
}

func nextObject(d *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, refuse(NotJSON, "byte %d", d.InputOffset())
		}
		name, ok := token.(string)
		if !ok {
			return nil, refuse(NotJSON, "byte %d", d.InputOffset())
		}
		if _, ok := object[name]; ok {
			return nil, refuse(DuplicateKey, "byte %d", d.InputOffset())
		}
		if object[name], err = next(d, depth-1); err != nil {
			return nil, err
		}
	}
	return object, closing(d)
}

// closing reads the bracket that ends what was opened. Its result has the type
// of an interface, since a nil *Refusal would be an error.
func closing(d *json.Decoder) error {
	if _, err := d.Token(); err != nil {
		return refuse(NotJSON, "byte %d", d.InputOffset())
	}
	return nil
}
