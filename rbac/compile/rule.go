package compile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// rule compiles what makes a rule match, behind the guards: the peer is a
// workload of our trust domain, so that its URI SAN is
// spiffe://<td>/ns/<namespace>/sa/<account> and nothing else.
func (c *compiler) rule(r rbac.Rule) term {
	return and(anyOf(r.From, c.clause), anyOf(r.To, c.clause), c.clause(r.When))
}

func (c *compiler) clause(tests rbac.Clause) term {
	return and(compileEach(tests, c.test)...)
}

func (c *compiler) test(t rbac.Test) term {
	switch t.Attribute.Kind() {
	case rbac.Principal:
		return field(t.In, t.NotIn, c.principal)
	case rbac.Namespace:
		return field(t.In, t.NotIn, c.namespace)
	case rbac.ServiceAccount:
		return field(t.In, t.NotIn, c.account)
	case rbac.Method:
		return field(t.In, t.NotIn, func(p rbac.Pattern) term { return c.pattern(c.method, p) })
	case rbac.Path:
		return field(t.In, t.NotIn, func(p rbac.Pattern) term { return c.pattern(c.path, p) })
	}
	c.err = errors.Join(c.err, fmt.Errorf("compile: %v is not supported yet", t.Attribute))
	return term{always: never}
}

// anyOf is satisfied where the list is empty, or one of it is.
func anyOf[V any](list []V, compile func(V) term) term {
	if len(list) == 0 {
		return term{always: always}
	}
	return or(compileEach(list, compile)...)
}

func compileEach[V any](list []V, compile func(V) term) []term {
	terms := make([]term, 0, len(list))
	for _, v := range list {
		terms = append(terms, compile(v))
	}
	return terms
}

// field is satisfied where values is empty or one of them matches, and none of
// without does.
func field[V any](values, without []V, compile func(V) term) term {
	return and(anyOf(values, compile), not(or(compileEach(without, compile)...)))
}

// pattern matches an input that is never empty: behind the guards a path is
// not, and a method is none's in HTTP.
func (c *compiler) pattern(in *input, p rbac.Pattern) term {
	switch p.Kind() {
	case rbac.Exact:
		return term{when: c.exact(in, p.Text())}
	case rbac.Prefix:
		return term{when: c.prefix(in, p.Text())}
	case rbac.Suffix:
		return term{when: c.suffix(in, p.Text())}
	case rbac.Present:
		return term{always: always}
	}
	return term{always: never}
}

// principal matches the peer's ID without its scheme.
func (c *compiler) principal(p rbac.Pattern) term {
	switch p.Kind() {
	case rbac.Exact:
		return term{when: c.exact(c.peer, scheme+p.Text())}
	case rbac.Prefix:
		return term{when: c.prefix(c.peer, scheme+p.Text())}
	case rbac.Suffix:
		return term{when: c.suffix(c.peer, p.Text())} // no suffix reaches the scheme: see rbac.ParsePrincipal
	}
	return c.pattern(c.peer, p)
}

// namespace matches the ID's third segment. A namespace has no slash, so that
// the fixed words around it hold it in place.
func (c *compiler) namespace(p rbac.Pattern) term {
	switch p.Kind() {
	case rbac.Exact:
		return term{when: c.prefix(c.peer, c.workloads+p.Text()+"/")}
	case rbac.Prefix:
		return term{when: c.prefix(c.peer, c.workloads+p.Text())}
	case rbac.Suffix:
		ends := term{when: c.contains(c.peer, p.Text()+"/sa/")}
		// In /ns/sa/sa/x the first "/sa/" is not the fixed word but the
		// namespace, and what stands before it is "ns".
		if strings.HasSuffix("ns", p.Text()) {
			return and(ends, not(term{when: c.prefix(c.peer, c.workloads+"sa/")}))
		}
		return ends
	}
	return c.pattern(c.peer, p)
}

// account matches the whole ID of a service account in our trust domain.
func (c *compiler) account(p rbac.Pattern) term {
	namespace, account := p.Halves()
	id, err := spiffeid.FromSegments(c.td, "ns", namespace.Text(), "sa", account.Text())
	if err != nil || namespace.Kind() != rbac.Exact || account.Kind() != rbac.Exact {
		return term{always: never} // a leaf that was not made by parsing
	}
	return term{when: c.exact(c.peer, id.String())}
}

// workloadRegex is rbac.Peer.Workload for the URI SANs of a certificate, which
// Envoy joins with commas where there are several: that one is refused. A trust
// domain has one byte that means more than itself.
func workloadRegex(td spiffeid.TrustDomain) string {
	const name, account = `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, `[a-z0-9]([-.a-z0-9]*[a-z0-9])?`
	return scheme + strings.ReplaceAll(td.Name(), ".", `\.`) + "/ns/" + name + "/sa/" + account
}
