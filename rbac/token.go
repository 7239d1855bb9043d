package rbac

import (
	"cmp"
	"time"
)

// A RequestAuthentication says which end users' tokens a workload takes.
type RequestAuthentication struct {
	Namespace, Name string
	// Selector is as of [Policy].
	Selector map[string]string
	Targets  []TargetRef
	Rules    []TokenRule
}

// Key is "namespace/name".
func (a RequestAuthentication) Key() string { return a.Namespace + "/" + a.Name }

// Compare orders by namespace, then name.
func (a RequestAuthentication) Compare(b RequestAuthentication) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// A TokenRule accepts the tokens of one issuer.
type TokenRule struct {
	Issuer string // never empty: a token's "iss" must be it
	// Audiences are those of which a token's "aud" must have one. Empty: the
	// rule names none, and any is taken.
	Audiences []string
	// Locations are where a token is looked for; none means the default ones:
	// "Authorization: Bearer", then the parameter "access_token".
	Locations []TokenLocation
	// Keys are the issuer's, as a JSON web key set (RFC 7517 §5). Empty: they
	// were never obtained, and every token of the issuer is rejected.
	Keys string
	// KeysURI is where Keys come from, where they are not the author's own.
	KeysURI string
	// Timeout is how long one fetch from KeysURI may take. Zero: as the fetcher
	// thinks fit.
	Timeout time.Duration
	// Forward leaves the token in the request.
	Forward bool
	// PayloadHeader gets the payload, in base64url. Empty: none does.
	PayloadHeader string
	// ClaimHeaders get one claim each.
	ClaimHeaders []ClaimHeader
}

// A TokenLocation is one place of a request where a token may stand: exactly one
// of Header, Param and Cookie is not empty.
type TokenLocation struct {
	Header, Prefix string // by lower-case name; the text before the token
	Param          string // of the query
	Cookie         string
}

// A ClaimHeader copies a claim into a header. What a client sent under that
// name is dropped.
type ClaimHeader struct{ Header, Claim string }
