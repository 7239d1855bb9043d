package rbac

import (
	"cmp"
	"strconv"
)

// Action is what a policy does with a request that one of its rules matches.
// The zero value is no action: such a policy is never selected.
type Action int

const (
	Allow Action = iota + 1 // let it in, unless a Deny policy matches too
	Deny                    // refuse it
)

// String returns the word that authors write.
func (a Action) String() string {
	switch a {
	case Allow:
		return "ALLOW"
	case Deny:
		return "DENY"
	}
	return "none"
}

// A Policy is one AuthorizationPolicy. It matches a request where one of its
// rules does; without rules it matches none.
type Policy struct {
	Namespace, Name string
	Action          Action
	// Selector holds the labels that a workload must have. Empty selects every
	// workload of the namespace, or of the mesh for the root namespace.
	Selector map[string]string
	Rules    []Rule
}

// Key is "namespace/name". Neither part has a slash, so it is unique.
func (p Policy) Key() string { return p.Namespace + "/" + p.Name }

// RuleName names a rule for logs and for Envoy: "namespace/name/index".
func (p Policy) RuleName(index int) string { return p.Key() + "/" + strconv.Itoa(index) }

// Compare orders policies by namespace, then name.
func (p Policy) Compare(q Policy) int {
	return cmp.Or(cmp.Compare(p.Namespace, q.Namespace), cmp.Compare(p.Name, q.Name))
}

// A Rule matches where one of From and one of To does. An empty From, and an
// empty To, match every request.
type Rule struct {
	From []Source
	To   []Operation
}

// A Source matches a peer that satisfies every field. A field without values is
// satisfied; otherwise one of the values must match, and of a Not field none.
type Source struct {
	// Principals match the SPIFFE ID without its scheme: "td/ns/a/sa/b".
	Principals, NotPrincipals []Pattern
	// Namespaces match the peer's namespace in our own trust domain.
	Namespaces, NotNamespaces []Pattern
	// ServiceAccounts match the peer whole, in our own trust domain.
	ServiceAccounts, NotServiceAccounts []ServiceAccount
}

// An Operation matches a request that satisfies every field, as in [Source].
type Operation struct {
	Methods, NotMethods []Pattern
	// Paths match the canonical path without its query: see [CanonicalPath].
	Paths, NotPaths []Pattern
}
