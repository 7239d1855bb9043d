package istioauth

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinks follows every relative link of the documents.
func TestLinks(t *testing.T) {
	links := 0
	walk(t, ".md", func(path string, text []byte) {
		for _, match := range markdownLink.FindAllSubmatch(text, -1) {
			target, _, _ := strings.Cut(string(match[1]), "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), target)); err != nil {
				t.Errorf("%s links to %s: %v", path, target, err)
			}
		}
	})
	if links == 0 {
		t.Fatal("found no links: the walk is broken")
	}
}

// promise is a test as the documents name it: `ca/server.TestTable`.
var promise = regexp.MustCompile("`([a-z0-9/-]+)\\.((?:Test|Fuzz)[A-Z]\\w*)`")

// bareTest is a test that is named without its package, where the text makes
// plain whose it is.
var bareTest = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")

// TestPromises: each test that a document names as holding a promise is there,
// in the package that the document names.
func TestPromises(t *testing.T) {
	declared := map[string]bool{} // package.Test, and Test alone
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	walk(t, "_test.go", func(path string, text []byte) {
		for _, match := range function.FindAllSubmatch(text, -1) {
			declared[filepath.ToSlash(filepath.Dir(path))+"."+string(match[1])] = true
			declared[string(match[1])] = true
		}
	})
	promises := 0
	walk(t, ".md", func(path string, text []byte) {
		for _, match := range promise.FindAllSubmatch(text, -1) {
			promises++
			if name := string(match[1]) + "." + string(match[2]); !declared[name] {
				t.Errorf("%s names %s, and there is no such test", path, name)
			}
		}
		for _, match := range bareTest.FindAllSubmatch(text, -1) {
			if !declared[string(match[1])] {
				t.Errorf("%s names %s, and there is no such test", path, match[1])
			}
		}
	})
	if promises == 0 {
		t.Fatal("no document names a test: the walk is broken")
	}
}

// testFiles are the tests of this module.
func testFiles(t *testing.T) map[string][]byte {
	files := map[string][]byte{}
	walk(t, "_test.go", func(path string, text []byte) { files[path] = text })
	return files
}

// walk hands each file whose name ends in suffix to visit, dot folders and
// testdata left out.
func walk(t *testing.T, suffix string, visit func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "dist") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, suffix) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil {
			visit(path, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
