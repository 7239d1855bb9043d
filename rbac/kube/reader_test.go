package kube

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istio-auth/istio-auth/rbac"
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
		policies, err := r.read(objects)
		got := ""
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

// TestDenyAll selects what the bad object selected, or more, never less.
func TestDenyAll(t *testing.T) {
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
		p := denyAll(object("1", "1", row.spec))
		if p.Action != rbac.Deny || len(p.Rules) != 1 || len(p.Selector) != row.want {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
