package compile

import (
	"fmt"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
)

// An Inexpressible is something that a rule asks and a target cannot be told to
// ask. Nothing of the set is compiled for that target.
type Inexpressible struct {
	Target string // "grpc-go"
	Rule   string // "namespace/name/index"
	What   string // the attribute, as authors write it, or what else it is
}

func (e *Inexpressible) Error() string {
	return fmt.Sprintf("compile: rule %s asks for %s, which %s cannot be told to look at", e.Rule, e.What, e.Target)
}

// GRPC compiles set for the xDS servers of grpc-go, as one or two
// envoy.extensions.filters.http.rbac.v3.RBAC in the form of rules, which go into
// the filter chain in this order. The matcher form it takes without a word, and
// then allows everything.
//
// It looks at the peer's identity, at the path ("/package.Service/Method"), at
// the method, which is POST, and at headers. Whatever else a rule asks of it is
// an [Inexpressible]. CUSTOM policies deny, AUDIT policies and dry runs do
// nothing. A path that is no name of a method in the language of protobuf is
// refused, so that folding is lower case and nothing else.
//
// It matches any of several URI SANs, where Envoy and rbac/eval want exactly one:
// the credentials must see to that.
func GRPC(set rbac.Set) ([]*anypb.Any, error) {
	if set.IsZero() {
		return nil, ErrUnknownSet
	}
	g := &rulesWriter{lowering: newLowering(set, false)}
	deny := &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: map[string]*rbacv3.Policy{}}
	for _, guard := range g.lowering.guards(false) {
		switch guard.name {
		case noMethod:
			continue
		case badPath:
			guard.when = not(lit(input{kind: inPath}, isLike, likeFullMethod))
		}
		g.add(deny, guard.name, guard.when)
	}
	for _, policies := range [][]rbac.Policy{set.Policies(rbac.Custom), set.Deny()} {
		if err := g.policies(deny, policies); err != nil {
			return nil, err
		}
	}
	rules := []*rbacv3.RBAC{deny}
	if len(set.Allow()) > 0 {
		allow := &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW, Policies: map[string]*rbacv3.Policy{}}
		if err := g.policies(allow, set.Allow()); err != nil {
			return nil, err
		}
		rules = append(rules, allow)
	}
	filters := make([]*anypb.Any, len(rules))
	for i, r := range rules {
		filter := &rbacfilterv3.RBAC{Rules: r}
		if err := filter.ValidateAll(); err != nil {
			return nil, fmt.Errorf("checking the rules for grpc-go: %w", err)
		}
		packed, err := pack(filter)
		if err != nil {
			return nil, err
		}
		filters[i] = packed
	}
	return filters, nil
}

// likeFullMethod is a path that folds by lower case alone.
const likeFullMethod = `/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*/[A-Za-z0-9_]+`

// A rulesWriter writes formulas as principals, of which grpc-go knows every
// kind that is needed here.
type rulesWriter struct {
	lowering *lowering
	cannot   string // what was asked first and cannot be said
}

func (g *rulesWriter) policies(into *rbacv3.RBAC, policies []rbac.Policy) error {
	for i := range policies {
		p := &policies[i]
		g.lowering.wide, g.lowering.istio = p.Action != rbac.Allow, p.IstioCompat
		for j := range p.Rules {
			f := g.lowering.rule(p.Rules[j])
			if err := g.lowering.err; err != nil {
				return &RuleError{Rule: p.RuleName(j), Err: err}
			}
			if g.add(into, p.RuleName(j), f); g.cannot != "" {
				return &Inexpressible{Target: "grpc-go", Rule: p.RuleName(j), What: g.cannot}
			}
		}
	}
	return nil
}

// add is a policy of one rule; none where it never matches.
func (g *rulesWriter) add(into *rbacv3.RBAC, name string, f formula) {
	if f = g.settle(f); f.op == opNever {
		return
	}
	into.Policies[name] = &rbacv3.Policy{
		Permissions: []*rbacv3.Permission{{Rule: &rbacv3.Permission_Any{Any: true}}},
		Principals:  []*rbacv3.Principal{g.principal(&f)},
	}
}

