package parse_test

import (
	"strings"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/rbac/parse"
)

// TestCost: no object of the largest size is dear to read. The bound is far from
// what is seen (some 50 ms), to hold on a loaded machine, and near to what a
// square of the size would take.
func TestCost(t *testing.T) {
	fill := func(s string) string { return strings.Repeat(s, (parse.MaxObject-200)/len(s)) }
	for name, text := range map[string]string{
		"open brackets":   fill("["),
		"nested brackets": fill("[") + fill("]"),
		"open braces":     fill("{a: "),
		"question marks":  fill("? "),
		"dashes":          fill("- "),
		"indentation":     fill("a:\n "),
		"keys":            "a: {" + fill("b,") + "}",
		"anchors":         fill("&a "),
		"aliases":         "a: &a x\nb: [" + fill("*a,") + "]",
		"documents":       fill("---\n"),
		"quotes":          fill("'"),
		"block scalars":   fill("|\n"),
		"comments":        fill("#\n"),
		"colons":          fill(":"),
		"paths":           header("a") + "spec: {rules: [{to: [{operation: {paths: [" + fill("/a,") + "]}}]}]}",
		"rules":           header("a") + "spec: {rules: [" + fill("{},") + "]}",
		"one path":        header("a") + "spec: {rules: [{to: [{operation: {paths: [\"" + fill("/..") + "\"]}}]}]}",
		"a typo":          header("a") + "spec: {" + fill("x") + ": 1}",
	} {
		began := time.Now()
		_, _ = parse.Policies(name, []byte(text))
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: %d bytes took %v", name, len(text), took)
		} else if testing.Verbose() {
			t.Logf("%s: %v", name, took)
		}
	}
}
