package kube

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

func object(uid, version string, spec any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
		"metadata": map[string]any{"namespace": "shop", "name": "p", "uid": uid, "resourceVersion": version},
		"spec":     spec,
	}}
}

// TestReader: the life of one object, step by step.
func TestReader(t *testing.T) {
	allow := map[string]any{"rules": []any{map[string]any{}}}
	deny := map[string]any{"action": "DENY", "rules": []any{map[string]any{}}}
	bad := map[string]any{"rules": "x"}
	r := reader{}
	steps := []struct {
		name     string
		object   *unstructured.Unstructured
		want     string // action and number of rules
		replaced string
	}{
		{"bad from the first", object("1", "1", bad), "DENY 1", "deny-all"},
		{"still bad", object("1", "2", bad), "DENY 1", "deny-all"},
		{"good", object("1", "3", allow), "ALLOW 1", ""},
		{"bad", object("1", "4", bad), "ALLOW 1", "last-good"},
		{"bad again", object("1", "5", bad), "ALLOW 1", "last-good"},
		{"unchanged", object("1", "5", bad), "ALLOW 1", "last-good"},
		{"made anew, bad", object("2", "6", bad), "ALLOW 1", "last-good"},
		{"good", object("2", "7", deny), "DENY 1", ""},
		{"gone", nil, "", ""},
		{"comes again, bad", object("3", "8", bad), "DENY 1", "deny-all"},
	}
	for _, step := range steps {
		var objects []any
		if step.object != nil {
			objects = []any{step.object}
		}
		read, err := r.read(objects)
		policies, got := read.Policies, ""
		if len(policies) == 1 {
			got = policies[0].Action.String() + " " + string(rune('0'+len(policies[0].Rules)))
		}
		if got != step.want {
			t.Errorf("%s: got %q, want %q", step.name, got, step.want)
		}
		replaced := ""
		if err != nil {
			replaced = err.(interface{ Unwrap() []error }).Unwrap()[0].(*BadObject).Replaced
		}
		if replaced != step.replaced {
			t.Errorf("%s: %q in force, want %q", step.name, replaced, step.replaced)
		}
	}
	if _, err := r.read([]any{"x"}); err == nil {
		t.Error("an object of another type is no error")
	}
}

// TestStandIn: what is in force for a bad object selects what that selected, or
// more, never less.
func TestStandIn(t *testing.T) {
	labels := map[string]any{"app": "web"}
	for name, row := range map[string]struct {
		spec any
		want int // labels of the selector
	}{
		"selector":         {map[string]any{"selector": map[string]any{"matchLabels": labels}}, 1},
		"none":             {map[string]any{}, 0},
		"no spec":          {nil, 0},
		"spec of a string": {"x", 0},
		"half understood":  {map[string]any{"selector": map[string]any{"matchLabels": labels, "matchExpressions": []any{}}}, 0},
		"no strings":       {map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": int64(1)}}}, 0},
		"a list":           {map[string]any{"selector": []any{"x"}}, 0},
	} {
		for kind, want := range map[string]string{
			policyKind: "deny-all AuthorizationPolicy shop/p DENY 1", access.RuleKind: "deny-all AuthorizationPolicy shop/accessrule.p DENY 1",
			access.GrantKind: "allow-none AuthorizationPolicy shop/accessgrant.p ALLOW 0", access.RoleKind: "none", requestKind: "none",
			peerKind: "strict PeerAuthentication shop/p STRICT",
		} {
			u := object("1", "1", row.spec)
			u.SetKind(kind)
			o, word := standIn(u)
			got := strings.Join(append([]string{word}, o.Keys()...), " ")
			var selected map[string]string
			switch {
			case len(o.Policies) == 1:
				p := o.Policies[0]
				got += fmt.Sprintf(" %s %d", p.Action, len(p.Rules))
				selected = p.Selector
			case len(o.Peers) == 1:
				got += " " + o.Peers[0].Mode.String()
				if selected = o.Peers[0].Selector; !o.Peers[0].Created.IsZero() {
					t.Error("a younger one could go before it")
				}
			}
			if got != want || len(selected) != row.want && want != "none" {
				t.Errorf("%s of %s: got %q, selecting %v", name, kind, got, selected)
			}
		}
	}
	for _, row := range []struct {
		rule map[string]any
		want string
	}{
		{map[string]any{"issuer": "i", "jwksUrl": "x"}, "none"},
		{map[string]any{"issuer": "i", "jwksUrl": "x", "outputPayloadToHeader": "x"}, "deny-all"},
		{map[string]any{"issuer": "i", "outputClaimToHeaders": []any{}}, "deny-all"},
		{map[string]any{"issuer": "i", "OutputClaimsToHeader": []any{}}, "deny-all"},
	} {
		u := object("1", "1", map[string]any{"jwtRules": []any{row.rule}})
		u.SetKind(requestKind)
		if o, word := standIn(u); word != row.want || (len(o.Policies) == 1) != (word == "deny-all") {
			t.Errorf("%v: got %s %v", row.rule, word, o.Keys())
		}
	}
}

// TestStandInsAreTaken: whatever bad objects are called, what stands in for them
// is what an agent takes: no two of one name, and no name too long. A set with one
// that it does not take is refused whole, and an author could so keep the mesh's
// own policies from his workloads.
func TestStandInsAreTaken(t *testing.T) {
	bad := map[string]any{"rules": "x", "outputs": "x"}
	good := map[string]any{"roleRef": map[string]any{"name": "r"}, "subjects": []any{map[string]any{"namespaces": []any{"a"}}}}
	long := strings.Repeat("a", 199)
	var objects []any
	add := func(kind, name string, spec any) {
		u := object(kind+name, "1", spec)
		u.SetKind(kind)
		u.SetName(name)
		if strings.HasPrefix(kind, "Access") {
			u.SetAPIVersion(access.APIVersion)
		}
		objects = append(objects, u)
	}
	add(access.GrantKind, "x", good)
	add(access.GrantKind, long, good)
	names := []string{
		"x", "accessgrant.x", "accessrule.x", "requestauthentication.x", "authorizationpolicy.x", "authorizationpolicy.accessgrant.x",
		long, long + "aa", long + "aaa", "accessgrant." + long, strings.Repeat("a.", 126) + "a", strings.Repeat("a", 179) + "-" + strings.Repeat("b", 73),
	}
	for _, name := range names {
		for _, kind := range []string{policyKind, requestKind, access.RuleKind, access.GrantKind} {
			if kind != access.GrantKind || name != "x" && name != long {
				add(kind, name, bad)
			}
		}
	}
	all, err := reader{}.read(objects)
	if n := strings.Count(fmt.Sprint(err), "in force: "); n != len(objects)-2 {
		t.Errorf("%d are bad, want %d: %v", n, len(objects)-2, err)
	}
	policies, _ := access.Resolve(all, "root")
	if len(policies) != len(objects) {
		t.Errorf("%d policies of %d objects", len(policies), len(objects))
	}
	seen := map[string]bool{}
	for _, p := range policies {
		p.Selector = nil
		if _, err := parse.Wire(parse.JSON(p)); err != nil || seen[p.Key()] {
			t.Errorf("%s: %v, or there twice", p.Key(), err)
		}
		seen[p.Key()] = true
	}
}
