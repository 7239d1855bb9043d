package parse

import (
	"slices"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/istio-auth/istio-auth/rbac"
)

// policy reads an AuthorizationPolicy.
func (d *Document) policy() (rbac.Policy, error) {
	spec := &securityv1beta1.AuthorizationPolicy{}
	if err := d.Spec().decode(spec); err != nil {
		return rbac.Policy{}, err
	}
	p := rbac.Policy{Namespace: d.Namespace, Name: d.Name}
	var err error
	if p.Action, p.Provider, err = d.at.action(spec); err != nil {
		return rbac.Policy{}, err
	}
	if err := d.modes(&p); err != nil {
		return rbac.Policy{}, err
	}
	if p.Selector, p.Targets, err = d.attachment(spec); err != nil {
		return rbac.Policy{}, err
	}
	if err := d.at.limit("spec.rules", len(spec.GetRules()), maxRules); err != nil {
		return rbac.Policy{}, err
	}
	r := reading{at: d.at, own: d.Namespace, anyDomain: p.IstioCompat, custom: p.Action == rbac.Custom}
	for i, rule := range spec.GetRules() {
		read, err := r.rule(rule, element("spec.rules", i))
		if err != nil {
			return rbac.Policy{}, err
		}
		p.Rules = append(p.Rules, read)
	}
	if n := len(JSON(p)); n > MaxObject {
		return rbac.Policy{}, d.at.refuse("", "too-long", "an object of %d bytes in its canonical form, at most %d", n, MaxObject)
	}
	return p, nil
}

// action reads what the policy does. Without rules only ALLOW does anything.
func (at *positions) action(spec *securityv1beta1.AuthorizationPolicy) (action rbac.Action, provider string, err error) {
	switch spec.GetAction() {
	case securityv1beta1.AuthorizationPolicy_ALLOW:
		action = rbac.Allow
	case securityv1beta1.AuthorizationPolicy_DENY:
		action = rbac.Deny
		if len(spec.GetRules()) == 0 {
			return 0, "", at.refuse("spec", "deny-nothing", "a DENY policy without rules denies nothing; to deny everything, write rules: [{}]")
		}
	case securityv1beta1.AuthorizationPolicy_AUDIT:
		action = rbac.Audit
	case securityv1beta1.AuthorizationPolicy_CUSTOM:
		action = rbac.Custom
	default:
		return 0, "", at.refuse("spec.action", "not-supported", "action %v is not supported yet", spec.GetAction())
	}
	if len(spec.GetRules()) == 0 && action != rbac.Allow {
		return 0, "", at.refuse("spec", "no-rules", "a policy of action %s without rules does nothing; to match everything, write rules: [{}]", action)
	}
	switch {
	case action == rbac.Custom && spec.GetProvider() == nil:
		return 0, "", at.refuse("spec.action", "missing-provider", "CUSTOM needs provider.name: whom to ask")
	case action != rbac.Custom && spec.GetProvider() != nil:
		return 0, "", at.refuse("spec.provider", "conflict", "a provider is for action CUSTOM only, which would ask it")
	case action != rbac.Custom:
		return action, "", nil
	}
	name := spec.GetProvider().GetName()
	if !isProvider(name) {
		return 0, "", at.refuse("spec.provider.name", "bad-name", "%.80q: a provider's name has at most 63 letters, digits, and inner - _ and dots", name)
	}
	return action, name, nil
}

// isProvider: what may stand in a filter's name.
func isProvider(name string) bool { return name != "" && isLabelValue(name) }

// modes reads the annotations.
func (d *Document) modes(p *rbac.Policy) error {
	if value, ok := d.Annotations[dryRun]; ok {
		field := "metadata.annotations." + dryRun
		if value != "true" && value != "false" {
			return d.at.refuse(field, "unknown-value", "%.80q: want \"true\" or \"false\"", value)
		}
		p.DryRun = value == "true"
		if p.DryRun && p.Action != rbac.Allow && p.Action != rbac.Deny {
			return d.at.refuse(field, "not-supported", "a dry run is of ALLOW and DENY only: a policy of action %s would be in force", p.Action)
		}
	}
	if value, ok := d.Annotations[compat]; ok {
		if value != istioCompat {
			return d.at.refuse("metadata.annotations."+compat, "unknown-value", "%.80q: want %q", value, istioCompat)
		}
		p.IstioCompat = true
	}
	return nil
}

// istioCompat is the one value of the annotation compat.
const istioCompat = "istio"

// attached is what an object says about whom it is for.
type attached interface {
	GetSelector() *typev1beta1.WorkloadSelector
	GetTargetRef() *typev1beta1.PolicyTargetReference
	GetTargetRefs() []*typev1beta1.PolicyTargetReference
}

// attachment reads the selector, or the targets.
func (d *Document) attachment(spec attached) (map[string]string, []rbac.TargetRef, error) {
	selector, one, several := spec.GetSelector(), spec.GetTargetRef(), spec.GetTargetRefs()
	switch {
	case selector != nil && (one != nil || several != nil):
		return nil, nil, d.at.refuse("spec.selector", "conflict", "a selector cannot stand with targetRefs")
	case one != nil && several != nil:
		return nil, nil, d.at.refuse("spec.targetRef", "conflict", "targetRef cannot stand with targetRefs")
	case selector != nil:
		labels := selector.GetMatchLabels()
		if len(labels) == 0 {
			return nil, nil, d.at.refuse("spec.selector", "empty-value", "empty: leave it out to select all")
		}
		return labels, nil, d.at.labels("spec.selector.matchLabels", labels)
	case one != nil:
		target, err := d.target(one, "spec.targetRef")
		return nil, []rbac.TargetRef{target}, err
	}
	if err := d.at.limit("spec.targetRefs", len(several), maxTargets); err != nil {
		return nil, nil, err
	}
	var targets []rbac.TargetRef
	for i, ref := range several {
		target, err := d.target(ref, element("spec.targetRefs", i))
		if err != nil {
			return nil, nil, err
		}
		targets = append(targets, target)
	}
	return nil, targets, nil
}

