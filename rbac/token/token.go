// Package token verifies end users' JSON web tokens (RFC 7519) in a process
// that has no Envoy in front of it.
//
// It is the meaning of the token filter that rbac/compile makes: the same
// tokens are good to both, which a real Envoy is asked about each hostile token
// of a table. Where Envoy is laxer, the filter has guards, and this package
// refuses at once. Start at [New].
package token

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/jwks"
)

// Skew is by how much the clocks of an issuer and ours may differ.
const Skew = time.Minute

// A Refusal says why a request's token is refused.
type Refusal struct {
	Reason string // a stable code in kebab-case
	Detail string // for our log: nothing of the token's payload is in it
}

// Error returns the reason and the detail.
func (r *Refusal) Error() string { return "token: " + r.Reason + ": " + r.Detail }

// Forbidden tells that the token is good, but not for us: the answer is 403,
// where every other refusal's is 401.
func (r *Refusal) Forbidden() bool { return r.Reason == WrongAudience }

func refuse(reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Why a token is refused.
const (
	SeveralTokens  = "several-tokens"    // in two places, or two in one
	OddName        = "odd-name"          // a query hides a parameter's name
	BadForm        = "bad-form"          // not three parts in base64url
	BadHeader      = "bad-header"        // no JSON object, or a member of a wrong kind
	UnknownAlg     = "unknown-algorithm" // "none", "HS256", and all that is no public key's
	CriticalHeader = "critical-header"   // "crit" names what nobody here knows
	BadPayload     = "bad-payload"       // no JSON object, or a claim of a wrong kind
	UnknownIssuer  = "unknown-issuer"    // no rule is for it, at that place
	NoExpiry       = "no-expiry"         // "exp" is missing
	Expired        = "expired"           // "exp" has passed
	NotYet         = "not-yet"           // "nbf" is to come
	TooLong        = "too-long"          // it would be good for more than jwks.TokenLife
	WrongAudience  = "wrong-audience"    // "aud" has none that the rule names
	IssuerKeyless  = "issuer-keyless"    // the issuer's keys were never obtained
	NoSuchKey      = "no-such-key"       // no key has the token's "kid" and "alg"
	WrongSignature = "wrong-signature"   // no key has signed it
)

// A Verifier verifies the tokens of one workload. It may be used by many at
// once.
type Verifier struct {
	rules  []rule
	places []rbac.TokenLocation
}

// A rule has what does not change from token to token.
type rule struct {
	rbac.TokenRule
	keys []jwks.Key
}

// defaults are the places of a rule that names none.
var defaults = []rbac.TokenLocation{{Header: "authorization", Prefix: "Bearer "}, {Param: "access_token"}}

// New makes a verifier of the rules. One whose keys are missing, or are no key
// set, rejects its issuer's tokens.
func New(rules []rbac.TokenRule) *Verifier {
	v := &Verifier{}
	for _, r := range rules {
		if len(r.Locations) == 0 {
			r.Locations = defaults
		}
		set, err := jwks.Load(r.Keys)
		if err != nil {
			set = jwks.Set{}
		}
		v.rules = append(v.rules, rule{r, set.Keys()})
		for _, l := range r.Locations {
			if !slices.Contains(v.places, l) {
				v.places = append(v.places, l)
			}
		}
	}
	return v
}

// Verify checks a token that was found in a place which all rules name. It is
// good where one of the rules for its issuer takes it. Errors are of type
// [*Refusal].
func (v *Verifier) Verify(compact string, now time.Time) (*rbac.Token, error) {
	return v.verify(compact, now, func(rule) bool { return true })
}

// Authenticate finds the token of a request, by its headers, whose names are in
// lower case, and the query of its path, without the question mark. A request
// without a token has the result nil, nil. Errors are of type [*Refusal].
func (v *Verifier) Authenticate(headers map[string][]string, query string, now time.Time) (*rbac.Token, error) {
	compact, at, err := v.find(headers, query)
	if err != nil || at == (rbac.TokenLocation{}) {
		return nil, err
	}
	return v.verify(compact, now, func(r rule) bool { return slices.Contains(r.Locations, at) })
}

// verify tries each rule that may be meant.
func (v *Verifier) verify(compact string, now time.Time, here func(rule) bool) (*rbac.Token, error) {
	t, err := parse(compact)
	if err != nil {
		return nil, err
	}
	err = refuse(UnknownIssuer, "no rule is for it, at this place")
	for _, r := range v.rules {
		if r.Issuer != t.issuer || !here(r) {
			continue
		}
		if err = r.accepts(t, now); err == nil {
			return &rbac.Token{Claims: t.claims}, nil
		}
	}
	return nil, err
}

// accepts is the order in which Envoy looks: the signature comes last, since it
// costs most.
func (r rule) accepts(t *parsed, now time.Time) error {
	seconds, skew := uint64(now.Unix()), uint64(Skew/time.Second)
	switch {
	case seconds+skew < t.notBefore:
		return refuse(NotYet, "it is good from %d on", t.notBefore)
	case t.expiry == 0:
		return refuse(NoExpiry, "it has no exp, or 0")
	case t.expiry+skew < seconds:
		return refuse(Expired, "it was good until %d", t.expiry)
	case time.Unix(int64(min(t.expiry, 1<<40)), 0).Sub(now) > jwks.TokenLife+Skew:
		return refuse(TooLong, "it is good until %d", t.expiry)
	case len(r.Audiences) > 0 && !r.isFor(t.audiences):
		return refuse(WrongAudience, "it is for none of %d that the rule names", len(r.Audiences))
	case len(r.keys) == 0:
		return refuse(IssuerKeyless, "the keys of %s are not known", r.Issuer)
	}
	return t.signedBy(r.keys)
}

// isFor compares as Envoy does, to whom a slash at the end and the scheme are
// nothing.
func (r rule) isFor(audiences []string) bool {
	return slices.ContainsFunc(audiences, func(a string) bool {
		return slices.ContainsFunc(r.Audiences, func(b string) bool { return bare(a) == bare(b) })
	})
}

func bare(audience string) string {
	for _, scheme := range []string{"https://", "http://"} {
		if rest, ok := strings.CutPrefix(audience, scheme); ok {
			audience = rest
			break
		}
	}
	return strings.TrimSuffix(audience, "/")
}
