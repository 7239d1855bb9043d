package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/journal"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/lint"
	"github.com/istio-auth/istio-auth/ca/profile"
)

// Reasons of refusals (attest.Refusal) from [Authority.Issue], beside those of
// ca/profile.
const (
	ReasonLint     = "lint"                    // a bug of ours: the certificate would be a bad one
	ReasonKeyTaken = "key-of-another-identity" // the key is certified for someone else, unexpired
)

// Outcomes in the journal of an intent that led to no certificate.
const outcomeSignFailed = "sign-failed"

// A Request is what a certificate is issued for. Nothing of it comes from the
// asker but the key.
type Request struct {
	Identity attest.Identity
	Key      keypolicy.Key // whose possession was proved (ca/proof)
	Evidence [32]byte      // digest of what the identity rests on; for the journal
	Life     time.Duration // zero, or shorter than the profile's; longer is cut
}

// An Issued is a certificate, and the issuer that signed it; never the root.
type Issued struct {
	Chain []*x509.Certificate
}

// A signing is an authority that may sign now: its certificate and its key.
type signing struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Issue issues one certificate. Errors wrap attest.ErrRefused where asking
// again cannot help, and attest.ErrUnavailable where it may; a context that ends
// comes back as it is. The numbers are those of docs/ISSUANCE.md.
func (a *Authority) Issue(ctx context.Context, r Request) (*Issued, error) {
	issuer := a.issuer.Load()
	now := a.config.Now()
	serial, err := profile.NewSerial(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", attest.ErrUnavailable, err)
	}
	// step 5: from the identity, the key and the profile to a template
	template, err := a.config.Profile.Leaf(profile.Order{
		Identity: r.Identity, Key: r.Key, Issuer: issuer.cert, Serial: serial, Now: now, Life: r.Life,
	})
	if errors.Is(err, profile.ErrIssuerSpent) {
		return nil, fmt.Errorf("%w: %w", attest.ErrUnavailable, err)
	}
	if err != nil {
		return nil, err
	}
	leaf, err := a.certify(ctx, issuer, certificate{
		template: template,
		id:       r.Identity.ID(),
		key:      r.Key,
		evidence: r.Evidence,
		now:      now,
		lint: func(tbs []byte) error {
			return lint.Check(tbs, lint.Want{
				ID: r.Identity.ID(), Key: r.Key, Serial: serial, Issuer: issuer.cert,
				Now: now, Life: a.config.Profile.LifeOf(r.Identity.Kind()),
			})
		},
	})
	if err != nil {
		return nil, err
	}
	// step 12: the leaf and its issuer leave
	return &Issued{Chain: []*x509.Certificate{leaf, issuer.cert}}, nil
}

// A certificate is one that is to be made.
type certificate struct {
	template *x509.Certificate
	id       spiffeid.ID
	key      keypolicy.Key
	evidence [32]byte
	now      time.Time
	lint     func(tbs []byte) error
}

// certify is the one place that signs certificates, those of authorities
// included: it brings a template to the journal, then to the key.
func (a *Authority) certify(ctx context.Context, by *signing, c certificate) (*x509.Certificate, error) {
	// step 6: to the bytes that will be signed
	tbs, err := profile.Encode(c.template, by.cert)
	if err != nil {
		return nil, err
	}
	// step 7: a second opinion on these very bytes
	if err := c.lint(tbs); err != nil {
		a.config.Log.Error("a certificate was refused by our own lint", "spiffe_id", c.id, "err", err)
		return nil, &attest.Refusal{Reason: ReasonLint, Err: err}
	}
	// step 8: the intent is durable before anything is signed
	if err := a.intents.Append(ctx, journal.Intent{
		Serial: c.template.SerialNumber, ID: c.id, Time: c.now, NotAfter: c.template.NotAfter,
		Key: c.key.Digest(), Evidence: c.evidence, Profile: a.config.Profile.Digest(), TBS: tbs,
	}); err != nil {
		return nil, appendError(ctx, err)
	}
	// step 9: the signature, by a key that shows itself to nobody
	signature, err := crypto.SignMessage(by.key, rand.Reader, tbs, hashOf(by.cert))
	if err != nil {
		err = fmt.Errorf("%w: signing: %w", attest.ErrUnavailable, err)
		return nil, errors.Join(err, a.intents.Outcome(journal.Outcome{
			Serial: c.template.SerialNumber, Time: a.config.Now(), Refused: outcomeSignFailed,
		}))
	}
	// step 10: what was signed is what was meant, or it stays here; then the
	// intent has no outcome and counts as issued
	cert, err := compare(tbs, signature, by.cert)
	if err != nil {
		a.config.Log.Error("what was signed is not what was meant", "spiffe_id", c.id,
			"serial", c.template.SerialNumber.Text(16), "err", err)
		return nil, fmt.Errorf("%w: %w", attest.ErrUnavailable, err)
	}
	// step 11: the outcome
	if err := a.intents.Outcome(journal.Outcome{
		Serial: cert.SerialNumber, Time: a.config.Now(), Certificate: sha256.Sum256(cert.Raw),
	}); err != nil {
		return nil, fmt.Errorf("%w: noting the outcome: %w", attest.ErrUnavailable, err)
	}
	return cert, nil
}

func appendError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, journal.ErrKeyTaken):
		return &attest.Refusal{Reason: ReasonKeyTaken, Err: err}
	case ctx.Err() != nil:
		return err
	default:
		return fmt.Errorf("%w: writing the intent: %w", attest.ErrUnavailable, err)
	}
}

// compare parses what goes out, not what went in: the same bytes under a
// signature that verifies.
func compare(tbs, signature []byte, issuer *x509.Certificate) (*x509.Certificate, error) {
	der, err := profile.Assemble(tbs, signature)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing what was signed: %w", err)
	}
	if !bytes.Equal(cert.RawTBSCertificate, tbs) {
		return nil, errors.New("other bytes were signed")
	}
	if issuer.Raw == nil { // a root signs itself, and was a template until now
		issuer = cert
	}
	if err := cert.CheckSignatureFrom(issuer); err != nil {
		return nil, fmt.Errorf("verifying what was signed: %w", err)
	}
	return cert, nil
}

// hashOf is what the key of an authority signs, as ca/lint expects it.
func hashOf(signer *x509.Certificate) crypto.Hash {
	switch key := signer.PublicKey.(type) {
	case ed25519.PublicKey:
		return 0
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P384() {
			return crypto.SHA384
		}
	}
	return crypto.SHA256
}

// issueTo issues to an identity of our own, for a key that never leaves this
// process.
func (a *Authority) issueTo(ctx context.Context, identity attest.Identity) (*x509svid.SVID, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	public, err := keypolicy.Of(key.Public())
	if err != nil {
		return nil, err
	}
	issued, err := a.Issue(ctx, Request{Identity: identity, Key: public, Evidence: sha256.Sum256([]byte("the CA itself"))})
	if err != nil {
		return nil, err
	}
	return &x509svid.SVID{ID: identity.ID(), Certificates: issued.Chain, PrivateKey: key}, nil
}
