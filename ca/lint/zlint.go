package lint

import (
	"slices"
	"sync"

	zx509 "github.com/zmap/zcrypto/x509"
	zlint "github.com/zmap/zlint/v3/lint"
	_ "github.com/zmap/zlint/v3/lints/community" // mistakes that were made
	_ "github.com/zmap/zlint/v3/lints/rfc"       // RFC 3279, 5280, 5480, 5891, 6962, 8813
)

// The rules of browsers, the CA/Browser Forum, ETSI, Apple and Mozilla are not
// even linked in: they are about names of the public web, about policies, logs
// and revocation services, of which a private SPIFFE PKI has none.

// everywhere are the rules that are left out, and why.
var everywhere = map[string]string{
	"e_ext_san_uri_host_not_fqdn_or_ip":       "a trust domain need not be a host name (SPIFFE-ID section 2.1): \"prod\" is one",
	"e_ecdsa_small_private_key":               "searches for the private key for 5 ms; a short private key harms its owner alone",
	"e_rsa_fermat_factorization":              "ca/keypolicy has done the same, before the key cost anything",
	"e_cert_issued_by_compromised_emudhra_ca": "about one company's keys",
}

// leafExcludes are those that are left out for a leaf.
var leafExcludes = with(everywhere, map[string]string{
	"w_ext_subject_key_identifier_missing_sub_cert": "nothing is signed by a leaf's key, so nobody looks for it by its identifier",
})

// authorityExcludes are those that are left out for a root or an issuer.
var authorityExcludes = everywhere

func with(a, b map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range []map[string]string{a, b} {
		for name, why := range m {
			all[name] = why
		}
	}
	return all
}

// sources of lints that apply.
var sources = zlint.SourceList{
	zlint.RFC3279, zlint.RFC5280, zlint.RFC5480, zlint.RFC5891, zlint.RFC6962, zlint.RFC8813, zlint.Community,
}

// lints are all that apply to some certificate, in a fixed order.
var lints = sync.OnceValue(func() []*zlint.CertificateLint {
	var all []*zlint.CertificateLint
	for _, source := range sources {
		all = append(all, zlint.GlobalRegistry().CertificateLints().BySource(source)...)
	}
	return all
})

var noConfiguration = zlint.NewEmptyConfig()

// runZlint reports the first rule that a certificate breaks. A warning counts as
// much as an error: what is known to be odd and right is left out by name.
func runZlint(der []byte, excludes map[string]string) error {
	cert, err := zx509.ParseCertificate(der)
	if err != nil {
		return broken(RuleEncoding, "zcrypto: %w", err)
	}
	for _, l := range lints() {
		if _, out := excludes[l.Name]; out {
			continue
		}
		result := l.Execute(cert, noConfiguration)
		if !slices.Contains([]zlint.LintStatus{zlint.Pass, zlint.NA, zlint.NE}, result.Status) {
			return broken(l.Name, "%s: %s", result.Status, result.Details)
		}
	}
	return nil
}
