package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/prove"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
	"github.com/istio-auth/istio-auth/sds/sdstest"
)

// compileTime is the processor time of the compiler and of the proof for a
// policy, of 10,000 of each shape for one workload, from nothing.
func compileTime(_ context.Context, emit func(Figure)) error {
	const rounds = 5
	for _, shape := range benchShapes {
		set := rbac.Select(shape.Policies(manyPolicies, policySeed), rbactest.Target())
		var compiling, proving time.Duration
		size := 0
		for range rounds {
			start := cpu()
			filter, err := compile.HTTP(set)
			if err != nil {
				return err
			}
			middle := cpu()
			if err := prove.HTTP(set, filter); err != nil {
				return err
			}
			compiling, proving = lesser(compiling, middle-start), lesser(proving, cpu()-middle)
			size = len(filter.Value)
		}
		emit(Figure{Name: fmt.Sprintf("compile-%s", shape), Value: microseconds(compiling) / manyPolicies, Unit: "us CPU/policy", Note: fmt.Sprintf("%d policies from nothing to %d bytes, the least of %d", manyPolicies, size, rounds)})
		emit(Figure{Name: fmt.Sprintf("prove-%s", shape), Value: microseconds(proving) / manyPolicies, Unit: "us CPU/policy", Note: "showing that the filter decides as the policies do"}.against(microseconds(compiling) / manyPolicies))
	}
	return nil
}

// changeTime is the processor time of one changed policy among 10,000 of one
// workload: compiled and proved with what the compiler and the prover keep of
// the set before.
func changeTime(_ context.Context, emit func(Figure)) error {
	for _, shape := range benchShapes {
		policies := shape.Policies(manyPolicies, policySeed)
		var compiler compile.Compiler
		var prover prove.Prover
		var compiling, proving time.Duration
		for round := range 8 {
			changed := slices.Clone(policies)
			at := 1000*round + 7
			changed[at].Rules = slices.Clone(policies[at+1].Rules)
			set := rbac.Select(changed, rbactest.Target())
			start := cpu()
			filter, err := compiler.HTTP(set)
			if err != nil {
				return err
			}
			middle := cpu()
			if err := prover.HTTP(set, filter); err != nil {
				return err
			}
			if round > 1 { // the first is from nothing, the second grows the heap
				compiling, proving = lesser(compiling, middle-start), lesser(proving, cpu()-middle)
			}
		}
		emit(Figure{Name: fmt.Sprintf("policy-change-%s", shape), Value: milliseconds(compiling + proving), Unit: "ms CPU", Note: fmt.Sprintf("one policy of %d changed: %.1f ms compiling and marshalling the whole, %.1f ms proving it, the least of 6", manyPolicies, milliseconds(compiling), milliseconds(proving))})
	}
	return nil
}

// lesser is the less of two, of which the first may be none yet.
func lesser(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// fanout is how long a renewed certificate takes to reach 1,000 streams.
func fanout(ctx context.Context) (Figure, error) {
	const streams = 1000
	result, err := sdstest.FanOut(ctx, streams)
	if err != nil {
		return Figure{}, err
	}
	f := Figure{Value: milliseconds(result.Took), Unit: "ms", Note: fmt.Sprintf("a renewed certificate, %d bytes, to %d streams; floor: the same bytes marshalled and written to as many plain Unix sockets", result.Bytes, streams)}
	return f.against(milliseconds(result.Floor)), nil
}
