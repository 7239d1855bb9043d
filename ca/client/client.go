// Package client is the CA's client: it attests its program to the CA, keeps
// the program's own certificate and trust bundle fresh, and obtains
// certificates for workloads.
//
// [Client.Run] does all of it until its context ends; the other methods may be
// called at once and at any time. A node agent uses everything, a service such as the
// manager all but [Client.Issue]. The client stores nothing, and never trusts
// on first use: until the first attestation FirstTrust says who the server may
// be, after it the bundle that the CA sends.
package client

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/bundle"
)

// A Config is what a [Client] needs.
type Config struct {
	// Address of the CA, as grpc names targets: "istio-ca.istio-auth.svc:8443".
	Address     string
	TrustDomain spiffeid.TrustDomain

	// Server is who must answer: spiffe://<td>/istio-auth/ca.
	Server spiffeid.ID

	// FirstTrust returns the bundle to trust before the first attestation, such as
	// a mounted file. It is asked at each handshake, and may fail until there is one.
	FirstTrust func() (*x509bundle.Bundle, error)

	// Evidence returns what to attest with. It is asked at each attempt, so that a
	// token that was replaced on disk is read anew.
	Evidence func(context.Context) (Evidence, error)

	// OnBundle, where set, is told each new bundle, one after the other. Nil is the
	// acknowledgement to the CA that everything fed from here holds it; after an
	// error it is told again.
	OnBundle func(context.Context, bundle.Versioned) error

	Log *slog.Logger

	// Dial, where set, opens the connections in place of grpc.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Evidence is what a client attests with. The zero value is none.
type Evidence struct {
	token attest.Token
	join  bool
}

// KubernetesToken is a service account token with the agent's audience.
func KubernetesToken(token attest.Token) Evidence { return Evidence{token: token} }

// JoinToken is a token that is good once.
func JoinToken(token attest.Token) Evidence { return Evidence{token: token, join: true} }

// A Request asks for the certificate of one pod on this node.
type Request struct {
	Pod attest.Pod // namespace, name and UID

	// Token is the pod's own. It is sent for the first certificate only.
	Token attest.Token
	// Current is the unexpired SVID to replace; nil for the first certificate.
	Current *x509svid.SVID
	// Key is new: never that of Current.
	Key crypto.Signer
}

// A RetryError reports that the CA wants to be asked again later. It is an
// [attest.ErrUnavailable].
type RetryError struct {
	After time.Duration
	Ref   string // the CA's log has the reason under it
}

func (e *RetryError) Error() string {
	return fmt.Sprintf("client: the CA asks to come back in %v, ref %s", e.After.Round(time.Millisecond), e.Ref)
}

// RetryAfter returns After.
func (e *RetryError) RetryAfter() time.Duration { return e.After }

// Is reports that e is an [attest.ErrUnavailable].
func (e *RetryError) Is(target error) bool { return target == attest.ErrUnavailable }

var (
	errNotAttested = errors.New("client: not attested yet")
	errNotAgent    = errors.New("client: only an agent may ask for workloads' certificates")
)

// A Client is made by [New].
type Client struct {
	config   Config
	ready    chan struct{} // closed after the first attestation
	applying chan struct{} // has room for one: who calls OnBundle

	mu      sync.Mutex // guards the fields below
	svid    *x509svid.SVID
	keeper  *bundle.Keeper // nil before the first attestation
	skew    time.Duration
	applied uint64        // the sequence that OnBundle accepted last
	current *session      // nil between sessions
	changed chan struct{} // closed when current is replaced
}

var (
	_ x509svid.Source   = (*Client)(nil)
	_ x509bundle.Source = (*Client)(nil)
)

// New returns a Client. It starts nothing.
func New(c Config) (*Client, error) {
	switch {
	case c.Address == "":
		return nil, errors.New("client: no address")
	case c.TrustDomain.IsZero():
		return nil, errors.New("client: no trust domain")
	case !c.Server.MemberOf(c.TrustDomain):
		return nil, fmt.Errorf("client: server %q is not of %s", c.Server, c.TrustDomain)
	case c.FirstTrust == nil || c.Evidence == nil || c.Log == nil:
		return nil, errors.New("client: FirstTrust, Evidence and Log are needed")
	}
	return &Client{
		config:   c,
		ready:    make(chan struct{}),
		applying: make(chan struct{}, 1),
		changed:  make(chan struct{}),
	}, nil
}

// Ready is closed after the first attestation, when the client has a
// certificate and a bundle.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// GetX509SVID returns the client's own SVID. It is an error before the first
// attestation. The SVID may have expired where the CA has been out of reach.
func (c *Client) GetX509SVID() (*x509svid.SVID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.svid == nil {
		return nil, errNotAttested
	}
	return c.svid, nil
}

// GetX509BundleForTrustDomain returns the newest bundle of the CA: that of
// FirstTrust before the first attestation, and never again after it.
func (c *Client) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if td != c.config.TrustDomain {
		return nil, fmt.Errorf("client: no bundle of %q", td)
	}
	if keeper := c.bundles(); keeper != nil {
		return keeper.GetX509BundleForTrustDomain(td)
	}
	first, err := c.config.FirstTrust()
	if err != nil {
		return nil, fmt.Errorf("reading the first trust: %w", err)
	}
	if first == nil || first.TrustDomain() != td || first.Empty() {
		return nil, fmt.Errorf("client: the first trust has no authority of %s", td)
	}
	return first, nil
}

// Skew is how far this machine's clock was ahead of the CA's at the last answer.
func (c *Client) Skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.skew
}

// Issue obtains the leaf and the certificates between it and the root. Where a
// connection breaks it asks again on the next one, until ctx ends. Errors wrap
// [attest.ErrRefused] where the CA will not, and [attest.ErrUnavailable] where it
// may later; a *[RetryError] says when. An SVID in r makes it a renewal, for
// which r's token is not sent.
func (c *Client) Issue(ctx context.Context, r Request) ([]*x509.Certificate, error) {
	for {
		s, changed := c.session()
		if s != nil {
			chain, err := s.issue(ctx, r)
			if !errors.Is(err, errBroken) {
				return chain, err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for a connection to the CA: %w: %w", attest.ErrUnavailable, context.Cause(ctx))
		}
	}
}

func (c *Client) bundles() *bundle.Keeper {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keeper
}

func (c *Client) session() (*session, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current, c.changed
}

// use makes s the session for new requests, unless that of a newer certificate is.
func (c *Client) use(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && c.current.generation > s.generation {
		return
	}
	c.current = s
	close(c.changed)
	c.changed = make(chan struct{})
}

// leave ends the use of s, unless another has taken its place.
func (c *Client) leave(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == s {
		c.current = nil
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// maxSkew is how far the clocks may be apart before it is worth a warning.
const maxSkew = 30 * time.Second

// observeTime compares the clocks (THREATS T2.14).
func (c *Client) observeTime(server time.Time) {
	skew := time.Since(server)
	c.mu.Lock()
	was := c.skew
	c.skew = skew
	c.mu.Unlock()
	if skew.Abs() > maxSkew && was.Abs() <= maxSkew {
		c.config.Log.Warn("this machine's clock is not the CA's", "ahead", skew.Round(time.Second))
	}
}
