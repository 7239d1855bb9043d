// Package prove shows that a compiled filter does what a set of policies means,
// for every request there is, or says for which it does not.
//
// It shares nothing with the compiler. The set is lowered by itself, from
// rbac/eval, to formulas over what Envoy can ask; the filter's bytes are read by
// rbac/interpret, and become formulas too, each with the name of its action,
// which is a rule's. A rule and what bears its name are compared alone (pair.go,
// alone.go): where each rule is the same on both sides, the whole is. The name is
// where to look, and nothing hangs on its being right. What is left, since a
// compiler may write one rule with another, is taken apart into boxes,
// conjunctions of literals, and what both sides have is set aside. A request on
// which the two could differ lies in a box that only one side has: each of those
// is split, literal by literal, among all that it meets (index.go), until both
// sides are decided everywhere in it (region.go). Where they are decided
// differently, a solver over automata looks for a request, which rbac/eval and
// rbac/interpret then confirm, or shows that there is none.
//
// The proof is exact. What it cannot settle it refuses: see [ErrTooComplex] and
// [ErrUndecided]. It takes for granted what our sidecar sees to: docs of the
// attributes in rbac/interpret, and that the folded path is rbac.FoldPath of the
// path.
//
// Start at [HTTP], or, for one filter after another, at [Prover].
package prove

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/interpret"
)

var (
	// ErrUnknown reports a part of a filter that this package has no meaning for.
	ErrUnknown = errors.New("prove: not known")
	// ErrTooComplex reports a filter whose proof would take too long.
	ErrTooComplex = errors.New("prove: too complex")
	// ErrUndecided reports a difference that is possible for all that is known of
	// requests, and for which no request was found.
	ErrUndecided = errors.New("prove: a difference without a request that shows it")
	// ErrUnguarded reports a filter that goes on without what our sidecar should
	// have told it: it must refuse instead.
	ErrUnguarded = errors.New("prove: goes on without what it needs")
	// ErrUnknownSet reports the zero set: no filter does what it means.
	ErrUnknownSet = errors.New("prove: it is not known which policies apply")
)

// A Difference is a request that a filter decides otherwise than the set.
type Difference struct {
	Request rbac.Request
	// Filter and Set say what each does: "allow", "deny", "mark" (AUDIT). A
	// provider of CUSTOM is asked where the filter says "deny".
	Filter, Set string
	Shadow      bool // of what a dry run would do
}

// Error tells the request.
func (d *Difference) Error() string {
	r := d.Request
	return fmt.Sprintf("prove: the filter says %s and the policies %s, for %s %s %q %q %v", d.Filter, d.Set, r.Peer.ID, r.Method, r.Host, r.Path, r.Headers)
}

// effort bounds one proof: how many formulas are looked at beyond the first
// time.
const effort = 2_000_000

// HTTP shows that filter, an HTTP RBAC filter, does what set means: the matcher
// what is enforced, and the shadow matcher what would be with the policies of a
// dry run. The error is nil, a [*Difference], one of this package's, or one of
// rbac/interpret's. For one filter after another, see [Prover].
func HTTP(set rbac.Set, filter *anypb.Any) error { return newMemory().enforced(set, filter, false) }

// TCP is HTTP for a network RBAC filter.
func TCP(set rbac.Set, filter *anypb.Any) error { return newMemory().enforced(set, filter, true) }

// Audit shows that filter marks what the AUDIT policies of set match, and lets
// all pass that the filter of [HTTP] does not refuse anyway.
func Audit(set rbac.Set, filter *anypb.Any) error { return newMemory().audited(set, filter) }

// Custom shows that the shadow matcher of filter refuses what a provider must be
// asked about, and allows all else; and that filter enforces nothing.
func Custom(set rbac.Set, provider string, filter *anypb.Any) error {
	return newMemory().asked(set, provider, filter)
}

func (m *memory) enforced(set rbac.Set, filter *anypb.Any, tcp bool) error {
	f, err := m.decode(set, filter, tcp)
	if err != nil {
		return err
	}
	if f.Matcher == nil {
		return fmt.Errorf("%w: a filter without matcher, which enforces nothing", ErrUnguarded)
	}
	if err := m.compare(set, f, false, func(w *lowering) claim { return w.enforced(set) }); err != nil {
		return err
	}
	trial, dry := set.Trial()
	if dry != (f.Shadow != nil) {
		return fmt.Errorf("%w: a shadow matcher is there: %t, want %t", ErrUnguarded, f.Shadow != nil, dry)
	}
	if !dry {
		return nil
	}
	return m.compare(trial, f, true, func(w *lowering) claim { return w.enforced(trial) })
}

func (m *memory) audited(set rbac.Set, filter *anypb.Any) error {
	f, err := m.decode(set, filter, false)
	if err != nil {
		return err
	}
	if f.Matcher == nil || f.Shadow != nil {
		return fmt.Errorf("%w: want one matcher", ErrUnguarded)
	}
	return m.compare(set, f, false, func(w *lowering) claim { return w.audited(set) })
}

