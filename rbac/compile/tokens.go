package compile

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/jwks"
)

// What the token filter and those behind it share.
const (
	// TokensNamespace and PayloadKey are where the dynamic metadata have the
	// payload of a verified token.
	TokensNamespace = "envoy.filters.http.jwt_authn"
	PayloadKey      = "payload"
	// ClockSkew is by how much the clocks of an issuer and ours may differ.
	ClockSkew = time.Minute
	// maxLocations bounds the places where tokens are looked for: their pairs
	// are told apart.
	maxLocations = 32
)

// noProvider is the name, and the issuer, of a provider whose tokens nobody can
// make: a request that must be refused is required to have one.
const noProvider = "istio-auth:none"

// Tokens compiles the set's rules for end users' tokens to one
// envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication. It lets pass a
// request with no token, without metadata; and one with exactly one, in one
// place, that one of the rules accepts, with its payload in the metadata. All
// others get 401, or 403 where the token is for another audience: one that no
// rule's issuer has signed, and two at once, whether valid or not. Equal sets
// give equal bytes in one process.
//
// Envoy fetches no keys. An issuer whose keys are missing, or which are none,
// has for its keys one whose private half nobody has.
func Tokens(set rbac.Set) (*anypb.Any, error) {
	if set.IsZero() {
		return nil, ErrUnknownSet
	}
	filter := &jwtv3.JwtAuthentication{StatPrefix: StatPrefix, StripFailureResponse: true}
	if rules := set.Tokens(); len(rules) > 0 {
		locations, err := locationsOf(rules)
		if err != nil {
			return nil, err
		}
		filter.Providers = providers(rules)
		filter.Rules = slices.Concat(tokenGuards(locations), inLines(rules, locations), []*jwtv3.RequirementRule{requireFor(nil, requirement(rules))})
	}
	if err := filter.ValidateAll(); err != nil {
		return nil, fmt.Errorf("checking the compiled token filter: %w", err)
	}
	return pack(filter)
}

// providers are one for each rule, and one that nobody satisfies.
func providers(rules []rbac.TokenRule) map[string]*jwtv3.JwtProvider {
	all := map[string]*jwtv3.JwtProvider{noProvider: provider(rbac.TokenRule{Issuer: noProvider, Locations: rules[0].Locations})}
	for i, rule := range rules {
		all[providerName(i)] = provider(rule)
	}
	return all
}

func providerName(i int) string { return fmt.Sprintf("rule-%d", i) }

// provider pins all that a token can say: what is left out here, Envoy does not
// look at.
func provider(rule rbac.TokenRule) *jwtv3.JwtProvider {
	p := &jwtv3.JwtProvider{
		Issuer:            rule.Issuer,
		Audiences:         slices.Compact(slices.Sorted(slices.Values(rule.Audiences))),
		RequireExpiration: true,
		MaxLifetime:       durationpb.New(jwks.TokenLife + ClockSkew),
		ClockSkewSeconds:  uint32(ClockSkew / time.Second),
		JwksSourceSpecifier: &jwtv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: keys(rule)},
		}},
		Forward:              rule.Forward,
		ForwardPayloadHeader: rule.PayloadHeader,
		PayloadInMetadata:    PayloadKey,
		NormalizePayloadInMetadata: &jwtv3.JwtProvider_NormalizePayload{
			SpaceDelimitedClaims: rbac.SpaceDelimited(),
		},
	}
	for _, l := range rule.Locations {
		switch {
		case l.Header != "":
			p.FromHeaders = append(p.FromHeaders, &jwtv3.JwtHeader{Name: l.Header, ValuePrefix: l.Prefix})
		case l.Param != "":
			p.FromParams = append(p.FromParams, l.Param)
		case l.Cookie != "":
			p.FromCookies = append(p.FromCookies, l.Cookie)
		}
	}
	for _, c := range rule.ClaimHeaders {
		p.ClaimToHeaders = append(p.ClaimToHeaders, &jwtv3.JwtClaimToHeader{HeaderName: c.Header, ClaimName: c.Claim})
	}
	return p
}

