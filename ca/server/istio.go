package server

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"istio.io/api/security/v1alpha1"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
)

// Further reasons of refusals, by the Istio-compatible service.
const (
	ReasonNoBearer = "no-bearer-token"
	ReasonCSR      = "csr-encoding"     // not one PEM block with a certificate request
	ReasonLife     = "negative-life"    // asked to be valid for less than nothing
	ReasonMetadata = "metadata-refused" // asks for what is not offered, such as impersonation
)

// A BearerAttester judges a service account token on its own: the second party
// is the live pod that the token names. Its errors are those of an [Attester].
type BearerAttester interface {
	AttestBearer(ctx context.Context, token attest.Token, audiences []string) (attest.Identity, error)
}

// An IstioConfig is what an [Istio] needs.
type IstioConfig struct {
	TrustDomain spiffeid.TrustDomain
	Authority   Authority
	Attester    BearerAttester
	Log         *slog.Logger

	// Audiences that tokens may be for. They must be no audience of our own
	// agents and workloads. None means that no token is accepted.
	Audiences []string

	// Serving is the certificate that the listener shows, for clients that look
	// for a DNS name. Nil means the authority's own SVID.
	Serving x509svid.Source

	// Limits, Observe and Now are as in [Config]. Limits.Strangers bounds all
	// callers together, since none is known before its token is judged.
	Limits  Limits
	Observe func(Decision)
	Now     func() time.Time
}

// Istio serves istio.v1.auth.IstioCertificateService to stock clients: sidecars,
// ztunnel on its own behalf, cert-manager. It is weaker than our own service,
// and belongs on a listener of its own, off unless asked for: one party decides, so
// that a stolen token suffices for as long as it lives, and the key is bound to no connection.
type Istio struct {
	v1alpha1.UnimplementedIstioCertificateServiceServer
	gate

	authority Authority
	attester  BearerAttester
	audiences []string
	serving   x509svid.Source
	strangers *budget
	working   chan struct{}
}

var _ v1alpha1.IstioCertificateServiceServer = (*Istio)(nil)

// NewIstio returns an Istio. It starts nothing.
func NewIstio(c IstioConfig) *Istio {
	limits := c.Limits.withDefaults()
	s := &Istio{
		gate: gate{
			td:      c.TrustDomain,
			log:     c.Log,
			limits:  limits,
			now:     c.Now,
			observe: c.Observe,
			// A client's certificate, where it shows one, must verify; it entitles to nothing.
			table: map[string]rule{v1alpha1.IstioCertificateService_CreateCertificate_FullMethodName: anyone},
		},
		authority: c.Authority,
		attester:  c.Attester,
		audiences: slices.Clone(c.Audiences),
		serving:   c.Serving,
		strangers: newBudget(limits.Strangers),
		working:   make(chan struct{}, limits.Working),
	}
	if s.serving == nil {
		s.serving = c.Authority
	}
	s.gate.complete()
	return s
}

// Options are what the grpc.Server must be made with, as [Server.Options].
func (s *Istio) Options() []grpc.ServerOption {
	return s.gate.options(s.serving, s.authority.Bundle())
}

// Register adds the service to a grpc.Server that was made with [Istio.Options].
func (s *Istio) Register(g *grpc.Server) { v1alpha1.RegisterIstioCertificateServiceServer(g, s) }

// CreateCertificate issues a certificate for the pod that the bearer token names.
func (s *Istio) CreateCertificate(ctx context.Context, r *v1alpha1.IstioCertificateRequest) (*v1alpha1.IstioCertificateResponse, error) {
	const method = v1alpha1.IstioCertificateService_CreateCertificate_FullMethodName
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	start := s.now()
	ctx, cancel := context.WithTimeout(ctx, s.limits.Patience)
	defer cancel()
	chain, identity, err := s.create(ctx, r)
	if err != nil {
		return nil, s.refuse(method, c, err)
	}
	s.observe(Decision{Method: method, Identity: identity, Took: s.now().Sub(start)})
	return &v1alpha1.IstioCertificateResponse{CertChain: chain}, nil
}

