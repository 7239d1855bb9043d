package rbactest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// A Shape is a way in which people write many policies, for benchmarks. Each
// policy of a shape is another's: policy i speaks of client i, tenant i or team
// i, and of service i.
type Shape string

// The shapes.
const (
	ByPrincipal Shape = "principal" // a service account, a path and a method
	ByPrefix    Shape = "prefix"    // a service account, a method, and a path's beginning
	ByNamespace Shape = "namespace" // a namespace, a method, and a path's beginning
	ByClaims    Shape = "claims"    // an end user's group and issuer, and a path
	Rich        Shape = "rich"      // lists, and negations of namespaces, paths and a header; a tenth are DENY
	Dense       Shape = "dense"     // all that one rule can ask: lists of every field, templates, hosts, networks; a tenth are DENY
)

// Shapes lists them all.
func Shapes() []Shape { return []Shape{ByPrincipal, ByPrefix, ByNamespace, ByClaims, Rich, Dense} }

// Policies is [ByPrincipal].Policies.
func Policies(n int, seed uint64) []rbac.Policy { return ByPrincipal.Policies(n, seed) }

// Policies returns n policies for the [Target], in the order of their names. The
// same seed gives the same policies. The last is an ALLOW.
func (s Shape) Policies(n int, seed uint64) []rbac.Policy {
	r := rand.New(rand.NewPCG(seed, 1))
	policies := make([]rbac.Policy, n)
	for i := range policies {
		policies[i] = rbac.Policy{
			Namespace: Namespace,
			Name:      fmt.Sprintf("policy-%05d", i),
			Action:    rbac.Allow,
			Rules:     []rbac.Rule{s.rule(i, r.IntN(50), r.IntN(4))},
		}
		if (s == Rich || s == Dense) && i%10 == 4 && i < n-1 {
			policies[i].Action = rbac.Deny
		}
	}
	return policies
}

var fourMethods = []string{"GET", "POST", "PUT", "DELETE"}

func (s Shape) rule(i, team, method int) rbac.Rule {
	client := one(rbac.Principal, fmt.Sprintf("%s/ns/team-%d/sa/client-%d", TrustDomain, team, i))
	path := fmt.Sprintf("/svc/%05d/items", i)
	verb := one(rbac.Method, fourMethods[method])
	switch s {
	case ByPrincipal:
		return rbac.Rule{From: []rbac.Clause{{client}}, To: []rbac.Clause{{verb, one(rbac.Path, path)}}}
	case ByPrefix:
		return rbac.Rule{From: []rbac.Clause{{client}}, To: []rbac.Clause{{verb, one(rbac.Path, path+"/*")}}}
	case ByNamespace:
		return rbac.Rule{From: []rbac.Clause{{one(rbac.Namespace, fmt.Sprintf("tenant-%d", i))}}, To: []rbac.Clause{{verb, one(rbac.Path, path+"/*")}}}
	case ByClaims:
		return rbac.Rule{
			From: []rbac.Clause{{one(rbac.RequestPrincipal, "https://issuer.test/*")}},
			To:   []rbac.Clause{{one(rbac.Path, path)}},
			When: rbac.Clause{tests(must(rbac.ClaimAttr("groups")), []string{fmt.Sprintf("group-%d", i)}, nil)},
		}
	}
	if s == Rich {
		return rbac.Rule{
			From: []rbac.Clause{{client, tests(rbac.Attr(rbac.Namespace), nil, []string{"test-*"})}},
			To: []rbac.Clause{{
				tests(rbac.Attr(rbac.Method), []string{fourMethods[method], "HEAD"}, nil),
				tests(rbac.Attr(rbac.Path), []string{path, path + "/*"}, []string{path + "/internal"}),
			}},
			When: rbac.Clause{tests(must(rbac.HeaderAttr("x-env")), nil, []string{"test"})},
		}
	}
	return rbac.Rule{
		From: []rbac.Clause{
			{tests(rbac.Attr(rbac.Principal), []string{client.In[0].String(), fmt.Sprintf("%s/ns/team-%d/sa/batch-%d", TrustDomain, team, i)}, nil)},
			{tests(rbac.Attr(rbac.Namespace), []string{fmt.Sprintf("tenant-%d", i)}, []string{"tenant-0", "*-test"}), tests(rbac.Attr(rbac.Principal), nil, []string{"*/sa/default"})},
		},
		To: []rbac.Clause{{
			tests(rbac.Attr(rbac.Host), []string{"shop.test", fmt.Sprintf("*.shop-%d.test", i%7)}, nil),
			tests(rbac.Attr(rbac.Method), []string{fourMethods[method], "HEAD"}, nil),
			tests(rbac.Attr(rbac.Path), []string{path, path + "/*", fmt.Sprintf("/v2/{*}/%05d", i)}, []string{path + "/internal", path + "/internal/*"}),
		}},
		When: rbac.Clause{
			tests(must(rbac.HeaderAttr("x-env")), nil, []string{"test", "staging*"}),
			tests(rbac.Attr(rbac.RemoteIP), []string{"10.0.0.0/8", "2001:db8::/32"}, nil),
		},
	}
}

// Requests are one that matches the last of the shape's n policies of a seed,
// and is allowed, and one that matches none, and is not. Both are near to what
// the policies say. Without policies the first is the second.
func (s Shape) Requests(n int, seed uint64) (last, none rbac.Request) {
	none = rbac.Request{
		Protocol:    rbac.HTTP,
		Peer:        rbac.Peer{ID: must(spiffeid.FromPath(TrustDomain, "/ns/team-1/sa/client-x"))},
		Source:      netip.MustParseAddr("10.0.0.1"),
		Remote:      netip.MustParseAddr("10.0.0.1"),
		Destination: netip.MustParseAddrPort("10.0.0.2:8080"),
		Method:      "GET",
		Host:        "shop.test",
		Path:        fmt.Sprintf("/svc/%05d/none", max(n-1, 0)),
		Headers:     map[string][]string{"x-env": {"production"}},
	}
	if s == ByClaims {
		none.Token = &rbac.Token{Claims: map[string]any{"iss": "https://issuer.test", "sub": "alice", "groups": []any{"users", "group-x"}}}
	}
	if n == 0 {
		return none, none
	}
	r := rand.New(rand.NewPCG(seed, 1))
	var team, method int
	for range n {
		team, method = r.IntN(50), r.IntN(4)
	}
	last = none
	last.Method, last.Path = fourMethods[method], fmt.Sprintf("/svc/%05d/items", n-1)
	last.Peer.ID = must(spiffeid.FromPathf(TrustDomain, "/ns/team-%d/sa/client-%d", team, n-1))
	switch s {
	case ByPrefix:
		last.Path += "/7"
	case ByNamespace:
		last.Path += "/7"
		last.Peer.ID = must(spiffeid.FromPathf(TrustDomain, "/ns/tenant-%d/sa/web", n-1))
	case ByClaims:
		last.Token = &rbac.Token{Claims: map[string]any{"iss": "https://issuer.test", "sub": "alice", "groups": []any{"users", fmt.Sprintf("group-%d", n-1)}}}
	}
	return last, none
}

// one is a test for one value.
func one(kind rbac.AttributeKind, text string) rbac.Test {
	return tests(rbac.Attr(kind), []string{text}, nil)
}

func tests(a rbac.Attribute, in, notIn []string) rbac.Test {
	parse := func(s string) rbac.Pattern { return must(rbac.ParseValue(a, s, Namespace)) }
	return rbac.Test{Attribute: a, In: each(in, parse), NotIn: each(notIn, parse)}
}
