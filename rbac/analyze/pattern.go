package analyze

import (
	"slices"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// covers tells that whatever p matches, n matches. False may mean that it is not
// known.
func covers(n, p rbac.Pattern) bool {
	switch {
	case n == p:
		return true
	case n.Kind() == rbac.Pair || p.Kind() == rbac.Pair:
		n1, n2 := n.Halves()
		p1, p2 := p.Halves()
		return n.Kind() == p.Kind() && covers(n1, p1) && covers(n2, p2)
	case n.Kind() == rbac.Present:
		return p.Kind() != 0
	case p.Kind() == rbac.Exact:
		return n.Match(p.Text())
	case n.Kind() == rbac.Network:
		return p.Kind() == rbac.Network && n.Network().Bits() <= p.Network().Bits() && n.Network().Contains(p.Network().Addr())
	case n.Kind() == rbac.Prefix:
		// The fixed beginning of a template is the beginning of all that it matches.
		beginning, _, _ := strings.Cut(p.Text(), "{")
		return (p.Kind() == rbac.Prefix || p.Kind() == rbac.Template) && strings.HasPrefix(beginning, n.Text())
	case n.Kind() == rbac.Suffix:
		return p.Kind() == rbac.Suffix && strings.HasSuffix(p.Text(), n.Text())
	}
	return false
}

// disjoint tells that nothing is matched by both. False may mean that it is not
// known.
func disjoint(p, q rbac.Pattern) bool {
	switch {
	case p.Kind() == rbac.Pair && q.Kind() == rbac.Pair:
		p1, p2 := p.Halves()
		q1, q2 := q.Halves()
		return disjoint(p1, q1) || disjoint(p2, q2)
	case p.Kind() == rbac.Exact:
		return !q.Match(p.Text())
	case q.Kind() == rbac.Exact:
		return !p.Match(q.Text())
	case p.Kind() != q.Kind():
		return false
	}
	switch p.Kind() {
	case rbac.Network:
		return !p.Network().Overlaps(q.Network())
	case rbac.Prefix:
		return !strings.HasPrefix(p.Text(), q.Text()) && !strings.HasPrefix(q.Text(), p.Text())
	case rbac.Suffix:
		return !strings.HasSuffix(p.Text(), q.Text()) && !strings.HasSuffix(q.Text(), p.Text())
	}
	return false
}

// matchesAll tells that one of patterns matches whatever value a request has of
// the attribute, where it has one.
func matchesAll(kind rbac.AttributeKind, patterns []rbac.Pattern) bool {
	families := map[int]bool{} // lengths of addresses of which every one matches
	for _, p := range patterns {
		first, second := p.Halves()
		switch {
		case p.Kind() == rbac.Present, p.Kind() == rbac.Pair && first.Kind() == rbac.Present && second.Kind() == rbac.Present:
			return true
		case kind == rbac.Path && (p.Kind() == rbac.Prefix && p.Text() == "/" || p.Kind() == rbac.Template && p.Text() == "/"+rbac.AnyRest):
			return true
		case p.Kind() == rbac.Network && p.Network().Bits() == 0:
			families[p.Network().Addr().BitLen()] = true
		}
	}
	return len(families) == 2
}

// always tells that every request over HTTP has the attribute.
func always(kind rbac.AttributeKind) bool {
	switch kind {
	case rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP, rbac.DestinationPort, rbac.Method, rbac.Path, rbac.Host:
		return true
	}
	return false
}

// several tells that a request may have more than one value of it.
func several(kind rbac.AttributeKind) bool { return kind == rbac.Audience || kind == rbac.Claim }

// coveredBy tells that one of list covers p.
func coveredBy(list []rbac.Pattern, p rbac.Pattern) bool {
	return slices.ContainsFunc(list, func(n rbac.Pattern) bool { return covers(n, p) })
}

// isEmptyRule tells that a rule asks for nothing.
func isEmptyRule(r rbac.Rule) bool {
	return len(r.From) == 0 && len(r.To) == 0 && len(r.When) == 0 && r.Expression == nil
}
