package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	yamldoc "go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxConfig is the most that a configuration file may hold, in bytes.
const maxConfig = 1 << 20

// A Validator is a configuration that can tell what is wrong with it.
type Validator interface{ Validate() error }

// Load reads one YAML file into config, which holds the defaults, and validates
// the result. Unknown and repeated keys, keys in another case, several
// documents, values of another type, and files over 1 MiB are errors: a daemon
// does not start on what it does not understand.
func Load(path string, config Validator) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return fmt.Errorf("reading the configuration %s: %w", path, err)
	}
	if err := Decode(data, config); err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

// Decode is Load for bytes at hand.
func Decode(data []byte, config Validator) error {
	if len(data) > maxConfig {
		return fmt.Errorf("larger than %d bytes", maxConfig)
	}
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	if err := oneDocument(data); err != nil {
		return err
	}
	// Without a type to decode into, YAML's numbers and booleans stay what they
	// are: a node named 010 or no would else become "8" or "false" in silence.
	document, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return oneLine(err)
	}
	// Unlike encoding/json, this one tells listen from Listen.
	unknown, err := kjson.UnmarshalStrict(document, config)
	if err != nil {
		return explain(err)
	}
	if len(unknown) > 0 {
		return errors.Join(unknown...)
	}
	return config.Validate()
}

// oneDocument refuses a second document, which [yaml.YAMLToJSONStrict] drops.
func oneDocument(data []byte) error {
	documents := yamldoc.NewDecoder(bytes.NewReader(data))
	var first, second yamldoc.Node
	err := documents.Decode(&first)
	if errors.Is(err, io.EOF) {
		return nil // an empty file, or one of comments
	}
	if err == nil {
		err = documents.Decode(&second)
	}
	switch {
	case err == nil:
		return fmt.Errorf("more than one YAML document: another starts at line %d", second.Line)
	case errors.Is(err, io.EOF):
		return nil
	}
	return oneLine(err)
}

// oneLine spares the reader the decoder's name and line breaks.
func oneLine(err error) error {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		lines = append(lines, strings.TrimSpace(line))
	}
	text := strings.Join(lines, " ")
	for _, prefix := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return errors.New("YAML: " + text)
}

// explain says in the terms of the file what encoding/json says in those of Go.
func explain(err error) error {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	field := wrong.Field
	if field == "" {
		field = "the file"
	}
	want := map[reflect.Kind]string{
		reflect.String: "a string (put it in quotes)", reflect.Struct: "a mapping", reflect.Slice: "a list",
	}[wrong.Type.Kind()]
	if wrong.Type == reflect.TypeFor[Duration]() {
		want = `a duration with its unit, such as "90s"`
	}
	if want == "" {
		want = "a " + wrong.Type.String()
	}
	got := strings.NewReplacer("array", "a list", "object", "a mapping", "bool", "true or false").Replace(wrong.Value)
	return fmt.Errorf("%s: want %s, not %s", field, want, got)
}

// Print writes config as YAML, for --print-config.
func Print(w io.Writer, config any) error {
	data, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("printing the configuration: %w", err)
	}
	_, err = w.Write(data)
	return err
}

// A Duration is a time.Duration written as in "1h30m".
type Duration time.Duration

// Std is the duration as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalJSON writes the form that UnmarshalJSON reads.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads a string such as "90s". Anything else is a
// [*json.UnmarshalTypeError]; a bare number too, since its unit would be a guess.
func (d *Duration) UnmarshalJSON(data []byte) error {
	wrong := &json.UnmarshalTypeError{Value: string(data), Type: reflect.TypeFor[Duration]()}
	var s string
	if len(data) == 0 || data[0] != '"' || json.Unmarshal(data, &s) != nil {
		return wrong
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return wrong
	}
	*d = Duration(v)
	return nil
}
