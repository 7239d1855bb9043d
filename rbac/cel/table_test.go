package cel_test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/cel"
)

// The texts of testdata/table.txt.
const wantGood, wantBad = 114, 179

var update = flag.Bool("update", false, "rewrite the answers in testdata/table.txt")

// show writes an expression as its parts are nested.
func show(e rbac.Expression) string {
	list := func(ps []rbac.Pattern) string {
		var texts []string
		for _, p := range ps {
			texts = append(texts, strings.Trim(fmt.Sprintf("%q", p.String()), `"`))
		}
		return "[" + strings.Join(texts, " ") + "]"
	}
	switch e.Op {
	case rbac.All, rbac.Any:
		word := map[rbac.Op]string{rbac.All: "all", rbac.Any: "any"}[e.Op]
		var terms []string
		for _, t := range e.Terms {
			terms = append(terms, show(t))
		}
		return word + "(" + strings.Join(terms, ", ") + ")"
	case rbac.Matches:
		if len(e.Test.NotIn) > 0 {
			return e.Test.Attribute.String() + " not " + list(e.Test.NotIn)
		}
		return e.Test.Attribute.String() + " " + list(e.Test.In)
	case rbac.Compare:
		c := e.Comparison
		word := map[rbac.Kind]string{rbac.Exact: "is", rbac.Prefix: "begins", rbac.Suffix: "ends"}[c.How]
		if c.Not {
			word = "not " + word
		}
		return fmt.Sprintf("%v %s %q %v %q", c.Left, word, c.Lead, c.Right, c.Trail)
	}
	return "none"
}

// TestTable: each pair of lines is a text, and what it becomes, or the reason
// and the place of its refusal.
func TestTable(t *testing.T) {
	const path = "testdata/table.txt"
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out strings.Builder
	good, bad, text := 0, 0, ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "= ") || strings.HasPrefix(line, "! "):
			if !*update {
				want := answer(text)
				if want != line {
					t.Errorf("%s\ngot  %s\nwant %s", text, want, line)
				}
			}
			continue
		case line == "" || strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
			continue
		}
		text = line
		got := answer(text)
		if got[0] == '=' {
			good++
		} else {
			bad++
		}
		out.WriteString(text + "\n" + got + "\n")
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if good != wantGood || bad != wantBad {
		t.Errorf("%d good and %d bad texts, want %d and %d", good, bad, wantGood, wantBad)
	}
}

func answer(text string) string {
	e, err := cel.Parse(text)
	var refusal *cel.Refusal
	switch {
	case errors.As(err, &refusal):
		return fmt.Sprintf("! %s %d:%d", refusal.Reason, refusal.Line, refusal.Column)
	case err != nil:
		return "! " + err.Error()
	case e.Source != text:
		return "! the source is " + e.Source
	}
	return "= " + show(e)
}
