package parse

import (
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/istio-auth/istio-auth/rbac"
)

// A reading of one object's rules.
type reading struct {
	at  *positions
	own string // the object's namespace
	// anyDomain: namespaces and service accounts are of any accepted trust domain.
	anyDomain bool
	// custom: the policy's action is CUSTOM.
	custom bool
}

// A field of a source or an operation. Its negation is called by [negated].
type field struct {
	name string
	kind rbac.AttributeKind
}

// The fields, in the order that a clause has its tests.
var (
	sourceFields = []field{
		{"principals", rbac.Principal}, {"requestPrincipals", rbac.RequestPrincipal}, {"namespaces", rbac.Namespace},
		{"serviceAccounts", rbac.ServiceAccount}, {"trustDomains", rbac.TrustDomain}, {"ipBlocks", rbac.SourceIP},
		{"remoteIpBlocks", rbac.RemoteIP},
	}
	operationFields = []field{
		{"hosts", rbac.Host}, {"ports", rbac.DestinationPort}, {"methods", rbac.Method}, {"paths", rbac.Path},
	}
)

// negated is the name of a field's negation: notPaths for paths.
func negated(field string) string { return "not" + strings.ToUpper(field[:1]) + field[1:] }

// ofAnyDomain is the attribute in whatever accepted trust domain.
func ofAnyDomain(a rbac.Attribute) rbac.Attribute {
	switch a.Kind() {
	case rbac.Namespace:
		return rbac.Attr(rbac.AnyNamespace)
	case rbac.ServiceAccount:
		return rbac.Attr(rbac.AnyServiceAccount)
	}
	return a
}

// notInCustom: a provider is asked before the peer and the token are looked at.
func notInCustom(a rbac.Attribute) bool { return a.OfPeer() || a.OfToken() }

// values of a clause by its fields' names.
type values map[string][]string

// valuesOf reads a message of lists of strings by its fields' JSON names.
func valuesOf(m proto.Message) values {
	v := values{}
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		for i := range value.List().Len() {
			v[fd.JSONName()] = append(v[fd.JSONName()], value.List().Get(i).String())
		}
		return true
	})
	return v
}

func (v values) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return len(v[name])+len(v[negated(name)]) > 0 })
}

func (r reading) source(s *securityv1beta1.Source, field string) (rbac.Clause, error) {
	v := valuesOf(s)
	if v.has("serviceAccounts") && v.has("principals", "namespaces") {
		return nil, r.at.refuse(field, "conflict", "service accounts cannot stand with principals or namespaces")
	}
	for _, name := range []string{"serviceAccounts", "notServiceAccounts"} {
		if err := r.at.limit(join(field, name), len(v[name]), maxAccounts); err != nil {
			return nil, err
		}
	}
	return r.clause(field, sourceFields, v)
}

func (r reading) operation(o *securityv1beta1.Operation, field string) (rbac.Clause, error) {
	return r.clause(field, operationFields, valuesOf(o))
}

// clause makes a test of each field that has values. A trust domain that is
// named makes namespaces and service accounts those of any: the test of it says
// which.
func (r reading) clause(at string, fields []field, v values) (rbac.Clause, error) {
	r.anyDomain = r.anyDomain || len(v["trustDomains"]) > 0
	var clause rbac.Clause
	for _, f := range fields {
		if !v.has(f.name) {
			continue
		}
		a := rbac.Attr(f.kind)
		if r.custom && notInCustom(a) {
			name := f.name
			if len(v[name]) == 0 {
				name = negated(name)
			}
			return nil, r.at.refuse(join(at, name), "not-in-custom", "a CUSTOM policy cannot ask for %s: the provider is asked before it is known", name)
		}
		if r.anyDomain {
			a = ofAnyDomain(a)
		}
		test := rbac.Test{Attribute: a}
		var err error
		if test.In, err = r.values(join(at, f.name), v[f.name], a); err != nil {
			return nil, err
		}
		if test.NotIn, err = r.values(join(at, negated(f.name)), v[negated(f.name)], a); err != nil {
			return nil, err
		}
		clause = append(clause, test)
	}
	return clause, nil
}

// values parses a list.
func (r reading) values(field string, texts []string, a rbac.Attribute) ([]rbac.Pattern, error) {
	var list []rbac.Pattern
	for i, text := range texts {
		p, err := rbac.ParseValue(a, text, r.own)
		if err != nil {
			return nil, r.placed(element(field, i), err)
		}
		list = append(list, p)
	}
	return list, nil
}

// placed gives a refusal its place.
func (r reading) placed(field string, err error) error {
	var refusal *rbac.Refusal
	if errors.As(err, &refusal) {
		return r.at.refuse(field, refusal.Reason, "%s", refusal.Detail)
	}
	return err
}
