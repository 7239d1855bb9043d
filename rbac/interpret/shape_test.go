package interpret_test

import (
	"regexp"
	"testing"

	"github.com/istio-auth/istio-auth/rbac/interpret"
)

// TestShapes holds the regular expressions that are taken to Go's, which are
// RE2's.
func TestShapes(t *testing.T) {
	sources := append([]string{
		`spiffe://(td\.test|b)/ns/[a-z0-9]([-a-z0-9]*[a-z0-9])?/sa/[a-z0-9]([-.a-z0-9]*[a-z0-9])?`,
		`(?s)[^-].*|-.+`, `(a|)b`, `((a)*b)*`, `(?:a|bc)+`, `a?b?c?`, `[^/]+/?`, `é+`, `[a.]`, `[-]`, `[a-]`,
	}, shapes...)
	letters := []string{"a", "b", "c", "-", ".", "/", "\n", "é", "\xff", "A", "G"}
	texts := []string{"", "spiffe://td.test/ns/a/sa/b", "spiffe://tdxtest/ns/a/sa/b", "spiffe://b/ns/a-/sa/b"}
	for i := 0; i < len(texts) && len(texts) < 5000; i++ {
		if len([]rune(texts[i])) < 5 {
			for _, l := range letters {
				texts = append(texts, texts[i]+l)
			}
		}
	}
	for _, source := range sources {
		shape, err := interpret.ParseShape(source)
		if err != nil {
			t.Error(err)
			continue
		}
		re := regexp.MustCompile(`^(?:` + source + `)$`)
		if len(source) > 4 && source[:4] == "(?s)" {
			re = regexp.MustCompile(`(?s)^(?:` + source[4:] + `)$`)
		}
		for _, text := range texts {
			if got, want := shape.Match(text), re.MatchString(text) && validOrByClass(text); got != want {
				t.Errorf("%s of %q: got %t, want %t", source, text, got, want)
				break
			}
		}
	}
}

// validOrByClass: Go takes a byte that is no UTF-8 for U+FFFD, which "." matches;
// RE2 in Envoy does not.
func validOrByClass(text string) bool {
	for _, r := range text {
		if r == '\uFFFD' {
			return false
		}
	}
	return true
}
