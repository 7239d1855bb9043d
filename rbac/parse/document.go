package parse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/istio-auth/istio-auth/rbac"
)

// A Kind is what a document says it is.
type Kind struct{ APIVersion, Kind string }

// Kinds are those that a call of [Read] takes, each with what reads a document
// of it: it returns an error of the document's [Document.Refuse], or of its
// nodes.
type Kinds map[Kind]func(*Document) error

// Read hands every document of data, YAML or JSON, to its kind. Its error joins
// an [Error] for each document that is refused, and where there is one, the
// caller must not use what was read of the others. Data without a document is
// refused. name stands in the errors.
func Read(name string, data []byte, kinds Kinds) error {
	if len(data) > MaxFile {
		return &Error{Name: name, Reason: "too-long", Detail: fmt.Sprintf("%d bytes, at most %d", len(data), MaxFile)}
	}
	if !utf8.Valid(data) {
		return &Error{Name: name, Reason: "not-utf8", Detail: "not UTF-8"}
	}
	var refused []error
	seen := map[[3]string]bool{}
	read := 0
	for _, part := range split(data) {
		d, err := part.document(kinds)
		if d == nil && err == nil {
			continue // nothing but comments
		}
		if err == nil {
			if id := [...]string{d.Kind, d.Namespace, d.Name}; seen[id] {
				err = d.Refuse("metadata.name", "duplicate-policy", "%s %s/%s is in this file twice", d.Kind, d.Namespace, d.Name)
			} else {
				seen[id] = true
				err = kinds[Kind{d.APIVersion, d.Kind}](d)
			}
		}
		var e *Error
		switch {
		case errors.As(err, &e):
			e.Name = name
			refused = append(refused, e)
		case err != nil:
			return err
		default:
			read++
		}
	}
	if len(refused) > 0 {
		return errors.Join(refused...)
	}
	if read == 0 {
		return &Error{Name: name, Line: 1, Reason: "empty", Detail: "nothing is in it; delete the file to remove its policies"}
	}
	return nil
}

// A Document is one object. What it is and is called was checked; its spec was
// not.
type Document struct {
	Kind, APIVersion, Namespace, Name string
	// Annotations are all of the object's.
	Annotations map[string]string
	// Created is when the object was, and zero where it does not say.
	Created time.Time

	at   *positions
	spec *yaml.Node
}

// Spec is the object's specification, which is there.
func (d *Document) Spec() Node { return Node{d.at, d.spec, "spec"} }

// Refuse is an [Error] about a field, as "metadata.name"; an empty field is the
// whole.
func (d *Document) Refuse(field, reason, format string, args ...any) error {
	return d.at.refuse(field, reason, format, args...)
}

// metadataKeys are Kubernetes' (ObjectMeta). Those that a Document does not have
// say nothing about what the object means.
var metadataKeys = []string{
	"annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generation",
	"labels", "managedFields", "name", "namespace", "ownerReferences", "resourceVersion", "selfLink", "uid",
}

// A source is one document of a stream, and where it begins.
type source struct {
	data []byte
	line int // lines before it
}

// split cuts data at its document markers: a line that begins with three
// hyphens and a blank or nothing is one even inside a scalar (YAML 1.2.2 §9.1.2).
func split(data []byte) []source {
	var docs []source
	start, startLine, line := 0, 0, 0
	for at := 0; at < len(data); line++ {
		end := bytes.IndexByte(data[at:], '\n') + 1
		if end == 0 {
			end = len(data) - at
		}
		text := data[at : at+end]
		if bytes.HasPrefix(text, []byte("---")) && (len(text) == 3 || bytes.IndexByte([]byte(" \t\r\n"), text[3]) >= 0) && at > start {
			docs = append(docs, source{data[start:at], startLine})
			start, startLine = at, line
		}
		at += end
	}
	return append(docs, source{data[start:], startLine})
}

// document reads all but the spec. It is nil where there is nothing in it.
func (s source) document(kinds Kinds) (*Document, error) {
	if len(s.data) > MaxObject {
		return nil, &Error{Line: s.line + 1, Reason: "too-long", Detail: fmt.Sprintf("an object of %d bytes, at most %d", len(s.data), MaxObject)}
	}
	root, err := s.parse()
	if err != nil || root == nil {
		return nil, err
	}
	at := &positions{line: s.line, nodes: map[string]*yaml.Node{"": root}}
	if err := at.check(root, "", 0); err != nil {
		return nil, err
	}
	fields, err := at.mapping(root, "", []string{"apiVersion", "kind", "metadata", "spec", "status"})
	if err != nil {
		return nil, err
	}
	d := &Document{at: at, spec: fields["spec"]}
	if d.APIVersion, err = at.text(fields["apiVersion"], "apiVersion"); err != nil {
		return nil, err
	}
	if d.Kind, err = at.text(fields["kind"], "kind"); err != nil {
		return nil, err
	}
	if err := d.known(kinds); err != nil {
		return nil, err
	}
	if err := d.metadata(fields["metadata"]); err != nil {
		return nil, err
	}
	if d.spec == nil {
		return nil, at.refuse("", "missing-field", "spec is missing; an empty one is written spec: {}")
	}
	return d, nil
}

