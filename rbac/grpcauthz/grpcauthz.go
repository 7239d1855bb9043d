// Package grpcauthz enforces authorization policies in a program without a
// sidecar: as interceptors of a gRPC server, and around an http.Handler.
//
// It decides as a sidecar would, by the same policies, with rbac/index. What it
// cannot know it does not guess: no proxy is trusted, so that the remote address
// is that of the connection; an end user's token is there only where
// [Authorizer.Token] verifies one. A gRPC stream is decided once, when it
// begins. Dry runs have no effect here: to see what one would do, index the
// set's Trial and let a second Authorizer log.
//
// Start at [Authorizer]. Where the policies come from is the program's: it puts
// each new set into a [Current].
package grpcauthz

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/mtls"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/index"
)

// A Current holds the policies that are in force. They are replaced whole, while
// requests are decided. The zero Current refuses everything.
type Current struct{ now atomic.Pointer[index.Index] }

// Store puts a set in force.
func (c *Current) Store(set rbac.Set) { c.now.Store(index.New(set)) }

// Index is the one in force, or nil.
func (c *Current) Index() *index.Index { return c.now.Load() }

// An Authorizer lets requests in, or refuses them. The zero Authorizer refuses
// everything. Its fields must not change while it is used, by many at once.
type Authorizer struct {
	// Policies returns what is in force: see [Current.Index]. Where it is nil, or
	// returns nil, nothing is known, and everything is refused.
	Policies func() *index.Index
	// PeerID says whose certificate was verified on a connection. Where the
	// server's configuration is made by package mtls, it is mtls.PeerID. Nil is
	// [VerifiedPeerID]. What it returns an error for is refused, but for
	// mtls.ErrNoPeer, which is a peer without a certificate.
	PeerID func(tls.ConnectionState) (spiffeid.ID, error)
	// Token returns the end user's token, after it has verified the signature,
	// issuer, audience and times by the set's rules; nil where the request has
	// none. With an error the request is refused. Nil: no request has a token.
	Token func(context.Context, *index.Index, rbac.Request) (*rbac.Token, error)
	// Ask asks a provider of a CUSTOM policy; an error is a no. Nil is a no.
	Ask func(ctx context.Context, provider string, req rbac.Request) error
	// Log gets a line for each request that is refused, or that an AUDIT policy
	// marks. Nil discards them.
	Log *slog.Logger
}

// Why a request is refused, beside the reasons of rbac/eval. The words are stable.
const (
	BadIdentity eval.Reason = "bad-identity" // the peer's certificate is not one to decide upon
	BadMethod   eval.Reason = "bad-method"   // a gRPC method is not of the form /service/method
	BadToken    eval.Reason = "bad-token"    // the end user's token was not verified
	AskedNo     eval.Reason = "asked-no"     // a provider said no, or could not be asked
)

// VerifiedPeerID is for a tls.Config of crypto/tls whose ClientAuth verifies
// what it is given: it returns the SPIFFE ID of a certificate with a verified
// chain and exactly one URI name, and mtls.ErrNoPeer for a client without. Such
// a config takes any of its ClientCAs for any trust domain, which package mtls
// does not. A resumed session is refused, since crypto/tls does not verify it
// again: set SessionTicketsDisabled.
func VerifiedPeerID(state tls.ConnectionState) (spiffeid.ID, error) {
	switch {
	case !state.HandshakeComplete || state.DidResume:
		return spiffeid.ID{}, errors.New("grpcauthz: the connection is not verified")
	case len(state.PeerCertificates) == 0:
		return spiffeid.ID{}, mtls.ErrNoPeer
	case len(state.VerifiedChains) == 0:
		return spiffeid.ID{}, errors.New("grpcauthz: nobody vouches for the peer's certificate")
	}
	return x509svid.IDFromCert(state.PeerCertificates[0])
}

// connection fills in what is known of the connection. Without TLS state is nil.
func (a *Authorizer) connection(req *rbac.Request, state *tls.ConnectionState, remote, local net.Addr) error {
	req.Source = addrPort(remote).Addr()
	req.Remote = req.Source
	req.Destination = addrPort(local)
	if state == nil {
		return nil
	}
	req.ServerName = state.ServerName
	peerID := a.PeerID
	if peerID == nil {
		peerID = VerifiedPeerID
	}
	id, err := peerID(*state)
	switch {
	case errors.Is(err, mtls.ErrNoPeer):
		return nil
	case err != nil:
		return err
	case id.IsZero():
		return errors.New("grpcauthz: the peer's ID is empty")
	}
	req.Peer.ID = id
	return nil
}

// addrPort is zero for what is no IP address, such as a Unix socket.
func addrPort(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	parsed, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(parsed.Addr().Unmap(), parsed.Port())
}

// allows decides, and logs what is refused or marked.
func (a *Authorizer) allows(ctx context.Context, req rbac.Request) bool {
	var policies *index.Index
	if a.Policies != nil {
		policies = a.Policies()
	}
	if policies == nil {
		policies = &index.Index{}
	}
	if a.Token != nil {
		token, err := a.Token(ctx, policies, req)
		if err != nil {
			a.refused(ctx, req, eval.Verdict{Reason: BadToken}, err)
			return false
		}
		req.Token = token
	}
	v := policies.Decide(req)
	if !v.Allowed {
		a.refused(ctx, req, v, nil)
		return false
	}
	for _, provider := range v.Ask {
		err := errors.New("grpcauthz: there is nobody to ask")
		if a.Ask != nil {
			err = a.Ask(ctx, provider, req)
		}
		if err != nil {
			v.Allowed, v.Reason = false, AskedNo
			a.refused(ctx, req, v, err)
			return false
		}
	}
	if v.Audit != "" && a.Log != nil {
		a.Log.LogAttrs(ctx, slog.LevelInfo, "request marked", attributes(req, v)...)
	}
	return true
}

func (a *Authorizer) refused(ctx context.Context, req rbac.Request, v eval.Verdict, err error) {
	if a.Log == nil {
		return
	}
	list := attributes(req, v)
	if err != nil {
		list = append(list, slog.Any("err", err))
	}
	a.Log.LogAttrs(ctx, slog.LevelInfo, "request refused", list...)
}

func attributes(req rbac.Request, v eval.Verdict) []slog.Attr {
	return []slog.Attr{
		slog.String("spiffe_id", req.Peer.ID.String()), slog.String("method", req.Method), slog.String("path", req.Path),
		slog.String("reason", string(v.Reason)), slog.String("rule", v.Rule), slog.String("audit", v.Audit),
	}
}
