package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/mtls"
)

// A gate stands before every method of a grpc.Server.
type gate struct {
	td      spiffeid.TrustDomain
	log     *slog.Logger
	limits  Limits
	now     func() time.Time
	observe func(Decision)
	lines   *budgets     // of the log, for each caller; strangers are one
	leftOut atomic.Int64 // lines, since the last that was written

	// table has a rule for each method that may be called, by its full name as it
	// is registered. A method without one is refused, whoever calls.
	table map[string]rule
}

// A rule says who may call a method. It returns the agent that calls, and the
// zero Identity for any other caller that may; id is zero for one without a certificate.
type rule func(id spiffeid.ID) (attest.Identity, error)

// anyone lets in callers with and without a certificate.
func anyone(spiffeid.ID) (attest.Identity, error) { return attest.Identity{}, nil }

// agentsOf lets in the agents of a trust domain.
func agentsOf(td spiffeid.TrustDomain) rule {
	return func(id spiffeid.ID) (attest.Identity, error) {
		if id.IsZero() {
			return attest.Identity{}, attest.Refuse(ReasonNoCertificate, "the caller showed none")
		}
		if err := mtls.Agents(td)(id); err != nil {
			return attest.Identity{}, err
		}
		return attest.AgentFromID(id)
	}
}

// orExactly lets in what r lets in, and these IDs.
func (r rule) orExactly(ids ...spiffeid.ID) rule {
	exactly := mtls.Exactly(ids...)
	return func(id spiffeid.ID) (attest.Identity, error) {
		if err := exactly(id); err == nil {
			return attest.Identity{}, nil
		}
		return r(id)
	}
}

// ownMethods is the table of our own service.
func ownMethods(td spiffeid.TrustDomain, services []spiffeid.ID) map[string]rule {
	return map[string]rule{
		capb.CertificateAuthority_Attest_FullMethodName: anyone,
		capb.CertificateAuthority_Issue_FullMethodName:  agentsOf(td),
		capb.CertificateAuthority_Bundle_FullMethodName: agentsOf(td).orExactly(services...),
	}
}

// A caller is the proof that the gate has let a call in. Handlers do nothing
// without one, and only the gate makes one.
type caller struct {
	id       spiffeid.ID     // zero without a certificate
	agent    attest.Identity // zero if it is not an agent
	notAfter time.Time       // of its certificate; zero without
	binding  [32]byte        // of its connection
}

type callerKey struct{}

// callerOf returns who calls. A call that did not pass the gate has no caller.
func callerOf(ctx context.Context) (caller, error) {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		return caller{}, status.Error(codes.PermissionDenied, "refused")
	}
	return c, nil
}

// logged is how many refusals of one caller are written down: an endless number of
// short lines fills a disk as well.
var logged = Rate{PerSecond: 10, Burst: 100}

func (g *gate) complete() {
	if g.now == nil {
		g.now = time.Now
	}
	g.lines = newBudgets(logged)
	if g.observe == nil {
		g.observe = func(Decision) {}
	}
}

func (g *gate) options(own x509svid.Source, trust x509bundle.Source) []grpc.ServerOption {
	// Any member of the trust domain may connect; what it may call is the table's.
	member := func(id spiffeid.ID) error {
		if !id.MemberOf(g.td) {
			return attest.Refuse(ReasonTrustDomain, "%s", id)
		}
		return nil
	}
	return append(transportLimits(),
		grpc.Creds(credentials.NewTLS(mtls.ServerOptionalClient(own, trust, member))),
		grpc.ChainUnaryInterceptor(g.unary),
		grpc.ChainStreamInterceptor(g.stream),
	)
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer g.survive(info.FullMethod, &err)
	ctx, err = g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer g.survive(info.FullMethod, &err)
	ctx, err := g.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, &admitted{ServerStream: ss, ctx: ctx})
}

// admitted is a stream whose context has a caller.
type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (a *admitted) Context() context.Context { return a.ctx }

// admit applies the table.
func (g *gate) admit(ctx context.Context, method string) (context.Context, error) {
	allowed, ok := g.table[method]
	if !ok {
		return nil, g.refuse(method, caller{}, attest.Refuse(ReasonNoRule, "%q", method))
	}
	c, err := g.identify(ctx)
	if err != nil {
		return nil, g.refuse(method, caller{}, err)
	}
	if c.agent, err = allowed(c.id); err != nil {
		return nil, g.refuse(method, c, err)
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

// identify reads who is at the other end of the connection.
func (g *gate) identify(ctx context.Context) (caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}, attest.Refuse(ReasonNoTLS, "no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return caller{}, attest.Refuse(ReasonNoTLS, "a connection of type %T", p.AuthInfo)
	}
	binding, err := mtls.Binding(info.State)
	if err != nil {
		return caller{}, &attest.Refusal{Reason: ReasonNoTLS, Err: err}
	}
	c := caller{binding: binding}
	if len(info.State.PeerCertificates) == 0 {
		return c, nil
	}
	if c.id, err = mtls.PeerID(info.State); err != nil {
		return caller{}, &attest.Refusal{Reason: ReasonNoTLS, Err: err}
	}
	// The handshake checked it once; the connection may be older than the certificate.
	c.notAfter = info.State.PeerCertificates[0].NotAfter
	if g.now().After(c.notAfter) {
		return caller{}, attest.Refuse(ReasonExpired, "%s, at %s", c.id, c.notAfter)
	}
	return c, nil
}

// survive keeps one request's bug from ending everybody's CA.
func (g *gate) survive(method string, err *error) {
	if v := recover(); v != nil {
		ref := rand.Text()
		g.log.Error("a request panicked", "method", method, "ref", ref, "err", fmt.Sprint(v), "stack", string(debug.Stack()))
		*err = status.Errorf(codes.Internal, "internal error, ref %s", ref)
	}
}
