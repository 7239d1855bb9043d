package rbactest_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

var byValue = cmp.Options{
	cmp.Comparer(func(a, b rbac.Pattern) bool { return a == b }),
	cmp.Comparer(func(a, b rbac.Attribute) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b }),
	cmp.Comparer(func(a, b spiffeid.TrustDomain) bool { return a == b }),
}

func TestSeeds(t *testing.T) {
	a, b, c := rbactest.New(1), rbactest.New(1), rbactest.New(2)
	differ := false
	for range 20 {
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

// TestCallsMeetRules: random calls are near enough that every outcome is common,
// and so is every test being satisfied, not, and not to be told.
func TestCallsMeetRules(t *testing.T) {
	for _, row := range []struct {
		name     string
		features rbactest.Features
		least    map[eval.Reason]int // of a thousand
	}{
		{"plain", 0, map[eval.Reason]int{eval.AllowRule: 50, eval.DenyRule: 50, eval.NoAllow: 50, eval.NoAllowMatch: 50, eval.BadPath: 2, eval.NoIdentity: 10, "refused": 20}},
		{"everything", rbactest.Everything, map[eval.Reason]int{
			eval.AllowRule: 50, eval.DenyRule: 50, eval.NoAllow: 50, eval.NoAllowMatch: 50, eval.BadPath: 2, eval.NoIdentity: 10, eval.NoProvider: 2,
			"refused": 20, "asked": 20, "audited": 20, "tcp": 20, "plaintext": 50, "dry": 20,
		}},
	} {
		g := rbactest.New(4, row.features)
		reasons := map[eval.Reason]int{}
		const n = 5000
		for range n / 10 {
			c := g.Case()
			set := c.Selected("")
			trial, dry := set.Trial()
			for range 10 {
				c.Call = g.Call(c.Policies)
				req, err := c.Request()
				if err != nil {
					reasons["refused"]++
					continue
				}
				v := eval.Decide(set, req)
				reasons[v.Reason]++
				for reason, is := range map[eval.Reason]bool{
					"asked": len(v.Ask) > 0, "audited": v.Audit != "", "tcp": c.Call.TCP, "plaintext": req.Peer.ID.IsZero() && v.Reason != eval.NoIdentity,
					"dry": dry && eval.Decide(trial, req).Reason != v.Reason,
				} {
					if is {
						reasons[reason]++
					}
				}
			}
		}
		for reason, least := range row.least {
			if reasons[reason] < n*least/1000 {
				t.Errorf("%s: %s: %d of %d, want %d at least", row.name, reason, reasons[reason], n, n*least/1000)
			}
		}
		t.Logf("%s: %v", row.name, reasons)
	}
}

// TestCaseJSON: a case is read back as it was written.
func TestCaseJSON(t *testing.T) {
	g := rbactest.New(5, rbactest.Everything)
	for range 40 {
		c := g.Case()
		c.Call = g.Call(c.Policies)
		data, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var again rbactest.Case
		if err := json.Unmarshal(data, &again); err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		if diff := cmp.Diff(c, again, byValue, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s\n%s", diff, data)
		}
	}
}

// TestShrink: of a large case, what makes it fail is left and nothing else.
func TestShrink(t *testing.T) {
	g := rbactest.New(9)
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
		c := g.Case()
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

// TestShapes: of each shape, one request is decided by the last policy, and one
// by none.
func TestShapes(t *testing.T) {
	for _, shape := range rbactest.Shapes() {
		for _, n := range []int{1, 10, 1000} {
			policies := shape.Policies(n, 3)
			set := rbac.Select(policies, rbactest.Target())
			last, none := shape.Requests(n, 3)
			if v, want := eval.Decide(set, last), policies[n-1].RuleName(0); v.Rule != want || !v.Allowed {
				t.Errorf("%s of %d: the last request is decided %+v, want %s", shape, n, v, want)
			}
			if v := eval.Decide(set, none); v.Reason != eval.NoAllowMatch {
				t.Errorf("%s of %d: the other request is decided %+v", shape, n, v)
			}
		}
	}
	if got, want := len(rbactest.Shapes()), 6; got != want {
		t.Errorf("%d shapes, want %d", got, want)
	}
}
