package prove

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
)

// TestFolded: what the proof takes for granted of rbac.FoldPath.
func TestFolded(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	parts := []string{"/", "a", "A", ".", "..", ";", "%", "25", "2f", "2e", "%2f", "%2e", "%5c", "\\", " ", "%20", "?", "#", "%00", "x", "//", "/./", "b"}
	for range 50_000 {
		path := "/"
		for range r.IntN(9) {
			path += parts[r.IntN(len(parts))]
		}
		f := rbac.FoldPath(path)
		if !strings.HasPrefix(f, "/") || strings.Contains(f, "//") || strings.Contains(f, "/./") {
			t.Fatalf("%q is folded to %q", path, f)
		}
	}
}

// atomsOf makes random atoms of one attribute, over few letters.
func atomsOf(r *rand.Rand, p *proof, n int) []literal {
	words := []string{"a", "b", "ab", "ba", "aa", "aba", "bb", "abb", "A", "aB"}
	shapes := []string{"a*b", "(ab|b)+", "[^a]+", "a[ab]?b*", hasSome, ".*"}
	out := make([]literal, n)
	for i := range out {
		a := atom{of: attribute{text, "x"}, how: exact + relation(r.IntN(5)), literal: words[r.IntN(len(words))], ignoreCase: r.IntN(5) == 0}
		if a.how == regex {
			a.literal, a.ignoreCase = shapes[r.IntN(len(shapes))], false
		}
		if r.IntN(10) == 0 {
			a = atom{of: a.of, how: present}
		}
		if out[i] = positive(p.number(a)); r.IntN(2) == 0 {
			out[i] = out[i].not()
		}
	}
	return out
}

// strings of at most five of these letters; nothing above needs more.
func all(letters string, n int) []string {
	out := []string{""}
	for i := 0; i < len(out); i++ {
		if len(out[i]) < n {
			for _, l := range letters {
				out = append(out, out[i]+string(l))
			}
		}
	}
	return out
}

// TestSolver holds the solver, and what one literal implies of an atom, to all
// short strings.
func TestSolver(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	texts := all("abABc", 5)
	found, none := 0, 0
	for range 600 {
		p := &proof{memory: newMemory(), left: effort, solved: map[string]solution{}}
		literals := atomsOf(r, p, 1+r.IntN(4))
		s := p.walk(attribute{text, "x"}, literals)
		if s.gave {
			t.Fatal("gave up")
		}
		if s.found && !p.all(literals, s.value) {
			t.Fatalf("%q does not satisfy %v", s.value, p.atoms)
		}
		some := false
		for _, text := range texts {
			ok := p.all(literals, text)
			some = some || ok
			if !p.all(literals[:1], text) {
				continue
			}
			for _, q := range literals {
				what := p.implies(literals[0], q.atom())
				if what != unknown && (what == isTrue) != p.holds(&p.atoms[q.atom()], text) {
					t.Fatalf("%v %t is said to decide %v, and does not for %q", p.atoms[literals[0].atom()], !literals[0].negated(), p.atoms[q.atom()], text)
				}
			}
		}
		if some && !s.found {
			t.Fatalf("nothing was found for %v %v", literals, p.atoms)
		}
		if s.found {
			found++
		} else {
			none++
		}
	}
	if found < 100 || none < 100 {
		t.Errorf("%d with a solution, %d without", found, none)
	}
}
