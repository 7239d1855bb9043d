package istioauth

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Budgets of shape. Past one, split; or, where the whole reads better than its
// parts, say why in overBudget.
const (
	maxFile   = 600
	maxFunc   = 100
	maxParams = 5
)

// overBudget maps "file.go:Func" or "file.go:file" to why it may be larger.
var overBudget = map[string]string{}

// decidesForMain are calls with which a library would decide for its program.
var decidesForMain = map[string]string{
	"os.Getenv":          "configuration reaches a library as a value",
	"os.LookupEnv":       "configuration reaches a library as a value",
	"os.Exit":            "return an error",
	"log.Fatal":          "return an error",
	"log.Fatalf":         "return an error",
	"context.Background": "take the caller's context",
	"context.TODO":       "take the caller's context",
	"slog.Default":       "take a *slog.Logger",
}

func TestShape(t *testing.T) {
	fset := token.NewFileSet()
	documented := map[string][]string{} // folder => files with a package comment
	files := sources(t)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		file, err := parser.ParseFile(fset, path, files[path], parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if ast.IsGenerated(file) {
			continue
		}
		documented[dir] = append(documented[dir], nil...)
		if file.Doc != nil {
			documented[dir] = append(documented[dir], path)
		}
		checkBudgets(t, fset, path, file)
		library := !strings.HasPrefix(dir, "cmd") && !strings.HasPrefix(dir, "test") && !isCommand(file)
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if why, bad := decidesForMain[selector(n)]; bad && library {
					t.Errorf("%s: %s outside cmd: %s", fset.Position(n.Pos()), selector(n), why)
				}
			case *ast.CompositeLit:
				if sel, ok := n.Type.(*ast.SelectorExpr); ok && selector(sel) == "tls.Config" && dir != "mtls" && !strings.HasPrefix(dir, "test/") {
					t.Errorf("%s: a tls.Config made outside mtls", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
	for dir, docs := range documented {
		if len(docs) != 1 {
			t.Errorf("%s: want the package comment in one file, have it in %d: %q", dir, len(docs), docs)
		}
	}
}

func checkBudgets(t *testing.T, fset *token.FileSet, path string, file *ast.File) {
	within := func(name string, got, budget int, what string) {
		if got > budget && overBudget[path+":"+name] == "" {
			t.Errorf("%s: %s has %d %s; the budget is %d", path, name, got, what, budget)
		}
	}
	within("file", fset.File(file.Pos()).LineCount(), maxFile, "lines")
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
		within(fn.Name.Name, lines, maxFunc, "lines")
		within(fn.Name.Name, fn.Type.Params.NumFields(), maxParams, "parameters")
		if fn.Name.Name == "init" && fn.Recv == nil {
			t.Errorf("%s: no init functions; wire it up in main", path)
		}
	}
}

func isCommand(file *ast.File) bool { return file.Name.Name == "main" }

// selector is "package.Name" for a plain selector expression, else "".
func selector(sel *ast.SelectorExpr) string {
	if x, ok := sel.X.(*ast.Ident); ok {
		return x.Name + "." + sel.Sel.Name
	}
	return ""
}

// TestSleep: a test waits for the event, or sleeps in a synctest bubble, its
// own or that of the package's tests whose fake it is.
func TestSleep(t *testing.T) {
	bubbles, sleepers := map[string]bool{}, map[string]string{}
	for path, src := range testFiles(t) {
		dir := filepath.Dir(path)
		bubbles[dir] = bubbles[dir] || strings.Contains(string(src), "synctest.Test(")
		if strings.Contains(string(src), "time.Sleep(") {
			sleepers[path] = dir
		}
	}
	if len(bubbles) == 0 {
		t.Fatal("found no test files: the walk is broken")
	}
	for path, dir := range sleepers {
		if !bubbles[dir] {
			t.Errorf("%s sleeps, and %s has no synctest bubble", path, dir)
		}
	}
}
