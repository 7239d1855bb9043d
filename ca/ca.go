// Package ca is the certificate authority: an identity that was attested and a
// public key come in, a certificate goes out.
//
// [Authority.Issue] is the whole of it, in the numbered steps of
// docs/ISSUANCE.md. The package attests nobody and serves nobody: evidence is
// judged in attest, and ca/server is the wire. Everything that an Authority
// knows lies in one folder, which one process uses at a time.
package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/journal"
	"github.com/istio-auth/istio-auth/ca/profile"
	"github.com/istio-auth/istio-auth/ca/store"
)

// ServiceName is the name of the CA among our own services: its SPIFFE ID is
// spiffe://<td>/istio-auth/ca.
const ServiceName = "ca"

// ErrStateLost reports a folder whose journal has issued certificates and whose
// store knows no authority. New does not answer that with a new root: every
// workload of the mesh would stop trusting every other.
var ErrStateLost = errors.New("ca: certificates were issued here, and the store has no authority: restore it, or move the journal away to begin anew")

// A Config is what an [Authority] needs.
type Config struct {
	TrustDomain spiffeid.TrustDomain

	// Dir holds keys, journal and store. It is made with mode 0700 where it is
	// missing; where others may enter it, New refuses.
	Dir string

	// Profile of all certificates. The zero value is the default profile.
	Profile profile.Profile

	// Now is the clock. Nil means time.Now.
	Now func() time.Time

	// Log gets what an operator has to know. Nil means nobody is told.
	Log *slog.Logger
}

// An intents is the journal as issuing needs it.
type intents interface {
	Append(context.Context, journal.Intent) error
	Outcome(journal.Outcome) error
	Broken() <-chan struct{}
}

// An Authority issues certificates. Make it with [New], keep [Authority.Run]
// running, and Close it. Its methods may be called at once.
//
// It is the source (x509svid.Source, x509bundle.Source) of the CA's own identity.
type Authority struct {
	config  Config
	self    attest.Identity
	store   *store.Store
	journal *journal.Journal
	intents intents // the journal
	bundle  *bundle.Keeper

	issuer atomic.Pointer[signing]
	own    atomic.Pointer[x509svid.SVID]

	mu    sync.Mutex // held while authorities change; guards the fields below
	epoch store.Epoch
	root  *signing
}

var (
	_ x509svid.Source   = (*Authority)(nil)
	_ x509bundle.Source = (*Authority)(nil)
)

// New opens the authority in a folder. In an empty one it makes a root and an
// issuer; an issuer that is past half of its life it replaces. It returns with
// the CA's own certificate issued, or an error: one wrapping
// profile.ErrIssuerSpent where the root has too little life left to issue under.
func New(ctx context.Context, c Config) (_ *Authority, err error) {
	if c.TrustDomain.IsZero() || c.Dir == "" {
		return nil, errors.New("ca: a configuration without a trust domain or a folder")
	}
	if err := c.Profile.Validate(); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	a := &Authority{config: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if a.self, err = attest.NewService(c.TrustDomain, ServiceName); err != nil {
		return nil, err
	}
	// The journal first: its lock keeps a second process away from the folder.
	if a.journal, err = journal.Open(filepath.Join(c.Dir, "journal"), c.Now()); err != nil {
		return nil, err
	}
	a.intents = a.journal
	if a.store, err = store.Open(ctx, c.Dir); err != nil {
		return nil, err
	}
	if err := a.load(ctx); err != nil {
		return nil, err
	}
	return a, a.renewOwn(ctx)
}

// Close makes the journal durable and gives the folder free.
func (a *Authority) Close() error {
	var errs []error
	if a.journal != nil {
		errs = append(errs, a.journal.Close())
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
	}
	return errors.Join(errs...)
}

// TrustDomain is whose certificates these are.
func (a *Authority) TrustDomain() spiffeid.TrustDomain { return a.config.TrustDomain }

// Bundle holds the trust bundle of the trust domain.
func (a *Authority) Bundle() *bundle.Keeper { return a.bundle }

// Store is the small state of the authority, where join tokens are kept too.
func (a *Authority) Store() *store.Store { return a.store }

// Journal is what was issued here.
func (a *Authority) Journal() *journal.Journal { return a.journal }

// Issuer is the certificate under which leaves are issued now.
func (a *Authority) Issuer() *x509.Certificate { return a.issuer.Load().cert }

// GetX509SVID returns the CA's own SVID. It is shared: do not edit it.
func (a *Authority) GetX509SVID() (*x509svid.SVID, error) {
	svid := a.own.Load()
	if svid == nil {
		return nil, errors.New("ca: no certificate of its own yet")
	}
	return svid, nil
}

// GetX509BundleForTrustDomain returns the newest bundle.
func (a *Authority) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return a.bundle.GetX509BundleForTrustDomain(td)
}

const (
	// retry is the wait after a renewal failed, at most.
	retry = 10 * time.Second
	// look is how often Run looks at the clock: no timer hears of one that was set.
	look = 15 * time.Second
)

// Run renews the authority's own certificate and its issuer until ctx ends. It
// returns an error wrapping journal.ErrBroken when the journal takes nothing any
// more: then nothing can be issued until the authority is opened anew.
func (a *Authority) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.intents.Broken():
			return fmt.Errorf("ca: nothing can be issued: %w", journal.ErrBroken)
		case <-timer.C:
			timer.Reset(min(look, a.renew(ctx)))
		}
	}
}

// renew does what is due and returns the wait until more is.
func (a *Authority) renew(ctx context.Context) time.Duration {
	now := a.config.Now()
	life := a.config.Profile.LifeOf(attest.Service)
	wait := min(retry, life/10)
	if err := a.renewIssuer(ctx, now); err != nil {
		// What is still issued keeps its full life: this is a warning, not an outage.
		a.config.Log.Error("the issuer is due for renewal", "err", err, "not_after", a.Issuer().NotAfter)
	} else {
		wait = look
	}
	own := a.own.Load().Certificates[0]
	if due := a.ownDue(); !now.Before(own.NotBefore) && now.Before(due) {
		return max(min(wait, due.Sub(now)), time.Second)
	}
	if err := a.renewOwn(ctx); err != nil {
		a.config.Log.Error("the CA's own certificate is due for renewal", "err", err, "not_after", a.own.Load().Certificates[0].NotAfter)
		return min(retry, life/10)
	}
	return max(min(wait, a.ownDue().Sub(now)), time.Second)
}

// ownDue is a third into the life of the CA's own certificate, which began when
// it was issued and not when it says.
func (a *Authority) ownDue() time.Time {
	life := a.config.Profile.LifeOf(attest.Service)
	return a.own.Load().Certificates[0].NotAfter.Add(time.Second - life*2/3)
}

// renewOwn issues the CA's own certificate, for a new key, as for anyone else.
func (a *Authority) renewOwn(ctx context.Context) error {
	svid, err := a.issueTo(ctx, a.self)
	if err != nil {
		return fmt.Errorf("issuing the CA's own certificate: %w", err)
	}
	a.own.Store(svid)
	return nil
}
