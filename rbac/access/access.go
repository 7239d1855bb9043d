// Package access is our own kinds of policy, istio-auth.io/v1alpha1.
//
// A [Role] is a set of permissions; a [Grant] gives one to service identities and
// end users, where it selects workloads; an AccessRule is one rule with an
// expression for what fields cannot say. They have no meaning of their own: each
// grant and each rule becomes a [rbac.Policy], named so that logs tell it apart,
// and rbac/eval says what that means. Start at [Read] and [Resolve].
//
// # What is missing denies
//
// A grant is an ALLOW policy, whatever is wrong with its role: it closes what it
// selects, and allows nothing until its role is there.
package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// APIVersion is that of our own kinds.
const APIVersion = "istio-auth.io/v1alpha1"

// The kinds, as documents say it.
const (
	RoleKind  = "AccessRole"
	GrantKind = "AccessGrant"
	RuleKind  = "AccessRule"
)

// What the names of policies begin with that were made of other kinds. No
// AuthorizationPolicy may have such a name.
const (
	GrantPrefix = "accessgrant."
	RulePrefix  = "accessrule."
	// RequestPrefix is for what stands in for a RequestAuthentication that cannot
	// be read: see rbac/kube.
	RequestPrefix = "requestauthentication."
	// PolicyPrefix is for what stands in for an AuthorizationPolicy that has such
	// a name all the same.
	PolicyPrefix = "authorizationpolicy."
)

