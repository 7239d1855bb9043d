package compile_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
)

type claims map[string]any

// with is c with some claims changed. A nil value takes one away.
func (c claims) with(pairs ...any) claims {
	c = maps.Clone(c)
	for i := 0; i < len(pairs); i += 2 {
		if name := pairs[i].(string); pairs[i+1] == nil {
			delete(c, name)
		} else {
			c[name] = pairs[i+1]
		}
	}
	return c
}

func (c claims) String() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// A signingKey is an issuer's.
type signingKey struct {
	id, alg string
	private crypto.Signer
}

func (k signingKey) jwk() claims {
	jwk := claims{"use": "sig"}
	if k.id != "" {
		jwk["kid"] = k.id
	}
	if k.alg != "" {
		jwk["alg"] = k.alg
	}
	switch public := k.private.Public().(type) {
	case *rsa.PublicKey:
		return jwk.with("kty", "RSA", "n", b64(public.N.Bytes()), "e", "AQAB")
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			panic(err)
		}
		half := len(point) / 2
		return jwk.with("kty", "EC", "crv", public.Curve.Params().Name, "x", b64(point[1:half+1]), "y", b64(point[half+1:]))
	case ed25519.PublicKey:
		return jwk.with("kty", "OKP", "crv", "Ed25519", "x", b64(public))
	}
	panic("a key of no kind")
}

func keySet(keys ...signingKey) string {
	list := []any{}
	for _, k := range keys {
		list = append(list, k.jwk())
	}
	return claims{"keys": list}.String()
}

var hashes = map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}

