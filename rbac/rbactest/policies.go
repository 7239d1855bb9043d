// Package rbactest makes policies and requests for tests and benchmarks.
//
// [Policies] are of the shapes that people write, for benchmarks. A [Generator]
// makes those that nobody would: every feature that is built, over few names, so
// that rules and requests meet, and requests mutated toward a policy's literals.
// [Shrink] makes a small case of a large one. Everything is seeded: the same
// seed gives the same values.
package rbactest

import (
	"fmt"
	"math/rand/v2"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// TrustDomain is that of all peers but strangers.
var TrustDomain = spiffeid.RequireTrustDomainFromString("td.test")

// Namespace is where the target of generated policies runs, and Root the
// namespace of those for the mesh.
const (
	Namespace = "shop"
	Root      = "mesh-root"
)

// Target is the workload that generated policies select.
func Target() rbac.Target {
	return rbac.Target{
		Namespace:     Namespace,
		Labels:        map[string]string{"app": "web", "version": "v1"},
		RootNamespace: Root,
		TrustDomain:   TrustDomain,
	}
}

// Policies returns n ALLOW policies of an ordinary shape, each for one service
// account, path and method, in the target's namespace. The same seed gives the
// same policies.
func Policies(n int, seed uint64) []rbac.Policy {
	r := rand.New(rand.NewPCG(seed, 1))
	policies := make([]rbac.Policy, n)
	for i := range policies {
		peer := value(rbac.Principal, fmt.Sprintf("%s/ns/team-%d/sa/client-%d", TrustDomain, r.IntN(50), i))
		path := value(rbac.Path, fmt.Sprintf("/svc/%05d/items", i))
		method := value(rbac.Method, []string{"GET", "POST", "PUT", "DELETE"}[r.IntN(4)])
		policies[i] = rbac.Policy{
			Namespace: Namespace,
			Name:      fmt.Sprintf("policy-%05d", i),
			Action:    rbac.Allow,
			Rules: []rbac.Rule{{
				From: []rbac.Clause{{peer}},
				To:   []rbac.Clause{{method, path}},
			}},
		}
	}
	return policies
}

// value is a test for one value.
func value(kind rbac.AttributeKind, text string) rbac.Test {
	a := rbac.Attr(kind)
	return rbac.Test{Attribute: a, In: []rbac.Pattern{must(rbac.ParseValue(a, text, Namespace))}}
}

// must is for values that this package makes.
func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}
