package keypolicy

import (
	"crypto/x509"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxCSR is the longest certificate request that is looked at, in bytes of DER.
const MaxCSR = 8 << 10

// Further reasons of a [Refusal], for certificate requests.
const (
	ReasonCSRSize     = "csr-size"     // nothing, or more than MaxCSR
	ReasonCSREncoding = "csr-encoding" // not a PKCS#10 request in DER
	ReasonCSRProof    = "csr-proof"    // not signed with the key that it holds
)

// PublicKeyOfCSR returns the public key of a PKCS#10 request (RFC 2986), once
// the policy accepts the key and the request is signed with it. Names,
// attributes and extensions that a request asks for are parsed, since a request
// that is broken anywhere is refused, and then forgotten.
func PublicKeyOfCSR(der []byte) (Key, error) {
	if len(der) == 0 || len(der) > MaxCSR {
		return Key{}, refuse(ReasonCSRSize, "%d bytes of request, want 1 to %d", len(der), MaxCSR)
	}
	spki, ok := spkiOfCSR(der)
	if !ok {
		return Key{}, refuse(ReasonCSREncoding, "not a CertificationRequest in DER")
	}
	// The key comes first: what follows costs what the key makes it cost.
	key, err := Parse(spki)
	if err != nil {
		return Key{}, err
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Key{}, refuse(ReasonCSREncoding, "%w", err)
	}
	if string(request.RawSubjectPublicKeyInfo) != key.spki {
		return Key{}, refuse(ReasonCSREncoding, "two parsers see two keys")
	}
	if err := request.CheckSignature(); err != nil {
		return Key{}, refuse(ReasonCSRProof, "%w", err)
	}
	return key, nil
}

// spkiOfCSR finds the key in a request and reads nothing else of it.
func spkiOfCSR(der []byte) (spki []byte, ok bool) {
	var request, info, key cryptobyte.String
	input := cryptobyte.String(der)
	ok = input.ReadASN1(&request, cbasn1.SEQUENCE) && input.Empty() &&
		request.ReadASN1(&info, cbasn1.SEQUENCE) &&
		request.SkipASN1(cbasn1.SEQUENCE) && request.SkipASN1(cbasn1.BIT_STRING) && request.Empty() &&
		info.SkipASN1(cbasn1.INTEGER) && info.SkipASN1(cbasn1.SEQUENCE) &&
		info.ReadASN1Element(&key, cbasn1.SEQUENCE)
	return key, ok
}
