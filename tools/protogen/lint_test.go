package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const good = `syntax = "proto3";
package istioauth.x.v1;
// M is one.
message M { string a_b = 1; enum E { E_UNSPECIFIED = 0; E_A = 1; } }
// S is one.
service S {
  // R does.
  rpc R(stream M) returns (stream M);
}
`

func TestLint(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"good":                 {"", "", ""},
		"unversioned package":  {"istioauth.x.v1", "istioauth.x", "package is not"},
		"foreign package":      {"istioauth.x.v1", "other.x.v1", "package is not"},
		"camelCase field":      {"a_b", "aB", "lower_snake_case"},
		"zero that means":      {"E_UNSPECIFIED", "E_NONE", "_UNSPECIFIED"},
		"lower enum value":     {"E_A", "e_a", "UPPER_SNAKE_CASE"},
		"undocumented service": {"// S is one.\n", "", "has no comment"},
		"undocumented method":  {"  // R does.\n", "", "has no comment"},
		"lower message":        {"message M {", "message m {} message M {", "CamelCase"},
		"proto2":               {`syntax = "proto3"`, `syntax = "proto2"`, "proto"},
	} {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "x.proto"), []byte(strings.Replace(good, c.old, c.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := compile(t.Context(), root, "x.proto")
		var got []string
		if err != nil {
			got = append(got, err.Error())
		} else {
			for _, problem := range lint(file) {
				got = append(got, problem.Error())
			}
		}
		if text := strings.Join(got, "\n"); (c.want == "") != (len(got) == 0) || !strings.Contains(text, c.want) {
			t.Errorf("%s: got %q, want %q", name, text, c.want)
		}
	}
}

// TestOurs: what is committed passes, and imports nothing that is not built in.
func TestOurs(t *testing.T) {
	for _, path := range []string{"ca/capb/ca.proto", "rbac/distribute/policypb/policy.proto"} {
		file, err := compile(t.Context(), "../..", path)
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range lint(file) {
			t.Error(problem)
		}
	}
}
