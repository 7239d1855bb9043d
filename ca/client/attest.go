package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/proof"
	"github.com/istio-auth/istio-auth/mtls"
)

// Bounds of what the CA sends, and of how long it may take.
const (
	maxMessage     = 64 << 10
	maxChain       = 3
	maxCertificate = 8 << 10
	maxAuthorities = 64
	attestPatience = 20 * time.Second
	pingEvery      = 30 * time.Second
	pingPatience   = 10 * time.Second
)

// dial makes a connection, which opens when it is first used.
func (c *Client) dial(config *tls.Config) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingPatience}),
		grpc.WithDisableServiceConfig(), // whoever answers DNS configures nothing here
		grpc.WithNoProxy(),
	}
	target := c.config.Address
	if c.config.Dial != nil {
		target = "passthrough:///" + target
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return c.config.Dial(ctx, address)
		}))
	}
	return grpc.NewClient(target, options...)
}

// attested is the outcome of one attestation.
type attested struct {
	svid *x509svid.SVID
	life time.Duration // that is left, by the CA's clock
}

// attest makes one attempt, with a new key, on a connection of its own. Where show
// is set, the certificate that is to be replaced is shown, if it has not ended.
func (c *Client) attest(ctx context.Context, show bool) (*attested, error) {
	ctx, cancel := context.WithTimeout(ctx, attestPatience)
	defer cancel()
	config := mtls.AnonymousClient(c, mtls.Exactly(c.config.Server))
	if own, err := c.GetX509SVID(); show && err == nil && time.Now().Before(own.Certificates[0].NotAfter) {
		config = mtls.Client(c, c, mtls.Exactly(c.config.Server))
	}
	conn, err := c.dial(config)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stream, err := capb.NewCertificateAuthorityClient(conn).Attest(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting to the CA: %w", err)
	}
	binding, err := bindingOf(stream)
	if err != nil {
		return nil, fmt.Errorf("connecting to the CA: %w", err)
	}
	evidence, err := c.config.Evidence(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the evidence: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	public, err := provenKey(key, proof.Binding{TrustDomain: c.config.TrustDomain, TLS: binding, Purpose: proof.Attest})
	if err != nil {
		return nil, err
	}
	request := &capb.AttestRequest{Key: public}
	if evidence.join {
		request.Evidence = &capb.AttestRequest_JoinToken{JoinToken: evidence.token.Reveal()}
	} else {
		request.Evidence = &capb.AttestRequest_KubernetesToken{KubernetesToken: evidence.token.Reveal()}
	}
	// An error of Send is io.EOF; Recv has the status.
	_ = stream.Send(request)
	_ = stream.CloseSend()
	response, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("attesting: %w", err)
	}
	return c.accept(response, key)
}

// accept checks what the CA answered, and takes it as the client's own.
func (c *Client) accept(response *capb.AttestResponse, key crypto.Signer) (*attested, error) {
	if err := response.GetServerTime().CheckValid(); err != nil {
		return nil, fmt.Errorf("reading the CA's time: %w", err)
	}
	update, err := versioned(c.config.TrustDomain, response.GetBundle())
	if err != nil {
		return nil, err
	}
	keeper := c.bundles()
	if keeper == nil {
		if keeper, err = bundle.NewKeeper(update); err != nil {
			return nil, err
		}
	} else {
		c.replace(keeper, update)
	}
	chain, id, err := verified(response.GetChain(), key.Public(), keeper)
	if err != nil {
		return nil, fmt.Errorf("checking our own certificate: %w", err)
	}
	if !id.MemberOf(c.config.TrustDomain) {
		return nil, fmt.Errorf("client: our own certificate is of %s", id)
	}
	server := response.GetServerTime().AsTime()
	c.observeTime(server)
	life := chain[0].NotAfter.Sub(server)
	if life <= 0 {
		life = time.Until(chain[0].NotAfter) // the CA does not know the time; we may
	}
	if life <= 0 {
		return nil, fmt.Errorf("client: our own certificate came when it had ended, at %s", chain[0].NotAfter)
	}
	svid := &x509svid.SVID{ID: id, Certificates: chain, PrivateKey: key}
	c.mu.Lock()
	c.svid, c.keeper = svid, keeper
	c.mu.Unlock()
	return &attested{svid: svid, life: life}, nil
}

