package rbac

import "strings"

// Kind is how a [Pattern] compares. The zero value matches nothing.
type Kind int

const (
	Exact   Kind = iota + 1 // the whole string
	Prefix                  // its beginning: "text*"
	Suffix                  // its end: "*text"
	Present                 // anything but the empty string: "*"
)

// A Pattern matches strings byte by byte, case included. Its text is literal:
// no byte of it means anything but itself. Make one with ParsePrincipal,
// ParseNamespace, ParseMethod or ParsePath.
type Pattern struct {
	kind Kind
	text string
}

// Kind says how p compares.
func (p Pattern) Kind() Kind { return p.kind }

// Text is what p compares with: never empty, but for Present.
func (p Pattern) Text() string { return p.text }

// Match tells whether s matches.
func (p Pattern) Match(s string) bool {
	switch p.kind {
	case Exact:
		return s == p.text
	case Prefix:
		return strings.HasPrefix(s, p.text)
	case Suffix:
		return strings.HasSuffix(s, p.text)
	case Present:
		return s != ""
	}
	return false
}

// String is p as its author writes it.
func (p Pattern) String() string {
	switch p.kind {
	case Prefix:
		return p.text + "*"
	case Suffix:
		return "*" + p.text
	case Present:
		return "*"
	}
	return p.text
}

// A ServiceAccount names a workload's service account in its own trust domain.
type ServiceAccount struct{ namespace, name string }

// Namespace is the account's namespace.
func (a ServiceAccount) Namespace() string { return a.namespace }

// Name is the account's name in its namespace.
func (a ServiceAccount) Name() string { return a.name }

// String is "namespace/name".
func (a ServiceAccount) String() string { return a.namespace + "/" + a.name }
