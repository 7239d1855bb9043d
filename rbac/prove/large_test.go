package prove_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/interpret"
	"github.com/istio-auth/istio-auth/rbac/prove"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestAgain: policies that repeat others, of which a compiler writes one, are
// proved as well.
func TestAgain(t *testing.T) {
	n := 1000
	for _, shape := range rbactest.Shapes() {
		policies := shape.Policies(n, 1)
		for i := 0; i < n; i += 20 {
			policies[i].Rules = policies[(i+7)%n].Rules
		}
		// And one that has all that two others have, but for the first of each.
		policies[5].Rules = []rbac.Rule{policies[6].Rules[0], policies[8].Rules[0]}
		set := rbac.Select(policies, rbactest.Target())
		filter, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		if err := prove.HTTP(set, filter); err != nil {
			t.Errorf("%s: %v", shape, err)
		}
	}
}

// TestLargeMutants changes one place of filters of many policies. The rules that
// are the same hide nothing of the one that is not.
func TestLargeMutants(t *testing.T) {
	n := 60
	if testing.Short() {
		n = 20
	}
	var all score
	for _, shape := range rbactest.Shapes() {
		if shape == rbactest.Dense {
			continue // where parts are out of order it takes seconds to be too complex
		}
		set := rbac.Select(shape.Policies(n, 1), rbactest.Target())
		filter, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		var p prove.Prover
		if err := p.HTTP(set, filter); err != nil {
			t.Fatalf("%s: %v", shape, err)
		}
		last, none := shape.Requests(n, 1)
		r := rand.New(rand.NewPCG(4, 4))
		for _, m := range mutations {
			mutant, ok := mutate(t, r, filter, m)
			if !ok {
				continue
			}
			name := fmt.Sprintf("%s: %s", shape, m.name)
			s := judge(t, set, mutant, []rbac.Request{last, none}, name)
			all.add(s)
			// What was proved before does not make a mutant right.
			err := p.HTTP(set, mutant)
			if (err == nil) != (s.equal == 1) {
				t.Errorf("%s: alone %+v, after another filter %v", name, s, err)
			}
			var d *prove.Difference
			if errors.As(err, &d) && eval.Decide(set, d.Request).Allowed == decide(t, mutant, d.Request) {
				t.Errorf("%s: the request shows nothing: %v", name, err)
			}
		}
	}
	t.Logf("%+v", all)
	if all.mutants < 100 || all.witnessed < all.mutants*2/3 || all.refused > all.mutants/8 || all.equal > all.mutants/4 {
		t.Errorf("%+v", all)
	}
}

func decide(t *testing.T, filter *anypb.Any, req rbac.Request) bool {
	t.Helper()
	f, err := interpret.Decode(filter)
	if err != nil {
		t.Fatal(err)
	}
	return f.Decide(interpret.FromRequest(req)).Allowed
}
