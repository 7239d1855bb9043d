package rbactest

import (
	"fmt"
	"math/rand/v2"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// A Generator makes random policies and requests. It is not for many at once.
type Generator struct {
	r        *rand.Rand
	features Features
	pool     []Connection
	workload rbac.Target // of the last Case
}

// New returns a generator: equal seeds make equal sequences, for equal features.
func New(seed uint64, features ...Features) *Generator {
	g := &Generator{r: rand.New(rand.NewPCG(seed, 2)), workload: Target()}
	for _, f := range features {
		g.features |= f
	}
	return g
}

// Peers returns n identities that generated policies speak of, each a workload's
// of our trust domain.
func Peers(n int) []spiffeid.ID { return Features(0).Peers(n) }

// Strangers are identities that no policy lets in, whatever it says: of another
// trust domain, whose name begins or ends as ours, or no workload's.
func Strangers() []spiffeid.ID {
	var ids []spiffeid.ID
	for _, s := range []string{
		"spiffe://tdxtest/ns/a/sa/a",
		"spiffe://xtd.test/ns/a/sa/a",
		"spiffe://td.test.y/ns/a/sa/a",
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
	switch {
	case g.chance(40):
		p.Action = rbac.Deny
	case g.features.has(Audits) && g.chance(25):
		p.Action = rbac.Audit
	case g.features.has(Customs) && g.chance(35):
		p.Action = rbac.Custom
		if p.Provider = pick(g, Providers); g.chance(20) {
			p.Provider = "nobody"
		}
	}
	switch g.r.IntN(10) {
	case 0:
		p.Selector = map[string]string{"app": "other"}
	case 1, 2:
		p.Selector = map[string]string{"app": "web"}
	}
	p.DryRun = g.features.has(DryRuns) && g.chance(20)
	p.IstioCompat = g.features.has(Compat) && g.chance(20)
	n := g.r.IntN(4)
	if p.Action != rbac.Allow {
		n++
	}
	for range n {
		p.Rules = append(p.Rules, g.rule())
	}
	return p
}

// rule has many fields, or one: a rule of many is seldom satisfied.
func (g *Generator) rule() rbac.Rule {
	var rule rbac.Rule
	all := g.features
	if all != 0 && g.chance(50) {
		g.features = pick(g, []Features{0, Addresses, ServerNames, Hosts, Headers, Tokens, TrustDomains, AnyDomain, Templates}) & all
		if g.chance(50) {
			g.features |= all & (Conditions | Expressions | Comparisons)
		}
		defer func() { g.features = all }()
	}
	for range g.few() {
		rule.From = append(rule.From, g.source())
	}
	for range g.few() {
		rule.To = append(rule.To, g.operation())
	}
	if g.features.has(Conditions) && g.chance(30) {
		for range 1 + g.r.IntN(4)/3 {
			rule.When = append(rule.When, g.tests(nil, g.attribute(), 70, 40)...)
		}
	}
	if g.features.has(Expressions|Comparisons) && g.chance(25) {
		e := g.expression(2)
		rule.Expression = &e
	}
	return rule
}

// few is mostly one.
func (g *Generator) few() int { return []int{0, 1, 1, 1, 2}[g.r.IntN(5)] }

// IntN is a number below n, for what a test picks itself.
func (g *Generator) IntN(n int) int { return g.r.IntN(n) }

func (g *Generator) chance(percent int) bool { return g.r.IntN(100) < percent }

// source has at least one test: none is not to be written. Service accounts do
// not stand with principals or namespaces.
func (g *Generator) source() rbac.Clause {
	f := g.features
	for {
		var c rbac.Clause
		switch {
		case f.has(AnyDomain) && g.chance(10):
			c = g.tests(c, rbac.Attr(pick(g, []rbac.AttributeKind{rbac.AnyNamespace, rbac.AnyServiceAccount})), 60, 50)
		case g.chance(35):
			c = g.tests(c, rbac.Attr(rbac.ServiceAccount), 60, 50)
		default:
			c = g.tests(c, rbac.Attr(rbac.Principal), 45, 30)
			c = g.tests(c, rbac.Attr(rbac.Namespace), 45, 30)
		}
		if f.has(TrustDomains) && g.chance(20) {
			c = g.tests(c, rbac.Attr(rbac.TrustDomain), 50, 40)
		}
		if f.has(Addresses) && g.chance(20) {
			c = g.tests(c, rbac.Attr(rbac.SourceIP), 60, 30)
			c = g.tests(c, rbac.Attr(rbac.RemoteIP), 50, 30)
		}
		if f.has(Tokens) && g.chance(25) {
			c = g.tests(c, rbac.Attr(rbac.RequestPrincipal), 70, 30)
		}
		if len(c) > 0 {
			return c
		}
	}
}

func (g *Generator) operation() rbac.Clause {
	f := g.features
	for {
		c := g.tests(g.tests(nil, rbac.Attr(rbac.Method), 35, 20), rbac.Attr(rbac.Path), 55, 40)
		if f.has(Hosts) && g.chance(30) {
			c = g.tests(c, rbac.Attr(rbac.Host), 60, 40)
		}
		if f.has(Addresses) && g.chance(20) {
			c = g.tests(c, rbac.Attr(rbac.DestinationPort), 60, 40)
		}
		if len(c) > 0 {
			return c
		}
	}
}

// attribute is any that the features have.
func (g *Generator) attribute() rbac.Attribute {
	kinds := []rbac.AttributeKind{rbac.Principal, rbac.Namespace, rbac.ServiceAccount, rbac.Method, rbac.Path}
	for _, more := range []struct {
		feature Features
		kinds   []rbac.AttributeKind
	}{
		{Addresses, []rbac.AttributeKind{rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP, rbac.DestinationPort}},
		{ServerNames, []rbac.AttributeKind{rbac.ServerName, rbac.ServerName}},
		{Hosts, []rbac.AttributeKind{rbac.Host}},
		{Headers, []rbac.AttributeKind{rbac.Header, rbac.Header, rbac.Header}},
		{Tokens, []rbac.AttributeKind{rbac.RequestPrincipal, rbac.Audience, rbac.Presenter, rbac.Claim, rbac.Claim, rbac.Claim}},
		{TrustDomains, []rbac.AttributeKind{rbac.TrustDomain}},
		{AnyDomain, []rbac.AttributeKind{rbac.AnyNamespace, rbac.AnyServiceAccount}},
	} {
		if g.features.has(more.feature) {
			kinds = append(kinds, more.kinds...)
		}
	}
	return g.named(pick(g, kinds))
}

// named gives a header, or a claim, its name.
func (g *Generator) named(kind rbac.AttributeKind) rbac.Attribute {
	switch kind {
	case rbac.Header:
		return must(rbac.HeaderAttr(pick(g, headerNames)))
	case rbac.Claim:
		return must(rbac.ClaimAttr(pick(g, claimPaths)...))
	}
	return rbac.Attr(kind)
}

// tests adds a test of an attribute, with values by chance; or none.
func (g *Generator) tests(c rbac.Clause, a rbac.Attribute, in, notIn int) rbac.Clause {
	test := rbac.Test{Attribute: a, In: g.list(in, a), NotIn: g.list(notIn, a)}
	if len(test.In)+len(test.NotIn) == 0 {
		return c
	}
	return append(c, test)
}

// list makes no values, or one to three. What the language refuses is made anew.
func (g *Generator) list(percent int, a rbac.Attribute) []rbac.Pattern {
	if !g.chance(percent) {
		return nil
	}
	var list []rbac.Pattern
	for want := 1 + g.r.IntN(3); len(list) < want; {
		if p, err := rbac.ParseValue(a, g.text(a), Namespace); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// expression is at most as deep as depth.
func (g *Generator) expression(depth int) rbac.Expression {
	if depth > 0 && g.chance(60) {
		e := rbac.Expression{Op: pick(g, []rbac.Op{rbac.All, rbac.Any})}
		for range 1 + g.r.IntN(3) {
			e.Terms = append(e.Terms, g.expression(depth-1))
		}
		return e
	}
	if g.features.has(Comparisons) && (g.chance(30) || !g.features.has(Expressions)) {
		return rbac.Expression{Op: rbac.Compare, Comparison: g.comparison()}
	}
	for {
		if c := g.tests(nil, g.attribute(), 60, 40); len(c) > 0 {
			return rbac.Expression{Op: rbac.Matches, Test: c[0]}
		}
	}
}

func (g *Generator) comparison() rbac.Comparison {
	left := []rbac.AttributeKind{rbac.Path, rbac.Path, rbac.Path}
	right := []rbac.AttributeKind{rbac.Namespace}
	for _, more := range []struct {
		feature     Features
		left, right rbac.AttributeKind
	}{{Hosts, rbac.Host, rbac.Host}, {Headers, rbac.Header, rbac.Header}, {Tokens, rbac.Claim, rbac.Claim}} {
		if g.features.has(more.feature) {
			left, right = append(left, more.left), append(right, more.right)
		}
	}
	c := rbac.Comparison{
		Left:  g.named(pick(g, left)),
		How:   pick(g, []rbac.Kind{rbac.Exact, rbac.Prefix, rbac.Suffix}),
		Right: g.named(pick(g, right)),
		Not:   g.chance(30),
	}
	if c.Left == c.Right {
		return g.comparison()
	}
	if c.Left.Kind() == rbac.Path {
		if c.How != rbac.Suffix {
			c.Lead = pick(g, []string{"/", "/", "/a", "/x/"})
		} else {
			c.Lead = pick(g, []string{"", "/"})
		}
		c.Trail = pick(g, []string{"", "", "/", "/b"})
	} else if c.Left.Kind() == rbac.Host {
		c.Trail = pick(g, []string{"", ".test"})
	}
	return c
}

func pick[V any](g *Generator, list []V) V { return list[g.r.IntN(len(list))] }
