package access

import (
	"errors"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/cel"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// Limits of our kinds. Those of an object, and of what it shares with an
// AuthorizationPolicy, are of package parse.
const (
	maxName        = 200 // bytes; a policy's name is longer by a prefix
	maxPermissions = 64
	maxAlternative = 64 // sources, and operations
	maxSubjects    = 256
	maxExpressions = 16 << 10 // bytes of all expressions of a role: reading them takes time
)

// DefaultGroupsClaim is where an end user's groups are, unless a grant says
// otherwise.
const DefaultGroupsClaim = "groups"

// Read reads every document of data, YAML or JSON, of all kinds that there are.
// It returns all objects or none: the error joins a [parse.Error] for each
// document that is refused. Data without an object is refused too. name stands in
// the errors.
func Read(name string, data []byte) (Objects, error) {
	var o Objects
	if err := parse.Read(name, data, o.kinds()); err != nil {
		return Objects{}, err
	}
	return o, nil
}

// kinds read documents into o.
func (o *Objects) kinds() parse.Kinds {
	kinds := o.Objects.Kinds()
	for k, read := range kinds {
		if k.Kind == "AuthorizationPolicy" {
			kinds[k] = func(d *parse.Document) error {
				if IsReserved(d.Name) {
					prefix, _, _ := strings.Cut(d.Name, ".")
					return d.Refuse("metadata.name", "reserved-name", "%.80q: names that begin with %s. are for other kinds", d.Name, prefix)
				}
				return read(d)
			}
		}
	}
	kinds[parse.Kind{APIVersion: APIVersion, Kind: RoleKind}] = func(d *parse.Document) error {
		r, err := readRole(d)
		if err == nil {
			o.Roles = append(o.Roles, r)
		}
		return err
	}
	kinds[parse.Kind{APIVersion: APIVersion, Kind: GrantKind}] = func(d *parse.Document) error {
		g, err := readGrant(d)
		if err == nil {
			o.Grants = append(o.Grants, g)
		}
		return err
	}
	kinds[parse.Kind{APIVersion: APIVersion, Kind: RuleKind}] = func(d *parse.Document) error {
		p, err := readRule(d)
		if err == nil {
			o.Policies = append(o.Policies, p)
		}
		return err
	}
	return kinds
}

const (
	dryRun = "istio.io/dry-run"
	compat = "istio-auth.io/compat"
)

// check looks at the name and the annotations.
func check(d *parse.Document, mayBeDry bool) (dry bool, err error) {
	if len(d.Name) > maxName {
		return false, d.Refuse("metadata.name", "too-long", "%d bytes, at most %d", len(d.Name), maxName)
	}
	if _, ok := d.Annotations[compat]; ok {
		return false, d.Refuse("metadata.annotations."+compat, "unknown-annotation", "%s is for an AuthorizationPolicy only", compat)
	}
	value, ok := d.Annotations[dryRun]
	switch {
	case !ok:
		return false, nil
	case !mayBeDry:
		return false, d.Refuse("metadata.annotations."+dryRun, "not-supported", "a dry run is of an AccessGrant, or an AccessRule of action ALLOW or DENY: this would be in force")
	case value != "true" && value != "false":
		return false, d.Refuse("metadata.annotations."+dryRun, "unknown-value", "%.80q: want \"true\" or \"false\"", value)
	}
	return value == "true", nil
}

func readRole(d *parse.Document) (Role, error) {
	r := Role{Namespace: d.Namespace, Name: d.Name}
	if _, err := check(d, false); err != nil {
		return Role{}, err
	}
	spec, err := d.Spec().Mapping("permissions")
	if err != nil {
		return Role{}, err
	}
	items, err := spec.At("permissions").Items(maxPermissions)
	if err != nil {
		return Role{}, err
	}
	length := 0
	for _, item := range items {
		m, err := item.Mapping("operations", "when", "expression")
		if err != nil {
			return Role{}, err
		}
		if len(m.Keys()) == 0 {
			return Role{}, item.Refuse("empty-value", "empty: to permit everything over HTTP, write operations: [{paths: [\"*\"]}]")
		}
		p, err := readPermission(m, d.Namespace)
		if err != nil {
			return Role{}, err
		}
		if p.Expression != nil {
			length += len(p.Expression.Source)
		}
		if length > maxExpressions {
			return Role{}, m.At("expression").Refuse("too-long", "all expressions have more than %d bytes", maxExpressions)
		}
		r.Permissions = append(r.Permissions, p)
	}
	return r, nil
}

// readPermission reads the fields that a permission and a rule have.
func readPermission(m parse.Mapping, own string) (Permission, error) {
	var p Permission
	var err error
	if p.To, err = clauses(m.At("operations"), parse.Node.Operation); err != nil {
		return Permission{}, err
	}
	if when := m.At("when"); !when.IsMissing() {
		if p.When, err = when.Conditions(own); err != nil {
			return Permission{}, err
		}
	}
	p.Expression, err = expression(m.At("expression"))
	return p, err
}

// clauses reads a list that may be missing.
func clauses(n parse.Node, read func(parse.Node) (rbac.Clause, error)) ([]rbac.Clause, error) {
	if n.IsMissing() {
		return nil, nil
	}
	items, err := n.Items(maxAlternative)
	if err != nil {
		return nil, err
	}
	list := make([]rbac.Clause, len(items))
	for i, item := range items {
		if list[i], err = read(item); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// expression reads one that may be missing. A refusal has the place within it in
// its detail.
func expression(n parse.Node) (*rbac.Expression, error) {
	if n.IsMissing() {
		return nil, nil
	}
	text, err := n.Lines()
	if err != nil {
		return nil, err
	}
	e, err := cel.Parse(text)
	var refusal *cel.Refusal
	switch {
	case errors.As(err, &refusal):
		return nil, n.Refuse(refusal.Reason, "at %v", refusal)
	case err != nil:
		return nil, err
	}
	return &e, nil
}

func selector(n parse.Node) (map[string]string, error) {
	if n.IsMissing() {
		return nil, nil
	}
	return n.Selector()
}

func readRule(d *parse.Document) (rbac.Policy, error) {
	p := rbac.Policy{Namespace: d.Namespace, Name: RulePrefix + d.Name}
	m, err := d.Spec().Mapping("selector", "action", "sources", "operations", "when", "expression")
	if err != nil {
		return rbac.Policy{}, err
	}
	action, err := m.At("action").Text()
	if err != nil {
		return rbac.Policy{}, err
	}
	for _, a := range []rbac.Action{rbac.Allow, rbac.Deny, rbac.Audit} {
		if a.String() == action {
			p.Action = a
		}
	}
	if p.Action == 0 {
		return rbac.Policy{}, m.At("action").Refuse("unknown-value", "%.80q: want ALLOW, DENY or AUDIT", action)
	}
	if p.DryRun, err = check(d, p.Action != rbac.Audit); err != nil {
		return rbac.Policy{}, err
	}
	if p.Selector, err = selector(m.At("selector")); err != nil {
		return rbac.Policy{}, err
	}
	if m.At("sources").IsMissing() && m.At("operations").IsMissing() && m.At("when").IsMissing() && m.At("expression").IsMissing() {
		return rbac.Policy{}, d.Spec().Refuse("empty-value", "matches everything: write what it is about, or an AuthorizationPolicy with rules: [{}]")
	}
	from, err := clauses(m.At("sources"), func(n parse.Node) (rbac.Clause, error) { return n.Source(d.Namespace) })
	if err != nil {
		return rbac.Policy{}, err
	}
	one, err := readPermission(m, d.Namespace)
	if err != nil {
		return rbac.Policy{}, err
	}
	p.Rules = []rbac.Rule{{From: from, To: one.To, When: one.When, Expression: one.Expression}}
	return p, nil
}
