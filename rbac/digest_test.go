package rbac_test

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// TestDigest: whatever a set means differently, its digest is another's; what
// means the same has the same.
func TestDigest(t *testing.T) {
	target := rbac.Target{Namespace: "shop", TrustDomain: spiffeid.RequireTrustDomainFromString("td.test")}
	pattern := func(s string) []rbac.Pattern {
		p, err := rbac.ParsePath(s)
		if err != nil {
			t.Fatal(err)
		}
		return []rbac.Pattern{p}
	}
	account, err := rbac.ParseServiceAccount("a", "shop")
	if err != nil {
		t.Fatal(err)
	}
	accounts := []rbac.ServiceAccount{account}
	policy := func(name string, action rbac.Action, rules ...rbac.Rule) rbac.Policy {
		return rbac.Policy{Namespace: "shop", Name: name, Action: action, Rules: rules}
	}
	from := func(s ...rbac.Source) rbac.Rule { return rbac.Rule{From: s} }
	to := func(o ...rbac.Operation) rbac.Rule { return rbac.Rule{To: o} }
	seen := map[[32]byte]int{}
	for i, policies := range [][]rbac.Policy{
		nil,
		{policy("a", rbac.Allow)},
		{policy("a", rbac.Deny)},
		{policy("b", rbac.Allow)},
		{policy("a", rbac.Allow, rbac.Rule{})},
		{policy("a", rbac.Allow, rbac.Rule{}, rbac.Rule{})},
		{policy("a", rbac.Allow, rbac.Rule{}), policy("b", rbac.Allow)},
		{policy("a", rbac.Allow, to(rbac.Operation{}), rbac.Rule{})},
		{policy("a", rbac.Allow, rbac.Rule{}, to(rbac.Operation{}))},
		{policy("a", rbac.Allow, from(rbac.Source{Principals: pattern("/a")}))},
		{policy("a", rbac.Allow, from(rbac.Source{NotPrincipals: pattern("/a")}))},
		{policy("a", rbac.Allow, from(rbac.Source{Namespaces: pattern("/a")}))},
		{policy("a", rbac.Allow, from(rbac.Source{NotNamespaces: pattern("/a")}))},
		{policy("a", rbac.Allow, from(rbac.Source{ServiceAccounts: accounts}))},
		{policy("a", rbac.Allow, from(rbac.Source{NotServiceAccounts: accounts}))},
		{policy("a", rbac.Allow, from(rbac.Source{Principals: pattern("/a"), Namespaces: pattern("/a")}))},
		{policy("a", rbac.Allow, from(rbac.Source{Principals: pattern("/a")}, rbac.Source{Namespaces: pattern("/a")}))},
		{policy("a", rbac.Allow, from(rbac.Source{Principals: pattern("/a")}), from(rbac.Source{Namespaces: pattern("/a")}))},
		{policy("a", rbac.Allow, to(rbac.Operation{Methods: pattern("/a")}))},
		{policy("a", rbac.Allow, to(rbac.Operation{NotMethods: pattern("/a")}))},
		{policy("a", rbac.Allow, to(rbac.Operation{Paths: pattern("/a")}))},
		{policy("a", rbac.Allow, to(rbac.Operation{NotPaths: pattern("/a")}))},
		{policy("a", rbac.Allow, to(rbac.Operation{Paths: pattern("/a*")}))},
		{policy("a", rbac.Allow, to(rbac.Operation{Paths: pattern("*/a")}))},
		{policy("a", rbac.Allow, to(rbac.Operation{Paths: append(pattern("/a"), pattern("/b")...)}))},
		{policy("a", rbac.Allow, to(rbac.Operation{Paths: append(pattern("/b"), pattern("/a")...)}))},
	} {
		digest := rbac.Select(policies, target).Digest()
		if j, ok := seen[digest]; ok {
			t.Errorf("sets %d and %d have one digest", i, j)
		}
		seen[digest] = i
	}
	a := policy("a", rbac.Allow, rbac.Rule{})
	labelled := a
	labelled.Selector = map[string]string{"app": "web"}
	target.Labels = labelled.Selector
	if rbac.Select([]rbac.Policy{a}, target).Digest() != rbac.Select([]rbac.Policy{labelled}, target).Digest() {
		t.Error("a selector that has done its work changes the digest")
	}
	before := rbac.Select([]rbac.Policy{a}, target).Digest()
	target.TrustDomain = spiffeid.RequireTrustDomainFromString("other.test")
	if rbac.Select([]rbac.Policy{a}, target).Digest() == before {
		t.Error("another trust domain has the same digest")
	}
}
