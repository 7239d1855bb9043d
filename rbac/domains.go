package rbac

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Domains are the trust domains whose workloads a workload listens to. The zero
// value is none.
type Domains struct {
	// Own is that of the workload itself.
	Own spiffeid.TrustDomain
	// Aliases are other names of Own: an identity of one is the same identity of
	// them all.
	Aliases []spiffeid.TrustDomain
	// Foreign are accepted, and are others.
	Foreign []spiffeid.TrustDomain
}

// Family lists Own and its aliases.
func (d Domains) Family() []spiffeid.TrustDomain {
	return append([]spiffeid.TrustDomain{d.Own}, d.Aliases...)
}

// Accepted lists all of them.
func (d Domains) Accepted() []spiffeid.TrustDomain { return append(d.Family(), d.Foreign...) }

// IsOurs tells whether td is Own or an alias of it.
func (d Domains) IsOurs(td spiffeid.TrustDomain) bool {
	return !td.IsZero() && (td == d.Own || slices.Contains(d.Aliases, td))
}

// Names are what a workload's identity is called in policies, by its ID without
// scheme: one name, or, for one of ours, one in each trust domain of the
// family. A peer that is no workload of an accepted domain has none.
func (d Domains) Names(id spiffeid.ID) []string {
	td := id.TrustDomain()
	if _, _, ok := (Peer{ID: id}).Workload(td); !ok {
		return nil
	}
	switch {
	case d.IsOurs(td):
		var names []string
		for _, name := range d.Family() {
			names = append(names, name.Name()+id.Path())
		}
		return names
	case slices.Contains(d.Foreign, td):
		return []string{td.Name() + id.Path()}
	}
	return nil
}

// Expand says what p, a pattern of [Principal], asks of the ID that a
// certificate has, without scheme: a workload of an accepted domain matches p by
// one of its Names exactly where its ID matches one of the patterns that are
// returned. They are Exact, Prefix, Suffix or Present, and may be none.
func (d Domains) Expand(p Pattern) []Pattern {
	reaches := strings.Count(p.text, "/") == pathSlashes && p.text[0] != '/' // into the trust domain
	switch {
	case p.kind == Present, p.kind == Suffix && !reaches:
		return []Pattern{p}
	}
	var out []Pattern
	add := func(q Pattern, ok bool) {
		if ok && !slices.Contains(out, q) {
			out = append(out, q)
		}
	}
	for _, td := range d.Foreign {
		add(p.under(td, td))
	}
	for _, called := range d.Family() {
		for _, td := range d.Family() {
			add(p.under(called, td))
		}
	}
	return out
}

// pathSlashes is how many slashes a workload's ID has after its scheme.
const pathSlashes = 4

// under is what p, by which a workload of the domain called is meant, asks of
// an ID that has td in its place. It is nothing where p means none of called.
func (p Pattern) under(called, td spiffeid.TrustDomain) (Pattern, bool) {
	lead := called.Name() + "/"
	rest, inside := strings.CutPrefix(p.text, lead)
	switch p.kind {
	case Exact:
		return Pattern{kind: Exact, text: td.Name() + "/" + rest}, inside
	case Prefix:
		if strings.HasPrefix(lead, p.text) {
			return Pattern{kind: Prefix, text: td.Name() + "/"}, true
		}
		return Pattern{kind: Prefix, text: td.Name() + "/" + rest}, inside
	case Suffix: // that reaches into the trust domain
		end, path, _ := strings.Cut(p.text, "/")
		return Pattern{kind: Exact, text: td.Name() + "/" + path}, strings.HasSuffix(called.Name(), end)
	}
	return Pattern{}, false
}
