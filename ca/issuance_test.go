package ca

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestIssuanceDocument: docs/ISSUANCE.md and the code agree. Its steps are
// numbered through; each is quoted once in the code: the first four where the
// wire is, the others in this package; each test that it names is there.
func TestIssuanceDocument(t *testing.T) {
	text := string(must(os.ReadFile("../docs/ISSUANCE.md")))
	steps := regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(text, -1)
	for i, step := range steps {
		if want := fmt.Sprint(i + 1); step[1] != want {
			t.Errorf("step %s, want %s", step[1], want)
		}
	}
	const ours, all = 5, 12
	if len(steps) != all {
		t.Errorf("%d steps, want %d", len(steps), all)
	}
	wire := string(must(os.ReadFile("server/issue.go"))) + string(must(os.ReadFile("server/decide.go")))
	own := string(must(os.ReadFile("issue.go")))
	for n := 1; n <= all; n++ {
		code := wire
		if n >= ours {
			code = own
		}
		if got := strings.Count(code, fmt.Sprintf("// step %d:", n)); got != 1 {
			t.Errorf("step %d is quoted %d times, want once", n, got)
		}
	}

	tests := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, found := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(must(os.ReadFile(path))), -1) {
			tests[found[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(text, -1)
	if len(named) < 30 {
		t.Errorf("%d tests are named, want more: is the pattern right?", len(named))
	}
	for _, name := range named {
		if !tests[name[1]] {
			t.Errorf("%s is named and is not there", name[1])
		}
	}
}
