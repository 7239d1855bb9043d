package prove

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/interpret"
)

// hasWords tells whether the word of our own provider is there to be taken.
func hasWords(set rbac.Set) bool { return slices.Contains(set.Providers(), rbac.OwnProvider) }

// compared: no filter compares two attributes, but our own provider does, and
// tells by name what holds and what does not. Where it tells nothing, an ALLOW is
// narrower by it, and all else wider.
func (w *lowering) compared(c rbac.Comparison) *node {
	name := c.Name(w.domains)
	switch {
	case !w.words || w.tcp || !utf8.ValidString(name):
		return constant(w.lenient)
	case w.lenient:
		return w.word(interpret.NoKey, name).not()
	}
	return w.word(interpret.YesKey, name)
}

// word is that a name is in a list of the word, of which nothing else is known:
// each is an attribute of its own, that is there or not.
func (t *table) word(list, name string) *node {
	return &node{lit: positive(t.number(atom{of: attribute{word, list + "\x00" + name}, how: present}))}
}

// wordOf reads a question to a list of the word. It has one form, which asks for a
// name.
func (r *reader) wordOf(in interpret.Input, v *interpret.Value) (*node, error) {
	if v != nil && len(in.Path) == 1 && (in.Path[0] == interpret.YesKey || in.Path[0] == interpret.NoKey) {
		terms := make([]*node, 0, len(v.Any)/2)
		for i := 0; i+1 < len(v.Any); i += 2 {
			alone, of := v.Any[i].Text, v.Any[i+1].OneOf
			if !isName(alone) || of == nil || !isName(of.Text) || of.Text.Literal != alone.Literal {
				break
			}
			terms = append(terms, r.word(in.Path[0], alone.Literal))
		}
		if len(terms) > 0 && 2*len(terms) == len(v.Any) {
			return or(terms...), nil
		}
	}
	return nil, fmt.Errorf("%w: a question to the word of a provider, %v", ErrUnknown, in)
}

func isName(t *interpret.Text) bool { return t != nil && t.Kind == interpret.Exact && !t.IgnoreCase }
