package rbac

import (
	"cmp"
	"strconv"
)

// Action is what a policy does with a request that one of its rules matches.
// The zero value is no action: such a policy is never selected.
type Action int

const (
	Allow  Action = iota + 1 // let it in, unless a Deny policy matches too
	Deny                     // refuse it
	Audit                    // mark it for the access log; decides nothing
	Custom                   // ask a provider, before Deny and Allow are looked at
)

// String returns the word that authors write.
func (a Action) String() string {
	switch a {
	case Allow:
		return "ALLOW"
	case Deny:
		return "DENY"
	case Audit:
		return "AUDIT"
	case Custom:
		return "CUSTOM"
	}
	return "none"
}

// A Policy is one AuthorizationPolicy, or what became of one of our own kinds.
// It matches a request where one of its rules does; without rules it matches
// none.
type Policy struct {
	Namespace, Name string
	Action          Action
	// Provider is whom a Custom policy asks, and empty for all others.
	Provider string
	// Selector holds the labels that a workload must have. Empty selects every
	// workload of the namespace, or of the mesh for the root namespace.
	Selector map[string]string
	// Targets are what the policy is attached to instead: gateways and
	// waypoints, which a sidecar is not. A policy with targets selects no
	// workload of ours.
	Targets []TargetRef
	// DryRun decides nothing: what it would do is counted and logged.
	DryRun bool
	// IstioCompat reads negations as Istio does: what a request does not have is
	// not what was named. See docs/design/policy.md.
	IstioCompat bool
	Rules       []Rule
}

// A TargetRef names what a policy is attached to, in the policy's namespace.
type TargetRef struct{ Group, Kind, Name string }

// Key is "namespace/name". Neither part has a slash, so it is unique.
func (p Policy) Key() string { return p.Namespace + "/" + p.Name }

// RuleName names a rule for logs and for Envoy: "namespace/name/index".
func (p Policy) RuleName(index int) string { return p.Key() + "/" + strconv.Itoa(index) }

// Compare orders policies by namespace, then name.
func (p Policy) Compare(q Policy) int {
	return cmp.Or(cmp.Compare(p.Namespace, q.Namespace), cmp.Compare(p.Name, q.Name))
}

// A Rule matches where one of From does, one of To does, every test of When
// does, and the expression does. An empty From, and an empty To, match every
// request.
type Rule struct {
	From, To []Clause
	When     Clause
	// Expression is what no field can say. Nil says nothing.
	Expression *Expression
}

// A Clause is satisfied where every test of it is.
type Clause []Test

// A Test asks for one attribute. It is satisfied where In is empty or one of In
// matches, and none of NotIn does. rbac/eval says what it is where a request
// does not have the attribute.
type Test struct {
	Attribute Attribute
	In, NotIn []Pattern
}
