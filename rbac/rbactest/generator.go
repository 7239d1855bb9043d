package rbactest

import (
	"fmt"
	"math/rand/v2"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// A Generator makes random policies and requests. It is not for many at once.
type Generator struct{ r *rand.Rand }

// New returns a generator: equal seeds make equal sequences.
func New(seed uint64) *Generator { return &Generator{rand.New(rand.NewPCG(seed, 2))} }

// Few names, chosen so that one is the beginning or the end of another, or of
// the fixed words of an ID.
var (
	namespaces = []string{"a", "ab", "b", "sa", "ns", "s", "shop", "shop-prod", "prod", "a-b"}
	accounts   = []string{"a", "ab", "b", "sa", "ns", "web", "web.front", "webxfront", "a-b", "a.b"}
	stems      = []string{"/", "/a", "/ab", "/a/b", "/admin", "/admin/", "/admin.d", "/adminxd", "/a.b", "/a;b", "/A", "/a/b/c", "/~u", "/a=b&c", "/a,b", "/x/admin", "/.well-known/a"}
	verbs      = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PURGE"}
)

// Peers returns n identities that generated policies speak of, each a workload's.
func Peers(n int) []spiffeid.ID {
	g := New(42)
	seen := map[spiffeid.ID]bool{}
	var peers []spiffeid.ID
	for len(peers) < n {
		id := must(spiffeid.FromSegments(TrustDomain, "ns", pick(g, namespaces), "sa", pick(g, accounts)))
		if !seen[id] {
			seen[id] = true
			peers = append(peers, id)
		}
	}
	return peers
}

// Strangers are identities that no policy lets in, whatever it says: of another
// trust domain, whose name begins or ends as ours, or no workload's.
func Strangers() []spiffeid.ID {
	var ids []spiffeid.ID
	for _, s := range []string{
		"spiffe://tdxtest/ns/a/sa/a",
		"spiffe://xtd.test/ns/a/sa/a",
		"spiffe://td.test.x/ns/a/sa/a",
		"spiffe://td.test/istio-auth/manager",
		"spiffe://td.test/ns/a/sa/a/b",
		"spiffe://td.test/ns/a/b/sa/a",
		"spiffe://td.test/ns/a/sa/sa/a",
		"spiffe://td.test/ns/a/sb/a",
		"spiffe://td.test/ns/A/sa/a",
		"spiffe://td.test/ns/a/sa/a_b",
		"spiffe://td.test/ns/a/sa/-a",
		"spiffe://td.test/ns/a.b/sa/a",
		"spiffe://td.test/ns/a",
		"spiffe://td.test/x/ns/a/sa/a",
	} {
		ids = append(ids, spiffeid.RequireFromString(s))
	}
	return ids
}

// Policies returns one to four policies for the [Target]: most select it.
func (g *Generator) Policies() []rbac.Policy {
	policies := make([]rbac.Policy, 1+g.r.IntN(4))
	for i := range policies {
		policies[i] = g.policy(fmt.Sprintf("p%d", i))
	}
	return policies
}

func (g *Generator) policy(name string) rbac.Policy {
	p := rbac.Policy{Namespace: Namespace, Name: name, Action: rbac.Allow}
	if g.chance(20) {
		p.Namespace = Root
	}
	if g.chance(45) {
		p.Action = rbac.Deny
	}
	switch g.r.IntN(10) {
	case 0:
		p.Selector = map[string]string{"app": "other"}
	case 1, 2:
		p.Selector = map[string]string{"app": "web"}
	}
	n := g.r.IntN(4)
	if p.Action == rbac.Deny {
		n++
	}
	for range n {
		p.Rules = append(p.Rules, g.rule())
	}
	return p
}

func (g *Generator) rule() rbac.Rule {
	var rule rbac.Rule
	for range g.few() {
		rule.From = append(rule.From, g.source())
	}
	for range g.few() {
		rule.To = append(rule.To, g.operation())
	}
	return rule
}

// few is mostly one.
func (g *Generator) few() int { return []int{0, 1, 1, 1, 2}[g.r.IntN(5)] }

// IntN is a number below n, for what a test picks itself.
func (g *Generator) IntN(n int) int { return g.r.IntN(n) }

func (g *Generator) chance(percent int) bool { return g.r.IntN(100) < percent }

// source has at least one test: none is not to be written.
func (g *Generator) source() rbac.Clause {
	for {
		var c rbac.Clause
		if g.chance(35) {
			c = g.test(c, rbac.ServiceAccount, 60, 50)
		} else {
			c = g.test(c, rbac.Principal, 50, 30)
			c = g.test(c, rbac.Namespace, 50, 30)
		}
		if len(c) > 0 {
			return c
		}
	}
}

func (g *Generator) operation() rbac.Clause {
	for {
		c := g.test(g.test(nil, rbac.Method, 35, 20), rbac.Path, 60, 40)
		if len(c) > 0 {
			return c
		}
	}
}

// test adds a test of an attribute, with values by chance; or none.
func (g *Generator) test(c rbac.Clause, kind rbac.AttributeKind, in, notIn int) rbac.Clause {
	test := rbac.Test{Attribute: rbac.Attr(kind), In: g.list(in, kind), NotIn: g.list(notIn, kind)}
	if len(test.In)+len(test.NotIn) == 0 {
		return c
	}
	return append(c, test)
}

// list makes no values, or one to three. What the language refuses is made anew.
func (g *Generator) list(percent int, kind rbac.AttributeKind) []rbac.Pattern {
	if !g.chance(percent) {
		return nil
	}
	var list []rbac.Pattern
	for want := 1 + g.r.IntN(3); len(list) < want; {
		if p, err := rbac.ParseValue(rbac.Attr(kind), g.text(kind), Namespace); err == nil {
			list = append(list, p)
		}
	}
	return list
}

func (g *Generator) text(kind rbac.AttributeKind) string {
	switch kind {
	case rbac.Principal:
		return g.starred(g.principal())
	case rbac.Namespace:
		return g.starred(g.namespace())
	case rbac.Method:
		return g.starred(g.method())
	case rbac.Path:
		return g.starred(g.path())
	}
	if g.chance(30) {
		return pick(g, accounts)
	}
	return pick(g, namespaces) + "/" + pick(g, accounts)
}

// starred leaves a text whole, or makes a prefix, a suffix or a star of it.
func (g *Generator) starred(text string) string {
	cut := g.r.IntN(len(text) + 1)
	switch g.r.IntN(8) {
	case 0, 1:
		return text[:cut] + "*"
	case 2, 3:
		return "*" + text[cut:]
	case 4:
		if g.chance(40) {
			return "*"
		}
		return "*" + text
	}
	return text
}

func (g *Generator) principal() string {
	text := TrustDomain.Name() + "/ns/" + pick(g, namespaces) + "/sa/" + pick(g, accounts)
	if g.chance(5) {
		return "other.test" + text[len(TrustDomain.Name()):]
	}
	return text
}

func (g *Generator) namespace() string { return pick(g, namespaces) }
func (g *Generator) method() string    { return pick(g, verbs) }

func (g *Generator) path() string {
	text := pick(g, stems)
	if g.chance(40) && text != "/" {
		text += pick(g, stems)
	}
	return text
}

func pick[V any](g *Generator, list []V) V { return list[g.r.IntN(len(list))] }
