package parse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/istio-auth/istio-auth/rbac"
)

// What an object says it is.
const (
	apiVersion = "security.istio.io/v1"
	kind       = "AuthorizationPolicy"
)

// dryRun is the annotation that would make a policy one that only reports.
const dryRun = "istio.io/dry-run"

// metadataKeys are Kubernetes' (ObjectMeta). Those that are not name, namespace
// and annotations say nothing about what the policy means.
var metadataKeys = []string{
	"annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generation",
	"labels", "managedFields", "name", "namespace", "ownerReferences", "resourceVersion", "selfLink", "uid",
}

// policy reads one document. The positions are nil where there is nothing in it.
func (d document) policy() (rbac.Policy, *positions, error) {
	if len(d.source) > MaxObject {
		return rbac.Policy{}, nil, &Error{Line: d.line + 1, Reason: "too-long", Detail: fmt.Sprintf("an object of %d bytes, at most %d", len(d.source), MaxObject)}
	}
	root, err := d.parse()
	if err != nil || root == nil {
		return rbac.Policy{}, nil, err
	}
	at := &positions{line: d.line, nodes: map[string]*yaml.Node{"": root}}
	if err := at.check(root, "", 0); err != nil {
		return rbac.Policy{}, nil, err
	}
	p, err := at.object(root)
	if err != nil {
		return rbac.Policy{}, nil, err
	}
	if n := len(JSON(p)); n > MaxObject {
		return rbac.Policy{}, nil, at.refuse("", "too-long", "an object of %d bytes in its canonical form, at most %d", n, MaxObject)
	}
	return p, at, nil
}

