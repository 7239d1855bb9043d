// Package compile says to Envoy what rbac/eval means.
//
// Start at [HTTP].
package compile

import (
	"errors"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
)

// HTTP compiles set to one envoy.extensions.filters.http.rbac.v3.RBAC.
func HTTP(set rbac.Set) (*anypb.Any, error) {
	return nil, errors.New("compile: being built")
}
