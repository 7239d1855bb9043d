// Package jwks obtains and checks the keys of those who sign end users' tokens.
//
// [Parse] makes a [Set] of what an issuer publishes (RFC 7517), or refuses it
// with a reason: nothing else that an issuer, or whoever answers in its place,
// has sent goes any further. [Fetcher] asks an address for it, and is no way
// into our own network. [Keeper] keeps the sets of all addresses in use fresh,
// and holds a key as long as a token may live that it has signed.
//
// It verifies no tokens: that is rbac/token's, and Envoy's.
package jwks

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

const (
	// MaxBytes is how long a document may be.
	MaxBytes = 1 << 20
	// MaxDepth is how deep its values may be nested.
	MaxDepth = 32
	// MaxKeys is how many keys a document may list, also such as are of no use.
	MaxKeys = 16
	// maxKept is how many keys a set may have that was made of several documents.
	maxKept = 2 * MaxKeys
	// maxName bounds a key's id.
	maxName = 256
)

// TokenLife is how long a token may still be good for: one that says more is
// rejected. So a key that nobody signs with any more may be dropped after it.
const TokenLife = 24 * time.Hour

// A Key verifies signatures of one algorithm (RFC 7518 §3.1).
type Key struct {
	ID        string // "kid"; may be empty
	Algorithm string // "RS256", ..., as the document says, or as the key suggests
	// Public is an *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey.
	Public crypto.PublicKey
	// text is the canonical JSON, by which keys are compared.
	text string
}

// A Set is what was checked of a key set. The zero Set has no keys. Sets are not
// changed once they are made.
type Set struct{ keys []Key }

// Keys lists the keys in the order of their canonical texts. The caller must
// not change the list.
func (s Set) Keys() []Key { return s.keys }

// IsZero tells that the set has no keys.
func (s Set) IsZero() bool { return len(s.keys) == 0 }

// JSON is the canonical document: equal sets have equal texts, each key has
// "alg", and nothing is in it but what verifies. The zero Set has "".
func (s Set) JSON() string {
	if s.IsZero() {
		return ""
	}
	var b strings.Builder
	b.WriteString(`{"keys":[`)
	for i, k := range s.keys {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k.text)
	}
	b.WriteString(`]}`)
	return b.String()
}

// newSet orders keys and drops what is there twice.
func newSet(keys []Key) Set {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.text, b.text) })
	return Set{slices.CompactFunc(keys, func(a, b Key) bool { return a.text == b.text })}
}

// canonical writes a key: its members are in a fixed order.
func (k Key) canonical(members ...string) string {
	var b strings.Builder
	b.WriteByte('{')
	if k.ID != "" {
		b.WriteString(`"kid":` + quote(k.ID) + `,`)
	}
	b.WriteString(`"alg":` + quote(k.Algorithm) + `,"use":"sig"`)
	for i := 0; i < len(members); i += 2 {
		b.WriteString(`,` + quote(members[i]) + `:` + quote(members[i+1]))
	}
	b.WriteByte('}')
	return b.String()
}

// quote writes a JSON string. Marshalling a string has no error.
func quote(s string) string {
	text, _ := json.Marshal(s)
	return string(text)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
