// Package catest is a working CA for the tests of other packages.
//
// [New] makes one in memory: a real root and issuer, and real certificates of
// any SPIFFE ID and any life, expired ones included; it asks for no evidence and
// writes nothing down. [Start] starts the real ca.Authority in a folder of
// the test, for those who test what stands in front of it. Time is time.Now, so in
// a synctest bubble certificates age with the bubble.
package catest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/profile"
)

// A CA issues whatever a test asks for. Make it with [New]. Its methods may be
// called at once.
type CA struct {
	TrustDomain spiffeid.TrustDomain
	Root        *x509.Certificate
	Issuer      *x509.Certificate

	key crypto.Signer // the issuer's
}

// New makes a CA for one trust domain, with keys of its own: two of them trust
// each other's certificates only by bundle.
func New(t testing.TB, td spiffeid.TrustDomain) *CA {
	t.Helper()
	rootKey, issuerKey := Key(t), Key(t)
	now := time.Now()
	var p profile.Profile
	root, err := p.Root(order(t, td, rootKey, now))
	if err != nil {
		t.Fatal(err)
	}
	root = sign(t, root, root, rootKey)
	issuer, err := p.Issuer(order(t, td, issuerKey, now), root)
	if err != nil {
		t.Fatal(err)
	}
	return &CA{TrustDomain: td, Root: root, Issuer: sign(t, issuer, root, rootKey), key: issuerKey}
}

func order(t testing.TB, td spiffeid.TrustDomain, key crypto.Signer, now time.Time) profile.CAOrder {
	t.Helper()
	public, err := keypolicy.Of(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	serial, err := profile.NewSerial(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return profile.CAOrder{TrustDomain: td, Key: public, Serial: serial, Now: now}
}

// sign fills in nothing: the template holds the subject's key.
func sign(t testing.TB, template, parent *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, template.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Key makes a new P-256 key.
func Key(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// SVID makes a key and a certificate for it, with the issuer behind it. The
// certificate was issued just now, a minute backdated; with a life of zero or less it has expired.
func (c *CA) SVID(t testing.TB, id spiffeid.ID, life time.Duration) *x509svid.SVID {
	t.Helper()
	key := Key(t)
	return &x509svid.SVID{ID: id, PrivateKey: key, Certificates: c.IssueKey(t, key.Public(), id, life)}
}

// IssueKey makes a certificate for a key: the leaf and its issuer, not the root.
func (c *CA) IssueKey(t testing.TB, key crypto.PublicKey, id spiffeid.ID, life time.Duration) []*x509.Certificate {
	t.Helper()
	serial, err := profile.NewSerial(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	leaf := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(min(life, 0) - time.Minute),
		NotAfter:              now.Add(life - time.Second),
		PublicKey:             key,
		URIs:                  append(c.Issuer.URIs[:0:0], id.URL()),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	return []*x509.Certificate{c.Sign(t, leaf), c.Issuer}
}

// Sign signs any template at all as the issuer, for tests of those who must
// refuse it. The template's PublicKey is the subject's.
func (c *CA) Sign(t testing.TB, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	return sign(t, template, c.Issuer, c.key)
}

// Bundle is what a verifier of this CA's certificates needs.
func (c *CA) Bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(c.TrustDomain, []*x509.Certificate{c.Root})
}
