package eval

import (
	"slices"
	"unicode/utf8"

	"github.com/istio-auth/istio-auth/rbac"
)

// Compared tells which comparisons of two attributes, of those that set's
// policies ask for, hold for req for sure, and which do not; by the names that
// [rbac.Comparison.Name] gives them, in order. One that cannot be told is in neither, as
// are all of them where req is refused before any rule is looked at. CUSTOM
// policies are looked at where they ask nobody, and refuse: who asks was decided
// without the others.
//
// It is for those who decide on behalf of a filter, which can compare with
// literals alone: a rule of an ALLOW policy needs yes, and any other is kept
// from matching by no, and by nothing else.
func Compared(set rbac.Set, req rbac.Request) (yes, no []string) {
	call, refused := about(set, req)
	if refused != "" {
		return nil, nil
	}
	sets := []rbac.Set{set}
	if trial, dry := set.Trial(); dry {
		sets = append(sets, trial)
	}
	answers := map[string]answer{}
	for _, s := range sets {
		for _, action := range []rbac.Action{rbac.Allow, rbac.Deny, rbac.Audit, rbac.Custom} {
			for _, p := range s.Policies(action) {
				if action == rbac.Custom && slices.Contains(s.Providers(), p.Provider) {
					continue
				}
				for _, r := range p.Rules {
					eachComparison(r.Expression, func(c rbac.Comparison) {
						answers[c.Name(set.Domains())] = reading{call: call}.compare(c)
					})
				}
			}
		}
	}
	for name, a := range answers {
		switch {
		case !utf8.ValidString(name): // no filter can ask for it
		case a == isTrue(true):
			yes = append(yes, name)
		case a == isTrue(false):
			no = append(no, name)
		}
	}
	slices.Sort(yes)
	slices.Sort(no)
	return yes, no
}

func eachComparison(e *rbac.Expression, yield func(rbac.Comparison)) {
	if e == nil {
		return
	}
	if e.Op == rbac.Compare {
		yield(e.Comparison)
	}
	for i := range e.Terms {
		eachComparison(&e.Terms[i], yield)
	}
}
