package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/proof"
	"github.com/istio-auth/istio-auth/mtls"
)

var (
	errBroken  = errors.New("client: the connection broke")
	errRetired = errors.New("client: the session is retired")
	errSilent  = errors.New("client: the CA took the connection and did not answer")
)

// lastWords is how long a retired session may wait for its last answers.
const lastWords = 10 * time.Second

// A session is one connection with one certificate, and its two streams.
type session struct {
	client     *Client
	generation int // of the certificate
	binding    [32]byte
	agent      bool
	out        chan *capb.IssueRequest
	broken     chan struct{} // closed when no answer will come any more

	mu      sync.Mutex // guards the fields below
	next    uint64
	pending map[uint64]chan *capb.IssueResponse
	idle    chan struct{} // closed when nothing is pending after retirement
	leaving bool
}

// runSession opens a session and keeps it until it breaks, ctx ends, or its
// term does and the last answers are there.
func (c *Client) runSession(ctx context.Context, t term) error {
	svid, err := c.GetX509SVID()
	if err != nil {
		return err
	}
	conn, err := c.dial(mtls.Client(c, c, mtls.Exactly(c.config.Server)))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = attest.AgentFromID(svid.ID)
	s := &session{
		client:     c,
		generation: t.generation,
		agent:      err == nil,
		out:        make(chan *capb.IssueRequest),
		broken:     make(chan struct{}),
		pending:    map[uint64]chan *capb.IssueResponse{},
		idle:       make(chan struct{}),
	}
	defer close(s.broken)
	defer c.leave(s)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A CA that takes the connection and says nothing is none: another may answer.
	opening := time.AfterFunc(attestPatience, func() { cancel(errSilent) })
	defer opening.Stop()
	group, ctx := errgroup.WithContext(ctx)
	wire := capb.NewCertificateAuthorityClient(conn)
	bundles, err := wire.Bundle(ctx)
	if err != nil {
		return fmt.Errorf("opening the stream of bundles: %w", err)
	}
	if _, err := bindingOf(bundles); err != nil {
		return errors.Join(fmt.Errorf("opening the stream of bundles: %w", err), context.Cause(ctx))
	}
	if s.agent {
		stream, err := wire.Issue(ctx)
		if err != nil {
			return fmt.Errorf("opening the stream of certificates: %w", err)
		}
		if s.binding, err = bindingOf(stream); err != nil {
			return fmt.Errorf("opening the stream of certificates: %w", err)
		}
		group.Go(func() error { return s.send(ctx, stream) })
		group.Go(func() error { return s.receive(stream) })
	}
	group.Go(func() error { return c.readBundles(bundles) })
	group.Go(func() error { return c.applyBundles(ctx, bundles) })
	group.Go(func() error { return s.untilRetired(ctx, t.retired) })
	opening.Stop()
	c.use(s)
	t.begun()
	return group.Wait()
}

// untilRetired ends the session when its last answers are there.
func (s *session) untilRetired(ctx context.Context, retired <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-retired:
	}
	s.client.leave(s)
	s.retire()
	select {
	case <-s.idle:
	case <-ctx.Done():
	case <-time.After(lastWords):
	}
	return errRetired
}

// issue asks once, on this session. It returns errBroken where the session
// ended without an answer.
func (s *session) issue(ctx context.Context, r Request) ([]*x509.Certificate, error) {
	if !s.agent {
		return nil, &attest.Refusal{Reason: "not-an-agent", Err: errNotAgent}
	}
	request, err := s.request(r)
	if err != nil {
		return nil, err
	}
	answer, err := s.register(request)
	if err != nil {
		return nil, err
	}
	defer s.forget(request.GetId())
	select {
	case s.out <- request:
	case <-s.broken:
		return nil, errBroken
	case <-ctx.Done():
		return nil, unanswered(ctx)
	}
	select {
	case response := <-answer:
		return s.read(response, r)
	case <-s.broken:
		return nil, errBroken
	case <-ctx.Done():
		return nil, unanswered(ctx)
	}
}

func unanswered(ctx context.Context) error {
	return fmt.Errorf("waiting for the CA's answer: %w: %w", attest.ErrUnavailable, context.Cause(ctx))
}

