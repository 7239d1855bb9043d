// Package profile says what a certificate may hold.
//
// It is pure: from an identity, a key, an issuer and a moment it makes the
// template of one certificate, and it takes nothing from a request. A leaf, an issuer
// and a root come from three functions ([Profile.Leaf], [Profile.Issuer],
// [Profile.Root]); no flag turns one into another. Whether the template was
// kept is for ca/lint to say.
package profile

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
)

// Bounds and defaults of a [Profile].
const (
	MinLife      = 5 * time.Second
	MaxLife      = 24 * time.Hour
	MaxAgentLife = time.Hour
	MaxBackdate  = 5 * time.Minute

	DefaultLife       = 6 * time.Hour
	DefaultAgentLife  = time.Hour
	DefaultIssuerLife = 90 * 24 * time.Hour
	DefaultRootLife   = 10 * 365 * 24 * time.Hour
)

// Reasons of refusals (attest.Refusal) from this package.
const (
	ReasonNoIdentity  = "no-identity"
	ReasonNoKey       = "no-key"
	ReasonLifeShort   = "life-too-short"
	ReasonTrustDomain = "foreign-trust-domain"
)

// ErrIssuerSpent reports an issuer that may sign nothing now: it has less than
// one full leaf life left, or is not valid yet. A leaf never outlives its issuer, and
// is never cut short to fit: a short life nobody planned for is an outage.
var ErrIssuerSpent = errors.New("profile: the issuer has less than one leaf life left")

// A Profile is what the certificates of a CA have in common. Its zero value is
// the default; a field that is zero means the default that it names.
//
// A life is counted from the moment of issue. Validity is inclusive at both ends
// (RFC 5280 section 4.1.2.5) and in whole seconds, so a leaf that is issued in
// second s is valid until s+life-1s, that second included: never longer than its
// life, and up to a second shorter.
type Profile struct {
	// Life of a workload's certificate: MinLife to MaxLife. Default DefaultLife.
	Life time.Duration

	// AgentLife is that of agents and of our own services, at most MaxAgentLife.
	// Default: the shorter of Life and DefaultAgentLife.
	AgentLife time.Duration

	// Backdate is how far notBefore lies before the moment of issue, for verifiers
	// with slow clocks. It counts for nothing in a life. Default, and at most: the
	// shorter of MaxBackdate and the life of the certificate.
	Backdate time.Duration

	// IssuerLife and RootLife are those of CA certificates. An issuer never
	// outlives its root.
	IssuerLife time.Duration
	RootLife   time.Duration

	// ConstrainURI limits the issuer to names of its trust domain, in its
	// certificate. Off by default: rustls refuses every URI name under such a constraint.
	ConstrainURI bool
}

// withDefaults replaces what is zero.
func (p Profile) withDefaults() Profile {
	set := func(d *time.Duration, byDefault time.Duration) {
		if *d == 0 {
			*d = byDefault
		}
	}
	set(&p.Life, DefaultLife)
	set(&p.AgentLife, min(p.Life, DefaultAgentLife))
	set(&p.Backdate, MaxBackdate)
	set(&p.IssuerLife, DefaultIssuerLife)
	set(&p.RootLife, DefaultRootLife)
	return p
}

// Validate reports the first field that is out of bounds.
func (p Profile) Validate() error {
	p = p.withDefaults()
	whole := func(d time.Duration) bool { return d%time.Second == 0 }
	switch {
	case p.Life < MinLife || p.Life > MaxLife || !whole(p.Life):
		return fmt.Errorf("profile: a life of %v, want whole seconds from %v to %v", p.Life, MinLife, MaxLife)
	case p.AgentLife < MinLife || p.AgentLife > MaxAgentLife || !whole(p.AgentLife):
		return fmt.Errorf("profile: an agent life of %v, want whole seconds from %v to %v", p.AgentLife, MinLife, MaxAgentLife)
	case p.Backdate < 0 || p.Backdate > MaxBackdate || !whole(p.Backdate):
		return fmt.Errorf("profile: backdating by %v, want whole seconds, at most %v", p.Backdate, MaxBackdate)
	case p.IssuerLife < 4*p.longest() || !whole(p.IssuerLife):
		return fmt.Errorf("profile: an issuer life of %v, want whole seconds, at least four leaf lives", p.IssuerLife)
	case p.RootLife < p.IssuerLife || !whole(p.RootLife):
		return fmt.Errorf("profile: a root life of %v, want whole seconds, at least the issuer's %v", p.RootLife, p.IssuerLife)
	}
	return nil
}

