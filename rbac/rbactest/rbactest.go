// Package rbactest makes policies and requests for tests.
package rbactest

import "github.com/istio-auth/istio-auth/rbac"

// Policies returns n policies of ordinary shapes, the same for the same seed.
func Policies(n int, seed uint64) []rbac.Policy {
	return nil // being built
}
