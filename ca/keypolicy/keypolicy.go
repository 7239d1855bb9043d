// Package keypolicy decides which public keys may be certified.
//
// It is an allow-list, applied before anything is computed with a key: checking
// one signature with an RSA key of 65,536 bits and a large exponent costs half a
// second (THREATS 0.2), and costs nothing here. [Parse] takes a key as it came
// off the wire, [Of] one that is already parsed, [PublicKeyOfCSR] the key of a
// certificate request, of which nothing else leaves this package.
package keypolicy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
)

// MaxSPKI is the longest SubjectPublicKeyInfo that is looked at, in bytes of
// DER. An RSA key of 4,096 bits takes 550.
const MaxSPKI = 2 << 10

// Bounds of an RSA key: the length of its modulus in bits, and its exponent.
const (
	MinRSA      = 2048
	MaxRSA      = 4096
	RSAExponent = 65537
)

// Reasons of a [Refusal]. They are stable: logs and the journal quote them.
const (
	ReasonSize      = "key-size"         // nothing, or more than MaxSPKI
	ReasonEncoding  = "key-encoding"     // not the one DER encoding of a key
	ReasonAlgorithm = "key-algorithm"    // not ECDSA, Ed25519 or RSA
	ReasonCurve     = "key-curve"        // neither P-256 nor P-384
	ReasonPoint     = "key-point"        // not a point of the curve, or one of small order
	ReasonRSASize   = "key-rsa-size"     // modulus outside MinRSA to MaxRSA
	ReasonExponent  = "key-rsa-exponent" // exponent other than RSAExponent
	ReasonWeak      = "key-rsa-weak"     // a modulus that is known to be easy to factor
)

// A Refusal says why a key, or a certificate request, may not be used.
type Refusal struct {
	Reason string // stable, kebab-case
	Err    error  // what was seen; for the log, not for the asker; may be nil
}

func (r *Refusal) Error() string {
	if r.Err == nil {
		return "keypolicy: " + r.Reason
	}
	return fmt.Sprintf("keypolicy: %s: %v", r.Reason, r.Err)
}

// Unwrap returns what was seen.
func (r *Refusal) Unwrap() error { return r.Err }

func refuse(reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// A Kind is an algorithm with its parameters. The zero Kind is no key.
type Kind int

// The kinds that may be certified.
const (
	P256 Kind = iota + 1
	P384
	Ed25519
	RSA
)

func (k Kind) String() string {
	switch k {
	case P256:
		return "P-256"
	case P384:
		return "P-384"
	case Ed25519:
		return "Ed25519"
	case RSA:
		return "RSA"
	default:
		return "no key"
	}
}

// A Key is a public key that the policy accepts. Only [Parse], [Of] and
// [PublicKeyOfCSR] make one; the zero Key is no key. Nothing has been verified
// with it: whoever sent it need not hold the private half (see ca/proof).
type Key struct {
	kind Kind
	spki string // DER; a string cannot be edited by whoever gets it
	pub  crypto.PublicKey
}

// Kind is the algorithm of the key.
func (k Key) Kind() Kind { return k.kind }

// IsZero reports whether k is no key.
func (k Key) IsZero() bool { return k.kind == 0 }

// SPKI returns a copy of the key's SubjectPublicKeyInfo (RFC 5280 section 4.1), in DER.
func (k Key) SPKI() []byte { return []byte(k.spki) }

// Digest is the SHA-256 of the key's SubjectPublicKeyInfo.
func (k Key) Digest() [sha256.Size]byte { return sha256.Sum256([]byte(k.spki)) }

// Public returns the key as *ecdsa.PublicKey, ed25519.PublicKey or
// *rsa.PublicKey; nil for the zero Key. It is shared: do not edit it.
func (k Key) Public() crypto.PublicKey { return k.pub }

// Equal reports whether both are the same key.
func (k Key) Equal(other Key) bool { return k.kind == other.kind && k.spki == other.spki }

// Parse reads a SubjectPublicKeyInfo in DER and accepts or refuses it with a
// *[Refusal]. It takes less than a millisecond, whatever it is given.
func Parse(spki []byte) (Key, error) {
	if len(spki) == 0 || len(spki) > MaxSPKI {
		return Key{}, refuse(ReasonSize, "%d bytes of key, want 1 to %d", len(spki), MaxSPKI)
	}
	if err := checkAlgorithm(spki); err != nil {
		return Key{}, err
	}
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return Key{}, refuse(ReasonEncoding, "%w", err)
	}
	kind, err := check(parsed)
	if err != nil {
		return Key{}, err
	}
	// One key has one encoding here, so that a digest of it names it.
	canonical, err := x509.MarshalPKIXPublicKey(parsed)
	if err != nil {
		return Key{}, refuse(ReasonEncoding, "%w", err)
	}
	if !bytes.Equal(canonical, spki) {
		return Key{}, refuse(ReasonEncoding, "not the DER encoding of the key")
	}
	return Key{kind: kind, spki: string(spki), pub: parsed}, nil
}

// Of accepts or refuses a key that is already parsed, such as one's own.
func Of(pub crypto.PublicKey) (Key, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Key{}, refuse(ReasonAlgorithm, "%w", err)
	}
	return Parse(spki)
}

func check(pub crypto.PublicKey) (Kind, error) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		return checkECDSA(pub)
	case ed25519.PublicKey:
		return Ed25519, checkEd25519(pub)
	case *rsa.PublicKey:
		return RSA, checkRSA(pub)
	default:
		return 0, refuse(ReasonAlgorithm, "a key of type %T", pub)
	}
}