// longest is one full leaf life.
func (p Profile) longest() time.Duration { return max(p.Life, p.AgentLife) }

// LeafLife is one full leaf life: the longest that any leaf of the profile lives.
func (p Profile) LeafLife() time.Duration { return p.withDefaults().longest() }

// LifeOf is how long a certificate of a kind of identity lives.
func (p Profile) LifeOf(kind attest.Kind) time.Duration {
	p = p.withDefaults()
	if kind == attest.Workload {
		return p.Life
	}
	return p.AgentLife
}

// Digest names the profile: the journal keeps it with each certificate.
func (p Profile) Digest() [sha256.Size]byte {
	p = p.withDefaults()
	text := []byte("istio-auth profile v1")
	for _, d := range []time.Duration{p.Life, p.AgentLife, p.Backdate, p.IssuerLife, p.RootLife} {
		text = binary.BigEndian.AppendUint64(text, uint64(d))
	}
	if p.ConstrainURI {
		text = append(text, "uri constraint"...)
	}
	return sha256.Sum256(text)
}

// CheckIssuer returns [ErrIssuerSpent] for an issuer that may sign no leaf at now.
func (p Profile) CheckIssuer(issuer *x509.Certificate, now time.Time) error {
	if now.Before(issuer.NotBefore) {
		return fmt.Errorf("%w: it is not valid before %s", ErrIssuerSpent, issuer.NotBefore.UTC().Format(time.RFC3339))
	}
	if lastSecond(now, p.LeafLife()).After(issuer.NotAfter) {
		return fmt.Errorf("%w: it ends at %s", ErrIssuerSpent, issuer.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// An Order is all that goes into a leaf.
type Order struct {
	Identity attest.Identity
	Key      keypolicy.Key
	Issuer   *x509.Certificate
	Serial   *big.Int      // from NewSerial
	Now      time.Time     // the moment of issue
	Life     time.Duration // zero, or shorter than the profile's; longer is cut
}

// Leaf returns the template of a workload's, an agent's or a service's
// certificate: an X509-SVID (SPIFFE X509-SVID sections 2 to 4) with one name.
// Errors are refusals (attest.Refusal), or wrap [ErrIssuerSpent].
func (p Profile) Leaf(o Order) (*x509.Certificate, error) {
	p = p.withDefaults()
	switch {
	case o.Identity.IsZero():
		return nil, &attest.Refusal{Reason: ReasonNoIdentity}
	case o.Key.IsZero():
		return nil, &attest.Refusal{Reason: ReasonNoKey}
	case !certifies(o.Issuer, o.Identity.ID().TrustDomain()):
		return nil, attest.Refuse(ReasonTrustDomain, "%s", o.Identity.ID())
	}
	life := p.LifeOf(o.Identity.Kind())
	if o.Life != 0 {
		life = min(life, o.Life.Truncate(time.Second))
	}
	if life < MinLife {
		return nil, attest.Refuse(ReasonLifeShort, "%v, want at least %v", o.Life, MinLife)
	}
	if err := p.CheckIssuer(o.Issuer, o.Now); err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          o.Serial,
		NotBefore:             firstSecond(o.Now, min(p.Backdate, life), o.Issuer.NotBefore),
		NotAfter:              lastSecond(o.Now, life),
		PublicKey:             o.Key.Public(),
		URIs:                  []*url.URL{o.Identity.ID().URL()}, // critical, since the subject is empty
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, // cA is false
	}, nil
}

// certifies reports whether an issuer is that of a trust domain.
func certifies(issuer *x509.Certificate, td spiffeid.TrustDomain) bool {
	return issuer != nil && len(issuer.URIs) == 1 && issuer.URIs[0].String() == td.IDString()
}

// firstSecond is notBefore: backdated, but not to before the issuer was valid.
func firstSecond(now time.Time, backdate time.Duration, issuer time.Time) time.Time {
	first := now.Truncate(time.Second).Add(-backdate)
	if first.Before(issuer) {
		return issuer
	}
	return first
}

// lastSecond is notAfter: the last second of a life that begins in now's.
func lastSecond(now time.Time, life time.Duration) time.Time {
	return now.Truncate(time.Second).Add(life - time.Second)
}

// A CAOrder is all that goes into the certificate of an authority.
type CAOrder struct {
	TrustDomain spiffeid.TrustDomain
	Key         keypolicy.Key
	Serial      *big.Int
	Now         time.Time
}

// Root returns the template of a root, which signs itself and issuers, and no leaf.
func (p Profile) Root(o CAOrder) (*x509.Certificate, error) {
	p = p.withDefaults()
	root, err := o.template("root", p.RootLife)
	if err != nil {
		return nil, err
	}
	root.MaxPathLen = 1
	root.AuthorityKeyId = root.SubjectKeyId // may be left out (RFC 5280 section 4.2.1.1); some look for it
	return root, nil
}

// Issuer returns the template of an issuer, which signs leaves and nothing
// else. It does not outlive its root; one that would live for less than four
// leaf lives for that reason is refused with [ErrIssuerSpent].
func (p Profile) Issuer(o CAOrder, root *x509.Certificate) (*x509.Certificate, error) {
	p = p.withDefaults()
	issuer, err := o.template("issuer", p.IssuerLife)
	if err != nil {
		return nil, err
	}
	if !certifies(root, o.TrustDomain) {
		return nil, attest.Refuse(ReasonTrustDomain, "%s", o.TrustDomain)
	}
	if issuer.NotAfter.After(root.NotAfter) {
		issuer.NotAfter = root.NotAfter
	}
	if lastSecond(o.Now, 4*p.longest()).After(issuer.NotAfter) {
		return nil, fmt.Errorf("%w: its root ends at %s", ErrIssuerSpent, root.NotAfter.UTC().Format(time.RFC3339))
	}
	issuer.NotBefore = firstSecond(o.Now, MaxBackdate, root.NotBefore)
	issuer.MaxPathLenZero = true
	issuer.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if p.ConstrainURI {
		issuer.PermittedDNSDomainsCritical = true // of the whole extension
		issuer.PermittedURIDomains = []string{o.TrustDomain.Name()}
	}
	return issuer, nil
}

// template is what a root and an issuer have in common: an X509-SVID of a trust
// domain without a path (SPIFFE X509-SVID section 3.2), that signs.
func (o CAOrder) template(role string, life time.Duration) (*x509.Certificate, error) {
	switch {
	case o.TrustDomain.IsZero():
		return nil, &attest.Refusal{Reason: ReasonTrustDomain}
	case o.Key.IsZero():
		return nil, &attest.Refusal{Reason: ReasonNoKey}
	}
	digest := o.Key.Digest()
	return &x509.Certificate{
		SerialNumber: o.Serial,
		// A name of its own for each key, so that a chain is built one way only.
		// The trust domain does not fit: a name has at most 64 characters.
		Subject: pkix.Name{
			Organization: []string{"Istio-Auth"},
			CommonName:   "Istio-Auth " + role + " " + hex.EncodeToString(digest[:8]),
		},
		NotBefore:             firstSecond(o.Now, MaxBackdate, time.Time{}),
		NotAfter:              lastSecond(o.Now, life),
		PublicKey:             o.Key.Public(),
		SubjectKeyId:          digest[:20], // RFC 7093 section 2, method 1, over the whole key
		URIs:                  []*url.URL{o.TrustDomain.ID().URL()},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}, nil
}

// serialBits of chance make a serial that nobody counts, guesses or repeats:
// unique over all replicas, restarts and restores without any state. One more
// bit would be read as a sign in 20 bytes (RFC 5280 section 4.1.2.2).
const serialBits = 159

// NewSerial draws a serial number from random: positive, of at most 20 bytes.
func NewSerial(random io.Reader) (*big.Int, error) {
	var raw [(serialBits + 1) / 8]byte
	for {
		if _, err := io.ReadFull(random, raw[:]); err != nil {
			return nil, fmt.Errorf("drawing a serial: %w", err)
		}
		raw[0] &= 0x7f
		if serial := new(big.Int).SetBytes(raw[:]); serial.BitLen() >= 128 {
			return serial, nil // the rest, one in 2^31, would look like too little chance
		}
	}
}
