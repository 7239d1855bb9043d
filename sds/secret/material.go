package secret

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// A Material is what one workload proves itself with, and what it checks others
// by. It prints without its key.
type Material struct {
	// SVID is the workload's certificate and key. Nil means that it has none
	// yet: then the bundles are served, and about certificates there is silence.
	SVID *x509svid.SVID
	// Bundle holds the roots of the workload's own trust domain.
	Bundle *x509bundle.Bundle
	// Foreign holds the bundles of other trust domains, each once.
	Foreign []*x509bundle.Bundle
}

// String names the identity and nothing else.
func (m Material) String() string {
	if m.SVID == nil {
		return "Material(no identity)"
	}
	return "Material(" + m.SVID.ID.String() + ", REDACTED)"
}

// Format prints String, whatever the verb.
func (m Material) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(m.String())) }

// LogValue is String for slog.
func (m Material) LogValue() slog.Value { return slog.StringValue(m.String()) }

// MarshalJSON is String for JSON.
func (m Material) MarshalJSON() ([]byte, error) { return json.Marshal(m.String()) }

// A Refusal is why a material was not taken. What was served before stays.
type Refusal struct {
	// Reason is a stable code, such as "key-mismatch".
	Reason string
	err    error
}

// Error returns the reason and its cause.
func (r *Refusal) Error() string {
	if r.err == nil {
		return "secret refused: " + r.Reason
	}
	return "secret refused: " + r.Reason + ": " + r.err.Error()
}

// Unwrap returns the cause, or nil.
func (r *Refusal) Unwrap() error { return r.err }

func refuse(reason string, err error) error { return &Refusal{Reason: reason, err: err} }

// checkSVID refuses what Envoy would refuse, for a refused secret spoils the
// next one (see [Source]), and what it would take though peers refuse it.
func checkSVID(svid *x509svid.SVID, now time.Time) error {
	if len(svid.Certificates) == 0 {
		return refuse("no-certificate", nil)
	}
	// Envoy is given Raw, so Raw is what is checked.
	chain := make([]*x509.Certificate, len(svid.Certificates))
	for i, c := range svid.Certificates {
		if c == nil {
			return refuse("certificate-unparsable", nil)
		}
		var err error
		if chain[i], err = x509.ParseCertificate(c.Raw); err != nil {
			return refuse("certificate-unparsable", err)
		}
	}
	leaf := chain[0]
	if leaf.IsCA {
		return refuse("leaf-is-ca", nil)
	}
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return refuse("id-invalid", err)
	}
	if id != svid.ID || id.Path() == "" {
		return refuse("id-mismatch", fmt.Errorf("the certificate is of %s, the SVID of %s", id, svid.ID))
	}
	if !now.Before(leaf.NotAfter) {
		return refuse("expired", fmt.Errorf("at %s", leaf.NotAfter.UTC().Format(time.RFC3339)))
	}
	if now.Before(leaf.NotBefore) {
		return refuse("not-yet-valid", fmt.Errorf("before %s", leaf.NotBefore.UTC().Format(time.RFC3339)))
	}
	if err := checkKey(leaf, svid.PrivateKey); err != nil {
		return err
	}
	for i := range chain[:len(chain)-1] {
		if err := chain[i].CheckSignatureFrom(chain[i+1]); err != nil {
			return refuse("chain-broken", err)
		}
	}
	return nil
}

func checkKey(leaf *x509.Certificate, key crypto.Signer) error {
	if key == nil {
		return refuse("key-missing", nil)
	}
	switch public := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() && public.Curve != elliptic.P384() {
			return refuse("key-unsupported", nil)
		}
	case *rsa.PublicKey:
		if public.N.BitLen() < 2048 {
			return refuse("key-unsupported", nil)
		}
	default: // BoringSSL in Envoy takes no Ed25519 certificate
		return refuse("key-unsupported", nil)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		return refuse("key-mismatch", nil)
	}
	return nil
}

// A domain is one trust domain with its roots, sorted and each once, so that
// the same set has the same bytes.
type domain struct {
	name  spiffeid.TrustDomain
	roots [][]byte
}

// checkBundles returns the domains of a material, the workload's own first.
// Envoy refuses a domain that comes twice or has no root.
func checkBundles(m Material) ([]domain, error) {
	if m.Bundle == nil {
		return nil, refuse("bundle-missing", nil)
	}
	if m.SVID != nil && m.SVID.ID.TrustDomain() != m.Bundle.TrustDomain() {
		return nil, refuse("trust-domain-mismatch", fmt.Errorf("%s with the bundle of %s", m.SVID.ID, m.Bundle.TrustDomain()))
	}
	var domains []domain
	for _, bundle := range append([]*x509bundle.Bundle{m.Bundle}, m.Foreign...) {
		if bundle == nil || bundle.TrustDomain().IsZero() {
			return nil, refuse("bundle-missing", nil)
		}
		if slices.ContainsFunc(domains, func(d domain) bool { return d.name == bundle.TrustDomain() }) {
			return nil, refuse("bundle-duplicate", fmt.Errorf("of %s", bundle.TrustDomain()))
		}
		d := domain{name: bundle.TrustDomain()}
		for _, authority := range bundle.X509Authorities() {
			root, err := x509.ParseCertificate(authority.Raw)
			if err != nil {
				return nil, refuse("bundle-unparsable", err)
			}
			if !root.BasicConstraintsValid || !root.IsCA {
				return nil, refuse("bundle-not-ca", fmt.Errorf("of %s", d.name))
			}
			d.roots = append(d.roots, root.Raw)
		}
		slices.SortFunc(d.roots, bytes.Compare)
		d.roots = slices.CompactFunc(d.roots, bytes.Equal)
		if len(d.roots) == 0 {
			return nil, refuse("bundle-empty", fmt.Errorf("of %s", d.name))
		}
		domains = append(domains, d)
	}
	return domains, nil
}