// targetKinds are what the language attaches policies to.
var targetKinds = map[string]string{
	"Gateway": "gateway.networking.k8s.io", "GatewayClass": "gateway.networking.k8s.io",
	"Service": "", "ServiceEntry": "networking.istio.io",
}

func (d *Document) target(ref *typev1beta1.PolicyTargetReference, field string) (rbac.TargetRef, error) {
	t := rbac.TargetRef{Group: ref.GetGroup(), Kind: ref.GetKind(), Name: ref.GetName()}
	if t.Group == "core" {
		t.Group = ""
	}
	switch want, ok := targetKinds[t.Kind]; {
	case t.Kind == "":
		return rbac.TargetRef{}, d.at.missing(field + ".kind")
	case !ok:
		return rbac.TargetRef{}, d.at.refuse(field+".kind", "unknown-value", "%.80q: want Gateway, GatewayClass, Service or ServiceEntry", t.Kind)
	case t.Group != want:
		return rbac.TargetRef{}, d.at.refuse(field, "unknown-value", "%.80q: the group of a %s is %q", t.Group, t.Kind, want)
	case t.Name == "":
		return rbac.TargetRef{}, d.at.missing(field + ".name")
	case !rbac.IsPolicyName(t.Name):
		return rbac.TargetRef{}, d.at.refuse(field+".name", "bad-name", "%.80q: want lower-case letters, digits, and inner hyphens and dots (RFC 1123)", t.Name)
	case ref.GetNamespace() != "" && ref.GetNamespace() != d.Namespace:
		return rbac.TargetRef{}, d.at.refuse(field+".namespace", "not-supported", "%.80q: a policy is attached to what is in its own namespace", ref.GetNamespace())
	}
	return t, nil
}

func (at *positions) labels(field string, labels map[string]string) error {
	if err := at.limit(field, len(labels), maxLabels); err != nil {
		return err
	}
	for key, value := range labels {
		if !isLabelKey(key) || !isLabelValue(value) {
			return at.refuse(join(field, key), "bad-label", "%.80q: %.80q is no label of Kubernetes", key, value)
		}
	}
	return nil
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

func (r reading) rule(rule *securityv1beta1.Rule, field string) (rbac.Rule, error) {
	var read rbac.Rule
	for _, list := range []struct {
		name string
		n    int
	}{{"from", len(rule.GetFrom())}, {"to", len(rule.GetTo())}, {"when", len(rule.GetWhen())}} {
		if err := r.at.limit(join(field, list.name), list.n, maxRules); err != nil {
			return rbac.Rule{}, err
		}
	}
	for i, from := range rule.GetFrom() {
		source, err := r.source(from.GetSource(), element(field+".from", i)+".source")
		if err != nil {
			return rbac.Rule{}, err
		}
		read.From = append(read.From, source)
	}
	for i, to := range rule.GetTo() {
		operation, err := r.operation(to.GetOperation(), element(field+".to", i)+".operation")
		if err != nil {
			return rbac.Rule{}, err
		}
		read.To = append(read.To, operation)
	}
	var err error
	read.When, err = r.conditions(rule.GetWhen(), field+".when")
	return read, err
}

// conditions reads a list of when.
func (r reading) conditions(list []*securityv1beta1.Condition, field string) (rbac.Clause, error) {
	r.anyDomain = r.anyDomain || slices.ContainsFunc(list, func(c *securityv1beta1.Condition) bool {
		return c.GetKey() == rbac.Attr(rbac.TrustDomain).String() && len(c.GetValues()) > 0
	})
	var clause rbac.Clause
	for i, c := range list {
		test, err := r.condition(c, element(field, i))
		if err != nil {
			return nil, err
		}
		clause = append(clause, test)
	}
	return clause, nil
}

func (r reading) condition(c *securityv1beta1.Condition, field string) (rbac.Test, error) {
	if c.GetKey() == "" {
		return rbac.Test{}, r.at.missing(field + ".key")
	}
	a, err := conditionKey(c.GetKey())
	if err != nil {
		return rbac.Test{}, r.placed(field+".key", err)
	}
	if len(c.GetValues())+len(c.GetNotValues()) == 0 {
		return rbac.Test{}, r.at.missing(field + ".values")
	}
	if r.custom && notInCustom(a) {
		return rbac.Test{}, r.at.refuse(field+".key", "not-in-custom", "a CUSTOM policy cannot ask for %s: the provider is asked before it is known", a)
	}
	if r.anyDomain {
		a = ofAnyDomain(a)
	}
	test := rbac.Test{Attribute: a}
	if test.In, err = r.values(field+".values", c.GetValues(), a); err != nil {
		return rbac.Test{}, err
	}
	test.NotIn, err = r.values(field+".notValues", c.GetNotValues(), a)
	return test, err
}
