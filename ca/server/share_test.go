package server

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/ca/proof"
)

// asker is an open stream of requests.
type asker struct {
	capb.CertificateAuthority_IssueClient
	here [32]byte
}

func (w *world) asker(t *testing.T, own *x509svid.SVID) asker {
	t.Helper()
	stream, err := capb.NewCertificateAuthorityClient(w.dial(t, own)).Issue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	here, err := binding(stream)
	if err != nil {
		t.Fatal(err)
	}
	return asker{stream, here}
}

func (a asker) ask(t *testing.T, pod attest.Pod, token string) {
	t.Helper()
	key := catest.Key(t)
	if err := a.Send(&capb.IssueRequest{
		Pod: &capb.PodRef{Namespace: pod.Namespace, Name: pod.Name, Uid: pod.UID}, Token: token,
		Key: &capb.PublicKey{Spki: spkiOf(t, key), Proof: prove(t, key, a.here, proof.Issue, pod.UID)},
	}); err != nil {
		t.Fatal(err)
	}
}

func (a asker) answer(t *testing.T) *capb.IssueResponse {
	t.Helper()
	response, err := a.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// TestOneAgentLeavesRoom: an agent that asks and asks, while the API server is
// slow, does not take the places of the others.
func TestOneAgentLeavesRoom(t *testing.T) {
	w := newWorld(t)
	w.cluster.block = make(chan struct{})
	w.config.Limits.Working = 8
	w.start(t)
	greedy, other := w.asker(t, w.agent(t, nodeA)), w.asker(t, w.agent(t, nodeB))
	for range 12 {
		greedy.ask(t, podA, "token-a")
	}
	for range 4 { // so many at the least have no place
		if greedy.answer(t).GetRefusal().GetCode() != capb.Refusal_CODE_RETRY {
			t.Fatal("not told to come back")
		}
	}
	other.ask(t, podB, "token-b")
	eventually(t, func() bool { return len(w.server.working) == 3 }, func() any { return len(w.server.working) })
	close(w.cluster.block)
	if got := other.answer(t); got.GetIssued() == nil {
		t.Errorf("the other agent got %v", got)
	}
	issued := 0
	for range 12 - 4 {
		if greedy.answer(t).GetIssued() != nil {
			issued++
		}
	}
	if issued != 2 {
		t.Errorf("the greedy one was issued %d, want 2", issued)
	}
	eventually(t, func() bool { return len(w.server.working) == 0 }, func() any { return len(w.server.working) })
	w.server.shares.mu.Lock()
	defer w.server.shares.mu.Unlock()
	if left := w.server.shares.taken; len(left) != 0 {
		t.Errorf("places that nobody has are taken: %v", left)
	}
}

// slow does not answer about agents.
type slow struct{ *cluster }

func (s slow) AttestAgent(ctx context.Context, _ attest.Token) (attest.Identity, error) {
	<-ctx.Done()
	return attest.Identity{}, ctx.Err()
}

// attestAs attests as the agent of node A, over a connection of its own.
func (w *world) attestAs(t *testing.T, own *x509svid.SVID) error {
	t.Helper()
	stream, err := capb.NewCertificateAuthorityClient(w.dial(t, own)).Attest(t.Context())
	if err != nil {
		return err
	}
	here, err := binding(stream)
	if err != nil {
		return err
	}
	key := catest.Key(t)
	if err := stream.Send(&capb.AttestRequest{
		Evidence: &capb.AttestRequest_KubernetesToken{KubernetesToken: "agent-a"},
		Key:      &capb.PublicKey{Spki: spkiOf(t, key), Proof: prove(t, key, here, proof.Attest, "")},
	}); err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

// TestStrangersLeaveRoom: strangers that are judged slowly do not take the places
// of agents.
func TestStrangersLeaveRoom(t *testing.T) {
	w := newWorld(t)
	w.config.Attester = slow{w.cluster}
	w.config.Limits.Working = 4
	w.config.Limits.Patience = 3 * time.Second
	w.start(t)
	answers := make(chan error, 8)
	for range cap(answers) {
		go func() { answers <- w.attestAs(t, nil) }()
	}
	for range 4 { // so many at the least have no place
		if err := <-answers; status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("got %v", err)
		}
	}
	agent := w.asker(t, w.agent(t, nodeA))
	agent.ask(t, podA, "token-a")
	if got := agent.answer(t); got.GetIssued() == nil {
		t.Errorf("got %v", got)
	}
	for range cap(answers) - 4 {
		<-answers
	}
}

// TestAgentsAreNoStrangers: an agent that shows the certificate that it has
// attests anew however many strangers there are; a workload that shows one is one of them.
func TestAgentsAreNoStrangers(t *testing.T) {
	w := newWorld(t)
	w.config.Limits.Strangers = Rate{PerSecond: 0.001, Burst: 1}
	w.start(t)
	if err := w.attestAs(t, nil); err != nil {
		t.Fatal(err)
	}
	for name, own := range map[string]*x509svid.SVID{"a stranger": nil, "a workload": w.ca.SVID(t, webID, time.Hour)} {
		if err := w.attestAs(t, own); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, own := range map[string]*x509svid.SVID{"an agent": w.agent(t, nodeA), "a service": w.ca.SVID(t, manager, time.Hour)} {
		if err := w.attestAs(t, own); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A deaf client asks and does not read.
type deaf struct {
	grpc.ServerStream
	ctx      context.Context
	requests chan *capb.IssueRequest
}

func (d *deaf) Context() context.Context          { return d.ctx }
func (d *deaf) SendHeader(metadata.MD) error      { return nil }
func (d *deaf) Send(*capb.IssueResponse) error    { <-d.ctx.Done(); return d.ctx.Err() }
func (d *deaf) Recv() (*capb.IssueRequest, error) { return receiveFrom(d.ctx, d.requests) }

func receiveFrom(ctx context.Context, requests <-chan *capb.IssueRequest) (*capb.IssueRequest, error) {
	select {
	case r := <-requests:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestDeafClient: the stream of a client that does not read its answers ends with
// its certificate all the same.
func TestDeafClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(t)
		c := caller{id: w.callers["agent-a"].ID(), agent: w.callers["agent-a"], notAfter: time.Now().Add(time.Hour)}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), callerKey{}, c))
		stream := &deaf{ctx: ctx, requests: make(chan *capb.IssueRequest, 100)}
		for range cap(stream.requests) {
			stream.requests <- &capb.IssueRequest{}
		}
		ended := make(chan error, 1)
		go func() { ended <- w.server.Issue(stream) }()
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		select {
		case err := <-ended:
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("ended with %v", err)
			}
		default:
			t.Error("the stream outlives its certificate")
		}
		if asked := 100 - len(stream.requests); asked > w.server.limits.PerStream+1 {
			t.Errorf("%d requests were read from a client that reads no answer", asked)
		}
		cancel()
	})
}
