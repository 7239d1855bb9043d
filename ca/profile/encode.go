package profile

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// ErrEncoding reports a template or bytes that are no certificate.
var ErrEncoding = errors.New("profile: not a certificate")

// Encode returns the DER of the TBSCertificate (RFC 5280 section 4.1) of a
// template that parent will sign, without a signature: crypto/x509 does the
// encoding and is stopped where it would sign. A template that is its own parent makes a root.
func Encode(template, parent *x509.Certificate) ([]byte, error) {
	if template.SerialNumber == nil {
		return nil, fmt.Errorf("%w: without a serial", ErrEncoding)
	}
	c := &capture{public: parent.PublicKey}
	if _, err := x509.CreateCertificate(nil, template, parent, template.PublicKey, c); !errors.Is(err, errCaptured) {
		return nil, fmt.Errorf("%w: %w", ErrEncoding, err)
	}
	return c.tbs, nil
}

// errCaptured is how a capture stops crypto/x509.
var errCaptured = errors.New("captured")

// A capture is a signer that keeps what it is given, and does not sign.
type capture struct {
	public crypto.PublicKey
	tbs    []byte
}

var _ crypto.MessageSigner = (*capture)(nil)

func (c *capture) Public() crypto.PublicKey { return c.public }

// Sign would be given a digest, which is of no use.
func (c *capture) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("asked to sign a digest")
}

func (c *capture) SignMessage(_ io.Reader, tbs []byte, _ crypto.SignerOpts) ([]byte, error) {
	c.tbs = tbs
	return nil, errCaptured
}

// Assemble puts a certificate together of what was to be signed and its
// signature. It verifies nothing: any bytes will do as a signature.
func Assemble(tbs, signature []byte) ([]byte, error) {
	var body, algorithm cryptobyte.String
	input := cryptobyte.String(tbs)
	if !input.ReadASN1(&body, cbasn1.SEQUENCE) || !input.Empty() ||
		!body.SkipOptionalASN1(cbasn1.Tag(0).Constructed().ContextSpecific()) || // version
		!body.SkipASN1(cbasn1.INTEGER) || // serial
		!body.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) {
		return nil, fmt.Errorf("%w: no signature algorithm in what is to be signed", ErrEncoding)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm) // RFC 5280 section 4.1.1.2: the same
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}
