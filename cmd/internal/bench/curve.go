package main

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
	"github.com/istio-auth/istio-auth/sds/sdstest"
)

// policyCurve is what docs/policy-cost.md draws: Envoy's time for a request with
// one policy to ten thousand, as a tree and as a list, over mutual TLS.
func policyCurve(ctx context.Context, emit func(Figure)) error {
	authority, err := sdstest.NewAuthority(rbactest.TrustDomain)
	if err != nil {
		return err
	}
	for _, shape := range benchShapes {
		for _, n := range []int{1, 10, 100, 1000, 10_000} {
			s, err := (requestBench{shape: shape, mode: "mtls"}).start(ctx, authority, n)
			if err != nil {
				return err
			}
			err = s.curve(shape, n, emit)
			s.stop()
			if err != nil {
				return fmt.Errorf("%d of %s: %w", n, shape, err)
			}
		}
	}
	return nil
}

func (s *side) curve(shape rbactest.Shape, n int, emit func(Figure)) error {
	for _, form := range []struct {
		name     string
		compile  func(rbac.Set) (*anypb.Any, error)
		requests int
	}{{"tree", compile.HTTP, 2000}, {"linear", compile.Linear, min(2000, 2_000_000/n)}} {
		size, _, err := s.load(form.name, form.compile)
		if err != nil {
			return err
		}
		least, err := s.least("last", form.requests, 7)
		if err != nil {
			return err
		}
		emit(Figure{Name: fmt.Sprintf("policy-curve-%s-%s-%d", shape, form.name, n), Value: microseconds(least), Unit: "us CPU", Note: fmt.Sprintf("%d bytes; the least of 7 runs", size)})
	}
	return nil
}
