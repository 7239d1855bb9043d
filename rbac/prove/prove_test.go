package prove_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

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
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestCompiledFilters: what the compiler makes of generated sets, with all
// features, is what they mean.
func TestCompiledFilters(t *testing.T) {
	n := 6
	if s := os.Getenv("N"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	failed := 0
	only := os.Getenv("SEEDS")
	for seed := range uint64(n) {
		if only != "" && !slices.Contains(strings.Fields(only), fmt.Sprint(seed)) {
			continue
		}
		c := rbactest.New(seed, rbactest.Everything).Case()
		set := rbac.Select(c.Policies, c.Target)
		began := time.Now()
		check := func(kind string, err error) {
			if d := time.Since(began); d > 300*time.Millisecond {
				t.Logf("seed %d: %s: %v", seed, kind, d)
			}
			began = time.Now()
			if err != nil {
				if failed++; failed < 12 {
					t.Errorf("seed %d: %s: %v", seed, kind, err)
				}
			}
		}
		filter, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		check("http", prove.HTTP(set, filter))
		if filter, err = compile.TCP(set); err != nil {
			t.Fatal(err)
		}
		check("tcp", prove.TCP(set, filter))
		if filter, err = compile.Audit(set); err != nil {
			t.Fatal(err)
		}
		check("audit", prove.Audit(set, filter))
		for _, provider := range set.Providers() {
			if filter, err = compile.Custom(set, provider); err != nil {
				t.Fatal(err)
			}
			check("custom", prove.Custom(set, provider, filter))
		}
	}
	if failed > 0 {
		t.Errorf("%d failed", failed)
	}
	var d *prove.Difference
	_ = errors.As(nil, &d)
}
