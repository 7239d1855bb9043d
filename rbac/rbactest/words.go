package rbactest

import (
	"slices"

	"github.com/istio-auth/istio-auth/rbac"
)

// Few names, chosen so that one is the beginning or the end of another, or of
// the fixed words of an ID.
var (
	namespaces = []string{"a", "ab", "b", "sa", "ns", "s", "shop", "shop-prod", "prod", "a-b"}
	accounts   = []string{"a", "ab", "b", "sa", "ns", "web", "web.front", "webxfront", "a-b", "a.b"}
	stems      = []string{"/", "/a", "/ab", "/a/b", "/admin", "/admin/", "/admin.d", "/adminxd", "/a.b", "/a;b", "/A", "/a/b/c", "/~u", "/a=b&c", "/a,b", "/x/admin", "/.well-known/a"}
	templates  = []string{"/{*}", "/{**}", "/a/{*}", "/a/{**}", "/{*}/b", "/a/{*}/c", "/{*}/{*}", "/{*}/b/{**}", "/admin/{*}", "/A/{*}/", "/a.b/{**}", "/x/{*}/{*}/a"}
	verbs      = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PURGE"}
	hosts      = []string{"shop.test", "shop.test.x", "xshop.test", "api.shop.test", "shop", "shop-test", "a_b.test", "192.0.2.1", "[2001:db8::1]", "[::1]"}

	headerNames = []string{"x-role", "x-role2", "x-tenant", "x.y"}
	roles       = []string{"admin", "admin2", "user", "Admin", "ad min", "a.b", "axb", "a-b", "adm", "-"}

	claimPaths = [][]string{{"role"}, {"role"}, {"groups"}, {"realm", "roles"}, {"realm", "name"}, {"example.com/role"}, {"scope"}, {"missing"}, {"a", "b", "c"}, {"sub"}, {"email"}}
	issuers    = []string{"https://issuer.test", "https://issuer.test/a", "issuer2.test"}
	subjects   = []string{"alice", "al", "bob", "alice/x", "-", "svc:a", "a,b"}
	audiences  = []string{"api", "api.shop", "web", "https://api.test/", "a,b"}
	presenters = []string{"client-1", "client-2", "client", "-"}
)

func (g *Generator) text(a rbac.Attribute) string {
	switch a.Kind() {
	case rbac.Principal:
		return g.starred(g.principal())
	case rbac.Namespace, rbac.AnyNamespace:
		return g.starred(pick(g, namespaces))
	case rbac.ServiceAccount, rbac.AnyServiceAccount:
		if g.chance(30) {
			return pick(g, accounts)
		}
		return pick(g, namespaces) + "/" + pick(g, accounts)
	case rbac.TrustDomain:
		return g.starred(g.domainName())
	case rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP:
		return pick(g, networks)
	case rbac.DestinationPort:
		return pick(g, ports)
	case rbac.ServerName:
		return g.starred(pick(g, serverNames[2:]))
	case rbac.Method:
		return g.starred(pick(g, verbs))
	case rbac.Host:
		return g.starred(pick(g, hosts))
	case rbac.Path:
		if g.features.has(Templates) && g.chance(20) {
			return pick(g, templates)
		}
		return g.starred(g.path())
	case rbac.Header:
		return g.starred(pick(g, roles))
	case rbac.RequestPrincipal:
		return g.starred(pick(g, issuers) + "/" + pick(g, subjects))
	}
	return g.starred(pick(g, claimWords(a)))
}

// claimWords are what a claim might be.
func claimWords(a rbac.Attribute) []string {
	switch a.Kind() {
	case rbac.Audience:
		return audiences
	case rbac.Presenter:
		return presenters
	}
	if path := a.ClaimPath(); len(path) == 1 && path[0] == "sub" {
		return subjects
	}
	return roles
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
	td := g.domainName()
	if g.chance(5) {
		td = "other.test"
	}
	return td + "/ns/" + pick(g, namespaces) + "/sa/" + pick(g, accounts)
}

func (g *Generator) domainName() string { return g.domain().Name() }

func (g *Generator) path() string {
	text := pick(g, stems)
	if g.chance(40) && text != "/" {
		text += pick(g, stems)
	}
	return text
}

// literals are what policies compare attributes with, in the order of their
// first mention.
type literals struct {
	order []rbac.Attribute
	of    map[rbac.Attribute][]rbac.Pattern
}

func literalsOf(policies []rbac.Policy) literals {
	found := literals{of: map[rbac.Attribute][]rbac.Pattern{}}
	for _, p := range policies {
		for _, rule := range p.Rules {
			for _, clause := range append(append(slices.Clone(rule.From), rule.To...), rule.When) {
				for _, test := range clause {
					found.add(test)
				}
			}
			found.expression(rule.Expression)
		}
	}
	return found
}

func (l *literals) add(t rbac.Test) {
	if _, known := l.of[t.Attribute]; !known {
		l.order = append(l.order, t.Attribute)
	}
	l.of[t.Attribute] = append(append(l.of[t.Attribute], t.In...), t.NotIn...)
}

func (l *literals) expression(e *rbac.Expression) {
	if e == nil {
		return
	}
	switch e.Op {
	case rbac.Matches:
		l.add(e.Test)
	case rbac.Compare:
		l.add(rbac.Test{Attribute: e.Comparison.Left})
		l.add(rbac.Test{Attribute: e.Comparison.Right})
	}
	for i := range e.Terms {
		l.expression(&e.Terms[i])
	}
}
