package compile

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

const scheme = "spiffe://"

// The regular expressions that are not templates. Each is over the whole input.
const (
	likeAnything  = `(?s).*` // that the input is there
	likeSomething = `(?s).+`
	// likeName is an issuer or a subject that is one: see IssuerKey.
	likeName   = `(?s)[^-].*|-.+`
	likeMethod = `[A-Z][-A-Z]*` // rbac.PlainMethod
)

var (
	netAll4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	netAll6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

func anything(in input) formula         { return lit(in, isLike, likeAnything) }
func something(in input) formula        { return lit(in, isLike, likeSomething) }
func named(kind inputKind) formula      { return lit(input{kind: kind}, isLike, likeName) }
func header(a rbac.Attribute) input     { return input{kind: inHeader, name: a.HeaderName()} }
func claim(a rbac.Attribute) input      { return input{kind: inClaim, name: claimName(a)} }
func claimName(a rbac.Attribute) string { return strings.Join(claimPath(a), "\x00") }

func within(in input, network netip.Prefix) formula {
	return formula{op: opLiteral, lit: &literal{in: in, how: isWithin, network: network}}
}

func address(a rbac.Attribute) input {
	switch a.Kind() {
	case rbac.SourceIP:
		return input{kind: inSource}
	case rbac.RemoteIP:
		return input{kind: inRemote}
	}
	return input{kind: inDestination}
}

// claimPath is where a claim lies in a token's payload.
func claimPath(a rbac.Attribute) []string {
	switch a.Kind() {
	case rbac.Audience:
		return []string{"aud"}
	case rbac.Presenter:
		return []string{"azp"}
	}
	return a.ClaimPath()
}

// ofPeer matches the URI SAN of a peer which, behind the guard, is that of a
// workload of an accepted trust domain, or not there.
func (l *lowering) ofPeer(kind rbac.AttributeKind, p rbac.Pattern) formula {
	switch kind {
	case rbac.Principal:
		return l.principal(p)
	case rbac.Namespace:
		return l.namespace(l.family, p)
	case rbac.AnyNamespace:
		return l.namespace(l.accepted, p)
	case rbac.ServiceAccount:
		return l.account(l.family, p)
	case rbac.AnyServiceAccount:
		return l.account(l.accepted, p)
	}
	// A trust domain: a peer of ours has every name of the family.
	if p.Kind() == rbac.Pair || p.Kind() == rbac.Network || p.Kind() == rbac.Template {
		return l.cannot(rbac.Attr(kind), p)
	}
	named := func(td spiffeid.TrustDomain) bool { return p.Match(td.Name()) }
	var domains []spiffeid.TrustDomain
	if slices.ContainsFunc(l.family, named) {
		domains = append(domains, l.family...)
	}
	for _, td := range l.domains.Foreign {
		if named(td) {
			domains = append(domains, td)
		}
	}
	return l.peerOf(domains)
}

// peerOf is where the peer is of one of the domains, which are accepted.
func (l *lowering) peerOf(domains []spiffeid.TrustDomain) formula {
	if len(domains) == len(l.accepted) {
		if l.plaintext {
			return lit(l.peer, beginsWith, scheme)
		}
		return always
	}
	kids := make([]formula, len(domains))
	for i, td := range domains {
		kids[i] = lit(l.peer, beginsWith, scheme+td.Name()+"/")
	}
	return or(kids...)
}

// principal matches the peer's ID without its scheme. No suffix reaches the
// scheme: see rbac.ParseValue.
func (l *lowering) principal(p rbac.Pattern) formula {
	if p.Kind() > rbac.Present {
		return l.cannot("a principal", p)
	}
	expanded := l.domains.Expand(p)
	kids := make([]formula, len(expanded))
	for i, p := range expanded {
		switch p.Kind() {
		case rbac.Exact:
			kids[i] = lit(l.peer, isExactly, scheme+p.Text())
		case rbac.Prefix:
			kids[i] = lit(l.peer, beginsWith, scheme+p.Text())
		case rbac.Suffix:
			kids[i] = lit(l.peer, endsWith, p.Text())
		case rbac.Present:
			kids[i] = l.peerOf(l.accepted)
		}
	}
	return or(kids...)
}

// namespace matches the third segment of an ID. A namespace has no slash, so
// that the fixed words around it hold it in place.
func (l *lowering) namespace(domains []spiffeid.TrustDomain, p rbac.Pattern) formula {
	if p.Kind() == rbac.Present {
		return l.peerOf(domains)
	}
	kids := make([]formula, len(domains))
	for i, td := range domains {
		workloads := scheme + td.Name() + "/ns/"
		switch p.Kind() {
		case rbac.Exact:
			kids[i] = lit(l.peer, beginsWith, workloads+p.Text()+"/")
		case rbac.Prefix:
			kids[i] = lit(l.peer, beginsWith, workloads+p.Text())
		case rbac.Suffix:
			kids[i] = and(l.peerOf(domains[i:i+1]), lit(l.peer, contains, p.Text()+"/sa/"))
			// In /ns/sa/sa/x the first "/sa/" is not the fixed word but the
			// namespace, and what stands before it is "ns".
			if strings.HasSuffix("ns", p.Text()) {
				kids[i] = and(kids[i], not(lit(l.peer, beginsWith, workloads+"sa/")))
			}
		default:
			return l.cannot("a namespace", p)
		}
	}
	return or(kids...)
}

func (l *lowering) account(domains []spiffeid.TrustDomain, p rbac.Pattern) formula {
	namespace, account := p.Halves()
	if namespace.Kind() != rbac.Exact || account.Kind() != rbac.Exact {
		return l.cannot("a service account", p)
	}
	kids := make([]formula, len(domains))
	for i, td := range domains {
		kids[i] = lit(l.peer, isExactly, scheme+td.Name()+"/ns/"+namespace.Text()+"/sa/"+account.Text())
	}
	return or(kids...)
}

// ofToken matches an issuer or a subject, of which "-" is none.
func (l *lowering) ofToken(kind inputKind, p rbac.Pattern) formula {
	in := input{kind: kind}
	switch {
	case p.Kind() == rbac.Present:
		return named(kind)
	case p.Text() != "-":
		return l.text(in, p, false)
	case p.Kind() == rbac.Exact:
		return never
	}
	return and(l.text(in, p, false), named(kind))
}

// path compares a path as it is and as it is folded: both for sure, or, wide,
// either perhaps. Behind the guard both begin with a slash.
func (l *lowering) path(p rbac.Pattern, wide bool) formula {
	if p.Kind() == rbac.Present {
		return always
	}
	asIs, folded := input{kind: inPath}, input{kind: inFold}
	var strict, obliging formula
	switch p.Kind() {
	case rbac.Exact:
		// A path that is exactly the pattern folds as the pattern does.
		if !wide {
			return lit(asIs, isExactly, p.Text())
		}
		bare := strings.TrimSuffix(p.FoldedText(), "/")
		if bare == "" {
			return lit(folded, isExactly, "/")
		}
		return or(lit(folded, isExactly, bare), lit(folded, isExactly, bare+"/"))
	case rbac.Prefix:
		strict, obliging = beginsPath(asIs, p.Text()), beginsPath(folded, p.FoldedText())
	case rbac.Suffix:
		strict = lit(asIs, endsWith, p.Text())
		bare := strings.TrimSuffix(p.FoldedText(), "/")
		obliging = always
		if bare != "" {
			obliging = or(lit(folded, endsWith, bare), lit(folded, endsWith, bare+"/"))
		}
	case rbac.Template:
		segments := p.FoldedSegments()
		strict, obliging = likeSegments(asIs, p.Segments(), ""), likeSegments(folded, segments, "/?")
	default:
		return l.cannot("a path", p)
	}
	if wide {
		return or(strict, obliging)
	}
	return and(strict, obliging)
}

func beginsPath(in input, text string) formula {
	if text == "/" {
		return always
	}
	return lit(in, beginsWith, text)
}

// likeSegments is a template as a regular expression, of escaped literals and
// of [^/]+ for one segment. One whose only wildcard is its end is a prefix.
func likeSegments(in input, segments []string, end string) formula {
	var re, lead strings.Builder
	wild := false
	for _, s := range segments {
		if s == rbac.AnyRest {
			if !wild {
				return beginsPath(in, lead.String()+"/")
			}
			return template(in, "(?s)"+re.String()+"/.*", lead.String())
		}
		if s == rbac.AnySegment {
			re.WriteString("/[^/]+")
			if !wild {
				lead.WriteString("/")
			}
			wild = true
			continue
		}
		re.WriteString("/" + quoteRegex(s))
		if !wild {
			lead.WriteString("/" + s)
		}
	}
	return template(in, re.String()+end, lead.String())
}

func template(in input, re, lead string) formula {
	if lead == "/" {
		lead = "" // every path has it
	}
	return formula{op: opLiteral, lit: &literal{in: in, how: isLike, text: re, lead: lead}}
}

// likeWorkload is rbac.Peer.Workload for the URI SANs of a certificate, which
// Envoy joins with commas where there are several: that one is refused. Of what
// a trust domain has, the dot means more than itself.
func likeWorkload(domains []spiffeid.TrustDomain) string {
	const name, account = `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, `[a-z0-9]([-.a-z0-9]*[a-z0-9])?`
	names := make([]string, len(domains))
	for i, td := range domains {
		names[i] = quoteRegex(td.Name())
	}
	return scheme + "(" + strings.Join(names, "|") + ")/ns/" + name + "/sa/" + account
}