// sign signs what stands before the last dot of a token, by an algorithm that
// need not be the header's.
func (k signingKey) sign(alg, text string) []byte {
	if alg == "EdDSA" {
		signature, err := k.private.Sign(nil, []byte(text), crypto.Hash(0))
		return must(signature, err)
	}
	hash := hashes[alg[2:]]
	h := hash.New()
	h.Write([]byte(text))
	digest := h.Sum(nil)
	switch alg[:2] {
	case "RS":
		return must(k.private.Sign(rand.Reader, digest, hash))
	case "PS":
		return must(k.private.Sign(rand.Reader, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}))
	}
	key := k.private.(*ecdsa.PrivateKey)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest)
	if err != nil {
		panic(err)
	}
	size := (key.Curve.Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// raw makes a token of a header and payload as they are.
func (k signingKey) raw(alg, header, payload string) string {
	text := b64([]byte(header)) + "." + b64([]byte(payload))
	return text + "." + b64(k.sign(alg, text))
}

// token makes one of claims, with the header that is usual.
func (k signingKey) token(c claims) string { return k.headed(claims{}, c) }

// headed is one with more in its header.
func (k signingKey) headed(header, c claims) string {
	h := claims{"alg": k.alg, "typ": "JWT"}
	if k.id != "" {
		h["kid"] = k.id
	}
	for name, value := range header {
		h = h.with(name, value)
	}
	return k.raw(k.alg, h.String(), c.String())
}

// hmacToken is signed with a text that is no secret.
func hmacToken(secret, header, payload string) string {
	text := b64([]byte(header)) + "." + b64([]byte(payload))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + b64(mac.Sum(nil))
}

// keyring are the keys of all tests.
var keyring = sync.OnceValue(func() map[string]signingKey {
	keys := map[string]signingKey{}
	for _, id := range []string{"r256", "r384", "r512", "s256", "s384", "s512", "stranger"} {
		alg := map[string]string{"r": "RS", "s": "PS"}[id[:1]] + id[1:]
		if id == "stranger" {
			alg = "RS256"
		}
		keys[id] = signingKey{id, alg, must(rsa.GenerateKey(rand.Reader, 2048))}
	}
	for id, curve := range map[string]elliptic.Curve{"e256": elliptic.P256(), "e384": elliptic.P384(), "e512": elliptic.P521(), "b256": elliptic.P256(), "c256": elliptic.P256()} {
		keys[id] = signingKey{id, "ES" + id[1:], must(ecdsa.GenerateKey(curve, rand.Reader))}
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	keys["ed"] = signingKey{"ed", "EdDSA", must(private, err)}
	return keys
})

const (
	issuerA = "https://a.test"
	issuerB = "https://b.test/realm"
	issuerC = "c.test"
)

// goodClaims are accepted by issuer A's rule.
func goodClaims(now time.Time) claims {
	return claims{"iss": issuerA, "sub": "alice", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
}

// tokenSets are the rules of which the table speaks.
func tokenSets() map[string][]rbac.TokenRule {
	k := keyring()
	var all, nameless []signingKey
	for _, id := range slices.Sorted(maps.Keys(k)) {
		if id[0] != 'b' && id[0] != 'c' && id != "stranger" {
			all = append(all, k[id])
		}
	}
	for _, id := range []string{"r256", "e256", "ed"} {
		key := k[id]
		key.id, key.alg = "", ""
		nameless = append(nameless, key)
	}
	a := rbac.TokenRule{Issuer: issuerA, Keys: keySet(all...)}
	b := rbac.TokenRule{Issuer: issuerB, Keys: keySet(k["b256"])}
	with := func(r rbac.TokenRule, change func(*rbac.TokenRule)) rbac.TokenRule { change(&r); return r }
	return map[string][]rbac.TokenRule{
		"none":     nil,
		"one":      {a},
		"nameless": {{Issuer: issuerA, Keys: keySet(nameless...)}},
		"aud":      {with(a, func(r *rbac.TokenRule) { r.Audiences = []string{"shop", "https://api.test/"} })},
		"two":      {a, b},
		"lost":     {{Issuer: issuerA}, b},
		"rotten":   {{Issuer: issuerA, Keys: `{"keys":[{"kty":"oct","k":"AAAA"}]}`}, b},
		"places": {
			with(a, func(r *rbac.TokenRule) {
				r.Locations = []rbac.TokenLocation{{Header: "x-jwt"}, {Header: "x-auth", Prefix: "Token="}, {Param: "t"}, {Cookie: "session"}}
			}),
			with(b, func(r *rbac.TokenRule) {
				r.Locations = []rbac.TokenLocation{{Header: "authorization", Prefix: "Bearer "}, {Param: "b_t"}}
			}),
		},
		"forward": {with(a, func(r *rbac.TokenRule) {
			r.Forward, r.PayloadHeader = true, "x-jwt-payload"
			r.ClaimHeaders = []rbac.ClaimHeader{{Header: "x-sub", Claim: "sub"}, {Header: "x-deep", Claim: "a.b"}}
		})},
		"same": {
			{Issuer: issuerC, Keys: keySet(k["c256"]), Audiences: []string{"one"}},
			{Issuer: issuerC, Keys: keySet(k["b256"]), Audiences: []string{"two"}},
			b,
		},
	}
}

// bearer is a request with a token where most have it.
func bearer(token string) tokenRequest {
	return tokenRequest{headers: []string{"Authorization: Bearer " + token}}
}

// cut is a token without its signature.
func cut(token string) string { return token[:strings.LastIndexByte(token, '.')+1] }

// der is a token whose ECDSA signature is in DER, as TLS has it.
func der(k signingKey, c claims) string {
	text := cut(k.token(c))
	digest := sha256.Sum256([]byte(text[:len(text)-1]))
	return text + b64(must(k.private.Sign(rand.Reader, digest[:], crypto.SHA256)))
}

// longHalves is a token whose ECDSA signature has a zero before both numbers.
func longHalves(k signingKey, c claims) string {
	text := cut(k.token(c))
	s := k.sign(k.alg, text[:len(text)-1])
	half := len(s) / 2
	return text + b64(slices.Concat([]byte{0}, s[:half], []byte{0}, s[half:]))
}

// pssSalt is a token with another length of the salt than the hash's; -1 is the
// longest.
func pssSalt(k signingKey, c claims, length int) string {
	text := cut(k.token(c))
	digest := sha256.Sum256([]byte(text[:len(text)-1]))
	options := &rsa.PSSOptions{SaltLength: length, Hash: crypto.SHA256}
	if length <= 0 {
		options.SaltLength = rsa.PSSSaltLengthAuto
	}
	if length == 0 {
		// The library has no way to ask for none; one byte is as wrong.
		options.SaltLength = 1
	}
	return text + b64(must(k.private.Sign(rand.Reader, digest[:], options)))
}
