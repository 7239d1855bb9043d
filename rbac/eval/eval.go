// Package eval is what a policy means.
//
// It is the reference: short, total, and plain, so that it can be read aloud to
// the author of a policy. Everything else that decides (the compiled filters,
// in real Envoys) is tested against it. It has no bar for speed.
package eval

import (
	"slices"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// Reason says why a request was decided as it was. The words are stable.
type Reason string

const (
	UnknownSet   Reason = "unknown-set"    // refused: it is not known which policies apply
	NoIdentity   Reason = "no-identity"    // refused: the peer is no workload of our trust domain
	BadPath      Reason = "bad-path"       // refused: the path is not one to decide upon (rbac.PlainPath)
	NoMethod     Reason = "no-method"      // refused: the method is not one to decide upon (rbac.PlainMethod)
	DenyRule     Reason = "deny-rule"      // refused: a rule of a DENY policy matches
	AllowRule    Reason = "allow-rule"     // allowed: a rule of an ALLOW policy matches
	NoAllowMatch Reason = "no-allow-match" // refused: there are ALLOW policies, and none matches
	NoAllow      Reason = "no-allow"       // allowed: no ALLOW policy applies, and no DENY rule matches
)

// A Verdict is a decision and where it came from. The zero Verdict refuses.
type Verdict struct {
	Allowed bool
	Policy  string // "namespace/name" of the policy that decided; empty for none
	Rule    string // "namespace/name/index" of the rule that decided; empty for none
	Reason  Reason
}

// Decide says whether set lets req in. DENY comes before ALLOW, and the first
// rule that matches, by the policies' names, is the one that is told.
func Decide(set rbac.Set, req rbac.Request) Verdict {
	if set.IsZero() {
		return Verdict{Reason: UnknownSet}
	}
	namespace, account, ok := req.Peer.Workload(set.TrustDomain())
	if !ok {
		return Verdict{Reason: NoIdentity}
	}
	if !rbac.PlainPath(req.Path) {
		return Verdict{Reason: BadPath}
	}
	if !rbac.PlainMethod(req.Method) {
		return Verdict{Reason: NoMethod}
	}
	call := call{
		principal: strings.TrimPrefix(req.Peer.ID.String(), "spiffe://"),
		namespace: namespace,
		account:   account,
		method:    req.Method,
		path:      req.Path,
	}
	if policy, rule, ok := call.first(set.Deny()); ok {
		return Verdict{Policy: policy, Rule: rule, Reason: DenyRule}
	}
	if len(set.Allow()) == 0 {
		return Verdict{Allowed: true, Reason: NoAllow}
	}
	if policy, rule, ok := call.first(set.Allow()); ok {
		return Verdict{Allowed: true, Policy: policy, Rule: rule, Reason: AllowRule}
	}
	return Verdict{Reason: NoAllowMatch}
}

// A call is a request from a known workload: every attribute is there.
type call struct{ principal, namespace, account, method, path string }

// first finds the first rule that matches. A policy without rules has none.
func (c call) first(policies []rbac.Policy) (policy, rule string, ok bool) {
	for _, p := range policies {
		for i, r := range p.Rules {
			if c.matches(r) {
				return p.Key(), p.RuleName(i), true
			}
		}
	}
	return "", "", false
}

func (c call) matches(r rbac.Rule) bool {
	return (len(r.From) == 0 || slices.ContainsFunc(r.From, c.isFrom)) &&
		(len(r.To) == 0 || slices.ContainsFunc(r.To, c.isTo))
}

func (c call) isFrom(s rbac.Source) bool {
	return field(s.Principals, s.NotPrincipals, func(p rbac.Pattern) bool { return p.Match(c.principal) }) &&
		field(s.Namespaces, s.NotNamespaces, func(p rbac.Pattern) bool { return p.Match(c.namespace) }) &&
		field(s.ServiceAccounts, s.NotServiceAccounts, func(a rbac.ServiceAccount) bool {
			return a.Namespace() == c.namespace && a.Name() == c.account
		})
}

func (c call) isTo(o rbac.Operation) bool {
	return field(o.Methods, o.NotMethods, func(p rbac.Pattern) bool { return p.Match(c.method) }) &&
		field(o.Paths, o.NotPaths, func(p rbac.Pattern) bool { return p.Match(c.path) })
}

// field is satisfied where values is empty or one of them matches, and none of
// not matches.
func field[V any](values, not []V, match func(V) bool) bool {
	return (len(values) == 0 || slices.ContainsFunc(values, match)) && !slices.ContainsFunc(not, match)
}
