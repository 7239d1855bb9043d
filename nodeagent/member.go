package nodeagent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/nodeagent/renew"
)

// errNoBundle is why a certificate cannot be looked at before the first bundle.
var errNoBundle = errors.New("nodeagent: no trust bundle yet")

// A member is one workload of the agent. Its life: claimed, opened, run by two
// goroutines (one renews, one publishes, so that a slow CA does not hold up a
// bundle), closed, gone.
type member struct {
	a     *Agent
	pod   attest.Pod
	id    spiffeid.ID
	added time.Time

	endpoint Endpoint      // written before opened is closed
	opened   chan struct{} // closed when Open has returned, well or not
	leaving  chan struct{} // closed when the workload is to go
	gone     chan struct{} // closed when the agent has forgotten it
	changed  chan struct{} // of depth one: there is something to publish
	nudged   chan struct{} // of depth one: see renew.Loop

	mu    sync.Mutex // guards what follows
	left  bool       // leaving is closed
	token attest.Token
	svid  *x509svid.SVID

	// The renewing goroutine's alone:
	issued      bool   // there was a first certificate
	anew        bool   // the last renewal was refused: ask as for a first certificate
	saidFailing string // what the log last heard of this workload
}

func newMember(a *Agent, w Workload, id spiffeid.ID) *member {
	return &member{
		a: a, pod: w.Pod, id: id, token: w.Token, added: time.Now(),
		opened: make(chan struct{}), leaving: make(chan struct{}), gone: make(chan struct{}),
		changed: make(chan struct{}, 1), nudged: make(chan struct{}, 1),
	}
}

// offer replaces the token where t is another one. It reports whether the member
// stays: false once it leaves.
func (m *member) offer(t attest.Token) bool {
	m.mu.Lock()
	stays, newer := !m.left, false
	if stays && !t.IsZero() && t.Digest() != m.token.Digest() {
		m.token, newer = t, true
	}
	m.mu.Unlock()
	if newer {
		poke(m.nudged)
	}
	return stays
}

// leave makes the member go. It may be called more than once.
func (m *member) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.left {
		m.left = true
		close(m.leaving)
	}
}

func (m *member) current() *x509svid.SVID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.svid
}

func (m *member) hold(svid *x509svid.SVID) {
	m.mu.Lock()
	m.svid = svid
	m.mu.Unlock()
	poke(m.changed)
}

// run renews and publishes until ctx ends or the workload leaves, and closes.
func (m *member) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { m.renew(ctx) })
	wg.Go(func() { m.publish(ctx) })
	select {
	case <-m.leaving:
	case <-ctx.Done():
		m.leave()
	}
	cancel()
	wg.Wait()
	m.close()
}

// close takes the endpoint away. It is called once, by whoever runs or would have
// run the member.
func (m *member) close() {
	if err := m.endpoint.Close(); err != nil {
		m.a.Log.Error("closing the endpoint", "spiffe_id", m.id, "pod_uid", m.pod.UID, "err", err)
	}
	m.a.forget(m)
	m.a.observe(Event{Kind: Removed, Pod: m.pod, ID: m.id})
}

// publish serves the newest state, one Update at a time. What changes meanwhile
// is in the next one. Before the first certificate it is silent: after a restart
// of ours, an Envoy still holds the one that it got before, and "none" would take
// it away.
func (m *member) publish(ctx context.Context) {
	var last Update
	for served := false; ; {
		u := Update{SVID: m.current(), Bundle: m.a.Bundle()}
		if (u.SVID != nil || served) && u != last {
			if err := m.endpoint.Publish(u); err == nil {
				last, served = u, true
			} else {
				m.a.Log.Error("the endpoint did not take the update, and serves the last one", "spiffe_id", m.id, "pod_uid", m.pod.UID, "err", err)
				m.tell(Event{Kind: Failed, Reason: reasonPublish})
			}
		}
		select {
		case <-m.changed:
		case <-ctx.Done():
			return
		}
	}
}

// renew keeps the certificate fresh, from the moment that there is a bundle to
// look at it with.
func (m *member) renew(ctx context.Context) {
	for m.a.Bundle() == nil {
		select {
		case <-m.nudged:
		case <-ctx.Done():
			return
		}
	}
	loop := &renew.Loop{Issuer: m, Expired: m.expired, Observe: m.tried, Nudged: m.nudged, Stale: m.stale}
	loop.Run(ctx)
}

// Issue makes a key, asks for its certificate, looks at it, and serves it. It is
// [renew.Issuer]'s.
func (m *member) Issue(ctx context.Context) (time.Time, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return time.Time{}, fmt.Errorf("making a key: %w", err)
	}
	stale := m.stale()
	m.mu.Lock()
	request := Request{Pod: m.pod, Token: m.token, Current: m.svid, Key: key}
	m.mu.Unlock()
	// An SVID that the CA will not take as proof, or whose root is dropped, must not
	// stand in the way of a token that it will take.
	if !request.Token.IsZero() && (m.anew || stale) {
		request.Current = nil
	}
	chain, err := m.a.Issuer.Issue(ctx, request)
	if err != nil {
		if errors.Is(err, attest.ErrRefused) {
			m.anew = request.Current != nil
			return time.Time{}, fmt.Errorf("%w: %w", renew.ErrRefused, err)
		}
		return time.Time{}, err
	}
	bundle := m.a.Bundle()
	if bundle == nil {
		return time.Time{}, errNoBundle
	}
	if err := verify(chain, key.Public(), m.id, bundle, time.Now()); err != nil {
		return time.Time{}, &badAnswer{err}
	}
	m.anew = false
	m.hold(&x509svid.SVID{ID: m.id, Certificates: chain, PrivateKey: crypto.Signer(key)})
	return chain[0].NotAfter, nil
}

// stale tells whether the bundle has stopped vouching for the held certificate.
func (m *member) stale() bool {
	svid, bundle := m.current(), m.a.Bundle()
	if svid == nil || bundle == nil {
		return false
	}
	now := time.Now()
	if !now.Before(svid.Certificates[0].NotAfter) {
		return false // its end is the loop's to see
	}
	return verify(svid.Certificates, svid.PrivateKey.Public(), m.id, bundle, now) != nil
}

// expired withdraws a certificate that ended: it proves nothing to anybody, and a
// client that is shown none may at least say so. The bundle stays.
func (m *member) expired() {
	m.hold(nil)
	m.a.Log.Error("the certificate ended without a successor and is no longer offered", "spiffe_id", m.id, "pod_uid", m.pod.UID)
	m.tell(Event{Kind: Expired, Reason: reasonExpired})
}

// A badAnswer is a certificate that the CA should not have sent. It is no
// refusal, though it holds one: another try may well be answered rightly.
type badAnswer struct{ err error }

func (b *badAnswer) Error() string { return "what the CA sent was not taken: " + b.err.Error() }

func (b *badAnswer) reason() string { return attest.Reason(b.err) }
