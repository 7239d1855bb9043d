package distribute

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
)

// A set that is large is not applied at once: what changes within gather goes
// out together. 2,000 simple policies have some 500 KB.
const (
	large  = 500 << 10
	gather = 100 * time.Millisecond
)

// turns apply what all streams say, each pod for itself: a set that takes long
// delays no other pod's, nor the next stream, when the one that it came by has
// ended. Of one pod, an answer that a newer one overtakes is left out. The zero
// value is ready.
type turns struct {
	running sync.WaitGroup

	mu      sync.Mutex          // guards waiting
	waiting map[string]*pending // by pod; an entry has a goroutine
}

// A pending answer waits for its pod's turn. Its done is buffered.
type pending struct {
	resource *discoveryv3.Resource // nil: the goroutine has taken it
	done     chan error
}

// queue puts a resource in its pod's turn, until ctx ends. One that it overtakes
// is done.
func (t *turns) queue(ctx context.Context, to Answers, resource *discoveryv3.Resource) <-chan error {
	done := make(chan error, 1)
	if url := resource.GetResource().GetTypeUrl(); url != PoliciesType {
		done <- refuse("wrong-type", "a resource of type %q", url)
		return done
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.waiting[resource.Name]
	if p == nil {
		if t.waiting == nil {
			t.waiting = map[string]*pending{}
		}
		p = &pending{}
		t.waiting[resource.Name] = p
		t.running.Go(func() { t.apply(ctx, to, resource.Name, p) })
	}
	if p.resource != nil {
		p.done <- nil
	}
	p.resource, p.done = resource, done
	return done
}

// apply applies what there is for a pod until there is nothing.
func (t *turns) apply(ctx context.Context, to Answers, pod string, p *pending) {
	for {
		t.mu.Lock()
		size := len(p.resource.GetResource().GetValue())
		t.mu.Unlock()
		if size > large {
			select {
			case <-time.After(gather):
			case <-ctx.Done():
			}
		}
		t.mu.Lock()
		resource, done := p.resource, p.done
		if p.resource = nil; resource == nil {
			delete(t.waiting, pod)
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		if ctx.Err() != nil {
			done <- ctx.Err()
			continue
		}
		done <- to.Apply(pod, resource.Version, resource.GetResource().GetValue())
	}
}

// An applier answers what one stream says. Answers go back in order, as the
// protocol wants them; who waits for an answer is the manager alone.
type applier struct {
	ctx     context.Context // of the stream
	long    context.Context // of all streams
	run     *run
	replies chan reply      // to be sent, in the order of the responses
	last    <-chan struct{} // closed when the newest response is answered
	running sync.WaitGroup
}

// A reply is what to send, and of which pods it tells what.
type reply struct {
	request *discoveryv3.DeltaDiscoveryRequest
	// applied are in force, but where a pod was made anew meanwhile. crowded were
	// refused for what others have, and may be taken later.
	applied, crowded []string
}

func newApplier(ctx, long context.Context, r *run) *applier {
	return &applier{ctx: ctx, long: long, run: r, replies: make(chan reply)}
}

// wait returns when all is answered that is answered at all.
func (a *applier) wait() { a.running.Wait() }

// take begins to apply a response; what came of it is said in replies.
func (a *applier) take(response *discoveryv3.DeltaDiscoveryResponse) {
	if len(response.RemovedResources) > 0 {
		// The protocol has it, our manager does not: nobody's policies end
		// because somebody does not know them.
		a.run.Log.WarnContext(a.ctx, "the manager says that policies are gone; they stay", "pods", len(response.RemovedResources))
	}
	results := make([]<-chan error, len(response.Resources))
	for i, resource := range response.Resources {
		results[i] = a.run.turns.queue(a.long, a.run.Answers, resource)
	}
	before, answered := a.last, make(chan struct{})
	a.last = answered
	a.running.Go(func() {
		defer close(answered)
		a.answer(response, results, before)
	})
}

// answer sends the reply to a response, after the one before.
func (a *applier) answer(response *discoveryv3.DeltaDiscoveryResponse, results []<-chan error, before <-chan struct{}) {
	reply := reply{request: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: PoliciesType, ResponseNonce: response.Nonce}}
	var failed error
	for i, result := range results {
		var err error
		select {
		case err = <-result:
		case <-a.ctx.Done():
			return
		}
		name := response.Resources[i].Name
		if err == nil {
			reply.applied = append(reply.applied, name)
			continue
		}
		if r := (*Refusal)(nil); errors.As(err, &r) && r.Reason == crowdedReason {
			reply.crowded = append(reply.crowded, name)
		}
		a.run.Log.ErrorContext(a.ctx, "policies refused; the last good ones stay", "pod_uid", name, "version", response.Resources[i].Version, "err", err)
		failed = errors.Join(failed, fmt.Errorf("%s: %w", name, err))
	}
	if failed != nil {
		reply.request.ErrorDetail = &statuspb.Status{Code: int32(codes.InvalidArgument), Message: cut(failed.Error())}
	}
	if before != nil {
		<-before
	}
	select {
	case a.replies <- reply:
	case <-a.ctx.Done():
	}
}
