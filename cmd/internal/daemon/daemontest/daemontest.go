// Package daemontest holds the table that every daemon's configuration passes.
//
// From good files it makes bad ones, in every way that a hand or a template
// makes them: [Suite.Run] adds to those the rows that only the daemon knows.
// Each must be refused, with an error that names the field.
package daemontest

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

// Absent is the value of a [Row] that takes its field away.
const Absent = "(absent)"

// A Row is one bad configuration: a good one with one field changed.
type Row struct {
	On    string // name of the good file
	Path  string // such as "attestation.kubernetes.agents[0].namespace"
	Value string // YAML, or Absent
	Want  string // must be in the error
}

// A Suite is the whole table of one configuration.
type Suite struct {
	// New has the defaults.
	New func() daemon.Validator
	// Good files by name. One that holds every field once gives most rows.
	Good map[string]string
	Rows []Row
	// Size is how many bad rows there are, those made from Good and Rows. It is
	// asserted: a table that shrinks by mistake says so.
	Size int
}

// Run tests the good files, that what was accepted is accepted again after it
// was printed, and every bad row.
func (s Suite) Run(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(s.Good)) {
		t.Run("good/"+name, func(t *testing.T) { s.RoundTrip(t, []byte(s.Good[name])) })
	}
	bad := s.made(t)
	for i, row := range s.Rows {
		good, ok := s.Good[row.On]
		if !ok {
			t.Fatalf("row %d: no good file is named %q", i, row.On)
		}
		name := fmt.Sprintf("own/%s/%s=%.40s", row.On, row.Path, row.Value)
		bad = append(bad, broken{name, edit(t, good, row.Path, row.Value), row.Want})
	}
	if got, want := len(bad), s.Size; got != want {
		t.Errorf("%d bad rows, want %d", got, want)
	}
	for _, row := range bad {
		t.Run(row.name, func(t *testing.T) {
			err := daemon.Decode([]byte(row.text), s.New())
			if err == nil {
				t.Fatalf("accepted:\n%s", row.text)
			}
			if !strings.Contains(err.Error(), row.want) {
				t.Errorf("refused with %q, want %q in it", err, row.want)
			}
		})
	}
	t.Run("file", s.files)
}

// RoundTrip decodes a file, prints it, and decodes that: nothing is lost.
func (s Suite) RoundTrip(t *testing.T, data []byte) {
	t.Helper()
	first, second := s.New(), s.New()
	if err := daemon.Decode(data, first); err != nil {
		t.Fatalf("refused: %v\n%s", err, data)
	}
	var printed, again bytes.Buffer
	if err := daemon.Print(&printed, first); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Decode(printed.Bytes(), second); err != nil {
		t.Fatalf("refused after it was printed: %v\n%s", err, printed.String())
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("printing changed it (-before +after):\n%s", diff)
	}
	if err := daemon.Print(&again, second); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(printed.String(), again.String()); diff != "" {
		t.Errorf("printing twice differs (-first +second):\n%s", diff)
	}
}

// Chart tests that the chart renders configurations that the daemon takes: it
// reads those that deploy's golden files hold for the program of that name.
func (s Suite) Chart(t *testing.T, program string) {
	files, err := filepath.Glob(filepath.FromSlash("../../../deploy/testdata/*.out.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden file of the chart (%v)", err)
	}
	found := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(data), "\n---\n") {
			var object struct {
				Kind     string
				Metadata struct{ Name string }
				Data     map[string]string
			}
			if err := yaml.Unmarshal([]byte(document), &object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if object.Kind == "ConfigMap" && object.Metadata.Name == program {
				found++
				s.RoundTrip(t, []byte(object.Data["config.yaml"]))
			}
		}
	}
	if found == 0 {
		t.Errorf("the chart has no ConfigMap %s", program)
	}
}

// Fuzz decodes whatever comes: it never panics, and what is accepted passes
// [Suite.RoundTrip]. The corpus lies beside the caller.
func (s Suite) Fuzz(f *testing.F) {
	for _, good := range s.Good {
		f.Add([]byte(good))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if daemon.Decode(data, s.New()) == nil {
			s.RoundTrip(t, data)
		}
	})
}

// files are the rows that need a file system.
func (s Suite) files(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := s.Good[slices.Min(slices.Collect(maps.Keys(s.Good)))]
	for _, row := range []struct{ path, want string }{
		{filepath.Join(dir, "missing.yaml"), "no such file"},
		{dir, "is a directory"},
		{write("large.yaml", good+strings.Repeat("#", 1<<20)), "larger than 1048576 bytes"},
		{"", "no such file"},
	} {
		if err := daemon.Load(row.path, s.New()); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("loading %q: %v, want %q in it", row.path, err, row.want)
		}
	}
	if err := daemon.Load(write("good.yaml", good), s.New()); err != nil {
		t.Errorf("a good file is refused: %v", err)
	}
}

// broken is one file that must be refused.
type broken struct{ name, text, want string }

// made are the bad files that every configuration has.
func (s Suite) made(t *testing.T) []broken {
	t.Helper()
	var rows []broken
	for _, name := range slices.Sorted(maps.Keys(s.Good)) {
		good := s.Good[name]
		rows = append(rows, wholes(name, good)...)
		rows = append(rows, fields(t, name, good, reflect.TypeOf(s.New()).Elem())...)
	}
	return rows
}