// replace takes a newer bundle. An older one is refused, loudly: it would bring
// back roots that were dropped. The certificates that came with it still stand.
func (c *Client) replace(keeper *bundle.Keeper, update bundle.Versioned) {
	if err := keeper.Set(update); err != nil {
		c.config.Log.Error("the CA sent a bundle that is refused", "sequence", update.Sequence, "err", err)
	}
}

// bindingOf waits for the server's headers, and with them for the connection
// that the call goes over.
func bindingOf(stream grpc.ClientStream) ([32]byte, error) {
	headers, err := stream.Header()
	if err != nil {
		return [32]byte{}, err
	}
	p, ok := peer.FromContext(stream.Context())
	if headers == nil || !ok {
		// The call ended without headers; only RecvMsg knows its status.
		if err := stream.RecvMsg(&capb.Refusal{}); err != nil {
			return [32]byte{}, err
		}
		return [32]byte{}, errors.New("client: a call without headers")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return [32]byte{}, errors.New("client: not a TLS connection")
	}
	return mtls.Binding(info.State)
}

// provenKey is a public key with the proof that we hold it.
func provenKey(key crypto.Signer, b proof.Binding) (*capb.PublicKey, error) {
	public, err := keypolicy.Of(key.Public())
	if err != nil {
		return nil, &attest.Refusal{Reason: "key", Err: err}
	}
	signature, err := proof.Sign(key, b)
	if err != nil {
		return nil, err
	}
	return &capb.PublicKey{Spki: public.SPKI(), Proof: signature}, nil
}

// versioned reads a bundle.
func versioned(td spiffeid.TrustDomain, u *capb.BundleUpdate) (bundle.Versioned, error) {
	if n := len(u.GetAuthorities()); n == 0 || n > maxAuthorities {
		return bundle.Versioned{}, fmt.Errorf("client: a bundle of %d authorities", n)
	}
	b := x509bundle.New(td)
	for _, der := range u.GetAuthorities() {
		cert, err := certificate(der)
		if err != nil {
			return bundle.Versioned{}, fmt.Errorf("reading a bundle: %w", err)
		}
		b.AddX509Authority(cert)
	}
	return bundle.Versioned{Sequence: u.GetSequence(), Bundle: b}, nil
}

// verified reads a chain, and checks that it is one of the CA's, for our key.
func verified(chain [][]byte, key crypto.PublicKey, trust x509bundle.Source) ([]*x509.Certificate, spiffeid.ID, error) {
	if n := len(chain); n == 0 || n > maxChain {
		return nil, spiffeid.ID{}, fmt.Errorf("client: a chain of %d certificates", n)
	}
	var certs []*x509.Certificate
	for _, der := range chain {
		cert, err := certificate(der)
		if err != nil {
			return nil, spiffeid.ID{}, err
		}
		certs = append(certs, cert)
	}
	public, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(certs[0].PublicKey) {
		return nil, spiffeid.ID{}, errors.New("client: the certificate is for another key")
	}
	// By the CA's clock the certificate is valid; ours may be behind. Whether
	// it can be used is for its users to see.
	id, _, err := x509svid.Verify(certs, trust, x509svid.WithTime(within(certs[0])))
	return certs, id, err
}

// within is now, or the nearest time at which a certificate is valid.
func within(cert *x509.Certificate) time.Time {
	now := time.Now()
	switch {
	case now.Before(cert.NotBefore):
		return cert.NotBefore
	case now.After(cert.NotAfter):
		return cert.NotAfter
	}
	return now
}

func certificate(der []byte) (*x509.Certificate, error) {
	if len(der) > maxCertificate {
		return nil, fmt.Errorf("client: a certificate of %d bytes", len(der))
	}
	return x509.ParseCertificate(der)
}