func (m *memory) asked(set rbac.Set, provider string, filter *anypb.Any) error {
	f, err := m.decode(set, filter, false)
	if err != nil {
		return err
	}
	if f.Matcher != nil || f.Shadow == nil {
		return fmt.Errorf("%w: want one shadow matcher", ErrUnguarded)
	}
	return m.compare(set, f, true, func(w *lowering) claim { return w.asked(set, provider) })
}

func (m *memory) decode(set rbac.Set, filter *anypb.Any, tcp bool) (f *interpret.Filter, err error) {
	if set.IsZero() {
		return nil, ErrUnknownSet
	}
	if m.decoder != nil {
		f, err = m.decoder.Decode(filter)
	} else {
		f, err = interpret.Decode(filter)
	}
	if err != nil {
		return nil, err
	}
	if f.Network != tcp || f.Rules != nil || f.ShadowRules != nil {
		return nil, fmt.Errorf("%w: a filter of another kind", ErrUnknown)
	}
	return f, nil
}

// A proof compares one matcher with one claim.
type proof struct {
	*memory
	lowering *lowering
	set      rbac.Set
	matcher  *interpret.Matcher
	claim    claim
	shadow   bool
	provider string       // of CUSTOM
	left     int          // of effort
	done     map[sum]bool // states that are shown
	solved   map[string]solution
	// unsettled: differences that no request was found for.
	unsettled string
	inVain    int
	alone     bool // one rule is looked at: a request that differs need not be found
}

func (m *memory) compare(set rbac.Set, f *interpret.Filter, shadow bool, says func(*lowering) claim) error {
	w := m.lowering(set, f.Network)
	c := says(w)
	matcher := f.Matcher
	if shadow {
		matcher = f.Shadow
	}
	r := &reader{table: w.table}
	if m.decoder != nil {
		r.memory = m
	}
	if err := r.matcher(matcher, nil); err != nil {
		return err
	}
	if r.ofTLS && set.Plaintext() {
		return fmt.Errorf("%w: of a connection without TLS it asks for the certificate, which refuses whatever comes next", ErrUnguarded)
	}
	if !c.marks {
		for i, it := range r.items {
			if it.then == mark {
				r.items[i].then = allow // Log lets in
			}
		}
	}
	p := &proof{memory: m, lowering: w, set: set, matcher: matcher, claim: c, shadow: shadow, provider: c.provider, left: effort, solved: map[string]solution{}, done: map[sum]bool{}}
	if c.guarded {
		if err := p.guards(r); err != nil {
			return err
		}
	}
	for _, domain := range c.domains {
		if err := p.behind(r.items, append(slices.Clone(c.facts), domain)); err != nil {
			return err
		}
	}
	if c.anonymous {
		facts := slices.DeleteFunc(slices.Clone(c.facts), func(l literal) bool { return p.of(l).kind == peer })
		nobody := positive(p.number(atom{of: attribute{kind: peer}, how: present})).not()
		if err := p.behind(r.items, append(facts, nobody)); err != nil {
			return err
		}
	}
	if p.unsettled != "" {
		return fmt.Errorf("%w: %s", ErrUndecided, p.unsettled)
	}
	return nil
}

// guards shows that the filter refuses what the guards do, and what lacks the
// folded path if it asks for that.
func (p *proof) guards(r *reader) error {
	firsts := map[string]bool{}
	for _, it := range r.items {
		if it.then != deny || it.when.size(64) > 64 {
			break
		}
		for _, b := range p.boxes(it.when) {
			if b, ok := p.tidy(b); ok {
				firsts[string(b.key(nil))] = true
			}
		}
		if len(firsts) > 64 {
			break
		}
	}
	for _, g := range p.claim.guards {
		for _, b := range p.boxes(g) {
			b, ok := p.tidy(b)
			if !ok || firsts[string(b.key(nil))] {
				continue
			}
			s := state{filter: p.side(r.items), set: side{last: deny}, pin: yes}
			for _, l := range b {
				s = state{p.assume(s.filter, l), s.set, yes, append(s.so, l)}
			}
			if err := p.check(s); err != nil {
				return err
			}
		}
	}
	if !r.folds {
		return nil
	}
	missing := positive(p.number(atom{of: attribute{kind: fold}, how: present})).not()
	for _, it := range r.items {
		n := p.table.assume(it.when, missing)
		for _, l := range p.claim.facts {
			if p.of(l).kind != fold && (p.of(l).kind != peer || !p.claim.anonymous) {
				n = p.table.assume(n, l)
			}
		}
		switch {
		case n == no:
			continue
		case n == yes && it.then == deny:
			return nil
		case it.then == deny:
			continue // refuses some; the rest must be refused, too
		}
		return fmt.Errorf("%w: the folded path", ErrUnguarded)
	}
	return fmt.Errorf("%w: the folded path", ErrUnguarded)
}

// side groups items as they come.
func (p *proof) side(items []item) side {
	out := side{last: deny} // nothing matched
	for _, it := range items {
		if it.when == yes {
			out.last = it.then
			break
		}
		if n := len(out.groups); n == 0 || out.groups[n-1].then != it.then {
			out.groups = append(out.groups, group{then: it.then})
		}
		g := &out.groups[len(out.groups)-1]
		g.entries = append(g.entries, entry{when: it.when})
	}
	return out
}
