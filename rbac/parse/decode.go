package parse

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// supported lists what this version enforces, by the full names of istio.io/api.
// A field that exists and is not here is refused as not supported yet.
var supported = names(`
	istio.security.v1beta1.AuthorizationPolicy.selector
	istio.security.v1beta1.AuthorizationPolicy.targetRef
	istio.security.v1beta1.AuthorizationPolicy.targetRefs
	istio.security.v1beta1.AuthorizationPolicy.rules
	istio.security.v1beta1.AuthorizationPolicy.action
	istio.security.v1beta1.AuthorizationPolicy.provider
	istio.security.v1beta1.AuthorizationPolicy.ALLOW
	istio.security.v1beta1.AuthorizationPolicy.DENY
	istio.security.v1beta1.AuthorizationPolicy.AUDIT
	istio.security.v1beta1.AuthorizationPolicy.CUSTOM
	istio.security.v1beta1.AuthorizationPolicy.ExtensionProvider.name
	istio.type.v1beta1.WorkloadSelector.match_labels
	istio.type.v1beta1.PolicyTargetReference.group
	istio.type.v1beta1.PolicyTargetReference.kind
	istio.type.v1beta1.PolicyTargetReference.name
	istio.type.v1beta1.PolicyTargetReference.namespace
	istio.security.v1beta1.Rule.from
	istio.security.v1beta1.Rule.to
	istio.security.v1beta1.Rule.when
	istio.security.v1beta1.Rule.From.source
	istio.security.v1beta1.Rule.To.operation
	istio.security.v1beta1.Source.principals
	istio.security.v1beta1.Source.not_principals
	istio.security.v1beta1.Source.request_principals
	istio.security.v1beta1.Source.not_request_principals
	istio.security.v1beta1.Source.namespaces
	istio.security.v1beta1.Source.not_namespaces
	istio.security.v1beta1.Source.service_accounts
	istio.security.v1beta1.Source.not_service_accounts
	istio.security.v1beta1.Source.trust_domains
	istio.security.v1beta1.Source.not_trust_domains
	istio.security.v1beta1.Source.ip_blocks
	istio.security.v1beta1.Source.not_ip_blocks
	istio.security.v1beta1.Source.remote_ip_blocks
	istio.security.v1beta1.Source.not_remote_ip_blocks
	istio.security.v1beta1.Operation.hosts
	istio.security.v1beta1.Operation.not_hosts
	istio.security.v1beta1.Operation.ports
	istio.security.v1beta1.Operation.not_ports
	istio.security.v1beta1.Operation.methods
	istio.security.v1beta1.Operation.not_methods
	istio.security.v1beta1.Operation.paths
	istio.security.v1beta1.Operation.not_paths
	istio.security.v1beta1.Condition.key
	istio.security.v1beta1.Condition.values
	istio.security.v1beta1.Condition.not_values
	istio.security.v1beta1.RequestAuthentication.selector
	istio.security.v1beta1.RequestAuthentication.targetRef
	istio.security.v1beta1.RequestAuthentication.targetRefs
	istio.security.v1beta1.RequestAuthentication.jwt_rules
	istio.security.v1beta1.JWTRule.issuer
	istio.security.v1beta1.JWTRule.audiences
	istio.security.v1beta1.JWTRule.jwks
	istio.security.v1beta1.JWTRule.jwks_uri
	istio.security.v1beta1.JWTRule.from_headers
	istio.security.v1beta1.JWTRule.from_params
	istio.security.v1beta1.JWTRule.from_cookies
	istio.security.v1beta1.JWTRule.forward_original_token
	istio.security.v1beta1.JWTRule.output_payload_to_header
	istio.security.v1beta1.JWTRule.output_claim_to_headers
	istio.security.v1beta1.JWTRule.timeout
	istio.security.v1beta1.JWTHeader.name
	istio.security.v1beta1.JWTHeader.prefix
	istio.security.v1beta1.ClaimToHeader.header
	istio.security.v1beta1.ClaimToHeader.claim
	istio.security.v1beta1.PeerAuthentication.selector
	istio.security.v1beta1.PeerAuthentication.mtls
	istio.security.v1beta1.PeerAuthentication.port_level_mtls
	istio.security.v1beta1.PeerAuthentication.MutualTLS.mode
	istio.security.v1beta1.PeerAuthentication.MutualTLS.UNSET
	istio.security.v1beta1.PeerAuthentication.MutualTLS.DISABLE
	istio.security.v1beta1.PeerAuthentication.MutualTLS.PERMISSIVE
	istio.security.v1beta1.PeerAuthentication.MutualTLS.STRICT
`)

