package mtls

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/attest"
)

// ErrNoPeer reports a client without a certificate, which only
// [ServerOptionalClient] serves.
var ErrNoPeer = errors.New("mtls: the peer showed no certificate")

var errUnverified = errors.New("mtls: the connection is not verified")

// Exactly lets in the peers with one of these IDs. Without any it refuses
// everybody.
func Exactly(ids ...spiffeid.ID) Authorizer {
	allowed := make(map[spiffeid.ID]bool, len(ids))
	for _, id := range ids {
		if !id.IsZero() {
			allowed[id] = true
		}
	}
	return func(id spiffeid.ID) error {
		if !allowed[id] {
			return attest.Refuse("peer-not-expected", "%s is none of the %d expected", id, len(allowed))
		}
		return nil
	}
}

// Agents lets in the agents of the trust domain's nodes and nobody else.
func Agents(td spiffeid.TrustDomain) Authorizer {
	return func(id spiffeid.ID) error {
		if td.IsZero() || !id.MemberOf(td) {
			return attest.Refuse("peer-trust-domain", "%s is not of %q", id, td)
		}
		_, err := attest.AgentFromID(id)
		return err
	}
}

// PeerID returns who is at the other end of a connection that one of this
// package's configurations made. It returns [ErrNoPeer] for a client without a
// certificate, and an error before the handshake is complete: crypto/tls
// completes it only after VerifyConnection has accepted the peer.
func PeerID(state tls.ConnectionState) (spiffeid.ID, error) {
	if err := verified(state); err != nil {
		return spiffeid.ID{}, err
	}
	if len(state.PeerCertificates) == 0 {
		return spiffeid.ID{}, ErrNoPeer
	}
	id, err := x509svid.IDFromCert(state.PeerCertificates[0])
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("mtls: reading the peer's ID: %w", err)
	}
	return id, nil
}

// bindingLabel is of RFC 5705 §4's form for private use.
const bindingLabel = "EXPERIMENTAL istio-auth channel binding v1"

// Binding returns 32 bytes that both ends of this connection know and no other
// connection has (RFC 8446 §7.5, as RFC 9266 does with its own label). A proof
// of possession that signs over them cannot be replayed elsewhere. It is an
// error before the handshake is complete.
func Binding(state tls.ConnectionState) ([32]byte, error) {
	if err := verified(state); err != nil {
		return [32]byte{}, err
	}
	secret, err := state.ExportKeyingMaterial(bindingLabel, nil, 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("mtls: exporting the binding: %w", err)
	}
	return [32]byte(secret), nil
}

// verified tells what can be told from the state alone: that it is of the kind
// which our configurations produce, and complete.
func verified(state tls.ConnectionState) error {
	if !state.HandshakeComplete || state.Version < tls.VersionTLS13 || state.DidResume {
		return errUnverified
	}
	return nil
}