// request makes the proofs, which hold on this session's connection alone.
func (s *session) request(r Request) (*capb.IssueRequest, error) {
	binding := proof.Binding{
		TrustDomain: s.client.config.TrustDomain,
		TLS:         s.binding,
		Purpose:     proof.Issue,
		Subject:     r.Pod.UID,
	}
	key, err := provenKey(r.Key, binding)
	if err != nil {
		return nil, err
	}
	request := &capb.IssueRequest{
		Pod: &capb.PodRef{Namespace: r.Pod.Namespace, Name: r.Pod.Name, Uid: r.Pod.UID},
		Key: key,
	}
	if r.Current == nil {
		request.Token = r.Token.Reveal()
		return request, nil
	}
	binding.Purpose = proof.Current
	signature, err := proof.Sign(r.Current.PrivateKey, binding)
	if err != nil {
		return nil, err
	}
	request.Current = &capb.CurrentSVID{Proof: signature}
	for _, cert := range r.Current.Certificates {
		request.Current.Chain = append(request.Current.Chain, cert.Raw)
	}
	return request, nil
}

// read makes of an answer what Issue returns.
func (s *session) read(response *capb.IssueResponse, r Request) ([]*x509.Certificate, error) {
	if t := response.GetServerTime(); t.CheckValid() == nil {
		s.client.observeTime(t.AsTime())
	}
	if issued := response.GetIssued(); issued != nil {
		chain, _, err := verified(issued.GetChain(), r.Key.Public(), s.client)
		if err != nil {
			return nil, fmt.Errorf("checking what the CA issued: %w", err)
		}
		return chain, nil
	}
	refusal := response.GetRefusal()
	if refusal.GetCode() == capb.Refusal_CODE_RETRY {
		return nil, &RetryError{After: max(0, refusal.GetRetryAfter().AsDuration()), Ref: refusal.GetCorrelationId()}
	}
	return nil, fmt.Errorf("asking the CA for pod %s, ref %q: %w", r.Pod.UID, refusal.GetCorrelationId(), attest.ErrRefused)
}

// register gives a request its id.
func (s *session) register(r *capb.IssueRequest) (<-chan *capb.IssueResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		return nil, errBroken
	}
	s.next++
	r.Id = s.next
	answer := make(chan *capb.IssueResponse, 1)
	s.pending[r.Id] = answer
	return answer, nil
}

func (s *session) forget(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, id)
	if s.leaving && len(s.pending) == 0 && !closed(s.idle) {
		close(s.idle)
	}
}

// retire takes no more requests.
func (s *session) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	if len(s.pending) == 0 && !closed(s.idle) {
		close(s.idle)
	}
}

func (s *session) send(ctx context.Context, stream grpc.BidiStreamingClient[capb.IssueRequest, capb.IssueResponse]) error {
	for {
		select {
		case r := <-s.out:
			if err := stream.Send(r); err != nil {
				return fmt.Errorf("asking for certificates: %w", err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) receive(stream grpc.BidiStreamingClient[capb.IssueRequest, capb.IssueResponse]) error {
	for {
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("reading certificates: %w", err)
		}
		s.mu.Lock()
		answer := s.pending[response.GetId()]
		delete(s.pending, response.GetId()) // one answer each
		s.mu.Unlock()
		if answer != nil {
			answer <- response
		}
	}
}

// readBundles takes the CA's bundles as they come.
func (c *Client) readBundles(stream grpc.BidiStreamingClient[capb.BundleAck, capb.BundleUpdate]) error {
	for {
		update, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("reading bundles: %w", err)
		}
		next, err := versioned(c.config.TrustDomain, update)
		if err != nil {
			return err
		}
		if t := update.GetServerTime(); t.CheckValid() == nil {
			c.observeTime(t.AsTime())
		}
		c.replace(c.bundles(), next)
	}
}

// applyBundles hands the newest bundle on, and acknowledges it when that is done.
func (c *Client) applyBundles(ctx context.Context, stream grpc.BidiStreamingClient[capb.BundleAck, capb.BundleUpdate]) error {
	failures := 0
	for {
		current, replaced := c.bundles().Current()
		if err := c.apply(ctx, current); err != nil {
			c.config.Log.Warn("a bundle is not applied", "sequence", current.Sequence, "err", err)
			if !sleep(ctx, backoff(failures, rand.Float64())) {
				return ctx.Err()
			}
			failures++
			continue
		}
		failures = 0
		if err := stream.Send(&capb.BundleAck{Sequence: current.Sequence}); err != nil {
			return fmt.Errorf("acknowledging a bundle: %w", err)
		}
		select {
		case <-replaced:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// apply tells OnBundle, unless it has accepted this bundle or a newer one. While
// two sessions overlap, one of them calls it and the other waits.
func (c *Client) apply(ctx context.Context, v bundle.Versioned) error {
	if c.config.OnBundle == nil {
		return nil
	}
	select {
	case c.applying <- struct{}{}:
		defer func() { <-c.applying }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if v.Sequence <= c.lastApplied() {
		return nil
	}
	if err := c.config.OnBundle(ctx, v); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.applied = v.Sequence
	return nil
}

func (c *Client) lastApplied() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applied
}