// IsReserved tells whether a policy's name is none for an AuthorizationPolicy.
func IsReserved(name string) bool {
	return slices.ContainsFunc([]string{GrantPrefix, RulePrefix, RequestPrefix, PolicyPrefix}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// Objects are all that authors have written. The zero value is nothing.
type Objects struct {
	// Policies has also those that AccessRules have become.
	parse.Objects
	Roles  []Role
	Grants []Grant
}

// A Role is one AccessRole.
type Role struct {
	Namespace, Name string
	Permissions     []Permission
}

// A Permission allows what is one of To, where To is not empty, and satisfies
// every test of When, and the expression, where there is one.
type Permission struct {
	To         []rbac.Clause
	When       rbac.Clause
	Expression *rbac.Expression
}

// A Grant is one AccessGrant.
type Grant struct {
	Namespace, Name string
	Selector        map[string]string
	// RoleNamespace is the grant's own, where its author named none.
	RoleNamespace, RoleName string
	// From are the subjects, of which one must match. A grant without any allows
	// nothing.
	From       []rbac.Clause
	Expression *rbac.Expression
	DryRun     bool
}

// Key is "namespace/name".
func (r Role) Key() string { return r.Namespace + "/" + r.Name }

// Key is "namespace/name".
func (g Grant) Key() string { return g.Namespace + "/" + g.Name }

// Add appends all of p to o.
func (o *Objects) Add(p Objects) {
	o.Policies = append(o.Policies, p.Policies...)
	o.Requests = append(o.Requests, p.Requests...)
	o.Peers = append(o.Peers, p.Peers...)
	o.Roles = append(o.Roles, p.Roles...)
	o.Grants = append(o.Grants, p.Grants...)
}

// Sort orders each kind by namespace, then name.
func (o *Objects) Sort() {
	slices.SortFunc(o.Policies, rbac.Policy.Compare)
	slices.SortFunc(o.Requests, rbac.RequestAuthentication.Compare)
	slices.SortFunc(o.Peers, rbac.PeerAuthentication.Compare)
	slices.SortFunc(o.Roles, func(a, b Role) int { return strings.Compare(a.Key(), b.Key()) })
	slices.SortFunc(o.Grants, func(a, b Grant) int { return strings.Compare(a.Key(), b.Key()) })
}

// Keys name every object, as "AuthorizationPolicy namespace/name". An AccessRule
// is named as the policy that it became.
func (o Objects) Keys() []string {
	var keys []string
	for _, p := range o.Policies {
		keys = append(keys, "AuthorizationPolicy "+p.Key())
	}
	for _, a := range o.Requests {
		keys = append(keys, "RequestAuthentication "+a.Key())
	}
	for _, a := range o.Peers {
		keys = append(keys, "PeerAuthentication "+a.Key())
	}
	for _, r := range o.Roles {
		keys = append(keys, RoleKind+" "+r.Key())
	}
	for _, g := range o.Grants {
		keys = append(keys, GrantKind+" "+g.Key())
	}
	return keys
}

// Without is o without the objects of which drop says so, by their Keys.
func (o Objects) Without(drop func(key string) bool) Objects {
	keys := o.Keys()
	next := func() bool {
		key := keys[0]
		keys = keys[1:]
		return !drop(key)
	}
	return Objects{
		Objects: parse.Objects{Policies: keep(o.Policies, next), Requests: keep(o.Requests, next), Peers: keep(o.Peers, next)},
		Roles:   keep(o.Roles, next),
		Grants:  keep(o.Grants, next),
	}
}

func keep[V any](list []V, yes func() bool) []V {
	var kept []V
	for _, v := range list {
		if yes() {
			kept = append(kept, v)
		}
	}
	return kept
}

// ErrUnresolved is what every [Unresolved] is, by errors.Is.
var ErrUnresolved = errors.New("access: unresolved")

// Unresolved says why a grant allows nothing.
type Unresolved struct {
	Namespace, Name string // of the grant
	Reason          string // "missing-role", "foreign-role" or "too-long"
	Detail          string // for the author
}

// Error names the grant and says what is wrong with it.
func (u *Unresolved) Error() string {
	return fmt.Sprintf("AccessGrant %s/%s allows nothing: %s", u.Namespace, u.Name, u.Detail)
}

// Unwrap is [ErrUnresolved].
func (u *Unresolved) Unwrap() error { return ErrUnresolved }

// maxResolved is how long a grant may become together with its role, in bytes of
// canonical form: each permission repeats the subjects.
const maxResolved = parse.MaxWire / 4

// Resolve returns all policies by namespace and name: o's, and one for each
// grant, whose role is looked for in the grant's own namespace or in
// rootNamespace. The error joins an [Unresolved] for each grant that has none;
// its policy, which allows nothing, is among the others.
func Resolve(o Objects, rootNamespace string) ([]rbac.Policy, error) {
	roles := make(map[string]Role, len(o.Roles))
	for _, r := range o.Roles {
		roles[r.Key()] = r
	}
	policies := slices.Clone(o.Policies)
	var problems []error
	for _, g := range o.Grants {
		p := rbac.Policy{
			Namespace: g.Namespace, Name: GrantPrefix + g.Name, Action: rbac.Allow, Selector: g.Selector, DryRun: g.DryRun,
		}
		role, found := roles[g.RoleNamespace+"/"+g.RoleName]
		bad := &Unresolved{Namespace: g.Namespace, Name: g.Name}
		switch {
		case g.RoleNamespace != g.Namespace && g.RoleNamespace != rootNamespace:
			bad.Reason, bad.Detail = "foreign-role", fmt.Sprintf("the role is in namespace %s: want the grant's own, or the root namespace %s", g.RoleNamespace, rootNamespace)
		case !found:
			bad.Reason, bad.Detail = "missing-role", fmt.Sprintf("there is no AccessRole %s/%s that could be read", g.RoleNamespace, g.RoleName)
		default:
			p.Rules = g.rules(role)
			if n := len(p.Rules) * len(g.From); n > 64 && len(parse.JSON(p)) > maxResolved {
				p.Rules = nil
				bad.Reason, bad.Detail = "too-long", fmt.Sprintf("with %d permissions for %d subjects it is longer than %d bytes: split it", len(role.Permissions), len(g.From), maxResolved)
			}
		}
		if bad.Reason != "" {
			problems = append(problems, bad)
		}
		policies = append(policies, p)
	}
	slices.SortFunc(policies, rbac.Policy.Compare)
	return policies, errors.Join(problems...)
}

// rules are one for each permission of role.
func (g Grant) rules(role Role) []rbac.Rule {
	if len(g.From) == 0 {
		return nil // an empty From would be everybody
	}
	rules := make([]rbac.Rule, len(role.Permissions))
	for i, p := range role.Permissions {
		rules[i] = rbac.Rule{From: g.From, To: p.To, When: p.When, Expression: both(g.Expression, p.Expression)}
	}
	return rules
}

// both is satisfied where a and b are. Nil says nothing.
func both(a, b *rbac.Expression) *rbac.Expression {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	joined := &rbac.Expression{Op: rbac.All, Source: "(" + a.Source + ") && (" + b.Source + ")"}
	for _, e := range []rbac.Expression{*a, *b} {
		e.Source = ""
		if e.Op == rbac.All {
			joined.Terms = append(joined.Terms, e.Terms...)
		} else {
			joined.Terms = append(joined.Terms, e)
		}
	}
	return joined
}
