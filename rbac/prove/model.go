package prove

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

const scheme = "spiffe://"

func foldPath(p string) string { return rbac.FoldPath(p) }

// A lowering says what rbac/eval says, as formulas. It is written from that
// package and from Envoy's inputs alone, and shares nothing with the compiler.
type lowering struct {
	*table
	domains   rbac.Domains
	accepted  []spiffeid.TrustDomain
	plaintext bool
	tcp       bool
	words     bool // our own provider's word is there
	istio     bool // of the policy
	lenient   bool // maybe is enough: all but ALLOW
	cache     map[patternKey]bothWays
}

type patternKey struct {
	of      rbac.Attribute
	pattern rbac.Pattern
}

// bothWays is where a pattern matches for sure, and where it may.
type bothWays struct{ sure, maybe *node }

func (w *lowering) literal(kind attrKind, name string, how relation, s string) *node {
	return &node{lit: positive(w.number(atom{of: attribute{kind, name}, how: how, literal: s}))}
}

func (w *lowering) is(kind attrKind, how relation, s string) *node {
	return w.literal(kind, "", how, s)
}

// rule is where a rule matches.
func (w *lowering) rule(r rbac.Rule) *node {
	out := and(w.anyOf(r.From), w.anyOf(r.To), w.clause(r.When))
	if r.Expression != nil {
		out = and(out, w.expression(*r.Expression))
	}
	return out
}

func (w *lowering) anyOf(clauses []rbac.Clause) *node {
	if len(clauses) == 0 {
		return yes
	}
	terms := make([]*node, len(clauses))
	for i, c := range clauses {
		terms[i] = w.clause(c)
	}
	return or(terms...)
}

func (w *lowering) clause(c rbac.Clause) *node {
	terms := make([]*node, len(c))
	for i, t := range c {
		terms[i] = w.test(t)
	}
	return and(terms...)
}

// test: see rbac/eval. Lenient, what cannot be told matches, and what is absent
// is none of NotIn; else neither.
func (w *lowering) test(t rbac.Test) *node {
	cannotTell := w.cannotTell(t.Attribute)
	in, out := make([]*node, len(t.In)), make([]*node, len(t.NotIn))
	for i, p := range t.In {
		if m := w.match(t.Attribute, p); w.lenient {
			in[i] = m.maybe
		} else {
			in[i] = m.sure
		}
	}
	for i, p := range t.NotIn {
		if m := w.match(t.Attribute, p); w.lenient {
			out[i] = m.sure
		} else {
			out[i] = m.maybe
		}
	}
	told := or(out...).not()
	if len(t.In) > 0 {
		told = and(or(in...), told)
	}
	if w.lenient {
		return or(cannotTell, told)
	}
	if len(t.NotIn) > 0 && !w.istio {
		told = and(told, w.there(t.Attribute))
	}
	return and(cannotTell.not(), told)
}

func (w *lowering) expression(e rbac.Expression) *node {
	switch e.Op {
	case rbac.All, rbac.Any:
		terms := make([]*node, len(e.Terms))
		for i, term := range e.Terms {
			terms[i] = w.expression(term)
		}
		if e.Op == rbac.All {
			return and(terms...)
		}
		return or(terms...)
	case rbac.Matches:
		return w.test(e.Test)
	case rbac.Compare:
		return w.compared(e.Comparison)
	}
	return no
}

// cannotTell is where it is not known what a request has.
func (w *lowering) cannotTell(a rbac.Attribute) *node {
	switch {
	case a.OfHTTP() && w.tcp:
		return yes
	case a.Kind() == rbac.Header:
		return w.literal(header, a.HeaderName(), contains, ",")
	case a.Kind() == rbac.Host:
		return w.is(host, present, "").not()
	case a.Kind() == 0:
		return yes
	}
	return no
}

// there is where a request has an attribute, of those that can be told.
func (w *lowering) there(a rbac.Attribute) *node {
	switch a.Kind() {
	case rbac.Namespace, rbac.ServiceAccount:
		return w.under(w.domains.Family(), "")
	case rbac.Principal, rbac.AnyNamespace, rbac.AnyServiceAccount, rbac.TrustDomain:
		return w.is(peer, present, "")
	case rbac.SourceIP:
		return w.anyAddress(direct)
	case rbac.RemoteIP:
		return w.anyAddress(source)
	case rbac.DestinationIP:
		return w.anyAddress(destination)
	case rbac.ServerName:
		return w.is(server, present, "")
	case rbac.Header:
		return w.literal(header, a.HeaderName(), present, "")
	case rbac.RequestPrincipal:
		return and(w.hasOne(issuer), w.hasOne(subject))
	case rbac.Audience, rbac.Presenter, rbac.Claim:
		return w.claim(a, present, "")
	}
	return yes
}

// hasOne is where the token has an issuer or subject: any text but "-", which
// is none, and the empty one.
func (w *lowering) hasOne(kind attrKind) *node { return w.is(kind, regex, hasSome) }

// hasSome matches every text but "" and "-".
const hasSome = "(?s)[^-].*|-.+"

func (w *lowering) match(a rbac.Attribute, p rbac.Pattern) bothWays {
	key := patternKey{a, p}
	if m, ok := w.cache[key]; ok {
		return m
	}
	var m bothWays
	switch {
	case a.Kind() == rbac.Path:
		strict, folded := w.strictPath(p), w.foldedPath(p)
		m = bothWays{and(strict, folded), or(strict, folded)}
	case a.Kind() == rbac.Header && p.Kind() == rbac.Present: // an empty one may be there or not
		m = bothWays{w.matches(a, p), w.literal(header, a.HeaderName(), present, "")}
	default:
		n := w.matches(a, p)
		m = bothWays{n, n}
	}
	w.cache[key] = m
	return m
}

