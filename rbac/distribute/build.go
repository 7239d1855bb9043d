package distribute

import (
	"errors"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/distribute/policypb"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/rbac/prove"
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
	prover   prove.Prover
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
		if p, ok := b.policies[string(m.Source)]; ok {
			policies[string(m.Source)] = p
		}
	}
	b.policies = policies
}

// A part is one filter: how it is made, and how it is shown to be right.
type part struct {
	name    string
	compile func(rbac.Set) (*anypb.Any, error)
	prove   func(rbac.Set, *anypb.Any) error
}

// make is the filter for a set. Errors are [*Refusal]s.
func (p part) make(set rbac.Set) (*stream.Resource, error) {
	filter, err := p.compile(set)
	if err != nil {
		return nil, refuse("does-not-compile", "%s: %w", p.name, err)
	}
	if p.prove != nil {
		if err := p.prove(set, filter); err != nil {
			return nil, refuse("not-proved", "%s: %w", p.name, err)
		}
	}
	r, err := newResource(p.name, &corev3.TypedExtensionConfig{Name: p.name, TypedConfig: filter})
	if err != nil {
		return nil, refuse("does-not-compile", "%s: %w", p.name, err)
	}
	return r, nil
}

// build compiles everything that a workload enforces, and shows that it means
// what the set means. Nothing of it is offered where one part fails.
func (b *builder) build(set rbac.Set) ([]*stream.Resource, error) {
	parts := []part{
		{FilterName, b.compiler.HTTP, b.prover.HTTP},
		{AuditName, b.compiler.Audit, b.prover.Audit},
		{TokensName, compile.Tokens, nil}, // no matchers are in it
	}
	for _, provider := range set.Providers() {
		parts = append(parts, part{
			CustomPrefix + provider,
			func(set rbac.Set) (*anypb.Any, error) { return b.compiler.Custom(set, provider) },
			func(set rbac.Set, filter *anypb.Any) error { return b.prover.Custom(set, provider, filter) },
		})
	}
	var resources []*stream.Resource
	for _, p := range parts {
		r, err := p.make(set)
		if err != nil {
			return nil, err
		}
		resources = append(resources, r)
	}
	return resources, nil
}
