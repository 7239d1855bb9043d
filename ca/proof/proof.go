// Package proof proves possession of a private key to the CA.
//
// The proof is a signature over everything that it is good for: the trust
// domain, the TLS connection on which it is sent, what it is asked for, for
// whom, and the key itself. It says nothing anywhere else, and replayed on another
// connection it says nothing at all. [Sign] makes one, [Verify] checks it.
package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/ca/keypolicy"
)

// ErrInvalid reports a proof that does not hold.
var ErrInvalid = errors.New("proof: does not hold")

// context separates these signatures from all others that the key may make.
const context = "istio-auth proof of possession v1"

// MaxSubject is the longest [Binding] subject, in bytes.
const MaxSubject = 2048

// maxSignature is what an RSA key of 4,096 bits needs, the longest signature accepted.
const maxSignature = keypolicy.MaxRSA / 8

// A Purpose is what a proof is given for.
type Purpose string

// The purposes that exist. [Verify] refuses any other.
const (
	Attest  Purpose = "attest"  // the key of an agent or a service that attests itself
	Issue   Purpose = "issue"   // the new key of a workload
	Current Purpose = "current" // the key of the unexpired SVID that vouches for a renewal
)

// A Binding is what a proof is good for.
type Binding struct {
	TrustDomain spiffeid.TrustDomain
	TLS         [32]byte // mtls.Binding of the connection
	Purpose     Purpose
	Subject     string // whom it is for: the pod's UID; empty for the caller itself
}

// message is what is signed: each part with its length before it, so that no
// two bindings have the same message.
func (b Binding) message(spki []byte) ([]byte, error) {
	switch {
	case b.TrustDomain.IsZero():
		return nil, errors.New("proof: a binding without a trust domain")
	case b.TLS == [32]byte{}:
		return nil, errors.New("proof: a binding without a connection")
	case b.Purpose != Attest && b.Purpose != Issue && b.Purpose != Current:
		return nil, fmt.Errorf("proof: unknown purpose %q", b.Purpose)
	case len(b.Subject) > MaxSubject:
		return nil, fmt.Errorf("proof: a subject of %d bytes, want at most %d", len(b.Subject), MaxSubject)
	}
	var message []byte
	for _, part := range [][]byte{
		[]byte(context), []byte(b.TrustDomain.Name()), b.TLS[:], []byte(b.Purpose), []byte(b.Subject), spki,
	} {
		message = binary.BigEndian.AppendUint32(message, uint32(len(part)))
		message = append(message, part...)
	}
	return message, nil
}

// Sign proves that the caller holds key. It refuses a key that ca/keypolicy
// would refuse, and a binding that [Verify] would.
func Sign(key crypto.Signer, b Binding) ([]byte, error) {
	public, err := keypolicy.Of(key.Public())
	if err != nil {
		return nil, err
	}
	message, err := b.message(public.SPKI())
	if err != nil {
		return nil, err
	}
	signature, err := crypto.SignMessage(key, rand.Reader, message, options(public.Kind()))
	if err != nil {
		return nil, fmt.Errorf("signing a proof of possession: %w", err)
	}
	return signature, nil
}

// options fixes hash and padding for a kind of key, so that a proof need not
// name them and its sender cannot choose.
func options(kind keypolicy.Kind) crypto.SignerOpts {
	switch kind {
	case keypolicy.P384:
		return crypto.SHA384
	case keypolicy.Ed25519:
		return crypto.Hash(0)
	case keypolicy.RSA:
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	default:
		return crypto.SHA256
	}
}

// Verify checks that whoever made signature held key and meant b. What does not
// hold is refused with [ErrInvalid].
func Verify(key keypolicy.Key, b Binding, signature []byte) error {
	message, err := b.message(key.SPKI())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(signature) == 0 || len(signature) > maxSignature {
		return fmt.Errorf("%w: a signature of %d bytes", ErrInvalid, len(signature))
	}
	if !verify(key, message, signature) {
		return ErrInvalid
	}
	return nil
}

func verify(key keypolicy.Key, message, signature []byte) bool {
	switch public := key.Public().(type) {
	case *ecdsa.PublicKey:
		if key.Kind() == keypolicy.P384 {
			digest := sha512.Sum384(message)
			return ecdsa.VerifyASN1(public, digest[:], signature)
		}
		digest := sha256.Sum256(message)
		return ecdsa.VerifyASN1(public, digest[:], signature)
	case ed25519.PublicKey:
		return ed25519.Verify(public, message, signature)
	case *rsa.PublicKey:
		digest := sha256.Sum256(message)
		return rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, options(keypolicy.RSA).(*rsa.PSSOptions)) == nil
	default:
		return false
	}
}