// keys are the rule's, checked and canonical.
func keys(rule rbac.TokenRule) string {
	if set, err := jwks.Load(rule.Keys); err == nil {
		return set.JSON()
	}
	return lostKey()
}

// lostKey is a key set of this process, with whose key nothing was ever signed.
// A key that everybody could know, as a fallback had once (CVE-2026-31837), is
// worse than none, and Envoy refuses a set without keys.
var lostKey = sync.OnceValue(func() string {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic("compile: " + err.Error()) // crypto/rand never returns one
	}
	return `{"keys":[{"alg":"EdDSA","use":"sig","kty":"OKP","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}]}`
})

// requirement is for a request that has one token at most. Envoy's "allow
// missing" takes of those that share an issuer one provider; where there are such,
// all are tried one by one before it. In a list it knows the list's providers
// only, so that all have to be there.
func requirement(rules []rbac.TokenRule) *jwtv3.JwtRequirement {
	issuers := map[string]bool{}
	var each []*jwtv3.JwtRequirement
	for i, r := range rules {
		issuers[r.Issuer] = true
		each = append(each, requireProvider(providerName(i)))
	}
	missing := &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_AllowMissing{AllowMissing: &emptypb.Empty{}}}
	if len(issuers) == len(rules) {
		return missing
	}
	return &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAny{
		RequiresAny: &jwtv3.JwtRequirementOrList{Requirements: append(each, missing)},
	}}
}

// inLines are for headers of which Envoy takes each line for a token of its own.
// "Allow missing" would be content when the first line is valid, and hand on the
// others; a provider wants all lines to be. (Of "authorization" it makes one
// line, with commas, which is never a token.)
func inLines(rules []rbac.TokenRule, locations []rbac.TokenLocation) (list []*jwtv3.RequirementRule) {
	for _, l := range locations {
		if l.Header == "" || l.Header == "authorization" {
			continue
		}
		var each []*jwtv3.JwtRequirement
		for i, r := range rules {
			if slices.Contains(r.Locations, l) {
				each = append(each, requireProvider(providerName(i)))
			}
		}
		what := each[0]
		if len(each) > 1 {
			what = &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAny{RequiresAny: &jwtv3.JwtRequirementOrList{Requirements: each}}}
		}
		list = append(list, requireFor([]*routev3.HeaderMatcher{placeOf(l).present}, what))
	}
	return list
}

func requireProvider(name string) *jwtv3.JwtRequirement {
	return &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_ProviderName{ProviderName: name}}
}

func requireFor(when []*routev3.HeaderMatcher, what *jwtv3.JwtRequirement) *jwtv3.RequirementRule {
	return &jwtv3.RequirementRule{
		Match:           &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}, Headers: when},
		RequirementType: &jwtv3.RequirementRule_Requires{Requires: what},
	}
}

// defaultLocations are those of a rule that names none.
var defaultLocations = []rbac.TokenLocation{{Header: "authorization", Prefix: "Bearer "}, {Param: "access_token"}}

// locationsOf are all places where a token may be, in a fixed order.
func locationsOf(rules []rbac.TokenRule) ([]rbac.TokenLocation, error) {
	seen := map[rbac.TokenLocation]bool{}
	for _, r := range rules {
		list := r.Locations
		if len(list) == 0 {
			list = defaultLocations
		}
		for _, l := range list {
			if l.Param != "" && !plainName(l.Param) || l.Cookie != "" && !plainName(l.Cookie) {
				return nil, fmt.Errorf("compiling the tokens of %s: no parameter or cookie is named %q", r.Issuer, l.Param+l.Cookie)
			}
			seen[l] = true
		}
	}
	if len(seen) > maxLocations {
		return nil, fmt.Errorf("compiling tokens: they are looked for in %d places, which is more than %d", len(seen), maxLocations)
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b rbac.TokenLocation) int {
		return cmp.Or(cmp.Compare(a.Header, b.Header), cmp.Compare(a.Prefix, b.Prefix), cmp.Compare(a.Param, b.Param), cmp.Compare(a.Cookie, b.Cookie))
	}), nil
}