func (w *lowering) matches(a rbac.Attribute, p rbac.Pattern) *node {
	switch a.Kind() {
	case rbac.Principal, rbac.Namespace, rbac.ServiceAccount, rbac.AnyNamespace, rbac.AnyServiceAccount, rbac.TrustDomain:
		return w.ofPeer(a.Kind(), p)
	case rbac.SourceIP:
		return w.address(direct, p)
	case rbac.RemoteIP:
		return w.address(source, p)
	case rbac.DestinationIP:
		return w.address(destination, p)
	case rbac.DestinationPort:
		return w.pattern(port, "", p)
	case rbac.ServerName:
		return w.pattern(server, "", p)
	case rbac.Method:
		return w.pattern(method, "", p)
	case rbac.Host:
		return w.pattern(host, "", p)
	case rbac.Header:
		return w.pattern(header, a.HeaderName(), p)
	case rbac.RequestPrincipal:
		first, second := p.Halves()
		return and(w.hasOne(issuer), w.hasOne(subject), w.pattern(issuer, "", first), w.pattern(subject, "", second))
	case rbac.Audience, rbac.Presenter, rbac.Claim:
		name := claimName(a)
		return or(w.pattern(text, name, p), w.pattern(list, name, p))
	}
	return no
}

func claimName(a rbac.Attribute) string {
	switch a.Kind() {
	case rbac.Audience:
		return "aud"
	case rbac.Presenter:
		return "azp"
	}
	return strings.Join(a.ClaimPath(), "\x00")
}

func (w *lowering) claim(a rbac.Attribute, how relation, s string) *node {
	return or(w.literal(text, claimName(a), how, s), w.literal(list, claimName(a), how, s))
}

// pattern is a pattern of one string. Present is any but the empty one.
func (w *lowering) pattern(kind attrKind, name string, p rbac.Pattern) *node {
	switch p.Kind() {
	case rbac.Exact:
		return w.literal(kind, name, exact, p.Text())
	case rbac.Prefix:
		return w.literal(kind, name, prefix, p.Text())
	case rbac.Suffix:
		return w.literal(kind, name, suffix, p.Text())
	case rbac.Present:
		if kind == list { // one that is not empty, though another may be
			return w.literal(kind, name, regex, "(?s).+")
		}
		return and(w.literal(kind, name, present, ""), w.literal(kind, name, exact, "").not())
	}
	return no
}

func (w *lowering) address(kind attrKind, p rbac.Pattern) *node {
	if p.Kind() != rbac.Network {
		return constant(p.Kind() == rbac.Present)
	}
	return w.within(kind, p.Network())
}

func (w *lowering) anyAddress(kind attrKind) *node {
	return or(w.within(kind, netip.PrefixFrom(netip.IPv4Unspecified(), 0)), w.within(kind, netip.PrefixFrom(netip.IPv6Unspecified(), 0)))
}

func (w *lowering) within(kind attrKind, n netip.Prefix) *node {
	return &node{lit: positive(w.number(atom{of: attribute{kind: kind}, how: within, network: n}))}
}

// strictPath compares the path as it is.
func (w *lowering) strictPath(p rbac.Pattern) *node {
	switch p.Kind() {
	case rbac.Present:
		return yes // behind the guards
	case rbac.Template:
		return w.template(path, p.Segments(), false)
	}
	return w.pattern(path, "", p)
}

// foldedPath compares the folded path, as rbac.Pattern.MatchFolded does: a slash
// at the end makes no difference but to a Prefix and to AnyRest.
func (w *lowering) foldedPath(p rbac.Pattern) *node {
	folded := p.FoldedText()
	bare := strings.TrimSuffix(folded, "/")
	switch p.Kind() {
	case rbac.Exact:
		if bare == "" {
			return w.is(fold, exact, "/")
		}
		return or(w.is(fold, exact, bare), w.is(fold, exact, bare+"/"))
	case rbac.Prefix:
		return w.is(fold, prefix, folded)
	case rbac.Suffix:
		if bare == "" {
			return yes
		}
		return or(w.is(fold, suffix, bare), w.is(fold, suffix, bare+"/"))
	case rbac.Present:
		return yes
	case rbac.Template:
		segments := p.FoldedSegments()
		rest := len(segments) > 0 && segments[len(segments)-1] == rbac.AnyRest
		return w.template(fold, segments, !rest)
	}
	return no
}

// template is a path template. One that is literal but for its rest is a prefix.
func (w *lowering) template(kind attrKind, segments []string, orSlash bool) *node {
	last := len(segments) - 1
	if !slices.Contains(segments, rbac.AnySegment) && last >= 0 && segments[last] == rbac.AnyRest {
		return w.is(kind, prefix, "/"+strings.Join(append(slices.Clone(segments[:last]), ""), "/"))
	}
	return w.is(kind, regex, templateRegex(segments, orSlash))
}

// templateRegex is a path template as a regular expression of the whole path.
func templateRegex(segments []string, orSlash bool) string {
	var out strings.Builder
	for _, s := range segments {
		out.WriteByte('/')
		switch s {
		case rbac.AnySegment:
			out.WriteString("[^/]+")
		case rbac.AnyRest:
			out.WriteString(".*")
		default:
			out.WriteString(quote(s))
		}
	}
	if orSlash {
		out.WriteString("/?")
	}
	return out.String()
}

// quote escapes what means more than itself.
func quote(s string) string {
	var out strings.Builder
	for i := range len(s) {
		if strings.IndexByte(`\.+*?()|[]{}^$`, s[i]) >= 0 {
			out.WriteByte('\\')
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
