package distribute

import (
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/distribute/policypb"
	"github.com/istio-auth/istio-auth/rbac/parse"
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

// A builder makes the filters of one set after another: of a set that differs
// in little from the last, it makes little. It is not for many at once.
type builder struct {
	compiler compile.Compiler
	policies map[string]rbac.Policy // by their canonical sources
}

// policy reads an object that is one policy.
func (b *builder) policy(source []byte) (rbac.Policy, error) {
	if p, ok := b.policies[string(source)]; ok {
		return p, nil
	}
	o, err := parse.Wire(source)
	if err == nil && len(o.Policies) != 1 {
		err = errors.New("no AuthorizationPolicy")
	}
	if err != nil {
		return rbac.Policy{}, err
	}
	if b.policies == nil {
		b.policies = map[string]rbac.Policy{}
	}
	b.policies[string(source)] = o.Policies[0]
	return o.Policies[0], nil
}

// forget drops what it remembers of policies that are gone.
func (b *builder) forget(kept []*policypb.Policy) {
	if len(b.policies) == len(kept) {
		return
	}
	policies := make(map[string]rbac.Policy, len(kept))
	for _, m := range kept {
		policies[string(m.Source)] = b.policies[string(m.Source)]
	}
	b.policies = policies
}

// build compiles everything that a workload enforces, and shows that it means
// what the set means. Nothing of it is offered where one part fails.
func (b *builder) build(set rbac.Set) ([]*stream.Resource, error) {
	filters := map[string]func() (*anypb.Any, error){
		FilterName: func() (*anypb.Any, error) { return b.compiler.HTTP(set) },
		AuditName:  func() (*anypb.Any, error) { return b.compiler.Audit(set) },
		TokensName: func() (*anypb.Any, error) { return compile.Tokens(set) },
	}
	for _, provider := range set.Providers() {
		filters[CustomPrefix+provider] = func() (*anypb.Any, error) { return b.compiler.Custom(set, provider) }
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
