package prove_test

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/prove"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestShapes proves many policies of each shape that people write, together,
// and again after one has changed.
func TestShapes(t *testing.T) {
	n := 2000
	if testing.Short() {
		n = 200
	}
	for _, shape := range rbactest.Shapes() {
		before, after := changed(t, shape, n)
		var p prove.Prover
		began := spent()
		if err := p.HTTP(before.set, before.filter); err != nil {
			t.Errorf("%s: %v", shape, err)
		}
		first := spent() - began
		if err := p.HTTP(after.set, after.filter); err != nil {
			t.Errorf("%s: changed: %v", shape, err)
		}
		// What is kept does not hide that a filter is another's.
		if err := p.HTTP(after.set, before.filter); err == nil {
			t.Errorf("%s: the filter of the other set is proved", shape)
		}
		if err := p.HTTP(before.set, after.filter); err == nil {
			t.Errorf("%s: the filter of the other set is proved", shape)
		}
		t.Logf("%-12s %v a policy, %v", shape, first/time.Duration(n), spent()-began-first)
	}
}

// A proved is a set and its filter.
type proved struct {
	set    rbac.Set
	filter *anypb.Any
}

// changed is n policies of a shape, and the same with one that is another.
func changed(t testing.TB, shape rbactest.Shape, n int) (before, after proved) {
	policies := shape.Policies(n, 1)
	make := func() proved {
		set := rbac.Select(policies, rbactest.Target())
		filter, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		return proved{set, filter}
	}
	before = make()
	policies[n/2].Rules = slices.Concat(policies[n/2].Rules, shape.Policies(n+1, 2)[n:][0].Rules)
	after = make()
	return before, after
}

// BenchmarkHTTP proves 10,000 policies: from nothing, and after one of them has
// changed.
func BenchmarkHTTP(b *testing.B) {
	const n = 10_000
	for _, shape := range rbactest.Shapes() {
		before, after := changed(b, shape, n)
		both := []proved{before, after}
		run := func(name string, prove func(set rbac.Set, filter *anypb.Any) error) {
			b.Run(string(shape)+"/"+name, func(b *testing.B) {
				i, began := 0, spent()
				for b.Loop() {
					i++
					if err := prove(both[i%2].set, both[i%2].filter); err != nil {
						b.Fatal(err)
					}
				}
				all := (spent() - began) / time.Duration(b.N)
				b.ReportMetric(float64(all.Microseconds())/n, "cpu-us/policy")
				b.ReportMetric(float64(all.Microseconds())/1000, "cpu-ms")
			})
		}
		run("whole", prove.HTTP)
		var p prove.Prover
		if err := p.HTTP(before.set, before.filter); err != nil {
			b.Fatal(err)
		}
		run("change", p.HTTP)
	}
}

// spent is what this process has used, on a machine that it shares.
func spent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
