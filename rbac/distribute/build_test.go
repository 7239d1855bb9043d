package distribute

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/rbac/prove"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestOnlyWhatIsProvedGoesOut: a filter that does what another set means is
// refused, with a request that shows it, and so is one that cannot be read.
func TestOnlyWhatIsProvedGoesOut(t *testing.T) {
	set := func(spec string) rbac.Set {
		policies, err := parse.Policies("test", []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: "+spec))
		if err != nil {
			t.Fatal(err)
		}
		return rbac.Select(policies, rbactest.Target())
	}
	narrow, wide := set(`{rules: [{to: [{operation: {paths: [/a]}}]}]}`), set(`{rules: [{to: [{operation: {paths: ["/a*"]}}]}]}`)
	asCompiled := part{FilterName, compile.HTTP, prove.HTTP}
	if _, err := asCompiled.make(narrow); err != nil {
		t.Errorf("refused: %v", err)
	}
	for name, compiled := range map[string]func(rbac.Set) (*anypb.Any, error){
		"wider":    func(rbac.Set) (*anypb.Any, error) { return compile.HTTP(wide) },
		"narrower": func(rbac.Set) (*anypb.Any, error) { return compile.HTTP(set("{}")) },
		"garbage":  func(rbac.Set) (*anypb.Any, error) { return &anypb.Any{TypeUrl: "type.googleapis.com/x"}, nil },
	} {
		_, err := part{FilterName, compiled, prove.HTTP}.make(narrow)
		var r *Refusal
		if !errors.As(err, &r) || r.Reason != "not-proved" {
			t.Errorf("%s: got %v, want not-proved", name, err)
		}
		var d *prove.Difference
		if name != "garbage" && !errors.As(err, &d) {
			t.Errorf("%s: no request shows it: %v", name, err)
		}
	}
}
