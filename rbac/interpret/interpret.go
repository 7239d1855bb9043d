// Package interpret reads a compiled Envoy filter and says what Envoy would do
// with it.
//
// [Decode] takes the bytes that are pushed, not the messages that were built: it
// reads the wire format itself, field by field. Whatever field, input, matcher,
// extension or regular expression it does not know is an error and never passed
// over, since Envoy would act on it. [Filter.Decide] is Envoy 1.40's matching,
// as it was found by running it; the tests ask a real Envoy the same questions.
//
// The package knows nothing of how filters are compiled, so that rbac/prove and
// the differential tests hold the compiler to it.
//
// Start at [Decode], then read [Matcher].
package interpret

import "net/netip"

// A Filter is an RBAC filter: of HTTP, or of the network.
type Filter struct {
	Network bool
	// Matcher decides, and Shadow says what it would decide. Nil: none.
	Matcher, Shadow *Matcher
	// Rules and ShadowRules are the older form, which grpc-go takes. A filter has
	// a matcher or rules, and never both.
	Rules, ShadowRules *Rules
	// StatPrefix and ShadowStatPrefix begin the names of statistics.
	StatPrefix, ShadowStatPrefix string
}

// A Kind is what an action does. Its numbers are envoy.config.rbac.v3's.
type Kind int

// What an action does. Log lets in.
const (
	Allow Kind = iota
	Deny
	Log
)

// An Action is the end of a decision.
type Action struct {
	Name string
	Kind Kind
}

// A Matcher is a list or a tree; with neither there is only NoMatch. It is nil
// or ends with an action, or without one: then whoever asked it goes on.
type Matcher struct {
	List    []Line
	Tree    *Tree
	NoMatch *Then // nil: none
}

// A Line of a list: when the predicate holds, then; the first that gives an
// action is taken.
type Line struct {
	When *Predicate
	Then Then
}

// Then is an action or another matcher: exactly one is not nil.
type Then struct {
	Action  *Action
	Matcher *Matcher
}

// A TreeKind is how a tree looks its input up.
type TreeKind int

// How a tree looks its input up.
const (
	ExactTree  TreeKind = iota + 1 // the key that is the input
	PrefixTree                     // the longest key the input begins with that gives an action
	RangeTree                      // the narrowest network the address is of that gives an action
)

// A Tree chooses by one input.
type Tree struct {
	Kind   TreeKind
	Input  Input
	Keys   map[string]Then // of an ExactTree or PrefixTree
	Ranges []Range         // of a RangeTree, the narrowest first
}

// A Range is one network of a RangeTree. An exclusive one is asked only where it
// is the narrowest that has the address.
type Range struct {
	Network   netip.Prefix
	Exclusive bool
	Then      Then
}

// An Op is how a predicate is made of others.
type Op int

// How a predicate is made.
const (
	Leaf Op = iota // of an input
	And
	Or
	Not // of one term
)

// A Predicate holds or not. A leaf has an input, and exactly one of Text,
// Networks and Value.
type Predicate struct {
	Op       Op
	Terms    []*Predicate
	Input    Input
	Text     *Text
	Networks []netip.Prefix
	Value    *Value
}

// An InputKind is what of a request is looked at.
type InputKind int

// What of a request is looked at.
const (
	URISAN        InputKind = iota + 1 // of the peer's certificate; several are joined by commas
	Header                             // a request header by Name; several lines are joined by commas
	State                              // filter state by Name
	Metadata                           // dynamic metadata of the filter Name, by Path
	DirectSource                       // the address at the other end
	Source                             // the client's address, as trusted proxies tell it
	Destination                        // our address
	Port                               // our port, in decimal
	ServerName                         // the TLS server name
	Always                             // nothing: "any" of the rules form
	Authenticated                      // whether there is a verified certificate; of the rules form
)

// An Input is what a leaf or a tree looks at. Inputs with the same Key are the
// same.
type Input struct {
	Kind InputKind
	Name string
	Path []string
}

// A TextKind is how a text is compared.
type TextKind int

// How a text is compared.
const (
	Exact TextKind = iota + 1
	Prefix
	Suffix
	Contains
	Regex // the whole of it: Shape
)

// A Text compares a string with a literal, byte by byte.
type Text struct {
	Kind       TextKind
	Literal    string // of a Regex, its source
	IgnoreCase bool   // ASCII's; never of a Regex
	Shape      *Shape // of a Regex
}

// A Value compares a value of metadata: exactly one of Text, OneOf, Any and
// Present is set.
type Value struct {
	Text    *Text   // a string
	OneOf   *Value  // a list, one of whose values it is
	Any     []Value // one of these holds
	Present bool    // whatever it is
}

// Rules are the older form: policies by name, and what is done with a request
// that one of them matches; with all others the opposite is done.
type Rules struct {
	Kind     Kind
	Policies []RulesPolicy // by name
}

// A RulesPolicy matches where both hold.
type RulesPolicy struct {
	Name                  string
	Permission, Principal *Predicate
}
