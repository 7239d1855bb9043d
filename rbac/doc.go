// Package rbac is the policy model: who may do what to a workload, as values.
//
// It knows no YAML, no Envoy and no Kubernetes. rbac/parse makes a [Policy] of
// what an author wrote, [Select] gathers those that apply to one workload into
// a [Set], rbac/eval says what a Set means, and rbac/compile says it to Envoy.
// Start at [Policy], then read rbac/eval.
//
// A Policy is a plain struct, so that generators and shrinkers can take it
// apart: rules of clauses of tests, and every test asks for one [Attribute] by
// [Pattern]s. Its leaves, those two, are made by parsing only, and a leaf that
// was not, matches nothing.
//
// # Identity
//
// Who sends a request that a Set decides is a workload of one of its [Domains],
// whose certificate was verified: [Peer.Workload] says what that is. Whoever
// shows another certificate is refused before any rule is looked at, also where
// no policy applies. Where the set listens to plaintext ([Set.Plaintext]), a peer
// may also have no certificate. It then has no attribute of a peer: no ALLOW
// that asks for one is satisfied, notPrincipals as little as principals, and
// every DENY is that says whom it does not mean.
//
// An identity of our own trust domain is the same under each of its aliases.
// Namespace and service account mean those of our own trust domain, unless a
// rule asks for any.
//
// # Two ways to read one text
//
// Applications differ in what they make of a path. Policy compares it as it is
// and as [FoldPath] folds it; where the two answers differ, it cannot be told
// which is right, and rbac/eval says what follows. A host is compared without
// its port, in lower case: [FoldHost]. docs/design/policy.md has the reasons.
package rbac
