package compile

import (
	"slices"
	"unicode/utf8"

	"github.com/istio-auth/istio-auth/rbac"
)

// Where the word of our own provider is: docs/design/provider.md. Envoy puts what
// a provider tells beside its answer into the dynamic metadata WordFilter, if it
// is told to take it from that provider; WordYes and WordNo are the lists of the
// names of the comparisons that hold for sure, and of those that do not.
const (
	WordFilter = "envoy.filters.http.ext_authz"
	WordYes    = "yes"
	WordNo     = "no"
)

// asksOwn tells whether a workload's enforcement point can reach our provider.
func asksOwn(set rbac.Set) bool { return slices.Contains(set.Providers(), rbac.OwnProvider) }

// compared is where our provider's word is enough: that the comparison holds, for
// ALLOW; and for all others everywhere but where the word is that it does not.
// Where there is no word, ALLOW is narrower and all else wider. Nobody has been
// asked before the filters that say whether to ask, nor about connections.
func (l *lowering) compared(c rbac.Comparison) formula {
	name := c.Name(l.domains)
	switch {
	case !l.words || l.tcp || !utf8.ValidString(name):
		return constant(l.wide)
	case l.wide:
		return not(lit(input{kind: inWord, name: WordNo}, isExactly, name))
	}
	return lit(input{kind: inWord, name: WordYes}, isExactly, name)
}
