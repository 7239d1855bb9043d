package nodeagent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
)

// ErrStopped reports a call to an agent whose Run has ended.
var ErrStopped = errors.New("nodeagent: the agent has stopped")

// An Agent keeps the workloads of one node supplied. Its exported fields must not
// change after the first call of a method. All methods may be called at once,
// and before Run.
type Agent struct {
	TrustDomain spiffeid.TrustDomain
	Issuer      Issuer
	Endpoints   Endpoints
	Log         *slog.Logger
	// Observe is told what happens, and may be nil. It is called from many
	// goroutines at once and must not block.
	Observe func(Event)

	mu      sync.Mutex // guards what follows
	members map[string]*member
	bundle  *x509bundle.Bundle
	waiting []*member     // open, and not yet started by Run
	arrived chan struct{} // of depth one: there is somebody in waiting
	stopped bool
}

// Run supplies the workloads that were and will be added, until ctx ends. Then it
// closes their endpoints and returns nil. It is called once.
func (a *Agent) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	arrived := a.arrivals()
	wg.Go(func() { a.watchClock(ctx) })
	for running := true; running; {
		for _, m := range a.takeWaiting() {
			wg.Go(func() { m.run(ctx) })
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			running = false
		}
	}
	// Whoever is added from here on is turned away; whoever was before is in waiting.
	a.mu.Lock()
	a.stopped = true
	a.mu.Unlock()
	for _, m := range a.takeWaiting() {
		wg.Go(func() { m.run(ctx) })
	}
	wg.Wait()
	return nil
}

// Add makes w known: when it returns nil, the workload's endpoint listens, and its
// first certificate is being asked for. It does not wait for the CA.
//
// It is idempotent and cheap where nothing is new, since a kubelet calls often. A
// token that differs from the one held replaces it, and ends the wait of a workload
// whose last request failed. A workload without a token leaves the held token alone.
//
// It returns an [*attest.Refusal] for a pod whose names are bad, or that was added
// under other names with the same UID; [ErrStopped] after Run; ctx's error; and
// what [Endpoints] returned, after which the workload is unknown again.
func (a *Agent) Add(ctx context.Context, w Workload) error {
	id, err := ExpectedID(a.TrustDomain, w.Pod)
	if err != nil {
		return err
	}
	for {
		m, ours, err := a.claim(w, id)
		if err != nil {
			return err
		}
		if ours {
			return a.open(ctx, m)
		}
		select {
		case <-m.opened:
		case <-ctx.Done():
			return ctx.Err()
		}
		if m.pod != w.Pod {
			return attest.Refuse("pod-changed", "pod %s was %s/%s with service account %s", m.pod.UID, m.pod.Namespace, m.pod.Name, m.pod.ServiceAccount)
		}
		if m.offer(w.Token) {
			return nil
		}
		// It is leaving, or was never opened: our turn when its endpoint is closed.
		select {
		case <-m.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// claim returns the member of w's UID, and makes it, for the caller to open,
// where there is none.
func (a *Agent) claim(w Workload, id spiffeid.ID) (m *member, ours bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return nil, false, ErrStopped
	}
	if m = a.members[w.Pod.UID]; m != nil {
		return m, false, nil
	}
	m = newMember(a, w, id)
	if a.members == nil {
		a.members = map[string]*member{}
	}
	a.members[w.Pod.UID] = m
	return m, true, nil
}

// open opens m's endpoint and hands m to Run.
func (a *Agent) open(ctx context.Context, m *member) error {
	endpoint, err := a.Endpoints.Open(ctx, m.pod)
	m.endpoint = endpoint
	if err != nil {
		m.leave()
		a.forget(m)
		close(m.opened)
		return err
	}
	a.observe(Event{Kind: Added, Pod: m.pod, ID: m.id})
	a.mu.Lock()
	stopped := a.stopped
	if !stopped {
		a.waiting = append(a.waiting, m)
	}
	a.mu.Unlock()
	if stopped {
		m.leave()
		close(m.opened)
		m.close()
		return ErrStopped
	}
	close(m.opened)
	poke(a.arrivals())
	return nil
}

// Remove forgets the pod and closes its endpoint; when it returns nil, both are
// done. A pod that is not known is no error. It returns ctx's error where ctx
// ends first; the workload leaves all the same.
func (a *Agent) Remove(ctx context.Context, podUID string) error {
	a.mu.Lock()
	m := a.members[podUID]
	a.mu.Unlock()
	if m == nil {
		return nil
	}
	select {
	case <-m.opened:
	case <-ctx.Done():
		return ctx.Err()
	}
	m.leave()
	if a.takeFromWaiting(m) {
		m.close()
	}
	select {
	case <-m.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// SetBundle replaces the trust bundle and pushes it to every workload: the bundle
// alone, with the certificate that the workload has. Only a workload whose
// certificate the new bundle does not vouch for asks for another, at once.
//
// A bundle that is nil, empty, or of another trust domain is not taken: it would
// leave every workload without a peer that it trusts.
func (a *Agent) SetBundle(b *x509bundle.Bundle) {
	if b == nil || b.Empty() || b.TrustDomain() != a.TrustDomain {
		a.Log.Error("the trust bundle was not taken: it is empty or of another trust domain")
		return
	}
	a.mu.Lock()
	a.bundle = b.Clone()
	members := a.all()
	a.mu.Unlock()
	for _, m := range members {
		poke(m.changed)
		poke(m.nudged)
	}
}

// Bundle is the trust bundle that is served, and nil before the first. It must
// not be edited.
func (a *Agent) Bundle() *x509bundle.Bundle {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bundle
}

// Darkness is when the first workload would be without a certificate if no CA
// answered from now on: the `time to darkness`. It is zero where no workload
// holds one.
func (a *Agent) Darkness() time.Time {
	a.mu.Lock()
	members := a.all()
	a.mu.Unlock()
	var first time.Time
	for _, m := range members {
		if svid := m.current(); svid != nil {
			if end := svid.Certificates[0].NotAfter; first.IsZero() || end.Before(first) {
				first = end
			}
		}
	}
	return first
}

// all lists the members. The caller holds a.mu.
func (a *Agent) all() []*member {
	list := make([]*member, 0, len(a.members))
	for _, m := range a.members {
		list = append(list, m)
	}
	return list
}

func (a *Agent) forget(m *member) {
	a.mu.Lock()
	delete(a.members, m.pod.UID)
	a.mu.Unlock()
	close(m.gone)
}

// arrivals is the channel on which Run hears of members in waiting. Run and the
// first Add may come in either order.
func (a *Agent) arrivals() chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.arrived == nil {
		a.arrived = make(chan struct{}, 1)
	}
	return a.arrived
}

func (a *Agent) takeWaiting() []*member {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.waiting
	a.waiting = nil
	return list
}

// takeFromWaiting takes m alone, and reports whether it was there: whether the
// caller is the one to close it.
func (a *Agent) takeFromWaiting(m *member) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, w := range a.waiting {
		if w == m {
			a.waiting = append(a.waiting[:i:i], a.waiting[i+1:]...)
			return true
		}
	}
	return false
}

func (a *Agent) observe(e Event) {
	if a.Observe != nil {
		a.Observe(e)
	}
}

// poke puts a value into a channel of depth one, where there is none yet.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
