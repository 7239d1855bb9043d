package prove

import (
	"slices"

	"github.com/istio-auth/istio-auth/rbac"
)

// An outcome is what a filter does with a request: an interpret.Kind.
type outcome int8

// A part is rules that all have one outcome: where one matches, and none of an
// earlier part.
type part struct {
	rules []rule
	then  outcome
}

// A claim is what a set says that a filter does: the guards come first, then the
// parts, and where nothing holds the last outcome. Behind the guards the facts
// hold.
type claim struct {
	guards []*node
	parts  []part
	last   outcome
	facts  []literal
	// domains: one of them holds, too. Each is looked at by itself.
	domains  []literal
	http     bool
	provider string // of CUSTOM
	// guarded: where a guard holds the filter must refuse. Else it may do
	// anything.
	guarded bool
	// marks: a filter that marks is another than one that allows.
	marks bool
	// anonymous: there are peers without a certificate, of whom no fact is known.
	anonymous bool
}

const (
	allow outcome = iota
	deny
	mark // Log
)

func (m *memory) lowering(set rbac.Set, tcp bool) *lowering {
	return &lowering{
		table: m.table, domains: set.Domains(), accepted: set.Domains().Accepted(), plaintext: set.Plaintext(), tcp: tcp, words: hasWords(set),
		cache: map[patternKey]bothWays{},
	}
}

// begin is the guards.
func (w *lowering) begin() claim {
	identity := w.is(peer, regex, workloads(w.accepted))
	stranger := identity.not()
	if w.plaintext {
		stranger = and(w.is(peer, present, ""), stranger)
	}
	c := claim{guards: []*node{stranger}, guarded: true, http: !w.tcp, anonymous: w.plaintext}
	c.fact(w.is(peer, present, ""), identity)
	for _, td := range w.accepted {
		c.domains = append(c.domains, w.is(peer, prefix, scheme+td.Name()+"/ns/").lit)
	}
	for _, kind := range []attrKind{issuer, subject} {
		c.fact(w.is(kind, exact, "").not()) // written as "-", or left out
	}
	c.fact(w.is(port, present, ""))
	if w.tcp {
		return c
	}
	plain := []*node{
		w.is(path, prefix, "/"), w.is(path, prefix, "//").not(),
		w.is(path, contains, "/.;").not(), w.is(path, contains, "/..;").not(),
	}
	word := w.is(method, regex, "[A-Z][-A-Z]*")
	c.guards = append(c.guards, and(plain...).not(), word.not())
	c.fact(plain...)
	c.fact(word, w.is(method, present, ""), w.is(method, exact, "").not(), w.is(path, present, ""))
	// The image of rbac.FoldPath: TestFolded.
	c.fact(w.is(fold, present, ""), w.is(fold, prefix, "/"), w.is(fold, contains, "//").not(), w.is(fold, contains, "/./").not())
	c.fact(w.is(host, exact, "").not(), w.is(server, exact, "").not())
	return c
}

func (c *claim) fact(nodes ...*node) {
	for _, n := range nodes {
		c.facts = append(c.facts, n.lit)
	}
}

// enforced is what the filter for DENY and ALLOW does.
func (w *lowering) enforced(set rbac.Set) claim {
	c := w.begin()
	var denied []rule
	for _, p := range set.Policies(rbac.Custom) {
		// A connection is asked for nowhere.
		if w.tcp || !slices.Contains(set.Providers(), p.Provider) {
			denied = append(denied, rules([]rbac.Policy{p})...)
		}
	}
	c.parts = []part{
		{append(denied, rules(set.Deny())...), deny},
		{rules(set.Allow()), allow},
	}
	if c.last = allow; len(set.Allow()) > 0 {
		c.last = deny
	}
	return c
}

// audited is what the filter for AUDIT does: it marks, and refuses nobody.
// Requests that the guards refuse are marked or not.
func (w *lowering) audited(set rbac.Set) claim {
	c := w.begin()
	c.guarded, c.marks = false, true
	c.parts = []part{{rules(set.Policies(rbac.Audit)), mark}}
	return c
}

// askPrefix begins the names of rules that ask, in logs and statistics, so that
// nobody takes them for rules that refuse.
const askPrefix = "ask/"

// asked is what the shadow matcher for a provider of CUSTOM says: deny means
// that it is asked. About what the guards refuse it is, too.
func (w *lowering) asked(set rbac.Set, provider string) claim {
	w.words = false // nobody was asked before
	c := w.begin()
	var asking []rule
	for _, p := range set.Policies(rbac.Custom) {
		if p.Provider == provider {
			for _, r := range rules([]rbac.Policy{p}) {
				r.name = askPrefix + r.name
				asking = append(asking, r)
			}
		}
	}
	c.parts, c.provider = []part{{asking, deny}}, provider
	c.guarded = len(asking) > 0 // nothing is asked otherwise
	return c
}
