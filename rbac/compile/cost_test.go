package compile_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestSize: a filter grows by so many bytes a policy, and nothing of the shapes
// that people write is in a list. Issue 4 allows 440 for a plain policy. A rich
// one has eighteen literals of its own, of 140 bytes each since every one of them
// names its input, and lies under three keys.
func TestSize(t *testing.T) {
	const n = 1000
	for shape, most := range map[rbactest.Shape]int{
		rbactest.ByPrincipal: 440, rbactest.ByPrefix: 560, rbactest.ByNamespace: 560, rbactest.ByClaims: 580, rbactest.Rich: 6300,
	} {
		var c compile.Compiler
		if _, err := c.HTTP(rbac.Select(shape.Policies(n, 1), rbactest.Target())); err != nil {
			t.Fatal(err)
		}
		r := c.Report()
		t.Logf("%v: %d bytes a policy, %+v", shape, r.Bytes/n, r)
		if r.Bytes/n > most || r.Longest > 8 || len(r.Listed) > 0 {
			t.Errorf("%v: %d bytes a policy, want at most %d, and short lists: %+v", shape, r.Bytes/n, most, r)
		}
	}
}

// BenchmarkCompile compiles 10,000 policies: from nothing, after one of them has
// changed, and in the linear form.
func BenchmarkCompile(b *testing.B) {
	const n = 10_000
	for _, shape := range rbactest.Shapes() {
		policies := shape.Policies(n, 1)
		set := rbac.Select(policies, rbactest.Target())
		run := func(name string, compile func(i int) (*anypb.Any, error)) {
			b.Run(fmt.Sprintf("%v/%s", shape, name), func(b *testing.B) {
				size, i, began := 0, 0, spent()
				for b.Loop() {
					packed, err := compile(i)
					if err != nil {
						b.Fatal(err)
					}
					size = len(packed.Value)
					i++
				}
				b.ReportMetric(float64(size)/n, "B/policy")
				b.ReportMetric(float64((spent()-began).Microseconds())/float64(b.N)/n, "cpu-us/policy")
			})
		}
		run("whole", func(int) (*anypb.Any, error) { return compile.HTTP(set) })
		var c compile.Compiler
		if _, err := c.HTTP(set); err != nil {
			b.Fatal(err)
		}
		sets := [2]rbac.Set{set}
		changed := append([]rbac.Policy{}, policies...)
		changed[n/2].Rules = append(append([]rbac.Rule{}, changed[n/2].Rules...), changed[0].Rules...)
		sets[1] = rbac.Select(changed, rbactest.Target())
		run("change", func(i int) (*anypb.Any, error) { return c.HTTP(sets[(i+1)%2]) })
		run("linear", func(int) (*anypb.Any, error) { return compile.Linear(set) })
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
