// Package parse reads security.istio.io/v1 AuthorizationPolicies, strictly.
package parse

import (
	"errors"

	"github.com/istio-auth/istio-auth/rbac"
)

// Policies reads every document of data, YAML or JSON.
func Policies(name string, data []byte) ([]rbac.Policy, error) {
	return nil, errors.New("parse: being built")
}

// JSON is the canonical source of a policy: [Policies] reads it back as an equal one.
func JSON(p rbac.Policy) []byte {
	return nil // being built
}
