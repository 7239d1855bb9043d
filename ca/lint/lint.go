// Package lint is a second opinion on a certificate before it is signed.
//
// It reads the very bytes that will be signed and compares them with what was
// wanted, field by field, without a look at how ca/profile came to them. For a
// leaf it knows every byte that may be there ([Check]); for the certificate of
// an authority it knows the rules of SPIFFE ([CheckAuthority]). Both then pass zlint's
// collection of what others have done wrong.
package lint

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/profile"
)

// Rules, by the names under which they are broken. A rule of zlint has zlint's
// name, which begins with e_, w_ or n_.
const (
	RuleEncoding     = "encoding"      // not one TBSCertificate in DER
	RuleFields       = "fields"        // not version 3, or a field that is not used here
	RuleSerial       = "serial"        // another one, not positive, too long, too little chance
	RuleAlgorithm    = "algorithm"     // not the issuer's signature algorithm
	RuleIssuer       = "issuer"        // not the issuer's name
	RuleValidity     = "validity"      // not yet valid, backdated too far, too long
	RuleOutlives     = "outlives"      // valid before or after its issuer is
	RuleSubject      = "subject"       // a subject
	RuleKey          = "key"           // another key
	RuleExtensions   = "extensions"    // missing, twice, or one that does not belong
	RuleCritical     = "critical"      // an extension's criticality
	RuleName         = "name"          // not exactly one name, the wanted SPIFFE ID
	RuleKeyUsage     = "key-usage"     // not that of a leaf, or of an authority
	RuleExtUsage     = "ext-key-usage" // not serverAuth and clientAuth
	RuleConstraints  = "constraints"   // basic constraints
	RuleAuthorityKey = "authority-key" // not the issuer's key identifier
)

// A Broken says which rule bytes break.
type Broken struct {
	Rule string
	Err  error
}

func (b *Broken) Error() string { return fmt.Sprintf("lint: %s: %v", b.Rule, b.Err) }

// Unwrap returns what was seen.
func (b *Broken) Unwrap() error { return b.Err }

func broken(rule, format string, args ...any) error {
	return &Broken{Rule: rule, Err: fmt.Errorf(format, args...)}
}

// A Want is what a leaf is to be.
type Want struct {
	ID     spiffeid.ID
	Key    keypolicy.Key
	Serial *big.Int
	Issuer *x509.Certificate
	Now    time.Time     // the moment of issue
	Life   time.Duration // at most; from the moment of issue
}

// MaxTBS is the longest leaf that is looked at, in bytes: twice what a SPIFFE ID
// of 2,048 bytes and the largest key need.
const MaxTBS = 8 << 10

// Check reads the TBSCertificate of a leaf and reports the first rule that it
// breaks, as a *[Broken].
func Check(tbs []byte, w Want) error {
	if len(tbs) == 0 || len(tbs) > MaxTBS {
		return broken(RuleEncoding, "%d bytes, want 1 to %d", len(tbs), MaxTBS)
	}
	cert, err := parse(tbs)
	if err != nil {
		return err
	}
	for _, rule := range []func(*x509.Certificate, Want) error{
		checkFields, checkSerial, checkAlgorithm, checkValidity, checkExtensions,
	} {
		if err := rule(cert, w); err != nil {
			return err
		}
	}
	return runZlint(cert.Raw, leafExcludes)
}

// parse reads a TBSCertificate by way of a certificate that nobody signed. Only
// the fields that are used here may be there: no unique identifiers (RFC 5280
// section 4.1.2.8), which crypto/x509 would pass over.
func parse(tbs []byte) (*x509.Certificate, error) {
	der, err := profile.Assemble(tbs, make([]byte, 8))
	if err != nil {
		return nil, broken(RuleEncoding, "%w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, broken(RuleEncoding, "%w", err)
	}
	var body cryptobyte.String
	input := cryptobyte.String(tbs)
	context := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).Constructed().ContextSpecific() }
	if !input.ReadASN1(&body, cbasn1.SEQUENCE) {
		return nil, broken(RuleEncoding, "not a sequence")
	}
	for _, tag := range []cbasn1.Tag{
		context(0), cbasn1.INTEGER, cbasn1.SEQUENCE, cbasn1.SEQUENCE, // version, serial, algorithm, issuer
		cbasn1.SEQUENCE, cbasn1.SEQUENCE, cbasn1.SEQUENCE, context(3), // validity, subject, key, extensions
	} {
		if !body.SkipASN1(tag) {
			return nil, broken(RuleFields, "where a field of tag %#x belongs there is another, or none", tag)
		}
	}
	if !body.Empty() {
		return nil, broken(RuleFields, "more fields than are used")
	}
	return cert, nil
}

func checkFields(cert *x509.Certificate, w Want) error {
	switch {
	case cert.Version != 3:
		return broken(RuleFields, "version %d", cert.Version)
	case !bytes.Equal(cert.RawIssuer, w.Issuer.RawSubject):
		return broken(RuleIssuer, "issued by %q, want %q", cert.Issuer, w.Issuer.Subject)
	case len(cert.Subject.Names) != 0 || len(cert.RawSubject) != 2:
		return broken(RuleSubject, "subject %q, want none", cert.Subject)
	case !bytes.Equal(cert.RawSubjectPublicKeyInfo, w.Key.SPKI()):
		return broken(RuleKey, "not the key that was asked for")
	}
	return nil
}