// parse returns the document's root, or nil where there is nothing in it.
func (d document) parse() (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(d.source))
	var doc, more yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, d.syntax(err)
	}
	if err := decoder.Decode(&more); err == nil {
		return nil, &Error{Line: d.line + more.Line, Column: more.Column, Reason: "bad-yaml", Detail: "more after the end of the document"}
	} else if !errors.Is(err, io.EOF) {
		return nil, d.syntax(err)
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
func (d document) syntax(err error) error {
	e := &Error{Line: d.line + 1, Reason: "bad-yaml", Detail: err.Error()}
	var line int
	if n, _ := fmt.Sscanf(err.Error(), "yaml: line %d:", &line); n == 1 {
		e.Line = d.line + line
	}
	return e
}

// object reads the root of a document.
func (at *positions) object(root *yaml.Node) (rbac.Policy, error) {
	fields, err := at.mapping(root, "", []string{"apiVersion", "kind", "metadata", "spec", "status"})
	if err != nil {
		return rbac.Policy{}, err
	}
	for _, constant := range []struct{ field, want string }{{"apiVersion", apiVersion}, {"kind", kind}} {
		got, err := at.text(fields[constant.field], constant.field)
		if err != nil {
			return rbac.Policy{}, err
		}
		if got != constant.want {
			return rbac.Policy{}, at.refuse(constant.field, "wrong-kind", "%.80q: want %s", got, constant.want)
		}
	}
	var p rbac.Policy
	if p.Namespace, p.Name, err = at.metadata(fields["metadata"]); err != nil {
		return rbac.Policy{}, err
	}
	if fields["spec"] == nil {
		return rbac.Policy{}, at.refuse("", "missing-field", "spec is missing; to allow nothing, write spec: {}")
	}
	spec := &securityv1beta1.AuthorizationPolicy{}
	if err := at.decode(spec.ProtoReflect(), fields["spec"], "spec"); err != nil {
		return rbac.Policy{}, err
	}
	return at.convert(p, spec)
}

func (at *positions) metadata(node *yaml.Node) (namespace, name string, err error) {
	if node == nil {
		return "", "", at.refuse("", "missing-field", "metadata is missing")
	}
	fields, err := at.mapping(node, "metadata", metadataKeys)
	if err != nil {
		return "", "", err
	}
	if name, err = at.text(fields["name"], "metadata.name"); err != nil {
		return "", "", err
	}
	if !rbac.IsPolicyName(name) {
		return "", "", at.refuse("metadata.name", "bad-name", "%.80q: want lower-case letters, digits, and inner hyphens and dots (RFC 1123)", name)
	}
	if namespace, err = at.text(fields["namespace"], "metadata.namespace"); err != nil {
		return "", "", err
	}
	if !rbac.IsNamespace(namespace) {
		return "", "", at.refuse("metadata.namespace", "bad-name", "%.80q: want lower-case letters, digits, and inner hyphens (RFC 1123)", namespace)
	}
	if annotations := fields["annotations"]; annotations != nil {
		keys, err := at.mapping(annotations, "metadata.annotations", nil)
		if err != nil {
			return "", "", err
		}
		if keys[dryRun] != nil {
			return "", "", at.refuse("metadata.annotations."+dryRun, "not-supported", "%s is not supported yet: the policy would be enforced", dryRun)
		}
	}
	return namespace, name, nil
}

// positions knows where each field of a document is.
type positions struct {
	line  int                   // lines before the document
	nodes map[string]*yaml.Node // by field; for the key of a mapping, its key
}

// refuse makes an Error for a field, or for the one it would stand in.
func (at *positions) refuse(field, reason, format string, args ...any) *Error {
	e := &Error{Field: field, Reason: reason, Detail: fmt.Sprintf(format, args...)}
	if node := at.nodes[field]; node != nil {
		e.Line, e.Column = at.line+node.Line, node.Column
	}
	return e
}

// check walks a whole document before anything is made of it. It refuses what
// lets a text mean more than it shows: anchors, aliases, tags, duplicate keys,
// nesting without end. It remembers where everything is.
func (at *positions) check(node *yaml.Node, field string, depth int) error {
	if at.nodes[field] == nil {
		at.nodes[field] = node
	}
	here := func(reason, detail string) error {
		return &Error{Line: at.line + node.Line, Column: node.Column, Field: field, Reason: reason, Detail: detail}
	}
	switch {
	case depth > maxDepth:
		return here("too-deep", fmt.Sprintf("nested deeper than %d levels", maxDepth))
	case node.Kind == yaml.AliasNode || node.Anchor != "":
		return here("alias", "anchors and aliases are not taken; quote a value that begins with a star or an ampersand")
	case node.Style&yaml.TaggedStyle != 0:
		return here("tag", "tags are not taken")
	}
	switch node.Kind {
	case yaml.SequenceNode:
		for i, item := range node.Content {
			if err := at.check(item, fmt.Sprintf("%s[%d]", field, i), depth+1); err != nil {
				return err
			}
		}
	case yaml.MappingNode:
		seen := map[string]bool{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			if err := at.checkKey(key, field, seen); err != nil {
				return err
			}
			at.nodes[join(field, key.Value)] = key
			if err := at.check(node.Content[i+1], join(field, key.Value), depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (at *positions) checkKey(key *yaml.Node, field string, seen map[string]bool) error {
	here := &Error{Line: at.line + key.Line, Column: key.Column, Field: field}
	switch {
	case key.Kind != yaml.ScalarNode || key.Tag != "!!str" || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
		here.Reason, here.Detail = "bad-key", "a key must be a plain or quoted string"
		return here
	case seen[key.Value]:
		here.Reason, here.Detail = "duplicate-key", fmt.Sprintf("%.80q is here twice", key.Value)
		return here
	}
	seen[key.Value] = true
	return nil
}

func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}

// mapping returns the values of a mapping by their keys, which must be among
// known; nil takes any.
func (at *positions) mapping(node *yaml.Node, field string, known []string) (map[string]*yaml.Node, error) {
	if node.Kind != yaml.MappingNode {
		return nil, at.refuse(field, "wrong-type", "want a mapping, have %s", describe(node))
	}
	values := make(map[string]*yaml.Node, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i].Value
		if known != nil && !slices.Contains(known, key) {
			return nil, at.unknown(field, key, known)
		}
		values[key] = node.Content[i+1]
	}
	return values, nil
}

func (at *positions) unknown(field, key string, known []string) *Error {
	e := at.refuse(join(field, key), "unknown-field", "there is no field %.80q here", key)
	if near := nearest(key, known); near != "" {
		e.Detail += "; did you mean " + near + "?"
	}
	return e
}

// text reads a string that must be there and not be empty.
func (at *positions) text(node *yaml.Node, field string) (string, error) {
	if node == nil {
		e := at.refuse(field, "missing-field", "missing")
		if parent := at.nodes[parentOf(field)]; parent != nil {
			e.Line, e.Column = at.line+parent.Line, parent.Column
		}
		return "", e
	}
	if node.Kind != yaml.ScalarNode || node.Tag != "!!str" {
		return "", at.refuse(field, "wrong-type", "want a string, have %s", describe(node))
	}
	if node.Value == "" {
		return "", at.refuse(field, "empty-value", "empty: leave the field out, or give a value")
	}
	return node.Value, nil
}
