package distribute

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/sds/stream"
)

// The filters of a workload, which are resources of the same names: the
// bootstrap of package mesh asks for them.
const (
	FilterName = "istio-auth.rbac"  // decides
	AuditName  = "istio-auth.audit" // marks requests for the access log
	TokensName = "istio-auth.jwt"   // verifies end users' tokens
	// CustomPrefix and a provider's name are the filter that says whether that
	// provider is asked.
	CustomPrefix = "istio-auth.custom."
)

// build compiles everything that a workload enforces, and shows that it means
// what the set means. Nothing of it is offered where one part fails.
func build(set rbac.Set) ([]*stream.Resource, error) {
	filters := map[string]func() (*anypb.Any, error){
		FilterName: func() (*anypb.Any, error) { return compile.HTTP(set) },
		AuditName:  func() (*anypb.Any, error) { return compile.Audit(set) },
		TokensName: func() (*anypb.Any, error) { return compile.Tokens(set) },
	}
	for _, provider := range set.Providers() {
		filters[CustomPrefix+provider] = func() (*anypb.Any, error) { return compile.Custom(set, provider) }
	}
	var resources []*stream.Resource
	for name, make := range filters {
		filter, err := make()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		r, err := newResource(name, &corev3.TypedExtensionConfig{Name: name, TypedConfig: filter})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		resources = append(resources, r)
	}
	return resources, nil
}
