package prove_test

import (
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/prove"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestShapes proves many policies of each shape that people write, together.
func TestShapes(t *testing.T) {
	n := 300
	for _, shape := range rbactest.Shapes() {
		set := rbac.Select(shape.Policies(n, 1), rbactest.Target())
		began := time.Now()
		filter, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		compiled := time.Since(began)
		began = time.Now()
		if err := prove.HTTP(set, filter); err != nil {
			t.Errorf("%s: %v", shape, err)
		}
		t.Logf("%-12s %v compiled, %v proved, a policy", shape, compiled/time.Duration(n), time.Since(began)/time.Duration(n))
	}
}

func BenchmarkHTTP(b *testing.B) {
	const n = 10000
	for _, shape := range rbactest.Shapes() {
		set := rbac.Select(shape.Policies(n, 1), rbactest.Target())
		filter, err := compile.HTTP(set)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(string(shape), func(b *testing.B) {
			for b.Loop() {
				if err := prove.HTTP(set, filter); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "µs/policy")
		})
	}
}