// checkSerial wants the serial that was drawn, and would not believe in one with
// less than 128 bits (RFC 5280 section 4.1.2.2, and the lesson of 2019's 63-bit serials).
func checkSerial(cert *x509.Certificate, w Want) error {
	serial := cert.SerialNumber
	switch {
	case serial.Sign() <= 0 || serial.BitLen() > 159:
		return broken(RuleSerial, "not positive, or longer than 20 bytes: %x", serial)
	case serial.BitLen() < 128:
		return broken(RuleSerial, "only %d bits", serial.BitLen())
	case w.Serial == nil || serial.Cmp(w.Serial) != 0:
		return broken(RuleSerial, "%x, want %x", serial, w.Serial)
	}
	return nil
}

func checkAlgorithm(cert *x509.Certificate, w Want) error {
	if want := algorithmOf(w.Issuer); cert.SignatureAlgorithm != want || want == x509.UnknownSignatureAlgorithm {
		return broken(RuleAlgorithm, "%v, want %v", cert.SignatureAlgorithm, want)
	}
	return nil
}

// algorithmOf is the one algorithm with which a key signs certificates here.
func algorithmOf(issuer *x509.Certificate) x509.SignatureAlgorithm {
	switch key := issuer.PublicKey.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return x509.ECDSAWithSHA256
		case elliptic.P384():
			return x509.ECDSAWithSHA384
		}
	case ed25519.PublicKey:
		return x509.PureEd25519
	case *rsa.PublicKey:
		return x509.SHA256WithRSA
	}
	return x509.UnknownSignatureAlgorithm
}

// checkValidity counts in whole seconds, both ends included (RFC 5280 section
// 4.1.2.5): a life of an hour that ends at its last second has 3,600 of them.
func checkValidity(cert *x509.Certificate, w Want) error {
	now := w.Now.Truncate(time.Second)
	backdated := now.Sub(cert.NotBefore)
	life := cert.NotAfter.Add(time.Second).Sub(now)
	switch {
	case backdated < 0:
		return broken(RuleValidity, "not valid before %s, and it is %s", cert.NotBefore, now)
	case backdated > profile.MaxBackdate || backdated > max(life, 0):
		return broken(RuleValidity, "backdated by %v, with a life of %v", backdated, life)
	case life <= 0 || life > w.Life:
		return broken(RuleValidity, "a life of %v, want at most %v", life, w.Life)
	case cert.NotAfter.After(w.Issuer.NotAfter) || cert.NotBefore.Before(w.Issuer.NotBefore):
		return broken(RuleOutlives, "valid from %s to %s, its issuer from %s to %s",
			cert.NotBefore, cert.NotAfter, w.Issuer.NotBefore, w.Issuer.NotAfter)
	}
	return nil
}

var (
	oidKeyUsage     = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidName         = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidConstraints  = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtUsage     = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// An extension is one that a leaf has, and must have, with exactly this content.
type extension struct {
	oid      asn1.ObjectIdentifier
	critical bool
	rule     string // broken by other content
	content  []byte
}

// leafExtensions are all extensions of a leaf. Each is written out anew from
// what is wanted: to compare is simpler, and harder to fool, than to parse.
func leafExtensions(w Want) []extension {
	return []extension{
		{oidKeyUsage, true, RuleKeyUsage, []byte{3, 2, 7, 0x80}}, // digitalSignature alone
		{oidExtUsage, false, RuleExtUsage, []byte{
			0x30, 20, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2, // serverAuth, clientAuth
		}},
		{oidConstraints, true, RuleConstraints, []byte{0x30, 0}}, // cA is false, and there is no path length
		{oidAuthorityKey, false, RuleAuthorityKey, sequenceOf(0, w.Issuer.SubjectKeyId)},
		{oidName, true, RuleName, sequenceOf(6, []byte(w.ID.String()))}, // one uniformResourceIdentifier
	}
}

// sequenceOf is a SEQUENCE of one element with a context-specific tag.
func sequenceOf(tag uint8, content []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(tag).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(content) })
	})
	return b.BytesOrPanic() // too long only past 4 GB
}

func checkExtensions(cert *x509.Certificate, w Want) error {
	if w.ID.Path() == "" {
		return broken(RuleName, "a leaf without a path, %q", w.ID) // X509-SVID section 5.2
	}
	want := leafExtensions(w)
	if got := len(cert.Extensions); got != len(want) {
		return broken(RuleExtensions, "%d extensions, want %d", got, len(want))
	}
	for _, x := range want {
		if err := checkExtension(cert, x); err != nil {
			return err
		}
	}
	return nil
}

func checkExtension(cert *x509.Certificate, want extension) error {
	for _, got := range cert.Extensions {
		switch {
		case !got.Id.Equal(want.oid):
			continue
		case got.Critical != want.critical:
			return broken(RuleCritical, "extension %v: critical %v, want %v", got.Id, got.Critical, want.critical)
		case !bytes.Equal(got.Value, want.content):
			return broken(want.rule, "extension %v holds %x, want %x", got.Id, got.Value, want.content)
		}
		return nil
	}
	return broken(RuleExtensions, "extension %v is missing", want.oid)
}