// mayBeEmpty lists the messages, lists and strings for which being empty says
// something: a spec or a list of rules without rules allows nothing, a rule
// without fields matches everything, the group "" is Kubernetes' own. Anywhere
// else it would widen what its author wrote.
var mayBeEmpty = names(`
	istio.security.v1beta1.AuthorizationPolicy
	istio.security.v1beta1.AuthorizationPolicy.rules
	istio.security.v1beta1.Rule
	istio.security.v1beta1.PeerAuthentication
	istio.type.v1beta1.PolicyTargetReference.group
`)

// ofLines lists the strings that may have several lines.
var ofLines = names(`
	istio.security.v1beta1.JWTRule.jwks
`)

func names(list string) map[protoreflect.FullName]bool {
	set := map[protoreflect.FullName]bool{}
	for _, name := range strings.Fields(list) {
		set[protoreflect.FullName(name)] = true
	}
	return set
}

// decode fills a message.
func (n Node) decode(m proto.Message) error {
	if n.node == nil {
		return n.at.missing(n.field)
	}
	return n.at.decode(m.ProtoReflect(), n.node, n.field)
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
		return at.decodeMap(m.Mutable(fd).Map(), fd, node, field)
	case fd.IsList():
		if node.Kind != yaml.SequenceNode {
			return at.refuse(field, "wrong-type", "want a list, have %s", describe(node))
		}
		if len(node.Content) == 0 && !mayBeEmpty[fd.FullName()] {
			return at.refuse(field, "empty-value", "an empty list: leave it out, or give a value")
		}
		list := m.Mutable(fd).List()
		for i, item := range node.Content {
			itemField := element(field, i)
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
	case fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Duration":
		return at.decodeDuration(m.Mutable(fd).Message(), node, field)
	case fd.Message() != nil:
		return at.decode(m.Mutable(fd).Message(), node, field)
	case fd.Enum() != nil:
		return at.decodeEnum(m, fd, node, field)
	case fd.Kind() == protoreflect.BoolKind:
		flag, err := at.flag(node, field)
		m.Set(fd, protoreflect.ValueOfBool(flag))
		return err
	case fd.Kind() == protoreflect.StringKind:
		read := at.text
		if ofLines[fd.FullName()] {
			read = at.lines
		}
		if mayBeEmpty[fd.FullName()] && node.Kind == yaml.ScalarNode && node.Tag == "!!str" && node.Value == "" {
			return nil
		}
		text, err := read(node, field)
		m.Set(fd, protoreflect.ValueOfString(text))
		return err
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

// decodeDuration reads "5s", as Kubernetes' schema of the language has it.
func (at *positions) decodeDuration(m protoreflect.Message, node *yaml.Node, field string) error {
	text, err := at.text(node, field)
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Millisecond || d > time.Minute || d%time.Millisecond != 0 {
		return at.refuse(field, "bad-duration", "%.80q: want a time from 1ms to 1m, as 5s", text)
	}
	value := durationpb.New(d).ProtoReflect()
	value.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		m.Set(m.Descriptor().Fields().ByNumber(fd.Number()), v)
		return true
	})
	return nil
}

// decodeMap reads labels, or messages by port.
func (at *positions) decodeMap(m protoreflect.Map, fd protoreflect.FieldDescriptor, node *yaml.Node, field string) error {
	values, err := at.mapping(node, field, nil)
	if err != nil {
		return err
	}
	if len(values) == 0 {
		return at.refuse(field, "empty-value", "empty: leave it out, or give a value")
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		value := values[key]
		if fd.MapValue().Message() != nil {
			port, err := strconv.ParseUint(key, 10, 16)
			if err != nil || port == 0 || strconv.FormatUint(port, 10) != key {
				return at.refuse(join(field, key), "bad-port", "%.80q: want a port from 1 to 65535", key)
			}
			into := m.Mutable(protoreflect.ValueOfUint32(uint32(port)).MapKey()).Message()
			if err := at.decode(into, value, join(field, key)); err != nil {
				return err
			}
			continue
		}
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
