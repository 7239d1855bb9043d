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

// An applier applies what one stream says, each pod for itself: a set that
// takes long delays no other pod's. Of one pod, an answer that a newer one
// overtakes is left out. Answers go back in order, as the protocol wants them;
// who waits for an answer is the manager alone.
type applier struct {
	ctx     context.Context
	run     *run
	replies chan *discoveryv3.DeltaDiscoveryRequest // to be sent, in the order of the responses
	last    <-chan struct{}                         // closed when the newest response is answered
	running sync.WaitGroup

	mu      sync.Mutex          // guards waiting
	waiting map[string]*pending // by pod; an entry has a goroutine
}

// A pending answer waits for its pod's turn. Its done is buffered.
type pending struct {
	resource *discoveryv3.Resource // nil: the goroutine has taken it
	done     chan error
}

func newApplier(ctx context.Context, r *run) *applier {
	return &applier{ctx: ctx, run: r, replies: make(chan *discoveryv3.DeltaDiscoveryRequest), waiting: map[string]*pending{}}
}

// wait returns when nothing is applied any more.
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
		results[i] = a.queue(resource)
	}
	before, answered := a.last, make(chan struct{})
	a.last = answered
	a.running.Go(func() {
		defer close(answered)
		reply := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: PoliciesType, ResponseNonce: response.Nonce}
		var failed error
		for i, result := range results {
			if err := <-result; err != nil {
				name := response.Resources[i].Name
				a.run.Log.ErrorContext(a.ctx, "policies refused; the last good ones stay", "pod_uid", name, "version", response.Resources[i].Version, "err", err)
				failed = errors.Join(failed, fmt.Errorf("%s: %w", name, err))
			}
		}
		if failed != nil {
			reply.ErrorDetail = &statuspb.Status{Code: int32(codes.InvalidArgument), Message: cut(failed.Error())}
		}
		if before != nil {
			<-before
		}
		select {
		case a.replies <- reply:
		case <-a.ctx.Done():
		}
	})
}

// queue puts a resource in its pod's turn. One that it overtakes is done.
func (a *applier) queue(resource *discoveryv3.Resource) <-chan error {
	done := make(chan error, 1)
	if url := resource.GetResource().GetTypeUrl(); url != PoliciesType {
		done <- refuse("wrong-type", "a resource of type %q", url)
		return done
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.waiting[resource.Name]
	if p == nil {
		p = &pending{}
		a.waiting[resource.Name] = p
		a.running.Go(func() { a.apply(resource.Name, p) })
	}
	if p.resource != nil {
		p.done <- nil
	}
	p.resource, p.done = resource, done
	return done
}

// apply applies what there is for a pod until there is nothing.
func (a *applier) apply(pod string, p *pending) {
	for {
		a.mu.Lock()
		size := len(p.resource.GetResource().GetValue())
		a.mu.Unlock()
		if size > large {
			select {
			case <-time.After(gather):
			case <-a.ctx.Done():
			}
		}
		a.mu.Lock()
		resource, done := p.resource, p.done
		if p.resource = nil; resource == nil {
			delete(a.waiting, pod)
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
		if a.ctx.Err() != nil {
			done <- a.ctx.Err()
			continue
		}
		done <- a.run.Answers.Apply(pod, resource.Version, resource.GetResource().GetValue())
	}
}
