package parse

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// supported lists what this version enforces, by the full names of istio.io/api.
// A field that exists and is not here is refused as not supported yet.
var supported = names(`
	istio.security.v1beta1.AuthorizationPolicy.selector
	istio.security.v1beta1.AuthorizationPolicy.rules
	istio.security.v1beta1.AuthorizationPolicy.action
	istio.security.v1beta1.AuthorizationPolicy.ALLOW
	istio.security.v1beta1.AuthorizationPolicy.DENY
	istio.type.v1beta1.WorkloadSelector.match_labels
	istio.security.v1beta1.Rule.from
	istio.security.v1beta1.Rule.to
	istio.security.v1beta1.Rule.From.source
	istio.security.v1beta1.Rule.To.operation
	istio.security.v1beta1.Source.principals
	istio.security.v1beta1.Source.not_principals
	istio.security.v1beta1.Source.namespaces
	istio.security.v1beta1.Source.not_namespaces
	istio.security.v1beta1.Source.service_accounts
	istio.security.v1beta1.Source.not_service_accounts
	istio.security.v1beta1.Operation.methods
	istio.security.v1beta1.Operation.not_methods
	istio.security.v1beta1.Operation.paths
	istio.security.v1beta1.Operation.not_paths
`)

// mayBeEmpty lists the messages and lists for which being empty says something:
// a spec or a list of rules without rules allows nothing, a rule without fields
// matches everything. Anywhere else it would widen what its author wrote.
var mayBeEmpty = names(`
	istio.security.v1beta1.AuthorizationPolicy
	istio.security.v1beta1.AuthorizationPolicy.rules
	istio.security.v1beta1.Rule
`)

func names(list string) map[protoreflect.FullName]bool {
	set := map[protoreflect.FullName]bool{}
	for _, name := range strings.Fields(list) {
		set[protoreflect.FullName(name)] = true
	}
	return set
}

// decode fills a message from a node. Field names are the JSON names alone.
func (at *positions) decode(m protoreflect.Message, node *yaml.Node, field string) error {
	fields := m.Descriptor().Fields()
	if node.Kind != yaml.MappingNode {
		return at.refuse(field, "wrong-type", "want a mapping, have %s", describe(node))
	}
	if len(node.Content) == 0 && !mayBeEmpty[m.Descriptor().FullName()] {
		return at.refuse(field, "empty-value", "empty: leave it out, or say what it should match")
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i].Value, node.Content[i+1]
		fd := fields.ByJSONName(key)
		if fd == nil {
			return at.unknown(field, key, jsonNames(fields))
		}
		if !supported[fd.FullName()] {
			return at.refuse(join(field, key), "not-supported", "%s is not supported yet", key)
		}
		if err := at.decodeField(m, fd, value, join(field, key)); err != nil {
			return err
		}
	}
	return nil
}

func (at *positions) decodeField(m protoreflect.Message, fd protoreflect.FieldDescriptor, node *yaml.Node, field string) error {
	switch {
	case fd.IsMap():
		return at.decodeMap(m.Mutable(fd).Map(), node, field)
	case fd.IsList():
		if node.Kind != yaml.SequenceNode {
			return at.refuse(field, "wrong-type", "want a list, have %s", describe(node))
		}
		if len(node.Content) == 0 && !mayBeEmpty[fd.FullName()] {
			return at.refuse(field, "empty-value", "an empty list: leave it out, or give a value")
		}
		list := m.Mutable(fd).List()
		for i, item := range node.Content {
			itemField := fmt.Sprintf("%s[%d]", field, i)
			if fd.Message() != nil {
				if err := at.decode(list.AppendMutable().Message(), item, itemField); err != nil {
					return err
				}
				continue
			}
			text, err := at.text(item, itemField)
			if err != nil {
				return err
			}
			list.Append(protoreflect.ValueOfString(text))
		}
		return nil
	case fd.Message() != nil:
		return at.decode(m.Mutable(fd).Message(), node, field)
	case fd.Enum() != nil:
		return at.decodeEnum(m, fd, node, field)
	}
	return fmt.Errorf("parse: %s is called supported, but is of a kind that is not read", fd.FullName())
}

func (at *positions) decodeEnum(m protoreflect.Message, fd protoreflect.FieldDescriptor, node *yaml.Node, field string) error {
	word, err := at.text(node, field)
	if err != nil {
		return err
	}
	value := fd.Enum().Values().ByName(protoreflect.Name(word))
	if value == nil {
		return at.refuse(field, "unknown-value", "there is no %s %.80q", fd.JSONName(), word)
	}
	if !supported[value.FullName()] {
		return at.refuse(field, "not-supported", "%s %s is not supported yet", fd.JSONName(), word)
	}
	m.Set(fd, protoreflect.ValueOfEnum(value.Number()))
	return nil
}

func (at *positions) decodeMap(m protoreflect.Map, node *yaml.Node, field string) error {
	values, err := at.mapping(node, field, nil)
	if err != nil {
		return err
	}
	if len(values) == 0 {
		return at.refuse(field, "empty-value", "empty: leave it out, or give a value")
	}
	for key, value := range values {
		// A label may have an empty value.
		if value.Kind != yaml.ScalarNode || value.Tag != "!!str" {
			return at.refuse(join(field, key), "wrong-type", "want a string, have %s", describe(value))
		}
		m.Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString(value.Value))
	}
	return nil
}

func jsonNames(fields protoreflect.FieldDescriptors) []string {
	var list []string
	for i := range fields.Len() {
		list = append(list, fields.Get(i).JSONName())
	}
	return list
}
