package istioauth

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/istio-auth/istio-auth"

// law is all that a package may import of this module: one line a package. A
// package without a line fails, and so does a line without a package. Widening
// a line is a decision about the design: say why in the commit.
//
// Packages below test/ are harnesses. They may import anything; only tests and
// other harnesses may import them.
const law = `
. :

api/v1alpha1       :
attest             :
attest/jointoken   : attest attest/registry
attest/k8stoken    : attest
attest/registry    : attest
attest/workload    : attest
mtls               : attest

ca                 : attest ca/bundle ca/journal ca/keypolicy ca/lint ca/profile ca/signer ca/store
ca/bundle          :
ca/capb            :
ca/catest          : attest ca ca/bundle ca/keypolicy ca/profile
ca/client          : attest ca/bundle ca/capb ca/keypolicy ca/proof mtls
ca/journal         :
ca/keypolicy       :
ca/lint            : ca/keypolicy ca/profile
ca/profile         : attest ca/keypolicy
ca/proof           : ca/keypolicy
ca/server          : attest ca ca/bundle ca/capb ca/keypolicy ca/proof mtls
ca/signer          :
ca/store           : attest ca/bundle

sds                : sds/stream
sds/sdstest        : sds sds/secret
sds/secret         : sds sds/stream
sds/stream         :

nodeagent             : attest nodeagent/renew
nodeagent/csi         : attest nodeagent nodeagent/store
nodeagent/keeper      :
nodeagent/renew       :
nodeagent/store       : attest nodeagent
nodeagent/workloadapi : nodeagent

rbac                     :
rbac/access              : rbac rbac/cel rbac/parse
rbac/analyze             : rbac rbac/parse
rbac/cel                 : rbac
rbac/compile             : rbac rbac/jwks
rbac/distribute          : attest rbac rbac/compile rbac/distribute/policypb rbac/parse rbac/prove sds/stream
rbac/distribute/policypb :
rbac/eval                : rbac
rbac/extauthz            : rbac rbac/eval
rbac/files               : rbac/access rbac/parse
rbac/jwks                : mtls
rbac/grpcauthz           : mtls rbac rbac/eval rbac/index
rbac/index               : rbac rbac/eval
rbac/interpret           : rbac
rbac/kube                : rbac rbac/access
rbac/parse               : rbac rbac/jwks
rbac/token               : rbac rbac/jwks
rbac/prove               : rbac rbac/eval rbac/interpret
rbac/rbactest            : rbac rbac/compile rbac/eval rbac/parse

mesh               :
manager/kube       : attest rbac/distribute
deploy             :
`

// fences name the only packages that may import a family of outside packages.
var fences = map[string][]string{
	"cel.dev/":               {"rbac/cel"},
	"k8s.io/":                {"api", "attest/k8stoken", "rbac/kube", "manager/kube", "nodeagent/csi", "cmd"},
	"istio.io/":              {"rbac/parse", "rbac/kube", "ca/server"},
	"github.com/envoyproxy/": {"sds", "sds/stream", "sds/secret", "sds/sdstest", "rbac/compile", "rbac/distribute", "rbac/extauthz", "mesh", "cmd/internal/bench"},
	"go.step.sm/crypto":      {"ca/signer", "ca/profile", "ca/keypolicy"},
	"github.com/zmap/":       {"ca/lint"},
	"modernc.org/sqlite":     {"ca/store"},
	"google.golang.org/grpc": {"ca/capb", "ca/server", "ca/client", "sds", "sds/sdstest", "nodeagent/workloadapi", "nodeagent/csi", "rbac/distribute", "rbac/extauthz", "rbac/grpcauthz", "cmd"},
	"github.com/spf13/cobra": {"cmd"},
	"github.com/spiffe/go-spiffe/v2/spiffetls": {}, // its configurations are bypassed by session resumption: use mtls
	"net/url":         {"attest", "ca/profile", "ca/lint", "mtls", "rbac/jwks", "cmd"},
	"regexp":          {"cmd"},
	"unsafe":          {},
	"testing":         {"ca/catest", "sds/sdstest", "rbac/rbactest", "cmd/internal/daemon/daemontest"},
	module + "/test/": {},
}

func TestImports(t *testing.T) {
	allowed := map[string][]string{}
	for line := range strings.Lines(law) {
		if pkg, deps, ok := strings.Cut(line, ":"); ok {
			allowed[strings.TrimSpace(pkg)] = strings.Fields(deps)
		}
	}
	seen := map[string]bool{}
	for path := range sources(t) {
		pkg := filepath.ToSlash(filepath.Dir(path))
		under := func(dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }
		if under("test") {
			continue
		}
		// The programs join everything: they may import any package of ours but the test harnesses.
		joins := under("cmd")
		if _, ok := allowed[pkg]; !ok && !joins && !seen[pkg] {
			t.Errorf("%s has no line in the law", pkg)
		}
		seen[pkg] = true
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			imp := strings.Trim(spec.Path.Value, `"`)
			if dep, ours := strings.CutPrefix(imp, module+"/"); ours && !joins && !slices.Contains(allowed[pkg], dep) {
				t.Errorf("%s imports %s, which the law does not allow", path, dep)
			}
			for prefix, owners := range fences {
				inside := slices.ContainsFunc(owners, under) || prefix == "unsafe" && ast.IsGenerated(file)
				if matchesFamily(imp, prefix) && !inside {
					t.Errorf("%s imports %s, fenced to %q", path, imp, owners)
				}
			}
		}
	}
	for pkg := range allowed {
		if !seen[pkg] {
			t.Errorf("the law names %s, which is not here", pkg)
		}
	}
}

// matchesFamily tells whether imp is the family's package or lies below it.
func matchesFamily(imp, family string) bool {
	return imp == family || strings.HasPrefix(imp, strings.TrimSuffix(family, "/")+"/")
}

// sources yields the module's Go files that are not tests. It reads the tree
// itself, since go test's cache tracks the files that a test opens and not
// what a child process reads. It skips dot folders, testdata, and modules of
// their own. Finding nothing is an error.
func sources(t *testing.T) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." {
			_, err := os.Stat(filepath.Join(path, "go.mod"))
			if err == nil || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			files[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 2 {
		t.Fatalf("found %d source files: the walk is broken", len(files))
	}
	return files
}
