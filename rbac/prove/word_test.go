package prove_test

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/interpret"
	"github.com/istio-auth/istio-auth/rbac/prove"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// comparing is a set that compares in an ALLOW and in a DENY policy.
func comparing(t *testing.T, lead string, providers ...string) rbac.Set {
	t.Helper()
	tenant, err := rbac.HeaderAttr("x-tenant")
	if err != nil {
		t.Fatal(err)
	}
	rules := func(c rbac.Comparison) []rbac.Rule {
		return []rbac.Rule{{Expression: &rbac.Expression{Op: rbac.Compare, Comparison: c}}}
	}
	target := rbactest.Target()
	target.Providers = providers
	return rbac.Select([]rbac.Policy{
		{Namespace: target.Namespace, Name: "mine", Action: rbac.Allow, Rules: rules(rbac.Comparison{Left: rbac.Attr(rbac.Path), How: rbac.Prefix, Lead: lead, Right: tenant, Trail: "/"})},
		{Namespace: target.Namespace, Name: "not", Action: rbac.Deny, Rules: rules(rbac.Comparison{Left: rbac.Attr(rbac.Host), How: rbac.Exact, Right: tenant})},
		{Namespace: target.Namespace, Name: "mark", Action: rbac.Audit, Rules: rules(rbac.Comparison{Left: rbac.Attr(rbac.Host), How: rbac.Suffix, Right: tenant})},
	}, target)
}

// TestWord: the word of our own provider is taken where it is there, by its very
// names, and nothing else is.
func TestWord(t *testing.T) {
	told, untold, other := comparing(t, "/a/", rbac.OwnProvider), comparing(t, "/a/", "another"), comparing(t, "/b/", rbac.OwnProvider)
	filter := func(set rbac.Set) *anypb.Any {
		f, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, set := range []rbac.Set{told, untold, other} {
		if err := prove.HTTP(set, filter(set)); err != nil {
			t.Error(err)
		}
		audit, err := compile.Audit(set)
		if err == nil {
			err = prove.Audit(set, audit)
		}
		if err != nil {
			t.Error(err)
		}
	}
	var prover prove.Prover // remembers no rule of the one for the other
	for name, row := range map[string]struct {
		set  rbac.Set
		from rbac.Set
	}{
		"a word for none":   {untold, told},
		"none for a word":   {told, untold},
		"another's word":    {told, other},
		"a word of another": {other, told},
	} {
		if err := prover.HTTP(row.set, filter(row.set)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := prover.HTTP(row.set, filter(row.from)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for from, to := range map[string]string{compile.WordFilter: "envoy.filters.http.ext_authx", "\x03yes": "\x03yos", "\x02no": "\x02na"} {
		spoiled := proto.CloneOf(filter(told))
		if !bytes.Contains(spoiled.Value, []byte(from)) {
			t.Fatalf("no %q in the filter", from)
		}
		spoiled.Value = bytes.ReplaceAll(spoiled.Value, []byte(from), []byte(to))
		if err := prove.HTTP(told, spoiled); !errors.Is(err, prove.ErrUnknown) && !errors.Is(err, interpret.ErrUnknown) {
			t.Errorf("%q for %q: %v", to, from, err)
		}
	}
}
