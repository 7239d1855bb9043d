package rbac

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
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
	TrustDomain   spiffeid.TrustDomain
}

// A Set is all that applies to one workload. The zero Set means that it is not
// known what applies, and everything is refused; that nothing applies is a
// known answer, and [Select] gives it: see [Set.None].
type Set struct {
	trustDomain spiffeid.TrustDomain
	deny, allow []Policy
}

// Select returns the policies that apply to t: those of its own namespace and
// those of the root namespace whose selector is a subset of its labels. There
// is no overriding between the two. The order of policies does not matter. A
// target without trust domain or namespace has the zero Set.
func Select(policies []Policy, t Target) Set {
	if t.TrustDomain.IsZero() || t.Namespace == "" {
		return Set{}
	}
	s := Set{trustDomain: t.TrustDomain}
	for _, p := range policies {
		if !t.selectedBy(p) {
			continue
		}
		switch p.Action {
		case Deny:
			s.deny = append(s.deny, p)
		case Allow:
			s.allow = append(s.allow, p)
		}
	}
	slices.SortStableFunc(s.deny, Policy.Compare)
	slices.SortStableFunc(s.allow, Policy.Compare)
	return s
}

func (t Target) selectedBy(p Policy) bool {
	inRoot := t.RootNamespace != "" && p.Namespace == t.RootNamespace
	if p.Namespace != t.Namespace && !inRoot {
		return false
	}
	for key, want := range p.Selector {
		if got, ok := t.Labels[key]; !ok || got != want {
			return false
		}
	}
	return true
}

// TrustDomain is the trust domain that namespaces and service accounts mean.
func (s Set) TrustDomain() spiffeid.TrustDomain { return s.trustDomain }

// Deny lists the DENY policies by name. The caller must not change it.
func (s Set) Deny() []Policy { return s.deny }

// Allow lists the ALLOW policies by name. The caller must not change it.
func (s Set) Allow() []Policy { return s.allow }

// IsZero tells that it is not known what applies.
func (s Set) IsZero() bool { return s.trustDomain.IsZero() }

// None tells that it is known that no policy applies.
func (s Set) None() bool { return !s.IsZero() && len(s.deny)+len(s.allow) == 0 }

// Digest is equal for two sets that decide alike by the same names: it covers
// the trust domain and the policies, but not their selectors, which have done
// their work. The zero Set's is no other Set's.
func (s Set) Digest() [32]byte {
	d := digester{sha256.New()}
	d.text("istio-auth rbac set 1", s.trustDomain.Name())
	for _, policies := range [][]Policy{s.deny, s.allow} {
		d.count(len(policies))
		for _, p := range policies {
			d.policy(p)
		}
	}
	return [32]byte(d.Sum(nil))
}

// A digester writes values so that different ones give different bytes: each
// string and each list comes after its length.
type digester struct{ hash.Hash }

func (d digester) count(n int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	d.Write(b[:])
}

func (d digester) text(ss ...string) {
	for _, s := range ss {
		d.count(len(s))
		d.Write([]byte(s))
	}
}

func (d digester) policy(p Policy) {
	d.text(p.Namespace, p.Name, p.Action.String())
	d.count(len(p.Rules))
	for _, rule := range p.Rules {
		d.count(len(rule.From))
		for _, f := range rule.From {
			d.patterns(f.Principals, f.NotPrincipals, f.Namespaces, f.NotNamespaces)
			d.accounts(f.ServiceAccounts, f.NotServiceAccounts)
		}
		d.count(len(rule.To))
		for _, to := range rule.To {
			d.patterns(to.Methods, to.NotMethods, to.Paths, to.NotPaths)
		}
	}
}

func (d digester) patterns(lists ...[]Pattern) {
	for _, list := range lists {
		d.count(len(list))
		for _, p := range list {
			d.count(int(p.kind))
			d.text(p.text)
		}
	}
}

func (d digester) accounts(lists ...[]ServiceAccount) {
	for _, list := range lists {
		d.count(len(list))
		for _, a := range list {
			d.text(a.namespace, a.name)
		}
	}
}
