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
// attributes and extensions that a request asks for are read, since a request that
// is broken is refused, and then forgotten.
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
	var request, info, key, attributes cryptobyte.String
	input := cryptobyte.String(der)
	ok = wellFormed(input, maxDepth) &&
		input.ReadASN1(&request, cbasn1.SEQUENCE) && input.Empty() &&
		request.ReadASN1(&info, cbasn1.SEQUENCE) &&
		request.SkipASN1(cbasn1.SEQUENCE) && request.SkipASN1(cbasn1.BIT_STRING) && request.Empty() &&
		info.SkipASN1(cbasn1.INTEGER) && info.SkipASN1(cbasn1.SEQUENCE) &&
		info.ReadASN1Element(&key, cbasn1.SEQUENCE) &&
		info.ReadASN1(&attributes, cbasn1.Tag(0).Constructed().ContextSpecific()) && info.Empty()
	for ok && !attributes.Empty() {
		var attribute cryptobyte.String
		ok = attributes.ReadASN1(&attribute, cbasn1.SEQUENCE) &&
			attribute.SkipASN1(cbasn1.OBJECT_IDENTIFIER) && attribute.SkipASN1(cbasn1.SET) && attribute.Empty()
	}
	return key, ok
}

// maxDepth is more than an honest request has: eight, where it asks for names.
const maxDepth = 16

// wellFormed reports whether elements are whole, with lengths as DER has them,
// and so are those within them.
func wellFormed(s cryptobyte.String, depth int) bool {
	for !s.Empty() {
		var body cryptobyte.String
		var tag cbasn1.Tag
		if !s.ReadAnyASN1(&body, &tag) {
			return false
		}
		if constructed := tag&0x20 != 0; constructed && (depth == 0 || !wellFormed(body, depth-1)) {
			return false
		}
	}
	return true
}