func (s *Istio) create(ctx context.Context, r *v1alpha1.IstioCertificateRequest) ([]string, attest.Identity, error) {
	none := attest.Identity{}
	life, der, err := orderOf(r)
	if err != nil {
		return nil, none, err
	}
	token, err := bearer(ctx)
	if err != nil {
		return nil, none, err
	}
	if wait, ok := s.strangers.take(s.now()); !ok {
		return nil, none, &busyError{ReasonRate, wait}
	}
	select {
	case s.working <- struct{}{}:
		defer func() { <-s.working }()
	default:
		return nil, none, &busyError{ReasonBusy, spread(time.Second)}
	}
	key, err := keypolicy.PublicKeyOfCSR(der)
	if err != nil {
		return nil, none, refusal(ReasonCSR, err)
	}
	if len(s.audiences) == 0 {
		return nil, none, attest.Refuse(ReasonEvidence, "no audience is configured")
	}
	identity, err := s.attester.AttestBearer(ctx, token, s.audiences)
	if err != nil {
		return nil, none, err
	}
	if identity.Kind() != attest.Workload {
		return nil, none, attest.Refuse(ReasonKind, "%s %s", identity.Kind(), identity)
	}
	if !identity.ID().MemberOf(s.td) {
		return nil, none, attest.Refuse(ReasonTrustDomain, "%s", identity)
	}
	issued, err := s.authority.Issue(ctx, ca.Request{Identity: identity, Key: key, Evidence: token.Digest(), Life: life})
	if err != nil {
		return nil, none, err
	}
	chain, err := s.withRoot(issued)
	return chain, identity, err
}

// orderOf reads a request: how long, zero for the profile's life, and the CSR.
func orderOf(r *v1alpha1.IstioCertificateRequest) (time.Duration, []byte, error) {
	if err := known(r); err != nil {
		return 0, nil, err
	}
	// Stock sidecars send CertSigner, empty; ztunnel and waypoints name whom they
	// impersonate, which here nobody may.
	for name, value := range r.GetMetadata().GetFields() {
		if name != "CertSigner" || value.GetStringValue() != "" {
			return 0, nil, attest.Refuse(ReasonMetadata, "%.64q", name)
		}
	}
	const year = 365 * 24 * 60 * 60
	seconds := r.GetValidityDuration()
	if seconds < 0 {
		return 0, nil, attest.Refuse(ReasonLife, "%d s", seconds)
	}
	if len(r.GetCsr()) > 2*keypolicy.MaxCSR {
		return 0, nil, attest.Refuse(ReasonTooLarge, "a CSR of %d bytes", len(r.GetCsr()))
	}
	block, rest := pem.Decode([]byte(r.GetCsr()))
	// RFC 7468 §7. What stands before the block Decode would skip.
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(block.Headers) > 0 ||
		!strings.HasPrefix(r.GetCsr(), "-----BEGIN ") || strings.TrimSpace(string(rest)) != "" {
		return 0, nil, attest.Refuse(ReasonCSR, "not one PEM block")
	}
	return time.Duration(min(seconds, year)) * time.Second, block.Bytes, nil
}

// bearer returns the one token of the authorization header.
func bearer(ctx context.Context) (attest.Token, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return attest.Token{}, attest.Refuse(ReasonNoBearer, "%d authorization headers", len(values))
	}
	text, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok || text == "" {
		return attest.Token{}, attest.Refuse(ReasonNoBearer, "not a bearer token")
	}
	if err := within("token", len(text), maxToken); err != nil {
		return attest.Token{}, err
	}
	return attest.NewToken(text), nil
}

// withRoot is the chain in PEM with its root at the end, where stock clients
// look for what they will trust.
func (s *Istio) withRoot(issued *ca.Issued) ([]string, error) {
	if issued == nil || len(issued.Chain) == 0 {
		return nil, fmt.Errorf("the authority gave an empty chain: %w", attest.ErrUnavailable)
	}
	last := issued.Chain[len(issued.Chain)-1]
	current, _ := s.authority.Bundle().Current()
	for _, root := range current.Bundle.X509Authorities() {
		if last.CheckSignatureFrom(root) == nil {
			var chain []string
			for _, cert := range append(slices.Clone(issued.Chain), root) {
				chain = append(chain, string(pemOf(cert)))
			}
			return chain, nil
		}
	}
	return nil, errors.New("no root of the bundle signed the issuer")
}

func pemOf(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}