// wholes spoil a file as a whole.
func wholes(name, good string) []broken {
	first := strings.SplitAfter(good, "\n")[0]
	key, _, _ := strings.Cut(first, ":")
	rows := []broken{
		{"two-documents", good + "---\n" + good, "more than one YAML document"},
		{"two-documents-with-a-remark", good + "--- # the second\n" + good, "more than one YAML document"},
		{"two-documents-on-a-line", good + "--- {}\n", "more than one YAML document"},
		{"two-documents-after-an-end", good + "...\n" + good, "document"},
		{"repeated-key", good + first, strconv.Quote(key) + " already set"},
		{"key-in-another-case", strings.ToUpper(key[:1]) + key[1:] + ": x\n" + good, "unknown field"},
		{"nul", "# \x00\n" + good, "control characters"},
		{"nul-in-a-value", strings.Replace(good, first, key+": \"a\x00b\"\n", 1), "control characters"},
		{"not-utf-8", "# \xff\xfe\n" + good, "not UTF-8"},
		{"half-a-rune", good + "# \xc3", "not UTF-8"},
		{"utf-16", utf16(good), "UTF-8"},
		{"tab", strings.Replace(good, first, "\t"+first, 1), "YAML"},
		{"a-list", "- " + strings.ReplaceAll(strings.TrimSpace(good), "\n", "\n  "), "the file: want a mapping, not a list"},
		{"a-string", "hello", "the file: want a mapping, not string"},
		{"a-number", "7", "the file: want a mapping, not number"},
		{"json-after-it", good + "{}\n", "YAML"},
		{"unknown-anchor", good + "more: *nothing\n", "unknown anchor"},
		{"oversize", good + strings.Repeat("#", 1<<20), "larger than 1048576 bytes"},
	}
	for i := range rows {
		rows[i].name = "whole/" + name + "/" + rows[i].name
	}
	return rows
}

func utf16(s string) string {
	text := []byte{0xff, 0xfe}
	for _, b := range []byte(s) {
		text = append(text, b, 0)
	}
	return string(text)
}

// fields spoil each field of a file in turn.
func fields(t *testing.T, name, good string, of reflect.Type) []broken {
	t.Helper()
	var rows []broken
	add := func(how, path, value, want string) {
		rows = append(rows, broken{"field/" + name + "/" + how + "/" + path, edit(t, good, path, value), want})
	}
	walk(decode(t, good), "", of, func(path string, at reflect.Type) {
		last := path[strings.LastIndex(path, ".")+1:]
		last, _, _ = strings.Cut(last, "[")
		wrong := map[string]string{"true": "true or false", "7": "number"}
		switch {
		case at == reflect.TypeFor[daemon.Duration]():
			wrong = map[string]string{"90": "90", "1.5": "1.5", `"90"`: `"90"`, `"abc"`: `"abc"`, `""`: `""`, "[90s]": "list", "true": "true"}
		case at.Kind() == reflect.String:
			wrong["[x]"], wrong["{x: x}"] = "a list", "a mapping"
		case at.Kind() == reflect.Slice:
			wrong["x"], wrong["{x: x}"] = "string", "a mapping"
		case at.Kind() == reflect.Struct:
			wrong["x"], wrong["[x]"] = "string", "a list"
			add("unknown-key", path+".typo", "x", "unknown field")
		}
		for _, value := range slices.Sorted(maps.Keys(wrong)) {
			add("type-"+value, path, value, last)
		}
	})
	return rows
}

// walk visits every field that the document sets, with its Go type.
func walk(value any, path string, of reflect.Type, visit func(string, reflect.Type)) {
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if path != "" {
		visit(path, of)
	}
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			for field := range of.Fields() {
				if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); tag == key {
					walk(value[key], strings.TrimPrefix(path+"."+key, "."), field.Type, visit)
				}
			}
		}
	case []any:
		for i := range value {
			walk(value[i], fmt.Sprintf("%s[%d]", path, i), of.Elem(), visit)
		}
	}
}

func decode(t *testing.T, text string) any {
	t.Helper()
	var document any
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return document
}

// edit sets one field of a document, and makes what is missing on the way.
func edit(t *testing.T, text, path, value string) string {
	t.Helper()
	var steps []any
	for step := range strings.SplitSeq(path, ".") {
		key, index, indexed := strings.Cut(step, "[")
		steps = append(steps, key)
		if indexed {
			i, err := strconv.Atoi(strings.TrimSuffix(index, "]"))
			if err != nil {
				t.Fatalf("path %q: %v", path, err)
			}
			steps = append(steps, i)
		}
	}
	data, err := yaml.Marshal(set(t, decode(t, text), steps, value))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func set(t *testing.T, at any, steps []any, value string) any {
	t.Helper()
	if len(steps) == 0 {
		return decode(t, value)
	}
	switch step := steps[0].(type) {
	case int:
		list, _ := at.([]any)
		if step == len(list) {
			list = append(list, nil)
		}
		list[step] = set(t, list[step], steps[1:], value)
		return list
	case string:
		object, _ := at.(map[string]any)
		if object == nil {
			object = map[string]any{}
		}
		if len(steps) == 1 && value == Absent {
			delete(object, step)
		} else {
			object[step] = set(t, object[step], steps[1:], value)
		}
		return object
	}
	panic("unreachable")
}
