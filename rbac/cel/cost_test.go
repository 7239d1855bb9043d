package cel_test

import (
	"strings"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/rbac/cel"
)

// TestCost: the worst texts that are known take a moment, taken or not. It was 30
// ms for the slowest, on one core.
func TestCost(t *testing.T) {
	const atom = `source.namespace=="a"`
	fill := func(head, s, tail string) string {
		return head + strings.Repeat(s, (cel.MaxText-len(head)-len(tail))/len(s)) + tail
	}
	texts := []string{
		fill("", "-", ""), fill("", "!", ""), fill("", "[", ""), fill("", "(", ""), fill("", "{", ""), fill("", `"`, ""), fill("", "r'''", ""),
		fill("", "$ ", ""), fill("", "//x\n", ""), fill("", "a?a:", "a"), fill("", "a?", ""), fill("", "[1,", ""), fill("", "{1:", ""), fill("", "a{b:", ""),
		fill("", "[?", ""), fill("", "([{a", ""), fill("", "a.map(a,", ""), fill("", "has(", ""), fill("", "a(", ""), fill("a", "[a", ""), fill("a", ".a", ""),
		fill("a", " in a", ""), fill("a", "<a", ""), fill(atom, "&&"+atom, ""), fill(atom, "||"+atom, ""), fill(`request.path=="a"`, `+"a"`, ""),
		fill("source.namespace in [", `"a",`, `"a"]`), fill(`request.auth.claims["a"]=="`, `\u1234`, `"`), fill("request.auth.claims", `["a"]`, `=="a"`),
		strings.Repeat("(", 2000) + "a" + strings.Repeat(")", 2000),
	}
	for _, text := range texts {
		best := time.Hour
		for range 3 {
			start := time.Now()
			_, _ = cel.Parse(text)
			best = min(best, time.Since(start))
		}
		if best > 300*time.Millisecond {
			t.Errorf("%v for %.40s...", best, text)
		}
	}
}
