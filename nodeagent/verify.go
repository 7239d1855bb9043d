package nodeagent

import (
	"crypto"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/attest"
)

// maxChain bounds what a CA may send: a leaf, and far more issuers than ours has.
const maxChain = 8

// ExpectedID is the SPIFFE ID that the pod's certificates must have,
// spiffe://td/ns/<namespace>/sa/<service account>, or an [*attest.Refusal] where
// a name of the pod is missing or not one that Kubernetes would allow.
func ExpectedID(td spiffeid.TrustDomain, pod attest.Pod) (spiffeid.ID, error) {
	// The node has no part in a workload's ID, and the agent may not have been told
	// its own UID yet: to prove the node is the CA's business, not ours.
	identity, err := attest.NewWorkload(td, attest.Node{Name: "node", UID: "node"}, pod)
	if err != nil {
		return spiffeid.ID{}, err
	}
	return identity.ID(), nil
}

// verify looks at what the CA sent as if the CA were a stranger: a certificate of
// another key, of another workload, that has ended, or that our peers would not
// trust must not reach a workload. It refuses with one reason code for each.
func verify(chain []*x509.Certificate, key crypto.PublicKey, want spiffeid.ID, bundle *x509bundle.Bundle, now time.Time) error {
	if len(chain) == 0 || chain[0] == nil {
		return attest.Refuse("no-certificate", "the CA sent an empty chain")
	}
	if len(chain) > maxChain {
		return attest.Refuse("chain-too-long", "%d certificates, at most %d", len(chain), maxChain)
	}
	leaf := chain[0]
	if pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key) {
		return attest.Refuse("other-key", "the certificate is of a key that we did not send")
	}
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return attest.Refuse("other-id", "want %s: %w", want, err)
	}
	if id != want {
		return attest.Refuse("other-id", "got %s, want %s", id, want)
	}
	if n := len(leaf.DNSNames) + len(leaf.IPAddresses) + len(leaf.EmailAddresses); n > 0 {
		return attest.Refuse("other-names", "%d names beside the SPIFFE ID", n)
	}
	if !now.Before(leaf.NotAfter) {
		return attest.Refuse("expired", "ended %s, now %s", leaf.NotAfter, now)
	}
	if now.Before(leaf.NotBefore) {
		return attest.Refuse("not-yet-valid", "begins %s, now %s", leaf.NotBefore, now)
	}
	_, verified, err := x509svid.Verify(chain, bundle, x509svid.WithTime(now))
	if err != nil {
		return &attest.Refusal{Reason: "untrusted-chain", Err: err}
	}
	for _, path := range verified {
		if presentable(chain, path) {
			return nil
		}
	}
	return attest.Refuse("wrong-chain", "%d certificates that are not the leaf and its issuers in order, without the root", len(chain))
}

// presentable tells whether chain is path without its root: what a TLS peer may
// be shown (RFC 8446 §4.4.2), with nothing between or behind that is not ours.
func presentable(chain, path []*x509.Certificate) bool {
	if len(path) != len(chain)+1 {
		return false
	}
	for i, cert := range chain {
		if !cert.Equal(path[i]) {
			return false
		}
	}
	return true
}
