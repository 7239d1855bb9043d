package server

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/proof"
)

// Attest issues the certificate of an agent or a service.
func (s *Server) Attest(stream grpc.BidiStreamingServer[capb.AttestRequest, capb.AttestResponse]) error {
	const method = capb.CertificateAuthority_Attest_FullMethodName
	c, err := callerOf(stream.Context())
	if err != nil {
		return err
	}
	// With the headers the client has the connection that its proof must name.
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), s.limits.Patience)
	defer cancel()
	request, err := receiveWithin(ctx, stream)
	if err != nil {
		return err
	}
	start := s.now()
	issued, identity, err := s.attest(ctx, c, request)
	if err != nil {
		return s.refuse(method, c, err)
	}
	s.observe(Decision{Method: method, Identity: identity, Took: s.now().Sub(start)})
	current, _ := s.authority.Bundle().Current()
	return stream.Send(&capb.AttestResponse{
		Chain:      chainDER(issued.Chain),
		Bundle:     s.update(current),
		ServerTime: timestamppb.New(s.now()),
	})
}

// receiveWithin receives one message before ctx ends. The goroutine that it
// leaves behind then ends with the handler: grpc cancels the stream.
func receiveWithin(ctx context.Context, stream grpc.BidiStreamingServer[capb.AttestRequest, capb.AttestResponse]) (*capb.AttestRequest, error) {
	type received struct {
		request *capb.AttestRequest
		err     error
	}
	came := make(chan received, 1)
	go func() {
		request, err := stream.Recv()
		came <- received{request, err}
	}()
	select {
	case r := <-came:
		return r.request, r.err
	case <-ctx.Done():
		return nil, status.Error(codes.DeadlineExceeded, "no request came")
	}
}

// attest decides about one request of a stranger.
func (s *Server) attest(ctx context.Context, c caller, r *capb.AttestRequest) (*ca.Issued, attest.Identity, error) {
	none := attest.Identity{}
	token, err := s.agentEvidence(r)
	if err != nil {
		return nil, none, err
	}
	payer, err := s.admitStranger(c)
	if err != nil {
		return nil, none, err
	}
	key, signature, err := publicKey(r.GetKey())
	if err != nil {
		return nil, none, err
	}
	release, err := s.work(payer)
	if err != nil {
		return nil, none, err
	}
	defer release()
	binding := proof.Binding{TrustDomain: s.td, TLS: c.binding, Purpose: proof.Attest}
	if err := proof.Verify(key, binding, signature); err != nil {
		return nil, none, refusal(ReasonProof, err)
	}
	identity, err := s.attester.AttestAgent(ctx, token)
	if err != nil {
		return nil, none, err
	}
	if k := identity.Kind(); k != attest.Agent && k != attest.Service {
		return nil, none, attest.Refuse(ReasonKind, "%s %s", k, identity)
	}
	if !identity.ID().MemberOf(s.td) {
		return nil, none, attest.Refuse(ReasonTrustDomain, "%s", identity)
	}
	issued, err := s.issue(ctx, ca.Request{Identity: identity, Key: key, Evidence: token.Digest()})
	return issued, identity, err
}

// agentEvidence returns the token, if it is of the one kind that is accepted here.
func (s *Server) agentEvidence(r *capb.AttestRequest) (attest.Token, error) {
	if err := known(r); err != nil {
		return attest.Token{}, err
	}
	var text string
	switch evidence := r.GetEvidence().(type) {
	case *capb.AttestRequest_KubernetesToken:
		if s.hosts {
			return attest.Token{}, attest.Refuse(ReasonEvidence, "a Kubernetes token")
		}
		text = evidence.KubernetesToken
	case *capb.AttestRequest_JoinToken:
		if !s.hosts {
			return attest.Token{}, attest.Refuse(ReasonEvidence, "a join token")
		}
		text = evidence.JoinToken
	default:
		return attest.Token{}, attest.Refuse(ReasonNoEvidence, "%T", evidence)
	}
	if text == "" {
		return attest.Token{}, attest.Refuse(ReasonNoEvidence, "an empty token")
	}
	if err := within("token", len(text), maxToken); err != nil {
		return attest.Token{}, err
	}
	return attest.NewToken(text), nil
}

// admitStranger says whose budget an attestation is of. One of ours that shows the
// certificate that it has, to get its next, pays from its own: whoever can reach
// the listener could else keep all agents from renewing. Everybody else pays from
// that of strangers, whose ID is zero.
func (s *Server) admitStranger(c caller) (payer spiffeid.ID, err error) {
	wait, ok := time.Duration(0), false
	if _, err := s.ours(c.id); err == nil {
		payer = c.id
		wait, ok = s.agents.take(payer, s.now())
	} else {
		wait, ok = s.strangers.take(s.now())
	}
	if !ok {
		return spiffeid.ID{}, &busyError{ReasonRate, wait}
	}
	return payer, nil
}

// work takes a slot of the caller's share, or sheds the request.
func (s *Server) work(id spiffeid.ID) (release func(), err error) {
	if !s.shares.enter(id) {
		return nil, &busyError{ReasonBusy, spread(time.Second)}
	}
	select {
	case s.working <- struct{}{}:
		return func() { s.shares.leave(id); <-s.working }, nil
	default:
		s.shares.leave(id)
		return nil, &busyError{ReasonBusy, spread(time.Second)}
	}
}

// issue asks the authority, and lets nothing out that is not a chain.
func (s *Server) issue(ctx context.Context, r ca.Request) (*ca.Issued, error) {
	issued, err := s.authority.Issue(ctx, r)
	if err != nil {
		return nil, err
	}
	if issued == nil || len(issued.Chain) == 0 {
		return nil, attest.ErrUnavailable
	}
	return issued, nil
}

// digest names a certificate in the journal.
func digest(der []byte) [sha256.Size]byte { return sha256.Sum256(der) }
