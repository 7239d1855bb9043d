package prove_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/interpret"
	"github.com/istio-auth/istio-auth/rbac/prove"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestWords: the keys are written out in two places, and are the same.
func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		interpret.PathKey: compile.PathKey, interpret.FoldKey: compile.FoldKey, interpret.HostKey: compile.HostKey,
		interpret.IssuerKey: compile.IssuerKey, interpret.SubjectKey: compile.SubjectKey, interpret.PeerKey: compile.PeerKey,
		interpret.WordFilter: compile.WordFilter, interpret.YesKey: compile.WordYes, interpret.NoKey: compile.WordNo,
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestCompiledFilters: what the compiler makes of generated sets, with all
// features, is what they mean. A few are too complex to be settled, and say so.
func TestCompiledFilters(t *testing.T) {
	n := uint64(40)
	if testing.Short() {
		n = 10
	}
	proved, tooComplex := 0, 0
	for seed := range n {
		c := rbactest.New(seed, rbactest.Everything).Case()
		if seed%2 == 0 {
			c.Target.Providers = append([]string{rbac.OwnProvider}, c.Target.Providers...)
		}
		set := rbac.Select(c.Policies, c.Target)
		check := func(kind string, filter *anypb.Any, err error, show func(rbac.Set, *anypb.Any) error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			switch err := show(set, filter); {
			case err == nil:
				proved++
			case errors.Is(err, prove.ErrTooComplex):
				tooComplex++
			default:
				t.Errorf("seed %d: %s: %v", seed, kind, err)
			}
		}
		filter, err := compile.HTTP(set)
		check("http", filter, err, prove.HTTP)
		filter, err = compile.TCP(set)
		check("tcp", filter, err, prove.TCP)
		filter, err = compile.Audit(set)
		check("audit", filter, err, prove.Audit)
		filter, err = compile.Linear(set)
		check("linear", filter, err, prove.HTTP)
		for _, provider := range set.Providers() {
			filter, err = compile.Custom(set, provider)
			check("custom", filter, err, func(set rbac.Set, filter *anypb.Any) error { return prove.Custom(set, provider, filter) })
		}
	}
	if proved < int(n)*4 || tooComplex > proved/50 {
		t.Errorf("%d proved, %d too complex", proved, tooComplex)
	}
}

// TestAnotherSet: a filter of one set is none of another.
func TestAnotherSet(t *testing.T) {
	var before *anypb.Any
	for seed := range uint64(10) {
		set := rbac.Select(rbactest.ByPrincipal.Policies(20, seed), rbactest.Target())
		filter, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		var d *prove.Difference
		if before != nil {
			if err := prove.HTTP(set, before); !errors.As(err, &d) {
				t.Errorf("seed %d: %v", seed, err)
			}
		}
		before = filter
	}
	if err := prove.HTTP(rbac.Set{}, before); !errors.Is(err, prove.ErrUnknownSet) {
		t.Errorf("the zero set: %v", err)
	}
}
