package compile_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden: what a policy becomes, to be read in review.
func TestGolden(t *testing.T) {
	ins, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(ins), 7; got != want {
		t.Fatalf("%d golden files, want %d", got, want)
	}
	for _, in := range ins {
		t.Run(filepath.Base(in), func(t *testing.T) {
			data, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			var policies []rbac.Policy
			if !bytes.Equal(bytes.TrimSpace(data), []byte("# none")) {
				if policies, err = parse.Policies(in, data); err != nil {
					t.Fatal(err)
				}
			}
			packed, err := compile.HTTP(rbac.Select(policies, rbactest.Target()))
			if err != nil {
				t.Fatal(err)
			}
			got := readable(t, packed)
			out := strings.TrimSuffix(in, ".in.yaml") + ".out.yaml"
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
		})
	}
}

// readable is a filter as YAML.
func readable(t testing.TB, packed *anypb.Any) []byte {
	t.Helper()
	filter := &rbacfilterv3.RBAC{}
	if err := packed.UnmarshalTo(filter); err != nil {
		t.Fatal(err)
	}
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(filter)
	if err != nil {
		t.Fatal(err)
	}
	var tree any // protojson varies its white space on purpose
	if err := json.Unmarshal(data, &tree); err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestEqualSetsCompileAlike: the same bytes for the same policies in any order,
// and other bytes and another digest for another meaning.
func TestEqualSetsCompileAlike(t *testing.T) {
	policies := rbactest.Policies(100, 5)
	compiled := func(policies []rbac.Policy) ([]byte, [32]byte) {
		set := rbac.Select(policies, rbactest.Target())
		packed, err := compile.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		return packed.Value, set.Digest()
	}
	first, digest := compiled(policies)
	for i, j := 0, len(policies)-1; i < j; i, j = i+1, j-1 {
		policies[i], policies[j] = policies[j], policies[i]
	}
	if again, sum := compiled(policies); !bytes.Equal(first, again) || sum != digest {
		t.Error("another order compiles to other bytes, or has another digest")
	}
	policies[0].Rules = append(policies[0].Rules, rbac.Rule{})
	if other, sum := compiled(policies); bytes.Equal(first, other) || sum == digest {
		t.Error("one rule more compiles to the same bytes, or has the same digest")
	}
}

// TestUnparsedPatternsMatchNothing: a leaf that was not parsed cannot widen.
func TestUnparsedPatternsMatchNothing(t *testing.T) {
	var rules []rbac.Rule
	for kind := rbac.Principal; kind < rbac.Claim; kind++ {
		if a := rbac.Attr(kind); a != (rbac.Attribute{}) {
			rules = append(rules, rbac.Rule{When: rbac.Clause{{Attribute: a, In: []rbac.Pattern{{}}}}})
		}
	}
	bad := rbac.Policy{Namespace: rbactest.Namespace, Name: "bad", Action: rbac.Allow, Rules: rules}
	packed, err := compile.HTTP(rbac.Select([]rbac.Policy{bad}, rbactest.Target()))
	if err != nil {
		t.Fatal(err)
	}
	if text := string(readable(t, packed)); strings.Contains(text, "shop/bad/") {
		t.Errorf("a rule of leaves that nobody parsed is there:\n%s", text)
	}
}
