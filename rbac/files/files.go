// Package files reads policies from a directory, and again when it changes.
package files

import (
	"context"
	"errors"

	"github.com/istio-auth/istio-auth/rbac"
)

// Watch calls emit with all policies below dir at once, and again on each
// change, until ctx ends; it returns nil then. The error of an emit names the
// files that are bad: their last good content stays among the policies.
func Watch(ctx context.Context, dir string, emit func([]rbac.Policy, error)) error {
	return errors.New("files: being built")
}
