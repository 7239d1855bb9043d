package rbac

import (
	"cmp"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A Target is the workload that policies are selected for.
type Target struct {
	Namespace string
	Labels    map[string]string
	// RootNamespace is the namespace whose policies apply to the whole mesh.
	// Empty means that no namespace's do.
	RootNamespace string
	// TrustDomain is the workload's own. Aliases and Foreign are as of [Domains].
	TrustDomain      spiffeid.TrustDomain
	Aliases, Foreign []spiffeid.TrustDomain
	// Plaintext says that peers without a certificate are listened to, as
	// PeerAuthentication decides. They have no identity.
	Plaintext bool
	// Providers are the names of those whom CUSTOM policies may ask: those that
	// the workload's enforcement point can reach.
	Providers []string
}

// OwnProvider is the name of the provider that comes with Istio-Auth. Filters take
// its word for what they cannot compare: see [Comparison.Name].
const OwnProvider = "istio-auth"

// A Set is all that applies to one workload. The zero Set means that it is not
// known what applies, and everything is refused; that nothing applies is a
// known answer, and [Select] gives it: see [Set.None].
type Set struct {
	domains   Domains
	plaintext bool
	providers []string
	enforced  []Policy // by action, in the order of their names
	trial     []Policy // the same, with those of a dry run
	tokens    []TokenRule
}

// Select returns the policies that apply to t: those of its own namespace and
// those of the root namespace whose selector is a subset of its labels. There
// is no overriding between the two. The order of policies does not matter. A
// target without trust domain or namespace has the zero Set.
func Select(policies []Policy, t Target) Set {
	if t.TrustDomain.IsZero() || t.Namespace == "" {
		return Set{}
	}
	s := Set{
		domains:   Domains{Own: t.TrustDomain, Aliases: t.Aliases, Foreign: t.Foreign},
		plaintext: t.Plaintext,
		providers: slices.Compact(slices.Sorted(slices.Values(t.Providers))),
	}
	dry := false
	for _, p := range policies {
		if !t.Selects(p.Namespace, p.Selector, p.Targets) || p.Action < Allow || p.Action > Custom {
			continue
		}
		s.trial = append(s.trial, p)
		if dry = dry || p.DryRun; !p.DryRun {
			s.enforced = append(s.enforced, p)
		}
	}
	order := func(p, q Policy) int { return cmp.Or(cmp.Compare(p.Action, q.Action), p.Compare(q)) }
	slices.SortStableFunc(s.enforced, order)
	slices.SortStableFunc(s.trial, order)
	if !dry {
		s.trial = nil
	}
	return s
}

// WithTokens is s with the rules for end users' tokens that apply to t: those
// of every RequestAuthentication that selects it, by issuer. There is no
// overriding.
func (s Set) WithTokens(all []RequestAuthentication, t Target) Set {
	if s.IsZero() {
		return s
	}
	all = slices.SortedStableFunc(slices.Values(all), RequestAuthentication.Compare)
	s.tokens = nil
	for _, a := range all {
		if t.Selects(a.Namespace, a.Selector, a.Targets) {
			s.tokens = append(s.tokens, a.Rules...)
		}
	}
	slices.SortStableFunc(s.tokens, func(a, b TokenRule) int { return cmp.Compare(a.Issuer, b.Issuer) })
	return s
}

// Selects tells whether an object applies to t: of its namespace or the root's,
// by its selector. What is attached to a gateway or a waypoint is not for us.
func (t Target) Selects(namespace string, selector map[string]string, targets []TargetRef) bool {
	inRoot := t.RootNamespace != "" && namespace == t.RootNamespace
	if len(targets) > 0 || namespace != t.Namespace && !inRoot {
		return false
	}
	for key, want := range selector {
		if got, ok := t.Labels[key]; !ok || got != want {
			return false
		}
	}
	return true
}

// Domains are the trust domains that the set knows.
func (s Set) Domains() Domains { return s.domains }

// TrustDomain is the trust domain that namespaces and service accounts mean.
func (s Set) TrustDomain() spiffeid.TrustDomain { return s.domains.Own }

// Plaintext tells whether peers without a certificate are listened to.
func (s Set) Plaintext() bool { return s.plaintext }

// Providers are the names of those whom CUSTOM policies may ask, in order. A
// policy that asks another refuses what it matches. The caller must not change
// the list.
func (s Set) Providers() []string { return s.providers }

// Policies lists those that do the action, by name. The caller must not change
// the list.
func (s Set) Policies(action Action) []Policy {
	first, _ := slices.BinarySearchFunc(s.enforced, action, func(p Policy, a Action) int { return cmp.Compare(p.Action, a) })
	last, _ := slices.BinarySearchFunc(s.enforced, action+1, func(p Policy, a Action) int { return cmp.Compare(p.Action, a) })
	return s.enforced[first:last]
}

// Deny lists the DENY policies by name. The caller must not change it.
func (s Set) Deny() []Policy { return s.Policies(Deny) }

// Allow lists the ALLOW policies by name. The caller must not change it.
func (s Set) Allow() []Policy { return s.Policies(Allow) }

// Trial is the set as it would be if the policies of a dry run were enforced.
// Without any, ok is false and it is s.
func (s Set) Trial() (trial Set, ok bool) {
	if s.trial == nil {
		return s, false
	}
	s.enforced, s.trial = s.trial, nil
	return s, true
}

// Tokens lists the rules for end users' tokens, by issuer. The caller must not
// change it.
func (s Set) Tokens() []TokenRule { return s.tokens }

// IsZero tells that it is not known what applies.
func (s Set) IsZero() bool { return s.domains.Own.IsZero() }

// Len is how many policies there are, those of a dry run included.
func (s Set) Len() int {
	if s.trial != nil {
		return len(s.trial)
	}
	return len(s.enforced)
}

// None tells that it is known that nothing applies.
func (s Set) None() bool {
	return !s.IsZero() && len(s.enforced)+len(s.trial)+len(s.tokens) == 0
}
