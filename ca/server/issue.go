package server

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/capb"
)

type issueStream = grpc.BidiStreamingServer[capb.IssueRequest, capb.IssueResponse]

// Issue issues the certificates of an agent's workloads, many at once, until
// the agent's own certificate ends.
func (s *Server) Issue(stream issueStream) error {
	// step 1: who asks, which the gate has found out
	c, err := callerOf(stream.Context())
	if err != nil {
		return err
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()
	var (
		slots   = make(chan struct{}, s.limits.PerStream)
		answers = make(chan *capb.IssueResponse, s.limits.PerStream) // never full: one for each slot
		ended   = time.NewTimer(c.notAfter.Sub(s.now()))
	)
	defer ended.Stop()
	go send(ctx, stream, answers, slots)
	requests, failed := receive(ctx, stream.Recv)
	for {
		select {
		case slots <- struct{}{}: // when all are taken, more requests wait unread
		case <-ended.C:
			return expired()
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		select {
		case r := <-requests:
			workers.Go(func() { answers <- s.answer(ctx, c, r) })
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				// The client asks no more; what is under way is still answered.
				return s.lastAnswers(ctx, slots, ended.C)
			}
			return err
		case <-ended.C:
			return expired()
		}
	}
}

// lastAnswers waits until all but the caller's own slot are free.
func (s *Server) lastAnswers(ctx context.Context, slots chan<- struct{}, ended <-chan time.Time) error {
	for range s.limits.PerStream - 1 {
		select {
		case slots <- struct{}{}:
		case <-ended:
			return expired()
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	return nil
}

func expired() error { return status.Error(codes.Unauthenticated, "the certificate has expired") }

// receive reads a stream into a channel. Its goroutine ends with the handler:
// grpc cancels the stream then.
func receive[M any](ctx context.Context, recv func() (*M, error)) (<-chan *M, <-chan error) {
	messages, failed := make(chan *M), make(chan error, 1)
	go func() {
		for {
			m, err := recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return messages, failed
}

// send sends the answers, and frees a slot for each. It waits as long as the client
// does not read; nobody waits for it: it ends with the handler, as receive does.
func send(ctx context.Context, stream issueStream, answers <-chan *capb.IssueResponse, slots <-chan struct{}) {
	for {
		select {
		case r := <-answers:
			_ = stream.Send(r) // that the stream has ended, its reader finds out
			<-slots
		case <-ctx.Done():
			return
		}
	}
}

// answer decides about one request and never fails.
func (s *Server) answer(ctx context.Context, c caller, r *capb.IssueRequest) (response *capb.IssueResponse) {
	const method = capb.CertificateAuthority_Issue_FullMethodName
	start := s.now()
	defer func() {
		response.Id = r.GetId()
		response.ServerTime = timestamppb.New(s.now())
	}()
	ctx, cancel := context.WithTimeout(ctx, s.limits.Patience)
	defer cancel()
	issued, identity, err := s.surviving(ctx, c, r)
	if err == nil {
		s.observe(Decision{Method: method, Identity: identity, Renewal: r.GetCurrent() != nil, Took: s.now().Sub(start)})
		return &capb.IssueResponse{Result: &capb.IssueResponse_Issued{Issued: issued}}
	}
	v := judge(err)
	s.tell(method, c, v, err)
	refusal := &capb.Refusal{Code: capb.Refusal_CODE_REFUSED, CorrelationId: v.ref}
	if !v.final {
		refusal.Code, refusal.RetryAfter = capb.Refusal_CODE_RETRY, durationpb.New(v.after)
	}
	return &capb.IssueResponse{Result: &capb.IssueResponse_Refusal{Refusal: refusal}}
}

// surviving is decide in a goroutine of its own, which the gate does not guard.
func (s *Server) surviving(ctx context.Context, c caller, r *capb.IssueRequest) (out *capb.Issued, identity attest.Identity, err error) {
	defer s.survive(capb.CertificateAuthority_Issue_FullMethodName, &err)
	if s.now().After(c.notAfter) {
		return nil, identity, attest.Refuse(ReasonExpired, "%s", c.id)
	}
	issued, identity, err := s.decide(ctx, c, r)
	if err != nil {
		return nil, identity, err
	}
	return &capb.Issued{Chain: chainDER(issued.Chain)}, identity, nil
}