// plainName tells whether s has only what RFC 3986 §2.3 calls unreserved, which
// is never percent-encoded.
func plainName(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~") == ""
}

// The regular expressions of the guards: whole matches, in RE2.
const (
	// compact is a signed token in compact form (RFC 7515 §7.1). Envoy itself
	// takes "a..b.c", padding, and what stands behind a blank.
	compact = `[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`
	// oddName is a query with a parameter's name of which an unreserved character
	// is percent-encoded. Envoy finds a token there; others may not.
	oddName = `[^?]*\?(?:.*&)?[^=&]*%(?:2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|5[0-9AaFf]|7[0-9AaEe]).*`
)

// tokenGuards refuse what has no one meaning. Where a request has several tokens,
// Envoy is content when the last that it looks at is valid; and of two lines, or
// two parameters of one name, it looks at one, and the application perhaps at
// the other.
func tokenGuards(locations []rbac.TokenLocation) []*jwtv3.RequirementRule {
	var guards []*jwtv3.RequirementRule
	never := func(when ...*routev3.HeaderMatcher) {
		guards = append(guards, requireFor(when, requireProvider(noProvider)))
	}
	if slices.ContainsFunc(locations, func(l rbac.TokenLocation) bool { return l.Param != "" }) {
		never(regex(":path", oddName, false))
	}
	for i, l := range locations {
		p := placeOf(l)
		if p.twice != "" {
			never(regex(p.header, p.twice, false))
		}
		never(p.present, regex(p.header, p.strict, true))
		for _, other := range locations[i+1:] {
			never(p.present, placeOf(other).present)
		}
	}
	return guards
}

// A place is how a token at a location looks to a matcher of headers.
type place struct {
	header        string
	present       *routev3.HeaderMatcher
	strict, twice string // one token, and only one; two
}

func placeOf(l rbac.TokenLocation) place {
	switch {
	case l.Param != "":
		name := quoteRegex(l.Param)
		return place{
			header:  ":path",
			present: regex(":path", `[^?]*\?(?:.*&)?`+name+`(?:[=&].*)?`, false),
			strict:  `[^?]*\?(?:.*&)?` + name + `=` + compact + `(?:&.*)?`,
			twice:   `[^?]*\?(?:.*&)?` + name + `(?:=[^&]*)?&(?:.*&)?` + name + `(?:[=&].*)?`,
		}
	case l.Cookie != "":
		name := quoteRegex(l.Cookie)
		return place{
			header:  "cookie",
			present: regex("cookie", `(?:.*[;,])? *`+name+`=.*`, false),
			strict:  `(?:.*[;,])? *` + name + `=` + compact + `(?:[;,].*)?`,
			twice:   `(?:.*[;,])? *` + name + `=.*[;,] *` + name + `=.*`,
		}
	}
	present := &routev3.HeaderMatcher{Name: l.Header, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
	if l.Prefix != "" {
		// "bearer x" is a bearer token too, for others (RFC 7235 §2.1).
		present.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Contains{Contains: l.Prefix}, IgnoreCase: true,
		}}
	}
	return place{header: l.Header, present: present, strict: quoteRegex(l.Prefix) + compact}
}

func regex(header, pattern string, not bool) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{
		Name:        header,
		InvertMatch: not,
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: pattern}},
		}},
	}
}

// quoteRegex quotes text for RE2, which takes a backslash before any ASCII
// punctuation.
func quoteRegex(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strings.ContainsRune(`\.+*?()|[]{}^$-`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
