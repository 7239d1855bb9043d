package cel_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/cel"
)

// FuzzParse: every text is refused with a reason, or becomes an expression in
// negation normal form, within the limits, whose tests all ask for something.
func FuzzParse(f *testing.F) {
	table, err := os.ReadFile("testdata/table.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if !strings.HasPrefix(line, "= ") && !strings.HasPrefix(line, "! ") {
			f.Add(strings.TrimSuffix(line, "\n"))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := cel.Parse(text)
		if err != nil {
			var refusal *cel.Refusal
			if !errors.As(err, &refusal) || !errors.Is(err, cel.ErrRefused) || refusal.Reason == "" || refusal.Detail == "" || refusal.Line < 1 || refusal.Column < 1 {
				t.Fatalf("%q: %v is no refusal", text, err)
			}
			return
		}
		values := 0
		check(t, e, 0, &values)
		if values == 0 || values > cel.MaxValues {
			t.Errorf("%q: %d values", text, values)
		}
	})
}

func check(t *testing.T, e rbac.Expression, depth int, values *int) {
	t.Helper()
	if depth > cel.MaxDepth {
		t.Fatal("too deep")
	}
	switch e.Op {
	case rbac.All, rbac.Any:
		if len(e.Terms) < 2 {
			t.Errorf("%d terms", len(e.Terms))
		}
		for _, term := range e.Terms {
			if term.Op == e.Op || term.Source != "" {
				t.Errorf("an inner expression: %+v", term)
			}
			check(t, term, depth+1, values)
		}
	case rbac.Matches:
		n := e.Test
		if (n.Attribute == rbac.Attribute{}) || (len(n.In) == 0) == (len(n.NotIn) == 0) {
			t.Errorf("a test: %+v", n)
		}
		for _, p := range append(n.In, n.NotIn...) {
			if *values++; p.Kind() == 0 || p.Kind() == rbac.Template {
				t.Errorf("a pattern of kind %v", p.Kind())
			}
		}
	case rbac.Compare:
		*values++
		c := e.Comparison
		if (c.Left == rbac.Attribute{}) || (c.Right == rbac.Attribute{}) || c.Right.Kind() == rbac.Path || c.How < rbac.Exact || c.How > rbac.Suffix {
			t.Errorf("a comparison: %+v", c)
		}
	default:
		t.Errorf("an expression without an operator: %+v", e)
	}
}

func TestLimits(t *testing.T) {
	atom := `source.namespace == "a"`
	repeat := func(n int, sep string) string { return strings.TrimSuffix(strings.Repeat(atom+sep, n), sep) }
	list := func(n int) string {
		return "destination.port in [" + strings.TrimSuffix(strings.Repeat("80,", n), ",") + "]"
	}
	nested := func(n int, open string) string {
		return strings.Repeat(open, n) + atom + strings.Repeat(")", n)
	}
	for _, row := range []struct{ name, text, reason string }{
		{"many", repeat(140, " && "), ""},
		{"many or", repeat(140, " || "), ""},
		{"a long list", list(cel.MaxValues), ""},
		{"a list too long", list(cel.MaxValues + 1), "too-many"},
		{"too many values", list(cel.MaxValues) + " && " + atom, "too-many"},
		{"as long as it may be", atom + strings.Repeat(" ", cel.MaxText-len(atom)), ""},
		{"too long", atom + strings.Repeat(" ", cel.MaxText-len(atom)+1), "too-long"},
		{"deep", nested(cel.MaxDepth-1, "!("), ""},
		{"too deep", nested(cel.MaxDepth+1, "!("), "too-deep"},
		{"deep parentheses", nested(20, "("), ""},
		{"very deep parentheses", nested(1500, "("), "too-deep"},
		{"very deep lists", strings.Repeat("[", 2000), "too-deep"},
		{"very deep negations", strings.Repeat("!", 4000) + atom, ""},
		{"a chain of indexes", "request.auth.claims" + strings.Repeat(`["a"]`, 9) + ` == "x"`, "bad-claim"},
		{"no text", "", "bad-syntax"},
		{"no UTF-8", "source.namespace == \"\xff\"", "not-utf8"},
		{"NUL", "source.namespace == \"\x00\"", "bad-namespace"},
	} {
		_, err := cel.Parse(row.text)
		got := ""
		var refusal *cel.Refusal
		if errors.As(err, &refusal) {
			got = refusal.Reason
		} else if err != nil {
			got = err.Error()
		}
		if got != row.reason {
			t.Errorf("%s: got %q (%v), want %q", row.name, got, err, row.reason)
		}
	}
}