// known refuses a kind that is none of kinds.
func (d *Document) known(kinds Kinds) error {
	if kinds[Kind{d.APIVersion, d.Kind}] != nil {
		return nil
	}
	versions, names := map[string]bool{}, map[string]bool{}
	for k := range kinds {
		names[k.Kind] = true
		if k.Kind == d.Kind {
			versions[k.APIVersion] = true
		}
	}
	field, got, known := "kind", d.Kind, names
	if names[d.Kind] {
		field, got, known = "apiVersion", d.APIVersion, versions
	}
	return d.at.refuse(field, "wrong-kind", "%.80q: want %s", got, strings.Join(slices.Sorted(maps.Keys(known)), " or "))
}

// parse returns the document's root, or nil where there is nothing in it.
func (s source) parse() (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(s.data))
	var doc, more yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, s.syntax(err)
	}
	if err := decoder.Decode(&more); err == nil {
		return nil, &Error{Line: s.line + more.Line, Column: more.Column, Reason: "bad-yaml", Detail: "more after the end of the document"}
	} else if !errors.Is(err, io.EOF) {
		return nil, s.syntax(err)
	}
	if len(doc.Content) != 1 {
		return nil, nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" && root.Value == "" {
		return nil, nil
	}
	return root, nil
}

// syntax finds the line in a parser's error, which has it in its text alone.
func (s source) syntax(err error) error {
	e := &Error{Line: s.line + 1, Reason: "bad-yaml", Detail: err.Error()}
	var line int
	if n, _ := fmt.Sscanf(err.Error(), "yaml: line %d:", &line); n == 1 {
		e.Line = s.line + line
	}
	return e
}

func (d *Document) metadata(node *yaml.Node) error {
	at := d.at
	if node == nil {
		return at.refuse("", "missing-field", "metadata is missing")
	}
	fields, err := at.mapping(node, "metadata", metadataKeys)
	if err != nil {
		return err
	}
	if d.Name, err = at.text(fields["name"], "metadata.name"); err != nil {
		return err
	}
	if !rbac.IsPolicyName(d.Name) {
		return at.refuse("metadata.name", "bad-name", "%.80q: want lower-case letters, digits, and inner hyphens and dots (RFC 1123)", d.Name)
	}
	if d.Namespace, err = at.text(fields["namespace"], "metadata.namespace"); err != nil {
		return err
	}
	if !rbac.IsNamespace(d.Namespace) {
		return at.refuse("metadata.namespace", "bad-name", "%.80q: want lower-case letters, digits, and inner hyphens (RFC 1123)", d.Namespace)
	}
	if d.Created, err = at.time(fields["creationTimestamp"], "metadata.creationTimestamp"); err != nil {
		return err
	}
	return d.annotations(fields["annotations"])
}

// time reads an RFC 3339 time, which YAML has a type of its own for. Kubernetes
// writes null for none.
func (at *positions) time(node *yaml.Node, field string) (time.Time, error) {
	if node == nil || node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return time.Time{}, nil
	}
	if node.Kind == yaml.ScalarNode && (node.Tag == "!!str" || node.Tag == "!!timestamp") {
		if t, err := time.Parse(time.RFC3339, node.Value); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, at.refuse(field, "bad-time", "want a time as 2026-01-31T12:00:00Z (RFC 3339)")
}

// Annotations that say something about what an object means.
const (
	dryRun = "istio.io/dry-run"
	compat = "istio-auth.io/compat"

	ourAnnotations = "istio-auth.io/"
)

// annotations refuses one of ours that is not known, and a slip in one of the
// others.
func (d *Document) annotations(node *yaml.Node) error {
	if node == nil || node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return nil
	}
	values, err := d.at.mapping(node, "metadata.annotations", nil)
	if err != nil {
		return err
	}
	known := []string{dryRun, compat}
	d.Annotations = make(map[string]string, len(values))
	for key, value := range values {
		field := "metadata.annotations." + key
		near := nearest(strings.ToLower(key), known)
		for _, k := range known {
			if strings.HasSuffix(key, k) {
				near = k // "x-istio.io/dry-run"
			}
		}
		if !slices.Contains(known, key) && (near != "" || strings.HasPrefix(key, ourAnnotations)) {
			e := d.at.refuse(field, "unknown-annotation", "there is no annotation %.80q", key)
			if near != "" {
				e.Detail += "; did you mean " + near + "?"
			}
			return e
		}
		if value.Kind != yaml.ScalarNode || value.Tag != "!!str" {
			return d.at.refuse(field, "wrong-type", "want a string, have %s", describe(value))
		}
		d.Annotations[key] = value.Value
	}
	return nil
}

// noAnnotations refuses those that speak of policies, on other kinds: they would
// be enforced although they say that they are not.
func (d *Document) noAnnotations() error {
	for _, key := range []string{dryRun, compat} {
		if _, ok := d.Annotations[key]; ok {
			return d.at.refuse("metadata.annotations."+key, "unknown-annotation", "%s is for an AuthorizationPolicy only", key)
		}
	}
	return nil
}
