// Package ca is the certificate authority: an identity that was attested and a
// public key come in, a certificate goes out.
//
// [Authority.Issue] is the whole of it, in the numbered steps of
// docs/ISSUANCE.md. The package attests nobody and serves nobody: evidence is
// judged in attest, and ca/server is the wire.
package ca

import (
	"context"
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/profile"
)

// A Config is what an [Authority] needs.
type Config struct {
	TrustDomain spiffeid.TrustDomain

	// Dir holds keys, journal and store. It is made with mode 0700 where it is
	// missing; where others may look into it, New refuses.
	Dir string

	// Profile of all certificates. The zero value is the default profile.
	Profile profile.Profile

	// Now is the clock. Nil means time.Now.
	Now func() time.Time

	Log *slog.Logger
}

// A Request is what a certificate is issued for. Nothing of it comes from
// the asker but the key.
type Request struct {
	Identity attest.Identity
	Key      keypolicy.Key // whose possession was proved (ca/proof)
	Evidence [32]byte      // digest of what the identity rests on; for the journal
	Life     time.Duration // zero, or shorter than the profile's
}

// An Issued is a certificate and the issuer that signed it, never the root.
type Issued struct {
	Chain []*x509.Certificate
}

// An Authority issues certificates. Its methods may be called at once.
type Authority struct{}

// New opens the authority in a folder, or makes root and issuer where the
// folder is empty. Close it after use.
func New(ctx context.Context, c Config) (*Authority, error) { return nil, nil }

// Run renews the authority's own certificate and its issuer until ctx ends.
func (a *Authority) Run(ctx context.Context) error { return nil }

// Close ends the use of journal and store.
func (a *Authority) Close() error { return nil }

// Issue issues one certificate. Errors wrap attest.ErrRefused where asking
// again cannot help, and attest.ErrUnavailable where it may.
func (a *Authority) Issue(ctx context.Context, r Request) (*Issued, error) { return nil, nil }

// Bundle holds the trust bundle.
func (a *Authority) Bundle() *bundle.Keeper { return nil }

// GetX509SVID returns the CA's own SVID, spiffe://<td>/istio-auth/ca.
func (a *Authority) GetX509SVID() (*x509svid.SVID, error) { return nil, nil }

// GetX509BundleForTrustDomain returns the newest bundle.
func (a *Authority) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return nil, nil
}
