package parse

import (
	"errors"
	"slices"

	"go.yaml.in/yaml/v3"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/istio-auth/istio-auth/rbac"
)

// A Node is one value of a [Document], and knows where it is: each of its errors
// is an [Error] with line and column. A value that is not there is a Node too,
// of which every method but IsMissing and Field refuses.
type Node struct {
	at    *positions
	node  *yaml.Node
	field string
}

// IsMissing tells that the value is not there. A null is there.
func (n Node) IsMissing() bool { return n.node == nil }

// Field is the value's place in its document, as "spec.rules[0]".
func (n Node) Field() string { return n.field }

// Refuse is an [Error] about the value.
func (n Node) Refuse(reason, format string, args ...any) error {
	return n.at.refuse(n.field, reason, format, args...)
}

// Place gives a [rbac.Refusal] the place of the value. Any other error, and nil,
// stays as it is.
func (n Node) Place(err error) error {
	var refusal *rbac.Refusal
	if errors.As(err, &refusal) {
		return n.Refuse(refusal.Reason, "%s", refusal.Detail)
	}
	return err
}

// Text is a string that is not empty, of visible characters.
func (n Node) Text() (string, error) { return n.at.text(n.node, n.field) }

// Lines is a string that is not empty, of whatever characters.
func (n Node) Lines() (string, error) { return n.at.lines(n.node, n.field) }

// Flag is a boolean.
func (n Node) Flag() (bool, error) { return n.at.flag(n.node, n.field) }

// Items are those of a list with one to most of them.
func (n Node) Items(most int) ([]Node, error) {
	switch {
	case n.node == nil:
		return nil, n.at.missing(n.field)
	case n.node.Kind != yaml.SequenceNode:
		return nil, n.Refuse("wrong-type", "want a list, have %s", describe(n.node))
	case len(n.node.Content) == 0:
		return nil, n.Refuse("empty-value", "an empty list: leave it out, or give a value")
	}
	if err := n.at.limit(n.field, len(n.node.Content), most); err != nil {
		return nil, err
	}
	items := make([]Node, len(n.node.Content))
	for i, item := range n.node.Content {
		items[i] = Node{n.at, item, element(n.field, i)}
	}
	return items, nil
}

// Texts are the strings of a list with one to most of them.
func (n Node) Texts(most int) ([]string, error) {
	items, err := n.Items(most)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(items))
	for i, item := range items {
		if texts[i], err = item.Text(); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// A Mapping holds values by their keys. Make one with [Node.Mapping].
type Mapping struct {
	of     Node
	values map[string]*yaml.Node
}

// Mapping is a mapping whose keys are all among known; without known, any key is
// taken. It may be empty.
func (n Node) Mapping(known ...string) (Mapping, error) {
	if n.node == nil {
		return Mapping{}, n.at.missing(n.field)
	}
	values, err := n.at.mapping(n.node, n.field, known)
	if err != nil {
		return Mapping{}, err
	}
	return Mapping{n, values}, nil
}

// At is the value of a key.
func (m Mapping) At(key string) Node {
	return Node{m.of.at, m.values[key], join(m.of.field, key)}
}

// Keys lists the keys in order.
func (m Mapping) Keys() []string {
	keys := make([]string, 0, len(m.values))
	for key := range m.values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Selector is the labels of an Istio workload selector: {matchLabels: {...}}. It
// is never empty.
func (n Node) Selector() (map[string]string, error) {
	m, err := n.Mapping("matchLabels")
	if err != nil {
		return nil, err
	}
	labels, err := m.At("matchLabels").Mapping()
	if err != nil {
		return nil, err
	}
	selector := map[string]string{}
	for _, key := range labels.Keys() {
		value := labels.At(key)
		if value.node.Kind != yaml.ScalarNode || value.node.Tag != "!!str" {
			return nil, value.Refuse("wrong-type", "want a string, have %s", describe(value.node))
		}
		selector[key] = value.node.Value
	}
	if len(selector) == 0 {
		return nil, n.Refuse("empty-value", "empty: leave it out to select all")
	}
	return selector, n.at.labels(m.At("matchLabels").field, selector)
}

// Values are a list of values of an attribute, in an object of the namespace own.
func (n Node) Values(a rbac.Attribute, own string) ([]rbac.Pattern, error) {
	texts, err := n.Texts(MaxObject)
	if err != nil {
		return nil, err
	}
	return reading{at: n.at, own: own}.values(n.field, texts, a)
}

// Source is what an AuthorizationPolicy of the namespace own has as a source.
func (n Node) Source(own string) (rbac.Clause, error) {
	m := &securityv1beta1.Source{}
	if err := n.decode(m); err != nil {
		return nil, err
	}
	return reading{at: n.at, own: own}.source(m, n.field)
}

// Operation is what an AuthorizationPolicy has as an operation.
func (n Node) Operation() (rbac.Clause, error) {
	m := &securityv1beta1.Operation{}
	if err := n.decode(m); err != nil {
		return nil, err
	}
	return reading{at: n.at}.operation(m, n.field)
}

// Conditions are what an AuthorizationPolicy of the namespace own has under when.
func (n Node) Conditions(own string) (rbac.Clause, error) {
	items, err := n.Items(maxRules)
	if err != nil {
		return nil, err
	}
	conditions := make([]*securityv1beta1.Condition, len(items))
	for i, item := range items {
		conditions[i] = &securityv1beta1.Condition{}
		if err := item.decode(conditions[i]); err != nil {
			return nil, err
		}
	}
	return reading{at: n.at, own: own}.conditions(conditions, n.field)
}
