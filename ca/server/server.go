// Package server is the CA on the wire: capb.CertificateAuthority, and for
// stock Istio clients istio.v1.auth.IstioCertificateService.
//
// It decides who may ask for what, in which order the checks run, and how much
// a caller may cost. It proves no identity (attest does) and signs nothing (ca
// does). [New] serves our own agents and services; [NewIstio] is apart, with a
// listener and audiences of its own. Both give the options that a grpc.Server
// must be made with: without them every call is refused.
//
// Order of the checks: cheap before dear. Method and caller, sizes, rate, the
// kind of key, proof of possession, evidence, and then ca.Authority.Issue.
package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/capb"
)

// An Authority issues. Errors of Issue wrap [attest.ErrRefused] where asking
// again cannot help. The SVID is the one that the server shows.
type Authority interface {
	Issue(ctx context.Context, r ca.Request) (*ca.Issued, error)
	Bundle() *bundle.Keeper
	x509svid.Source
}

var _ Authority = (*ca.Authority)(nil)

// An Attester turns evidence into identities. Its errors wrap
// [attest.ErrRefused] or [attest.ErrUnavailable]; any other counts as
// unavailable. All of its methods are called at once.
type Attester interface {
	// AttestAgent returns an Agent or a Service.
	AttestAgent(ctx context.Context, token attest.Token) (attest.Identity, error)
	// AttestWorkload returns the Workload that pod names, by its token, if it is
	// live on the agent's node.
	AttestWorkload(ctx context.Context, agent attest.Identity, pod attest.Pod, token attest.Token) (attest.Identity, error)
	// ConfirmWorkload is the same without a token, for a renewal.
	ConfirmWorkload(ctx context.Context, agent attest.Identity, pod attest.Pod) (attest.Identity, error)
}

// A Config is what a [Server] needs. Fields must not change after [New].
type Config struct {
	TrustDomain spiffeid.TrustDomain
	Authority   Authority
	Attester    Attester
	Log         *slog.Logger

	// Services may read the bundle, beside the agents. None means no service.
	Services []spiffeid.ID

	// Hosts says that the agents are those of hosts without Kubernetes: they
	// attest with join tokens, and their workloads, which the attester has in a
	// registry, have no token of their own. It takes the place of Kubernetes
	// tokens; a server never accepts both.
	Hosts bool

	// Limits on what callers cost. The zero value is the default.
	Limits Limits

	// Observe, where set, is told every decision, from many goroutines at once.
	Observe func(Decision)

	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// A Decision is what the server answered to one request.
type Decision struct {
	Method   string          // full name, such as /istioauth.ca.v1.CertificateAuthority/Issue
	Identity attest.Identity // to whom it was issued; zero where it was not
	Renewal  bool
	Reason   string // why it was not issued, in kebab-case; empty where it was
	Ref      string // the correlation id that the caller was told, where it was not issued
	Took     time.Duration
}

// A Server is a [capb.CertificateAuthorityServer]. Make it with [New].
type Server struct {
	capb.UnsafeCertificateAuthorityServer
	gate

	authority Authority
	attester  Attester
	hosts     bool
	strangers *budget           // of all unattested callers together
	agents    *budgets          // of each agent
	ours      rule              // who is no stranger
	working   chan struct{}     // a slot for each request under way
	shares    *shares           // of the slots
	acks      *acknowledgements // of the bundle
}

var _ capb.CertificateAuthorityServer = (*Server)(nil)

// New returns a Server. It starts nothing.
func New(c Config) *Server {
	limits := c.Limits.withDefaults()
	s := &Server{
		gate: gate{
			td:      c.TrustDomain,
			log:     c.Log,
			limits:  limits,
			now:     c.Now,
			observe: c.Observe,
			table:   ownMethods(c.TrustDomain, c.Services),
		},
		authority: c.Authority,
		attester:  c.Attester,
		hosts:     c.Hosts,
		strangers: newBudget(limits.Strangers),
		agents:    newBudgets(limits.Agent),
		ours:      agentsOf(c.TrustDomain).orExactly(c.Services...),
		working:   make(chan struct{}, limits.Working),
		shares:    newShares(limits.Working),
		acks:      newAcknowledgements(),
	}
	s.gate.complete()
	return s
}

// Options are what the grpc.Server must be made with: transport credentials,
// limits, and the authorization of every method that is registered, of
// whichever service. They may be followed by others.
func (s *Server) Options() []grpc.ServerOption {
	return s.gate.options(s.authority, s.authority.Bundle())
}

// Register adds the service to a grpc.Server that was made with [Server.Options].
func (s *Server) Register(g *grpc.Server) { capb.RegisterCertificateAuthorityServer(g, s) }

// Acknowledged tells which bundle each live client holds, by the sequence that
// it acknowledged; 0 where it has not acknowledged any. A client is live until
// the certificate ends with which it last read the bundle.
func (s *Server) Acknowledged() map[spiffeid.ID]uint64 { return s.acks.read(s.now()) }
