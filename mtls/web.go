package mtls

import (
	"crypto/tls"
	"crypto/x509"
)

// WebClient is for servers of the outside, that have a name and a certificate
// for it from a public CA or one of roots; nil means the system's roots. It is
// the one configuration here that knows no SPIFFE IDs, shows no certificate, and
// speaks TLS 1.2 where the server has nothing newer, which RFC 9325 §3.1.1
// allows.
func WebClient(roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		RootCAs:                roots,
		SessionTicketsDisabled: true,
	}
}
