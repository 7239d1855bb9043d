// Package bundle holds the trust bundle as it changes.
//
// A [Keeper] has one current version and tells everyone who waits when there is
// a newer one. It never goes back: a bundle older than the one held is refused,
// so that nobody can bring a dropped root back by replaying yesterday's bundle.
package bundle

import (
	"crypto/x509"
	"errors"
	"fmt"
	"sync"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	// ErrOlder reports a bundle with a lower sequence than the one held.
	ErrOlder = errors.New("bundle: older than the one held")
	// ErrFork reports a bundle with the sequence of the one held, but other content.
	ErrFork = errors.New("bundle: same sequence, other content")
	// ErrTrustDomain reports a bundle of another trust domain.
	ErrTrustDomain = errors.New("bundle: of another trust domain")
	// ErrNotAuthority reports a certificate that may not be a root: an authority
	// in a bundle is a CA certificate that is its own issuer.
	ErrNotAuthority = errors.New("bundle: not a root certificate")
)

// A Versioned is a bundle and its place in the order of its trust domain's
// bundles. Sequences start at 1 and rise with every change (SPIFFE Trust Domain
// and Bundle, spiffe_sequence); they need not be consecutive. The zero value is no bundle.
type Versioned struct {
	Sequence uint64
	Bundle   *x509bundle.Bundle
}

// clone keeps what the Keeper holds apart from what its callers may edit.
func (v Versioned) clone() Versioned {
	return Versioned{Sequence: v.Sequence, Bundle: v.Bundle.Clone()}
}

// check refuses what no verifier should be given.
func (v Versioned) check() error {
	if v.Sequence == 0 || v.Bundle == nil {
		return errors.New("bundle: without a sequence or content")
	}
	for _, root := range v.Bundle.X509Authorities() {
		if !root.IsCA || !root.BasicConstraintsValid || root.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("%w: serial %x", ErrNotAuthority, root.SerialNumber)
		}
	}
	return nil
}

// A Keeper holds the newest bundle of one trust domain. All its methods may be
// called at once.
type Keeper struct {
	td spiffeid.TrustDomain

	mu       sync.Mutex // guards the fields below
	current  Versioned
	replaced chan struct{} // closed when current is replaced
}

var _ x509bundle.Source = (*Keeper)(nil)

// NewKeeper returns a Keeper that starts with first. A bundle without any
// authority is legal: it means that nobody is trusted (SPIFFE Trust Domain and Bundle).
func NewKeeper(first Versioned) (*Keeper, error) {
	if err := first.check(); err != nil {
		return nil, err
	}
	return &Keeper{
		td:       first.Bundle.TrustDomain(),
		current:  first.clone(),
		replaced: make(chan struct{}),
	}, nil
}

// Current returns the newest bundle, and a channel that is closed when there is
// a newer one. The bundle is the caller's own copy.
func (k *Keeper) Current() (Versioned, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current.clone(), k.replaced
}

// Set replaces the bundle with a newer one. The one that is held may be set
// again, which does nothing. An older bundle is refused with [ErrOlder], another one of
// the same sequence with [ErrFork], and one of another trust domain with [ErrTrustDomain].
func (k *Keeper) Set(v Versioned) error {
	if err := v.check(); err != nil {
		return err
	}
	if v.Bundle.TrustDomain() != k.td {
		return fmt.Errorf("%w: %s, want %s", ErrTrustDomain, v.Bundle.TrustDomain(), k.td)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case v.Sequence < k.current.Sequence:
		return fmt.Errorf("%w: %d, have %d", ErrOlder, v.Sequence, k.current.Sequence)
	case v.Sequence == k.current.Sequence && !v.Bundle.Equal(k.current.Bundle):
		return fmt.Errorf("%w: %d", ErrFork, v.Sequence)
	case v.Sequence == k.current.Sequence:
		return nil
	}
	k.current = v.clone()
	close(k.replaced)
	k.replaced = make(chan struct{})
	return nil
}

// GetX509BundleForTrustDomain makes the Keeper a source for TLS: each handshake
// sees the newest bundle.
func (k *Keeper) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if td != k.td {
		return nil, fmt.Errorf("%w: asked for %s, have %s", ErrTrustDomain, td, k.td)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current.Bundle.Clone(), nil
}
