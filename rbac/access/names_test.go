package access_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	securityv1beta1 "istio.io/api/security/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/istio-auth/istio-auth/api/v1alpha1"
	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/test/testreq"
)

// specs are the Go types of what is in our kinds.
var specs = map[string]any{"AccessRole": v1alpha1.AccessRoleSpec{}, "AccessGrant": v1alpha1.AccessGrantSpec{}, "AccessRule": v1alpha1.AccessRuleSpec{}}

// fieldsOf lists the structures of a Go type by their paths, each with its fields.
func fieldsOf(t reflect.Type, path string, into map[string][]string) {
	switch t.Kind() {
	case reflect.Pointer:
		fieldsOf(t.Elem(), path, into)
	case reflect.Slice:
		fieldsOf(t.Elem(), path+"[]", into)
	case reflect.Struct:
		into[path] = []string{}
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			into[path] = append(into[path], name)
			fieldsOf(t.Field(i).Type, path+"."+name, into)
		}
		slices.Sort(into[path])
	}
}

// schemaOf does so for a schema of a definition.
func schemaOf(schema map[string]any, path string, into map[string][]string) {
	if items, ok := schema["items"].(map[string]any); ok {
		schemaOf(items, path+"[]", into)
	}
	if properties, ok := schema["properties"].(map[string]any); ok {
		into[path] = slices.Sorted(maps.Keys(properties))
		if schema["x-kubernetes-preserve-unknown-fields"] != true {
			into[path] = append(into[path], "(unknown fields are dropped)")
		}
		for name, p := range properties {
			schemaOf(p.(map[string]any), path+"."+name, into)
		}
	}
}

// TestNames: the Go types, the definitions and the reader know the same fields.
func TestNames(t *testing.T) {
	paths := 0
	for kind, spec := range specs {
		types, schema := map[string][]string{}, map[string][]string{}
		fieldsOf(reflect.TypeOf(spec), "spec", types)
		data, err := os.ReadFile(filepath.Join(testreq.Tree(t), "deploy", "chart", "crds", "istio-auth.io_"+strings.ToLower(kind)+"s.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var crd struct {
			Spec struct {
				Versions []struct {
					Schema struct {
						OpenAPI struct {
							Properties map[string]map[string]any `json:"properties"`
						} `json:"openAPIV3Schema"`
					} `json:"schema"`
				} `json:"versions"`
			} `json:"spec"`
		}
		if err := yaml.Unmarshal(data, &crd); err != nil {
			t.Fatal(err)
		}
		schemaOf(crd.Spec.Versions[0].Schema.OpenAPI.Properties["spec"], "spec", schema)
		if diff := cmp.Diff(types, schema); diff != "" {
			t.Errorf("%s: -Go +definition\n%s", kind, diff)
		}
		for path, names := range types {
			paths++
			for _, name := range names {
				if reason := asked(kind, path, name); reason == "unknown-field" || reason == "" {
					t.Errorf("%s: the reader does not know %s.%s: %q", kind, path, name, reason)
				}
			}
			if reason := asked(kind, path, "unheardOf"); reason != "unknown-field" {
				t.Errorf("%s: the reader takes whatever is in %s: %q", kind, path, reason)
			}
		}
		for path, message := range map[string]proto.Message{
			"spec.sources[]": &securityv1beta1.Source{}, "spec.operations[]": &securityv1beta1.Operation{}, "spec.when[]": &securityv1beta1.Condition{},
			"spec.permissions[].operations[]": &securityv1beta1.Operation{}, "spec.permissions[].when[]": &securityv1beta1.Condition{},
		} {
			if types[path] == nil {
				continue
			}
			var want []string
			for i := range message.ProtoReflect().Descriptor().Fields().Len() {
				want = append(want, message.ProtoReflect().Descriptor().Fields().Get(i).JSONName())
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, types[path]); diff != "" {
				t.Errorf("%s: %s: -istio.io/api +ours\n%s", kind, path, diff)
			}
		}
	}
	if paths != 14 {
		t.Errorf("%d structures, want 14", paths)
	}
}

// asked is why a document is refused that has nothing in its spec but a field of
// a path, whose value is of no type that any field has.
func asked(kind, path, field string) string {
	var value any = map[string]any{field: nil}
	parts := strings.Split(path, ".")[1:]
	for _, part := range slices.Backward(parts) {
		name, list := strings.CutSuffix(part, "[]")
		if list {
			value = []any{value}
		}
		fields := map[string]any{name: value}
		// What the reader looks at first.
		switch {
		case kind == "AccessRule" && len(parts) == 1 && name != "action":
			fields["action"] = "DENY"
		case kind == "AccessGrant" && len(parts) == 1 && name != "roleRef":
			fields["roleRef"] = map[string]any{"name": "r"}
		}
		value = fields
	}
	spec := value.(map[string]any)
	if len(parts) == 0 && field != "action" && kind == "AccessRule" && field != "unheardOf" {
		spec["action"] = "DENY"
	}
	data, err := yaml.Marshal(map[string]any{
		"apiVersion": access.APIVersion, "kind": kind, "metadata": map[string]any{"name": "x", "namespace": "y"}, "spec": spec,
	})
	if err != nil {
		return err.Error()
	}
	_, err = access.Read("test", data)
	var e *parse.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Reason
}
