// Package testreq says what a test needs of the machine it runs on.
//
// Where the need is not met, a developer's test skips with a reason that
// `make test` repeats, and CI's fails: a check that did not run must not look
// like one that passed. It finds the tree's own tools and starts nothing.
package testreq

import (
	"os"
	"path/filepath"
	"testing"
)

// Missing ends the test, because what is not here: it skips, or fails where the
// environment says CI=true. The text names the thing and the way to get it, as
// in "envoy: run make envoy".
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("missing in CI: " + what)
	}
	t.Skip("missing: " + what)
}

// Root ends the test as [Missing] does, unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if uid := os.Geteuid(); uid != 0 {
		Missing(t, "root: run as uid 0")
	}
}

// Tree is the root of this repository, found upwards of the working directory.
// Where there is none it fails the test, since then the harness is broken.
func Tree(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root, ok := tree(dir)
	if !ok {
		t.Fatalf("no repository above %s", dir)
	}
	return root
}

// tree looks for go.mod and deps_test.go, which only the root has together, so
// that the module test/kube and a tree without .git are not taken for it.
func tree(dir string) (string, bool) {
	for {
		if exists(filepath.Join(dir, "go.mod")) && exists(filepath.Join(dir, "deps_test.go")) {
			return dir, true
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", false
		}
		dir = up
	}
}

// Tool is the path of a file below .tools in the root of the repository. Where
// it is not there the test ends as with [Missing], and how says what puts it
// there.
func Tool(t testing.TB, path, how string) string {
	t.Helper()
	file := filepath.Join(Tree(t), ".tools", filepath.FromSlash(path))
	if !exists(file) {
		Missing(t, path+": "+how)
	}
	return file
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
