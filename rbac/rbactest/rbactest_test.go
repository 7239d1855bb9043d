package rbactest_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

var byValue = cmp.Options{
	cmp.Comparer(func(a, b rbac.Pattern) bool { return a == b }),
	cmp.Comparer(func(a, b rbac.Attribute) bool { return a == b }),
}

func TestSeeds(t *testing.T) {
	a, b, c := rbactest.New(1), rbactest.New(1), rbactest.New(2)
	differ := false
	for range 50 {
		x, y, z := a.Policies(), b.Policies(), c.Policies()
		if diff := cmp.Diff(x, y, byValue); diff != "" {
			t.Fatalf("one seed, two policies:\n%s", diff)
		}
		differ = differ || !cmp.Equal(x, z, byValue)
	}
	if !differ {
		t.Error("two seeds make the same policies")
	}
	if diff := cmp.Diff(rbactest.Policies(20, 1), rbactest.Policies(20, 1), byValue); diff != "" {
		t.Errorf("one seed, two policies:\n%s", diff)
	}
}

// TestCallsMeetRules: random calls are near enough that every outcome is common.
func TestCallsMeetRules(t *testing.T) {
	g, peers := rbactest.New(4), rbactest.Peers(16)
	reasons := map[eval.Reason]int{}
	refused := 0
	const n = 5000
	for range n / 10 {
		policies := g.Policies()
		set := rbac.Select(policies, rbactest.Target())
		for range 10 {
			req, err := g.Call(policies).Request(rbac.Peer{ID: peers[g.IntN(len(peers))]})
			if err != nil {
				refused++
				continue
			}
			reasons[eval.Decide(set, req).Reason]++
		}
	}
	reasons["refused"] = refused
	for reason, least := range map[eval.Reason]int{eval.AllowRule: n / 20, eval.DenyRule: n / 20, eval.NoAllow: n / 20, eval.NoAllowMatch: n / 20, eval.BadPath: n / 500, "refused": n / 50} {
		if reasons[reason] < least {
			t.Errorf("%s: %d of %d, want %d at least", reason, reasons[reason], n, least)
		}
	}
}

// TestShrink: of a large case, what makes it fail is left and nothing else.
func TestShrink(t *testing.T) {
	g := rbactest.New(9)
	peer := rbactest.Peers(1)[0]
	// "Fails" where a DENY policy excepts a method, and the target has "dm".
	fails := func(c rbactest.Case) bool {
		for _, p := range c.Policies {
			for _, rule := range p.Rules {
				for _, to := range rule.To {
					for _, test := range to {
						if p.Action == rbac.Deny && test.Attribute == rbac.Attr(rbac.Method) && len(test.NotIn) > 0 && strings.Contains(c.Call.Target, "dm") {
							return true
						}
					}
				}
			}
		}
		return false
	}
	found := 0
	for range 500 {
		c := rbactest.Case{Policies: g.Policies(), Peer: peer}
		c.Call = g.Call(c.Policies)
		if !fails(c) {
			continue
		}
		found++
		got := rbactest.Shrink(c, func(smaller []rbactest.Case) int {
			for i, s := range smaller {
				if fails(s) {
					return i
				}
			}
			return -1
		})
		if !fails(got) || len(got.Policies) != 1 {
			t.Fatalf("shrunk to\n%v", got)
		}
		p := got.Policies[0]
		if got.Call.Target != "/dm" && got.Call.Target != "dm" || len(p.Selector) > 0 || len(p.Rules) != 1 || len(p.Rules[0].From) > 0 ||
			len(p.Rules[0].To) != 1 || len(p.Rules[0].To[0]) != 1 || len(p.Rules[0].To[0][0].NotIn) != 1 || len(p.Rules[0].To[0][0].In) > 0 {
			t.Errorf("shrunk to\n%v", got)
		}
	}
	if found < 10 {
		t.Errorf("%d cases to shrink, want 10 at least", found)
	}
}
