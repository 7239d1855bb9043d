package prove

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// under is an ID of one of the domains whose path under /ns/ begins with rest.
func (w *lowering) under(domains []spiffeid.TrustDomain, rest string) *node {
	terms := make([]*node, len(domains))
	for i, td := range domains {
		lead := scheme + td.Name() + "/"
		if rest != "" {
			lead += "ns/" + rest
		}
		terms[i] = w.is(peer, prefix, lead)
	}
	return or(terms...)
}

// ofPeer is a pattern of the peer's identity, behind the guard: the peer is a
// workload of an accepted domain, or has no certificate.
func (w *lowering) ofPeer(kind rbac.AttributeKind, p rbac.Pattern) *node {
	switch kind {
	case rbac.Principal:
		return w.principal(p)
	case rbac.TrustDomain:
		return w.trustDomain(p)
	case rbac.Namespace:
		return w.namespace(w.domains.Family(), p)
	case rbac.AnyNamespace:
		return w.namespace(w.accepted, p)
	case rbac.ServiceAccount:
		return w.account(w.domains.Family(), p)
	}
	return w.account(w.accepted, p)
}

// principal is a pattern of a name of the peer. One of the family has a name in
// each of its domains: the pattern may speak of one, and the ID be of another.
func (w *lowering) principal(p rbac.Pattern) *node {
	if p.Kind() == rbac.Present {
		return w.is(peer, present, "")
	}
	var terms []*node
	for _, td := range w.accepted {
		names := []spiffeid.TrustDomain{td}
		if w.domains.IsOurs(td) {
			names = w.domains.Family()
		}
		for _, name := range names {
			terms = append(terms, w.named(p, td, name))
		}
	}
	if p.Kind() == rbac.Suffix && strings.Count(p.Text(), "/") < 4 {
		// It lies in the path, which has every name alike.
		return w.is(peer, suffix, p.Text())
	}
	return or(terms...)
}

// named is where a peer of td that is called as if it were of name matches.
func (w *lowering) named(p rbac.Pattern, td, name spiffeid.TrustDomain) *node {
	lead, called := scheme+td.Name(), name.Name()
	switch p.Kind() {
	case rbac.Exact:
		if rest, ok := strings.CutPrefix(p.Text(), called+"/"); ok {
			return w.is(peer, exact, lead+"/"+rest)
		}
	case rbac.Prefix:
		if strings.HasPrefix(called+"/", p.Text()) {
			return w.is(peer, prefix, lead+"/")
		}
		if rest, ok := strings.CutPrefix(p.Text(), called+"/"); ok {
			return w.is(peer, prefix, lead+"/"+rest)
		}
	case rbac.Suffix:
		// It has all slashes of a name: what stands before the first is the end
		// of the domain.
		end, rest, _ := strings.Cut(p.Text(), "/")
		if strings.HasSuffix(called, end) {
			return w.is(peer, exact, lead+"/"+rest)
		}
	}
	return no
}

func (w *lowering) trustDomain(p rbac.Pattern) *node {
	var of []spiffeid.TrustDomain
	ours := slices.ContainsFunc(w.domains.Family(), func(td spiffeid.TrustDomain) bool { return p.Match(td.Name()) })
	for _, td := range w.accepted {
		if w.domains.IsOurs(td) && ours || !w.domains.IsOurs(td) && p.Match(td.Name()) {
			of = append(of, td)
		}
	}
	return w.under(of, "")
}

func (w *lowering) namespace(domains []spiffeid.TrustDomain, p rbac.Pattern) *node {
	switch p.Kind() {
	case rbac.Exact:
		return w.under(domains, p.Text()+"/")
	case rbac.Prefix:
		return w.under(domains, p.Text())
	case rbac.Present:
		return w.under(domains, "")
	case rbac.Suffix:
		terms := make([]*node, len(domains))
		for i, td := range domains {
			lead := scheme + td.Name() + "/"
			terms[i] = and(w.is(peer, prefix, lead), w.is(peer, contains, p.Text()+"/sa/"))
			if strings.HasSuffix("ns", p.Text()) {
				// In /ns/sa/sa/x the first "/sa/" is the namespace, and what stands
				// before it is the word "ns".
				terms[i] = and(terms[i], w.is(peer, prefix, lead+"ns/sa/").not())
			}
		}
		return or(terms...)
	}
	return no
}

func (w *lowering) account(domains []spiffeid.TrustDomain, p rbac.Pattern) *node {
	if p.Kind() == rbac.Present {
		return w.under(domains, "")
	}
	namespace, account := p.Halves()
	if namespace.Kind() != rbac.Exact || account.Kind() != rbac.Exact {
		return no
	}
	terms := make([]*node, len(domains))
	for i, td := range domains {
		terms[i] = w.is(peer, exact, scheme+td.Name()+"/ns/"+namespace.Text()+"/sa/"+account.Text())
	}
	return or(terms...)
}

// workloads is rbac.Peer.Workload for the accepted domains.
func workloads(accepted []spiffeid.TrustDomain) string {
	names := make([]string, len(accepted))
	for i, td := range accepted {
		names[i] = quote(td.Name())
	}
	domains := "(" + strings.Join(names, "|") + ")"
	const word, words = "[a-z0-9]([-a-z0-9]*[a-z0-9])?", "[a-z0-9]([-.a-z0-9]*[a-z0-9])?"
	return scheme + domains + "/ns/" + word + "/sa/" + words
}
