package compile_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/extauthz"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestWord: what comparisons become where our own provider is asked, to be read
// in review; and that without it they are constants, as they are in the filter
// that says whether to ask, and for connections.
func TestWord(t *testing.T) {
	if compile.WordYes != extauthz.YesKey || compile.WordNo != extauthz.NoKey {
		t.Error("the provider's words are others")
	}
	tenant, err := rbac.HeaderAttr("x-tenant")
	if err != nil {
		t.Fatal(err)
	}
	compare := func(c rbac.Comparison) rbac.Expression { return rbac.Expression{Op: rbac.Compare, Comparison: c} }
	rules := func(e ...rbac.Expression) []rbac.Rule {
		return []rbac.Rule{{Expression: &rbac.Expression{Op: rbac.Any, Terms: e}}}
	}
	mine := compare(rbac.Comparison{Left: rbac.Attr(rbac.Path), How: rbac.Prefix, Lead: "/users/", Right: rbac.Attr(rbac.Namespace), Trail: "/"})
	host := compare(rbac.Comparison{Left: rbac.Attr(rbac.Host), How: rbac.Exact, Right: tenant})
	target := rbactest.Target()
	policies := []rbac.Policy{
		{Namespace: target.Namespace, Name: "mine", Action: rbac.Allow, Rules: rules(mine, host)},
		{Namespace: target.Namespace, Name: "host", Action: rbac.Deny, Rules: rules(host)},
		{Namespace: target.Namespace, Name: "ask", Action: rbac.Custom, Provider: rbac.OwnProvider, Rules: rules(mine)},
	}
	target.Providers = []string{rbac.OwnProvider}
	set := rbac.Select(policies, target)
	packed, err := compile.HTTP(set)
	if err != nil {
		t.Fatal(err)
	}
	got := readable(t, packed)
	const out = "testdata/word.yaml"
	if *update {
		if err := os.WriteFile(out, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("run go test ./rbac/compile -update and read the difference:\n%s", diff)
	}
	custom, err := compile.Custom(set, rbac.OwnProvider)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := compile.TCP(set)
	if err != nil {
		t.Fatal(err)
	}
	target.Providers = []string{"another"}
	untold, err := compile.HTTP(rbac.Select(policies, target))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{"custom": custom.Value, "tcp": tcp.Value, "untold": untold.Value} {
		if strings.Contains(string(value), compile.WordFilter) {
			t.Errorf("%s: takes a word", name)
		}
	}
	// A compiler that goes on with the same policies and another set of providers
	// takes none of the old.
	var c compile.Compiler
	for range 2 {
		for _, providers := range [][]string{{"another"}, {rbac.OwnProvider}} {
			target.Providers = providers
			again, err := c.HTTP(rbac.Select(policies, target))
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool][]byte{true: packed.Value, false: untold.Value}[providers[0] == rbac.OwnProvider]; !slices.Equal(again.Value, want) {
				t.Errorf("%s: another filter than at once", providers)
			}
		}
	}
}
