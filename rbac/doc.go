// Package rbac is the policy model: who may do what to a workload, as values.
//
// It knows no YAML, no Envoy and no Kubernetes. rbac/parse makes a [Policy] of
// what an author wrote, [Select] gathers those that apply to one workload into
// a [Set], rbac/eval says what a Set means, and rbac/compile says it to Envoy.
// Start at [Policy], then read rbac/eval.
//
// A Policy is a plain struct, so that generators and shrinkers can take it
// apart. Its leaves ([Pattern], [ServiceAccount]) are made by parsing only, and
// a leaf that was not, matches nothing.
//
// # Identity
//
// Every request that a Set decides comes from a workload of the set's own trust
// domain, whose certificate was verified: [Peer.Workload] says what that is, and
// whoever is not one is refused before any rule is looked at, also where no
// policy applies. So every matcher of identity, the negative ones too, is
// AND'ed with a positive one: notPrincipals, notNamespaces and
// notServiceAccounts are true for a known peer that is another, never for a
// peer that is unknown. Namespace and service account mean those of our own
// trust domain. docs/design/policy.md has the reasons.
package rbac
