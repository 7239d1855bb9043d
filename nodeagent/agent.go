package nodeagent

import (
	"context"
	"log/slog"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// An Agent keeps the workloads of one node supplied. Its exported fields must not
// change after the first call of a method. All methods may be called at once.
type Agent struct {
	TrustDomain spiffeid.TrustDomain
	Issuer      Issuer
	Endpoints   Endpoints
	Log         *slog.Logger
	// Observe is told what happens, and may be nil. It is called from many
	// goroutines at once and must not block.
	Observe func(Event)
}

// Run supplies the workloads that were and will be added, until ctx ends.
func (a *Agent) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// Add makes w known. It is idempotent; a newer token replaces the one held.
func (a *Agent) Add(ctx context.Context, w Workload) error { return nil }

// Remove forgets the pod and closes its endpoint. An unknown pod is no error.
func (a *Agent) Remove(ctx context.Context, podUID string) error { return nil }

// SetBundle replaces the trust bundle and pushes it to every workload.
func (a *Agent) SetBundle(b *x509bundle.Bundle) {}