// settle decides what is the same for every call.
func (g *rulesWriter) settle(f formula) formula {
	switch f.op {
	case opLiteral:
		if f.lit.in.kind == inMethod {
			post := &literal{in: f.lit.in, how: isExactly, text: "POST"}
			if holds, sure := f.lit.follows(post); sure {
				return constant(holds != f.lit.not)
			}
		}
		return f
	case opAnd, opOr:
		kids := make([]formula, len(f.kids))
		for i := range f.kids {
			kids[i] = g.settle(f.kids[i])
		}
		if f.op == opAnd {
			return and(kids...)
		}
		return or(kids...)
	}
	return f
}

func (g *rulesWriter) principal(f *formula) *rbacv3.Principal {
	switch f.op {
	case opLiteral:
		return g.literal(f.lit)
	case opAnd:
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: g.set(f.kids)}}
	case opOr:
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: g.set(f.kids)}}
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
}

func (g *rulesWriter) set(kids []formula) *rbacv3.Principal_Set {
	set := &rbacv3.Principal_Set{}
	for i := range kids {
		set.Ids = append(set.Ids, g.principal(&kids[i]))
	}
	return set
}

func (g *rulesWriter) literal(l *literal) *rbacv3.Principal {
	if l.not {
		plain := *l
		plain.not = false
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: g.literal(&plain)}}
	}
	switch l.in.kind {
	case inPeer, inPeerText:
		who := &rbacv3.Principal_Authenticated{PrincipalName: stringMatcher(l)}
		if l.how == isLike && l.text == likeAnything {
			who.PrincipalName = nil
		}
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{Authenticated: who}}
	case inPath, inFold:
		path := &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: stringMatcher(l)}}
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_UrlPath{UrlPath: path}}
	case inHeader:
		if name := l.in.name; strings.HasPrefix(name, "grpc-") || strings.HasSuffix(name, "-bin") || name == "te" {
			return g.refuse("the header " + name)
		}
		header := &routev3.HeaderMatcher{Name: l.in.name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: stringMatcher(l)}}
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_Header{Header: header}}
	}
	return g.refuse(l.in.words())
}

func (g *rulesWriter) refuse(what string) *rbacv3.Principal {
	if g.cannot == "" {
		g.cannot = what
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
}

// words are what authors call an input.
func (i input) words() string {
	switch i.kind {
	case inHost:
		return rbac.Attr(rbac.Host).String()
	case inIssuer, inSubject:
		return rbac.Attr(rbac.RequestPrincipal).String()
	case inPort:
		return rbac.Attr(rbac.DestinationPort).String()
	case inSNI:
		return rbac.Attr(rbac.ServerName).String()
	case inSource:
		return rbac.Attr(rbac.SourceIP).String()
	case inRemote:
		return rbac.Attr(rbac.RemoteIP).String()
	case inDestination:
		return rbac.Attr(rbac.DestinationIP).String()
	}
	return "a claim of the token"
}

// stringMatcher is a literal over a text; over a folded path, in any case.
func stringMatcher(l *literal) *matcherv3.StringMatcher {
	m := &matcherv3.StringMatcher{IgnoreCase: l.in.kind == inFold}
	switch l.how {
	case isExactly:
		m.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: l.text}
	case beginsWith:
		m.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: l.text}
	case endsWith:
		m.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: l.text}
	case contains:
		m.MatchPattern = &matcherv3.StringMatcher_Contains{Contains: l.text}
	case isLike:
		text := l.text
		if m.IgnoreCase {
			m.IgnoreCase, text = false, anyCase(text)
		}
		m.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: text}}
	}
	return m
}

// anyCase is a template's expression for letters in any case. Its own letters
// are those of its flags.
func anyCase(like string) string {
	like, flags := strings.CutPrefix(like, "(?s)")
	var out strings.Builder
	if flags {
		out.WriteString("(?s)")
	}
	for i := range len(like) {
		if b := like[i]; 'a' <= b && b <= 'z' {
			out.Write([]byte{'[', b, b - 'a' + 'A', ']'})
		} else {
			out.WriteByte(b)
		}
	}
	return out.String()
}
