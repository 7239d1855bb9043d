package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/istio-auth/istio-auth/attest"
)

// maxChain bounds what a stranger can have us verify. Ours are of two: leaf and
// issuer; a cross-signed issuer makes three.
const maxChain = 5

// verify returns the check of a peer: a whole X509-SVID by the bundle that trust
// has now, fit for usage, and let in by authorize.
func verify(trust x509bundle.Source, authorize Authorizer, usage x509.ExtKeyUsage) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if state.Version < tls.VersionTLS13 {
			return attest.Refuse("tls-version", "%s, want TLS 1.3", tls.VersionName(state.Version))
		}
		if state.DidResume {
			return attest.Refuse("tls-resumed", "a session that nobody offered to resume")
		}
		if n := len(state.PeerCertificates); n > maxChain {
			return attest.Refuse("peer-chain-length", "%d certificates, at most %d", n, maxChain)
		}
		id, chains, err := x509svid.Verify(state.PeerCertificates, trust)
		if err != nil {
			return &attest.Refusal{Reason: "peer-not-verified", Err: err}
		}
		if err := fit(state.PeerCertificates[0], id); err != nil {
			return err
		}
		if !slices.ContainsFunc(chains, permits(usage)) {
			return attest.Refuse("peer-use", "no issuer of %s may vouch for this use", id)
		}
		if authorize == nil {
			return attest.Refuse("peer-not-expected", "nobody is, nor %s", id)
		}
		if err := authorize(id); err != nil {
			return fmt.Errorf("%s may not connect: %w", id, err)
		}
		return nil
	}
}

// fit checks what X509-SVID §2 to §4 ask of a leaf and go-spiffe leaves to its
// caller. Our CA writes both uses into every leaf, so one without is not ours.
func fit(leaf *x509.Certificate, id spiffeid.ID) error {
	uri, err := rawURI(leaf)
	if err != nil {
		return &attest.Refusal{Reason: "peer-id-spelling", Err: err}
	}
	if uri != id.String() {
		return attest.Refuse("peer-id-spelling", "%.200q stands for %q", uri, id)
	}
	if id.Path() == "" {
		return attest.Refuse("peer-id-root", "%s is a trust domain, and nobody in it", id)
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return attest.Refuse("peer-use", "certificate of %s without digitalSignature", id)
	}
	for _, want := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if !slices.Contains(leaf.ExtKeyUsage, want) {
			return attest.Refuse("peer-use", "certificate of %s without %s", id, want)
		}
	}
	return nil
}

// permits tells whether every certificate of a chain that limits its uses
// allows this one. Roots are trusted for what the bundle trusts them for.
func permits(usage x509.ExtKeyUsage) func([]*x509.Certificate) bool {
	return func(chain []*x509.Certificate) bool {
		for _, c := range chain[:len(chain)-1] {
			limited := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0
			if limited && !slices.Contains(c.ExtKeyUsage, usage) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
				return false
			}
		}
		return true
	}
}

// rawURI returns the certificate's one URI name, byte for byte. net/url, which
// crypto/x509 reads it with, is lenient: it forgives upper case in the scheme
// and an empty fragment, and two spellings of one identity are one too many.
func rawURI(cert *x509.Certificate) (string, error) {
	uri, n := "", 0
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		der, names := cryptobyte.String(ext.Value), cryptobyte.String(nil)
		if !der.ReadASN1(&names, cryptobyteasn1.SEQUENCE) || !der.Empty() {
			return "", errors.New("malformed alternative names")
		}
		for !names.Empty() {
			var name cryptobyte.String
			var tag cryptobyteasn1.Tag
			if !names.ReadAnyASN1(&name, &tag) {
				return "", errors.New("malformed alternative names")
			}
			if tag == cryptobyteasn1.Tag(6).ContextSpecific() {
				uri, n = string(name), n+1
			}
		}
	}
	if n != 1 {
		return "", fmt.Errorf("%d URI names, want one", n)
	}
	return uri, nil
}
