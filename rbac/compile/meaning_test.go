package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/interpret"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestMeaning: what the interpreter of filters decides is what eval decides, for
// every filter and every feature that a filter can express. It is the quick
// relative of TestEnvoyAgrees.
func TestMeaning(t *testing.T) {
	meaning(t, rbactest.New(*firstSeed, rbactest.Everything&^rbactest.Comparisons), 1000, func(*rbactest.Case) {})
}

// TestMeaningOfComparisons: with our own provider's word the filters decide what
// eval decides, comparisons too. Without it they are narrower.
func TestMeaningOfComparisons(t *testing.T) {
	counts := meaning(t, rbactest.New(*firstSeed+1, rbactest.Everything), 500, func(c *rbactest.Case) {
		c.Target.Providers = append(slices.Clone(c.Target.Providers), rbac.OwnProvider)
	})
	if counts["Told"] == 0 {
		t.Error("no word decides anything: the mixture shows little")
	}
}

func meaning(t *testing.T, g *rbactest.Generator, sets int, change func(*rbactest.Case)) map[string]int {
	const calls = 20
	var used compile.Compiler
	counts := map[string]int{}
	for i := range sets {
		c := g.Case()
		change(&c)
		if i%5 == 0 { // many policies, so that trees are high
			for j := range 20 {
				for _, p := range g.Policies() {
					p.Name = fmt.Sprintf("%s-%d", p.Name, j)
					c.Policies = append(c.Policies, p)
				}
			}
		}
		set := rbac.Select(c.Policies, c.Target)
		filters := map[string]*interpret.Filter{}
		for name, f := range filtersOf(&used) {
			packed, err := f(set)
			if err != nil {
				t.Fatalf("%s: %v\n%v", name, err, c)
			}
			if filters[name], err = interpret.Decode(packed); err != nil {
				t.Fatalf("%s: %v\n%v", name, err, c)
			}
		}
		for range calls {
			c.Call = g.Call(c.Policies)
			req, err := c.Request()
			if err != nil || !utf8.ValidString(rbac.FoldPath(req.Path)) {
				// RE2 reads UTF-8, so that no template matches other bytes.
				continue
			}
			for what, differs := range differences(filters, set, req) {
				counts[what]++
				if differs != "" {
					t.Fatalf("%s: %s\n%v", what, differs, c)
				}
			}
		}
	}
	t.Log(counts)
	return counts
}

func filtersOf(c *compile.Compiler) map[string]func(rbac.Set) (*anypb.Any, error) {
	filters := map[string]func(rbac.Set) (*anypb.Any, error){
		"HTTP": c.HTTP, "TCP": c.TCP, "Audit": c.Audit, "Linear": compile.Linear,
	}
	for _, p := range rbactest.Providers {
		filters["Custom "+p] = func(s rbac.Set) (*anypb.Any, error) { return c.Custom(s, p) }
	}
	return filters
}

// differences says of each decision what it is, and how it differs, if it does.
func differences(filters map[string]*interpret.Filter, set rbac.Set, req rbac.Request) map[string]string {
	out := map[string]string{}
	untold := interpret.FromRequest(req)
	a := untold.Told(eval.Compared(set, req))
	if a.State == nil {
		a.State = map[string]string{}
	}
	if !req.Peer.ID.IsZero() {
		a.State[compile.PeerKey] = req.Peer.ID.String()
	}
	want := eval.Decide(set, req)
	compare := func(name string, got, want bool) {
		if got != want {
			out[name] = "got the opposite"
		} else if got {
			out[name+" yes"] = ""
		} else {
			out[name+" no"] = ""
		}
	}
	if req.Protocol == rbac.TCP {
		compare("TCP", filters["TCP"].Decide(a).Allowed, want.Allowed && len(want.Ask) == 0)
		return out
	}
	got := filters["HTTP"].Decide(a)
	if without := filters["HTTP"].Decide(untold); without.Allowed != got.Allowed {
		if out["Told"] = ""; without.Allowed {
			out["Told"] = "without a word it is wider"
		}
	}
	compare("HTTP", got.Allowed, want.Allowed)
	compare("Linear", filters["Linear"].Decide(a).Allowed, want.Allowed)
	if want.Rule == "" && got.Name != string(want.Reason) && got.Name != "" {
		out["HTTP"] = "got " + got.Name + ", want " + string(want.Reason)
	}
	if trial, dry := set.Trial(); dry {
		compare("Trial", filters["HTTP"].Shadow.Decide(a).Allowed, eval.Decide(trial, req).Allowed)
	}
	guarded := slices.Contains([]eval.Reason{eval.NoIdentity, eval.BadPath, eval.NoMethod}, want.Reason)
	if guarded || want.Reason == eval.NoProvider {
		return out // whether a provider is asked, or a mark is set, is all one
	}
	audit := filters["Audit"].Decide(a)
	compare("Audit", audit.Kind == interpret.Log, want.Audit != "")
	if !audit.Allowed {
		out["Audit"] = "refuses"
	}
	for _, p := range rbactest.Providers {
		d := filters["Custom "+p].Shadow.Decide(a)
		asks, should := d.Name != compile.NoAsk, slices.Contains(want.Ask, p)
		if slices.Contains(set.Providers(), rbac.OwnProvider) && asks {
			should = true // before the asking there is no word: a comparison may hold
		}
		compare("Custom", asks, should)
		if d.Allowed != (d.Name == compile.NoAsk) || !d.Allowed && !strings.HasPrefix(d.Name, compile.AskPrefix) {
			out["Custom"] = "says " + d.Name
		}
	}
	return out
}
