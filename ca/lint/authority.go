package lint

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/ca/keypolicy"
)

// A WantAuthority is what the certificate of an authority is to be.
type WantAuthority struct {
	TrustDomain spiffeid.TrustDomain
	Key         keypolicy.Key
	Root        *x509.Certificate // who signs it; nil for a root, which signs itself
	Now         time.Time
}

// CheckAuthority reads the TBSCertificate of a root or an issuer and reports
// the first rule that it breaks, as a *[Broken]: those of SPIFFE X509-SVID for
// signing certificates, that an issuer cannot sign another one, and that it does
// not outlive its root.
func CheckAuthority(tbs []byte, w WantAuthority) error {
	if len(tbs) == 0 || len(tbs) > MaxTBS {
		return broken(RuleEncoding, "%d bytes, want 1 to %d", len(tbs), MaxTBS)
	}
	cert, err := parse(tbs)
	if err != nil {
		return err
	}
	signer, pathLength, usages := cert, 1, []x509.ExtKeyUsage(nil)
	if w.Root != nil {
		signer, pathLength = w.Root, 0
		usages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	now := w.Now.Truncate(time.Second)
	switch {
	case cert.Version != 3:
		return broken(RuleFields, "version %d", cert.Version)
	case !bytes.Equal(cert.RawIssuer, signer.RawSubject) || len(cert.Issuer.Names) == 0:
		return broken(RuleIssuer, "issued by %q, want %q", cert.Issuer, signer.Subject)
	case w.Root != nil && bytes.Equal(cert.RawSubject, w.Root.RawSubject):
		return broken(RuleSubject, "an issuer with the name of its root")
	case !bytes.Equal(cert.RawSubjectPublicKeyInfo, w.Key.SPKI()):
		return broken(RuleKey, "not the key that was asked for")
	case cert.SerialNumber.Sign() <= 0 || cert.SerialNumber.BitLen() < 128 || cert.SerialNumber.BitLen() > 159:
		return broken(RuleSerial, "%x", cert.SerialNumber)
	case cert.SignatureAlgorithm != algorithmOf(signer):
		return broken(RuleAlgorithm, "%v, want %v", cert.SignatureAlgorithm, algorithmOf(signer))
	case cert.NotBefore.After(now) || !cert.NotAfter.After(now):
		return broken(RuleValidity, "valid from %s to %s, and it is %s", cert.NotBefore, cert.NotAfter, now)
	case cert.NotAfter.After(signer.NotAfter) || cert.NotBefore.Before(signer.NotBefore):
		return broken(RuleOutlives, "valid to %s, its root to %s", cert.NotAfter, signer.NotAfter)
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.MaxPathLen != pathLength:
		return broken(RuleConstraints, "cA %v, path length %d, want %d", cert.IsCA, cert.MaxPathLen, pathLength)
	case cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign:
		return broken(RuleKeyUsage, "key usage %#x", cert.KeyUsage)
	case !slices.Equal(cert.ExtKeyUsage, usages) || len(cert.UnknownExtKeyUsage) != 0:
		return broken(RuleExtUsage, "extended key usage %v %v", cert.ExtKeyUsage, cert.UnknownExtKeyUsage)
	case len(cert.SubjectKeyId) == 0 || !bytes.Equal(cert.AuthorityKeyId, signer.SubjectKeyId):
		return broken(RuleAuthorityKey, "key identifiers %x by %x", cert.SubjectKeyId, cert.AuthorityKeyId)
	case len(cert.UnhandledCriticalExtensions) != 0:
		return broken(RuleExtensions, "critical extensions %v", cert.UnhandledCriticalExtensions)
	}
	if err := checkAuthorityName(cert, w.TrustDomain); err != nil {
		return err
	}
	return runZlint(cert.Raw, authorityExcludes)
}

// checkAuthorityName wants the trust domain without a path, and no other name
// (X509-SVID section 3.2).
func checkAuthorityName(cert *x509.Certificate, td spiffeid.TrustDomain) error {
	want := sequenceOf(6, []byte(td.IDString()))
	for _, x := range cert.Extensions {
		if x.Id.Equal(oidName) && bytes.Equal(x.Value, want) {
			return nil
		}
	}
	return broken(RuleName, "not exactly one name, %s", td.IDString())
}
