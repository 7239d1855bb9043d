package rbac

import "errors"

// ErrNotCanonical reports a request target that the mesh refuses with 400.
var ErrNotCanonical = errors.New("rbac: the path is not canonical")

// CanonicalPath returns the path that a request target has once Envoy, as our
// bootstrap sets it up, has normalized it.
func CanonicalPath(target string) (string, error) {
	return target, nil // being built
}
