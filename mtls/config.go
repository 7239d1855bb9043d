package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// An Authorizer decides whether a peer may connect, after its certificate was
// verified. Nil lets it in. It is called once for each handshake, possibly by
// many at once. A nil Authorizer refuses everybody.
//
// What the configurations refuse is an attest.Refusal, with a reason code for
// our log; the peer sees only that its certificate is bad.
type Authorizer func(spiffeid.ID) error

// Server requires a client certificate. own and trust are asked on every
// handshake, so that a new certificate or bundle needs no new configuration.
// It sets no NextProtos: grpc's credentials.NewTLS adds its own.
func Server(own x509svid.Source, trust x509bundle.Source, authorize Authorizer) *tls.Config {
	return server(own, tls.RequireAnyClientCert, verify(trust, authorize, x509.ExtKeyUsageClientAuth))
}

// ServerOptionalClient is as [Server], but also serves clients that show no
// certificate, for those that come to be attested. One that shows a bad
// certificate is refused, not served as one without. Tell them apart with
// [PeerID], which returns [ErrNoPeer] for a client without.
func ServerOptionalClient(own x509svid.Source, trust x509bundle.Source, authorize Authorizer) *tls.Config {
	check := verify(trust, authorize, x509.ExtKeyUsageClientAuth)
	return server(own, tls.RequestClientCert, func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 && !state.DidResume {
			return nil
		}
		return check(state)
	})
}

// Client shows own, where the server asks, and requires a server that trust
// verifies and authorize lets in. No host name is looked at: the authorizer
// says who the server must be. own and trust are asked on every handshake.
func Client(own x509svid.Source, trust x509bundle.Source, authorize Authorizer) *tls.Config {
	c := AnonymousClient(trust, authorize)
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return present(own) }
	return c
}

// AnonymousClient is as [Client], for one that has no certificate yet.
func AnonymousClient(trust x509bundle.Source, authorize Authorizer) *tls.Config {
	c := base(verify(trust, authorize, x509.ExtKeyUsageServerAuth))
	// The check of host names and system roots is off; VerifyConnection above is
	// the check, and it runs all the same.
	c.InsecureSkipVerify = true
	return c
}

func server(own x509svid.Source, auth tls.ClientAuthType, check func(tls.ConnectionState) error) *tls.Config {
	c := base(check)
	c.ClientAuth = auth
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return present(own) }
	return c
}

// base is what both sides share. ClientSessionCache stays nil: no resumption.
func base(check func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		// Named, so that neither a later default nor GODEBUG takes the hybrids
		// away. The others are for peers without them.
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.X25519, tls.CurveP256},
		VerifyConnection: check,
	}
}

// present returns the certificate of the moment.
func present(own x509svid.Source) (*tls.Certificate, error) {
	svid, err := own.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("getting our own certificate: %w", err)
	}
	cert := &tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, nil
}
