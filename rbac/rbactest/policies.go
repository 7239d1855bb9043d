// Package rbactest makes policies and requests for tests and benchmarks.
//
// [Policies] are of the shapes that people write, for benchmarks. A [Generator]
// makes those that nobody would: every feature that is built, over few names, so
// that rules and requests meet, and requests mutated toward a policy's literals.
// [Shrink] makes a small case of a large one. Everything is seeded: the same
// seed gives the same values.
package rbactest

import (
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

// must is for values that this package makes.
func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}
