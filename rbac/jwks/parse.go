package jwks

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"

	"filippo.io/edwards25519"
)

// A Refusal says why a key set, or the address of one, is refused.
type Refusal struct {
	Reason string // a stable code in kebab-case
	Detail string // for whoever keeps the set; nothing of a fetched body is in it
}

// Error returns the reason and the detail.
func (r *Refusal) Error() string { return "jwks: " + r.Reason + ": " + r.Detail }

func refuse(reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Why a document is refused.
const (
	TooLarge     = "too-large"     // more than MaxBytes, MaxDepth or MaxKeys
	NotJSON      = "not-json"      // not one JSON value in UTF-8
	DuplicateKey = "duplicate-key" // an object with two members of one name
	NotAKeySet   = "not-a-key-set" // not an object with a list "keys" of objects
	BadMember    = "bad-member"    // a member of a kind or value that RFC 7517 or 7518 does not have
	PrivateKey   = "private-key"   // a private half: whoever can read the set can sign
	SymmetricKey = "symmetric-key" // "oct": the same
	WeakKey      = "weak-key"      // RSA below 2048 bits, or with a small exponent
	BadKey       = "bad-key"       // no key at all: a point beside the curve, an even modulus
	SameID       = "same-id"       // two keys, one "kid"
	NoUsableKey  = "no-usable-key" // none is for what we verify
)

// Parse reads a key set that an issuer has published. A key that is not for us
// is left out: of another kind, curve or algorithm, or not for signatures. One
// that is wrong refuses the set, since something is amiss where it was made. A
// set with no key to use is refused. Errors are of type [*Refusal].
func Parse(data []byte) (Set, error) {
	if len(data) > MaxBytes {
		return Set{}, refuse(TooLarge, "it has more than %d bytes", MaxBytes)
	}
	list, err := entries(data)
	if err != nil {
		return Set{}, err
	}
	if len(list) > MaxKeys {
		return Set{}, refuse(TooLarge, "it lists more than %d keys", MaxKeys)
	}
	set, err := parseKeys(list)
	if err != nil {
		return Set{}, err
	}
	for i, k := range set.keys {
		if k.ID != "" && slices.ContainsFunc(set.keys[i+1:], func(l Key) bool { return k.ID == l.ID }) {
			return Set{}, refuse(SameID, "two keys have the kid %q", k.ID)
		}
	}
	return set, nil
}

// Load reads back what [Set.JSON] or a [Keeper] wrote: it checks as [Parse]
// does, but a set may have twice as many keys, and one kid twice.
func Load(text string) (Set, error) {
	if len(text) > 2*MaxBytes {
		return Set{}, refuse(TooLarge, "it has more than %d bytes", 2*MaxBytes)
	}
	list, err := entries([]byte(text))
	if err != nil {
		return Set{}, err
	}
	if len(list) > maxKept {
		return Set{}, refuse(TooLarge, "it lists more than %d keys", maxKept)
	}
	return parseKeys(list)
}

// entries are the members of "keys".
func entries(data []byte) ([]any, error) {
	value, err := decode(data)
	if err != nil {
		return nil, err
	}
	document, ok := value.(map[string]any)
	if !ok {
		return nil, refuse(NotAKeySet, "it is no object")
	}
	list, ok := document["keys"].([]any)
	if !ok {
		return nil, refuse(NotAKeySet, `it has no list "keys"`)
	}
	return list, nil
}

func parseKeys(list []any) (Set, error) {
	var keys []Key
	for i, entry := range list {
		object, ok := entry.(map[string]any)
		if !ok {
			return Set{}, refuse(NotAKeySet, "key %d is no object", i)
		}
		key, usable, err := parseKey(members{object, i})
		if err != nil {
			return Set{}, err
		}
		if usable {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return Set{}, refuse(NoUsableKey, "none of its %d keys is one that we verify with", len(list))
	}
	return newSet(keys), nil
}

// algorithms by kind of key. The first is taken where the key names none.
var algorithms = map[string][]string{
	"RSA":     {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
	"P-256":   {"ES256"},
	"P-384":   {"ES384"},
	"P-521":   {"ES512"},
	"Ed25519": {"EdDSA"},
}

var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

// private are the members that only whoever signs may have (RFC 7518 §6).
var private = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// parseKey reads one entry. Usable is false where it is none for us.
func parseKey(m members) (key Key, usable bool, err error) {
	kind, err := m.text("kty", maxName)
	if err != nil {
		return Key{}, false, err
	}
	if kind == "oct" {
		return Key{}, false, refuse(SymmetricKey, "key %d", m.index)
	}
	// Also in a key that is not for us: it is a leak all the same.
	for _, name := range private {
		if _, ok := m.object[name]; ok {
			return Key{}, false, refuse(PrivateKey, "key %d has the member %q", m.index, name)
		}
	}
	forUs, err := m.forSignatures()
	if err != nil || !forUs {
		return Key{}, false, err
	}
	if key.ID, err = m.text("kid", maxName); err != nil {
		return Key{}, false, err
	}
	group := kind
	if kind == "EC" || kind == "OKP" {
		if group, err = m.text("crv", maxName); err != nil {
			return Key{}, false, err
		}
		if (curves[group] != nil) != (kind == "EC") {
			return Key{}, false, nil
		}
	}
	if key.Algorithm, err = m.text("alg", maxName); err != nil {
		return Key{}, false, err
	}
	switch known := algorithms[group]; {
	case known == nil:
		return Key{}, false, nil
	case key.Algorithm == "":
		key.Algorithm = known[0]
	case !slices.Contains(known, key.Algorithm):
		return Key{}, false, nil
	}
	switch kind {
	case "RSA":
		err = m.rsa(&key)
	case "EC":
		err = m.ec(&key, group)
	case "OKP":
		err = m.ed25519(&key)
	default: // a kty that is spelt like a curve
		return Key{}, false, nil
	}
	return key, err == nil, err
}

// members are those of one key.
type members struct {
	object map[string]any
	index  int
}

// text is a member that is a string; a missing one is empty.
func (m members) text(name string, most int) (string, error) {
	value, ok := m.object[name]
	if !ok {
		return "", nil
	}
	text, ok := value.(string)
	if !ok || text == "" || len(text) > most {
		return "", refuse(BadMember, "key %d: %q is no text of 1 to %d bytes", m.index, name, most)
	}
	for _, r := range text {
		if r < ' ' || r == 0x7f {
			return "", refuse(BadMember, "key %d: %q has a control character", m.index, name)
		}
	}
	return text, nil
}

// forSignatures tells whether "use" and "key_ops" (RFC 7517 §4.2, §4.3) let the
// key verify.
func (m members) forSignatures() (bool, error) {
	use, err := m.text("use", maxName)
	if err != nil {
		return false, err
	}
	operations, ok := m.object["key_ops"]
	if !ok {
		return use == "" || use == "sig", nil
	}
	list, ok := operations.([]any)
	if !ok {
		return false, refuse(BadMember, "key %d: key_ops is no list", m.index)
	}
	verify := false
	for _, operation := range list {
		text, ok := operation.(string)
		if !ok {
			return false, refuse(BadMember, "key %d: key_ops has what is no text", m.index)
		}
		if text == "sign" {
			return false, refuse(PrivateKey, "key %d is for signing", m.index)
		}
		verify = verify || text == "verify"
	}
	return verify && (use == "" || use == "sig"), nil
}

// bytes is a member in base64url without padding (RFC 7515 §2), of which there
// is one spelling.
func (m members) bytes(name string) ([]byte, error) {
	text, err := m.text(name, 4096)
	if err != nil {
		return nil, err
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) == 0 || slices.ContainsFunc([]byte(text), func(b byte) bool { return b == '\n' || b == '\r' }) {
		return nil, refuse(BadMember, "key %d: %q is missing, or not base64url without padding", m.index, name)
	}
	return raw, nil
}

// rsa: RFC 7518 §6.3.1.
func (m members) rsa(key *Key) error {
	n, err := m.bytes("n")
	if err != nil {
		return err
	}
	e, err := m.bytes("e")
	if err != nil {
		return err
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	switch bits := modulus.BitLen(); {
	case n[0] == 0 || e[0] == 0:
		return refuse(BadMember, "key %d: a number begins with a zero byte", m.index)
	case bits < 2048:
		return refuse(WeakKey, "key %d: RSA of %d bits", m.index, bits)
	case bits > 8192:
		return refuse(BadKey, "key %d: RSA of %d bits", m.index, bits)
	case exponent.BitLen() > 31 || exponent.Bit(0) == 0 || modulus.Bit(0) == 0:
		return refuse(BadKey, "key %d: no RSA key has these numbers", m.index)
	case exponent.Int64() < 65537: // FIPS 186-5 §5.1
		return refuse(WeakKey, "key %d: RSA with the exponent %d", m.index, exponent)
	}
	key.Public = &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}
	key.text = key.canonical("kty", "RSA", "n", encode(n), "e", encode(e))
	return nil
}

// ec: RFC 7518 §6.2.1. Coordinates have the curve's whole length.
func (m members) ec(key *Key, curve string) error {
	x, err := m.bytes("x")
	if err != nil {
		return err
	}
	y, err := m.bytes("y")
	if err != nil {
		return err
	}
	c := curves[curve]
	if size := (c.Params().BitSize + 7) / 8; len(x) != size || len(y) != size {
		return refuse(BadMember, "key %d: coordinates of %d and %d bytes on %s", m.index, len(x), len(y), curve)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(c, slices.Concat([]byte{4}, x, y))
	if err != nil {
		return refuse(BadKey, "key %d: no point of %s", m.index, curve)
	}
	key.Public = public
	key.text = key.canonical("kty", "EC", "crv", curve, "x", encode(x), "y", encode(y))
	return nil
}

// ed25519: RFC 8037 §2. A point of small order verifies what nobody has signed.
func (m members) ed25519(key *Key) error {
	x, err := m.bytes("x")
	if err != nil {
		return err
	}
	if len(x) != ed25519.PublicKeySize {
		return refuse(BadMember, "key %d: an Ed25519 key of %d bytes", m.index, len(x))
	}
	point, err := new(edwards25519.Point).SetBytes(x)
	if err != nil || string(point.Bytes()) != string(x) {
		return refuse(BadKey, "key %d: no point of Ed25519", m.index)
	}
	if new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return refuse(WeakKey, "key %d: a point of small order", m.index)
	}
	key.Public = ed25519.PublicKey(x)
	key.text = key.canonical("kty", "OKP", "crv", "Ed25519", "x", encode(x))
	return nil
}
