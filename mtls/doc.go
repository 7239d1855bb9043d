// Package mtls makes every TLS configuration of ours.
//
// go-spiffe's ready configurations check the peer in VerifyPeerCertificate,
// which crypto/tls does not call on a resumed session: a client with a ticket
// outlives the root that vouched for it and the rule that let it in. Here
// nothing can be resumed (no tickets, no session cache), and were something
// resumed all the same, the peer is verified against the bundle of the moment
// and authorized in VerifyConnection, which crypto/tls always calls. TLS is 1.3
// alone, and X25519MLKEM768 comes first.
//
// [Server] and [Client] are for two parties with identities; the others are for
// the time before attestation. After the handshake ask [PeerID] who it is.
package mtls
