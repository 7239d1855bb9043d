package compile_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// mismatches reads every case that evaluators have ever decided differently, as
// it was shrunk. Each came with its fix.
func mismatches(t testing.TB) (names []string, cases []rbactest.Case) {
	t.Helper()
	names, err := filepath.Glob("testdata/mismatches/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(names), 5; got != want {
		t.Fatalf("%d files, want %d", got, want)
	}
	for i, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		c := rbactest.Case{}
		if err := json.Unmarshal(data, &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c.Set = i
		cases = append(cases, c)
	}
	return names, cases
}

// TestMismatches: what was once decided differently no longer is.
func TestMismatches(t *testing.T) {
	names, cases := mismatches(t)
	var n tally
	for _, m := range decideAll(t, newAuthority(t), cases, &n) {
		t.Errorf("%s: %v", names[m.input.Set], m)
	}
	if got, want := int(n.n.Load()), len(cases); got != want {
		t.Errorf("decided %d cases, want %d", got, want)
	}
}
