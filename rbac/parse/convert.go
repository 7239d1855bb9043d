package parse

import (
	"errors"
	"fmt"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/istio-auth/istio-auth/rbac"
)

// convert fills p from a spec that was decoded: every field of it is one that
// is supported.
func (at *positions) convert(p rbac.Policy, spec *securityv1beta1.AuthorizationPolicy) (rbac.Policy, error) {
	switch spec.GetAction() {
	case securityv1beta1.AuthorizationPolicy_ALLOW:
		p.Action = rbac.Allow
	case securityv1beta1.AuthorizationPolicy_DENY:
		p.Action = rbac.Deny
		if len(spec.GetRules()) == 0 {
			return rbac.Policy{}, at.refuse("spec", "deny-nothing", "a DENY policy without rules denies nothing; to deny everything, write rules: [{}]")
		}
	default:
		return rbac.Policy{}, at.refuse("spec.action", "not-supported", "action %v is not supported yet", spec.GetAction())
	}
	var err error
	if p.Selector, err = at.selector(spec.GetSelector().GetMatchLabels()); err != nil {
		return rbac.Policy{}, err
	}
	if err := at.limit("spec.rules", len(spec.GetRules()), maxRules); err != nil {
		return rbac.Policy{}, err
	}
	for i, r := range spec.GetRules() {
		rule, err := at.rule(r, p.Namespace, fmt.Sprintf("spec.rules[%d]", i))
		if err != nil {
			return rbac.Policy{}, err
		}
		p.Rules = append(p.Rules, rule)
	}
	return p, nil
}

func (at *positions) limit(field string, n, most int) error {
	if n > most {
		return at.refuse(field, "too-many", "%d, at most %d", n, most)
	}
	return nil
}

func (at *positions) selector(labels map[string]string) (map[string]string, error) {
	const field = "spec.selector.matchLabels"
	if err := at.limit(field, len(labels), maxLabels); err != nil {
		return nil, err
	}
	for key, value := range labels {
		if !isLabelKey(key) || !isLabelValue(value) {
			return nil, at.refuse(join(field, key), "bad-label", "%.80q: %.80q is no label of Kubernetes", key, value)
		}
	}
	return labels, nil
}

// isLabelKey: an optional DNS subdomain and a slash, then a name.
func isLabelKey(key string) bool {
	domain, name, ok := strings.Cut(key, "/")
	if !ok {
		return key != "" && isLabelValue(key)
	}
	return rbac.IsPolicyName(domain) && name != "" && isLabelValue(name)
}

// isLabelValue: at most 63 letters, digits, and inner - _ and dots; or nothing.
func isLabelValue(value string) bool {
	for i := range len(value) {
		b := value[i]
		alnum := 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
		inner := 0 < i && i < len(value)-1 && (b == '-' || b == '_' || b == '.')
		if !alnum && !inner {
			return false
		}
	}
	return len(value) <= 63
}

func (at *positions) rule(r *securityv1beta1.Rule, own, field string) (rbac.Rule, error) {
	if err := errors.Join(
		at.limit(field+".from", len(r.GetFrom()), maxRules),
		at.limit(field+".to", len(r.GetTo()), maxRules),
	); err != nil {
		return rbac.Rule{}, err
	}
	var rule rbac.Rule
	for i, from := range r.GetFrom() {
		source, err := at.source(from.GetSource(), own, fmt.Sprintf("%s.from[%d].source", field, i))
		if err != nil {
			return rbac.Rule{}, err
		}
		rule.From = append(rule.From, source)
	}
	for i, to := range r.GetTo() {
		operation, err := at.operation(to.GetOperation(), own, fmt.Sprintf("%s.to[%d].operation", field, i))
		if err != nil {
			return rbac.Rule{}, err
		}
		rule.To = append(rule.To, operation)
	}
	return rule, nil
}

// A field of the language: its values, and those of its negation.
type listed struct {
	name      string
	attribute rbac.AttributeKind
	in, notIn []string
}

func (at *positions) source(s *securityv1beta1.Source, own, field string) (rbac.Clause, error) {
	accounts := len(s.GetServiceAccounts()) + len(s.GetNotServiceAccounts())
	others := len(s.GetPrincipals()) + len(s.GetNotPrincipals()) + len(s.GetNamespaces()) + len(s.GetNotNamespaces())
	if accounts > 0 && others > 0 {
		return nil, at.refuse(field, "conflict", "service accounts cannot stand with principals or namespaces")
	}
	if err := firstError(
		at.limit(field+".serviceAccounts", len(s.GetServiceAccounts()), maxAccounts),
		at.limit(field+".notServiceAccounts", len(s.GetNotServiceAccounts()), maxAccounts),
	); err != nil {
		return nil, err
	}
	return at.clause(field, own, []listed{
		{"principals", rbac.Principal, s.GetPrincipals(), s.GetNotPrincipals()},
		{"namespaces", rbac.Namespace, s.GetNamespaces(), s.GetNotNamespaces()},
		{"serviceAccounts", rbac.ServiceAccount, s.GetServiceAccounts(), s.GetNotServiceAccounts()},
	})
}

func (at *positions) operation(o *securityv1beta1.Operation, own, field string) (rbac.Clause, error) {
	return at.clause(field, own, []listed{
		{"methods", rbac.Method, o.GetMethods(), o.GetNotMethods()},
		{"paths", rbac.Path, o.GetPaths(), o.GetNotPaths()},
	})
}

// clause makes a test of each field that has values.
func (at *positions) clause(field, own string, fields []listed) (rbac.Clause, error) {
	var clause rbac.Clause
	for _, f := range fields {
		if len(f.in)+len(f.notIn) == 0 {
			continue
		}
		test := rbac.Test{Attribute: rbac.Attr(f.attribute)}
		var err error
		if test.In, err = at.values(join(field, f.name), f.in, test.Attribute, own); err != nil {
			return nil, err
		}
		if test.NotIn, err = at.values(join(field, negated(f.name)), f.notIn, test.Attribute, own); err != nil {
			return nil, err
		}
		clause = append(clause, test)
	}
	return clause, nil
}

// negated is the name of a field's negation: notPaths for paths.
func negated(field string) string { return "not" + strings.ToUpper(field[:1]) + field[1:] }

// values parses a list.
func (at *positions) values(field string, texts []string, a rbac.Attribute, own string) ([]rbac.Pattern, error) {
	var list []rbac.Pattern
	for i, text := range texts {
		p, err := rbac.ParseValue(a, text, own)
		var refusal *rbac.Refusal
		switch {
		case errors.As(err, &refusal):
			return nil, at.refuse(fmt.Sprintf("%s[%d]", field, i), refusal.Reason, "%s", refusal.Detail)
		case err != nil:
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
