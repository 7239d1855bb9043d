package compile_test

import (
	"bytes"
	"testing"

	// What is packed in a filter.
	_ "github.com/cncf/xds/go/xds/type/matcher/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/ip/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/metadata/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// wellFormed decodes a filter and what is packed in it, asks for Envoy's
// constraints, and marshals it again: no field is unknown, and none is written
// longer than it need be.
func wellFormed(t *testing.T, filter *anypb.Any, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	name := filter.MessageName()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		t.Fatal(err)
	}
	m := kind.New().Interface()
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(filter.Value, m); err != nil {
		t.Fatal(err)
	}
	if m, ok := m.(interface{ ValidateAll() error }); ok {
		if err := m.ValidateAll(); err != nil {
			t.Errorf("Envoy would not take a %s: %v", name, err)
		}
	}
	if got, want := len(filter.Value), proto.Size(m); got != want {
		t.Errorf("a %s has %d bytes, and protobuf writes %d", name, got, want)
	}
	packed(m.ProtoReflect(), func(inner *anypb.Any) { wellFormed(t, inner, nil) })
}

// packed calls yield for each Any in m, but not for those in an Any.
func packed(m protoreflect.Message, yield func(*anypb.Any)) {
	if inner, ok := m.Interface().(*anypb.Any); ok {
		yield(inner)
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				packed(v.Message(), yield)
				return true
			})
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				packed(v.List().Get(i).Message(), yield)
			}
		case !f.IsMap() && f.Message() != nil:
			packed(v.Message(), yield)
		}
		return true
	})
}

// TestWire: what is written byte by byte is as protobuf would write it, of random
// policies for every kind of filter, and a Compiler that has seen other sets
// writes the same.
func TestWire(t *testing.T) {
	g := rbactest.New(5)
	var used compile.Compiler
	for i := range 1500 {
		policies := g.Policies()
		target := rbactest.Target()
		target.Plaintext = i%3 == 0
		set := rbac.Select(policies, target)
		for name, f := range map[string][2]func() (*anypb.Any, error){
			"HTTP":   {func() (*anypb.Any, error) { return compile.HTTP(set) }, func() (*anypb.Any, error) { return used.HTTP(set) }},
			"TCP":    {func() (*anypb.Any, error) { return compile.TCP(set) }, func() (*anypb.Any, error) { return used.TCP(set) }},
			"Audit":  {func() (*anypb.Any, error) { return compile.Audit(set) }, func() (*anypb.Any, error) { return used.Audit(set) }},
			"Custom": {func() (*anypb.Any, error) { return compile.Custom(set, "p") }, func() (*anypb.Any, error) { return used.Custom(set, "p") }},
			"Linear": {func() (*anypb.Any, error) { return compile.Linear(set) }, func() (*anypb.Any, error) { return compile.Linear(set) }},
		} {
			one, err := f[0]()
			wellFormed(t, one, err)
			two, err := f[1]()
			if err != nil || !bytes.Equal(one.Value, two.Value) {
				t.Errorf("%s: a Compiler that was used before writes otherwise: %v", name, err)
			}
			if t.Failed() {
				t.Fatalf("%s of case %d: %v", name, i, policies)
			}
		}
	}
}
