package nodeagent

import (
	"context"
	"crypto"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/attest"
)

// A Workload is a pod that was proved to be on this node, and the pod's own
// token where there is one. Host workloads have none.
type Workload struct {
	Pod   attest.Pod
	Token attest.Token
}

// An Update is all that an [Endpoint] serves. Each Update replaces the last one
// whole, and its values are not edited afterwards. The Bundle is never nil. A nil
// SVID says that the one published before has ended without a successor and is no
// longer offered; an endpoint's first Update has one.
type Update struct {
	SVID   *x509svid.SVID
	Bundle *x509bundle.Bundle
}

// A Request asks for one certificate.
type Request struct {
	// Pod says for whom. It is a hint to the CA, which looks itself.
	Pod attest.Pod
	// Token is the pod's own, and zero where the pod has none.
	Token attest.Token
	// Current is the unexpired SVID that is to be replaced: what a renewal
	// proves possession of. It is nil for the first certificate.
	Current *x509svid.SVID
	// Key is new, and nobody else's.
	Key crypto.Signer
}

// An Issuer obtains certificates: the client of the CA. It may be called at once
// from many goroutines.
type Issuer interface {
	// Issue returns the leaf and the certificates between it and the root.
	// An error that wraps [attest.ErrRefused] will come again for the same
	// request; any other may pass. An error with a method
	// RetryAfter() time.Duration carries the CA's wish to be left alone.
	Issue(ctx context.Context, r Request) ([]*x509.Certificate, error)
}

// Endpoints makes the places where workloads find their identities.
type Endpoints interface {
	// Open makes the pod's socket. When it returns, the socket listens; until
	// the first [Endpoint.Publish] it answers nothing. It is not called again
	// for a pod UID before that pod's endpoint is closed.
	Open(ctx context.Context, pod attest.Pod) (Endpoint, error)
}

// An Endpoint serves one workload. The agent calls it from one goroutine at a time.
type Endpoint interface {
	// Publish replaces what is served. An error leaves the last good Update in place.
	Publish(u Update) error
	// Close takes the socket away and ends its streams.
	Close() error
}

// An Event is something that happened to a workload, for counters and consoles.
type Event struct {
	Kind EventKind
	Pod  attest.Pod
	ID   spiffeid.ID
	// Took is how long the answer took: of Issued, Renewed, Failed and Refused.
	// For Issued it runs from Add, and so includes waiting for the CA.
	Took time.Duration
	// NotAfter is when the held SVID ends, and zero where none is held.
	NotAfter time.Time
	// Next is when the agent will ask again, and zero where it will not.
	Next time.Time
	// Reason is a kebab-case code for Failed, Refused and Expired.
	Reason string
}

// EventKind says what an [Event] tells.
type EventKind int

const (
	Added   EventKind = iota + 1 // a workload came, its endpoint is open
	Issued                       // the workload has its first certificate
	Renewed                      // the workload has another certificate
	Failed                       // no certificate this time: the CA is not there, or gave a bad one
	Refused                      // no certificate: the CA will not
	Expired                      // the certificate ended without a successor and is no longer offered
	Removed                      // the workload is gone, its endpoint is closed
)

// String returns the label that metrics use.
func (k EventKind) String() string {
	switch k {
	case Added:
		return "added"
	case Issued:
		return "issued"
	case Renewed:
		return "renewed"
	case Failed:
		return "failed"
	case Refused:
		return "refused"
	case Expired:
		return "expired"
	case Removed:
		return "removed"
	}
	return "unknown"
}
