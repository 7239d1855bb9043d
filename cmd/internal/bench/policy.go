package main

import (
	"context"
	"fmt"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
	"github.com/istio-auth/istio-auth/sds/sdstest"
)

// compileTime is how long 1,000 policies take to become Envoy's filter.
func compileTime(context.Context) (Figure, error) {
	const count, rounds = 1000, 9
	policies := rbactest.Policies(count, 1)
	var took []time.Duration
	size := 0
	for range rounds {
		start := time.Now()
		filter, err := compile.HTTP(rbac.Select(policies, rbactest.Target()))
		if err != nil {
			return Figure{}, err
		}
		took = append(took, time.Since(start))
		size = len(filter.Value)
	}
	return Figure{Value: milliseconds(median(took)), Unit: "ms", Note: fmt.Sprintf("selecting and compiling %d policies to %d bytes, median of %d", count, size, rounds)}, nil
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
