package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"math/big"

	"github.com/istio-auth/istio-auth/rbac/jwks"
)

// A scheme tells whether a key has signed the text.
type scheme func(key crypto.PublicKey, signed string, signature []byte) bool

// schemes are the algorithms of RFC 7518 §3 and RFC 8037 that have public keys.
var schemes = map[string]scheme{
	"RS256": pkcs1(crypto.SHA256),
	"RS384": pkcs1(crypto.SHA384),
	"RS512": pkcs1(crypto.SHA512),
	"PS256": pss(crypto.SHA256),
	"PS384": pss(crypto.SHA384),
	"PS512": pss(crypto.SHA512),
	"ES256": ec(crypto.SHA256),
	"ES384": ec(crypto.SHA384),
	"ES512": ec(crypto.SHA512),
	"EdDSA": func(key crypto.PublicKey, signed string, signature []byte) bool {
		public, ok := key.(ed25519.PublicKey)
		return ok && ed25519.Verify(public, []byte(signed), signature)
	},
}

// signedBy tries the keys that the token may mean. Each has one algorithm, and
// verifies no other.
func (t *parsed) signedBy(keys []jwks.Key) error {
	reason := NoSuchKey
	for _, k := range keys {
		if k.Algorithm != t.algorithm || t.keyID != "" && k.ID != "" && k.ID != t.keyID {
			continue
		}
		if schemes[k.Algorithm](k.Public, t.signed, t.signature) {
			return nil
		}
		reason = WrongSignature
	}
	return refuse(reason, "%s by %d keys", t.algorithm, len(keys))
}

func digest(hash crypto.Hash, text string) []byte {
	h := hash.New()
	h.Write([]byte(text))
	return h.Sum(nil)
}

func pkcs1(hash crypto.Hash) scheme {
	return func(key crypto.PublicKey, signed string, signature []byte) bool {
		public, ok := key.(*rsa.PublicKey)
		return ok && rsa.VerifyPKCS1v15(public, hash, digest(hash, signed), signature) == nil
	}
}

func pss(hash crypto.Hash) scheme {
	return func(key crypto.PublicKey, signed string, signature []byte) bool {
		public, ok := key.(*rsa.PublicKey)
		options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
		return ok && rsa.VerifyPSS(public, hash, digest(hash, signed), signature, options) == nil
	}
}

// ec: the signature is r and s, each as long as the curve's order (RFC 7518
// §3.4), and not DER.
func ec(hash crypto.Hash) scheme {
	return func(key crypto.PublicKey, signed string, signature []byte) bool {
		public, ok := key.(*ecdsa.PublicKey)
		if !ok {
			return false
		}
		size := (public.Curve.Params().BitSize + 7) / 8
		if len(signature) != 2*size {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		return ecdsa.Verify(public, digest(hash, signed), r, s)
	}
}
