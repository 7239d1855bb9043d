package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/lint"
	"github.com/istio-auth/istio-auth/ca/profile"
	"github.com/istio-auth/istio-auth/ca/signer"
	"github.com/istio-auth/istio-auth/ca/store"
)

// load brings root, issuer and bundle into memory, and makes what is missing.
func (a *Authority) load(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	snap, err := a.store.Snapshot(ctx, a.config.TrustDomain)
	if err != nil {
		return err
	}
	a.epoch = snap.Epoch
	root, issuer := newest(snap.Authorities, store.Root), newest(snap.Authorities, store.Issuer)
	if root == nil {
		if err := a.checkFresh(); err != nil {
			return err
		}
		if snap.Bundle, err = a.makeRoot(ctx); err != nil {
			return err
		}
	} else if a.root, err = a.open(root, root); err != nil {
		return fmt.Errorf("opening the root: %w", err)
	}
	if a.bundle, err = bundle.NewKeeper(snap.Bundle); err != nil {
		return err
	}
	if !snap.Bundle.Bundle.HasX509Authority(a.root.cert) {
		return errors.New("ca: the root that signs is not in the bundle")
	}
	now := a.config.Now()
	if err := a.config.Profile.CheckIssuer(a.root.cert, now); err != nil {
		return fmt.Errorf("the root of %s, until %s: %w: bring in a new root",
			a.config.TrustDomain, a.root.cert.NotAfter.UTC().Format(time.RFC3339), err)
	}
	if issuer != nil {
		opened, err := a.open(issuer, a.root.cert)
		if err != nil {
			return fmt.Errorf("opening the issuer: %w", err)
		}
		a.issuer.Store(opened)
	}
	return a.loadIssuer(ctx, now)
}

// loadIssuer replaces an issuer that is missing or past half of its life; where
// that fails, one that may still sign a full life goes on.
func (a *Authority) loadIssuer(ctx context.Context, now time.Time) error {
	if a.issuer.Load() != nil && !a.issuerIsDue(now) {
		return nil
	}
	err := a.makeIssuer(ctx, now)
	if err == nil || a.issuer.Load() == nil {
		return err
	}
	if spent := a.config.Profile.CheckIssuer(a.issuer.Load().cert, now); spent != nil {
		return errors.Join(spent, err)
	}
	a.config.Log.Error("the issuer is due for renewal", "err", err, "not_after", a.Issuer().NotAfter)
	return nil
}

// renewIssuer makes a new issuer where the present one is due.
func (a *Authority) renewIssuer(ctx context.Context, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.issuerIsDue(now) {
		return nil
	}
	return a.makeIssuer(ctx, now)
}

// issuerIsDue reports whether half of the issuer's life is over, or none of it has
// begun: a clock that was wrong made it. Verifiers know its root: a new one need
// not be announced to anybody.
func (a *Authority) issuerIsDue(now time.Time) bool {
	cert := a.issuer.Load().cert
	half := cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2)
	return now.Before(cert.NotBefore) || !now.Before(half)
}

func newest(all []store.Authority, role store.Role) *x509.Certificate {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Role == role && all[i].State == store.Active {
			return all[i].Cert
		}
	}
	return nil
}

// checkFresh refuses to begin anew where leaves were issued before.
func (a *Authority) checkFresh() error {
	for record, err := range a.journal.Records() {
		if err != nil {
			return err
		}
		if record.Intent != nil && record.Intent.ID.Path() != "" {
			return ErrStateLost
		}
	}
	return nil
}

// keyPath is where the key of an authority is: the certificate's serial is
// drawn first, so that a crash between key and certificate leaves a file that
// nobody uses, and no question which key is whose.
func (a *Authority) keyPath(serial *big.Int) string {
	return filepath.Join(a.config.Dir, "keys", serial.Text(16)+".key")
}

// open joins an authority's certificate with its key, and checks that they
// belong together and to their signer.
func (a *Authority) open(cert, by *x509.Certificate) (*signing, error) {
	key, err := signer.Open(a.keyPath(cert.SerialNumber))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the certificate is here, its key is not: %w", err)
	}
	if err != nil {
		return nil, err
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("the key in %s is not that of the certificate", a.keyPath(cert.SerialNumber))
	}
	if err := cert.CheckSignatureFrom(by); err != nil {
		return nil, fmt.Errorf("verifying its certificate: %w", err)
	}
	return &signing{cert: cert, key: key}, nil
}

// order draws a serial and makes the key that goes with it.
func (a *Authority) order(now time.Time) (profile.CAOrder, signer.Key, error) {
	serial, err := profile.NewSerial(rand.Reader)
	if err != nil {
		return profile.CAOrder{}, signer.Key{}, err
	}
	key, err := signer.Create(a.keyPath(serial))
	if err != nil {
		return profile.CAOrder{}, signer.Key{}, err
	}
	public, err := keypolicy.Of(key.Public())
	return profile.CAOrder{TrustDomain: a.config.TrustDomain, Key: public, Serial: serial, Now: now}, key, err
}

// makeRoot makes the first root, and the bundle that holds it. The caller holds mu.
func (a *Authority) makeRoot(ctx context.Context) (bundle.Versioned, error) {
	order, key, err := a.order(a.config.Now())
	if err != nil {
		return bundle.Versioned{}, fmt.Errorf("making the root's key: %w", err)
	}
	template, err := a.config.Profile.Root(order)
	if err != nil {
		return bundle.Versioned{}, err
	}
	cert, err := a.certifyAuthority(ctx, &signing{cert: template, key: key}, template, order)
	if err != nil {
		return bundle.Versioned{}, fmt.Errorf("making the root: %w", err)
	}
	first := bundle.Versioned{
		Sequence: 1,
		Bundle:   x509bundle.FromX509Authorities(a.config.TrustDomain, []*x509.Certificate{cert}),
	}
	a.epoch, err = a.store.Apply(ctx, a.epoch, store.Change{
		Add:    []store.Authority{{Role: store.Root, State: store.Active, Cert: cert}},
		Bundle: first,
	})
	if err != nil {
		return bundle.Versioned{}, fmt.Errorf("keeping the root: %w", err)
	}
	a.root = &signing{cert: cert, key: key}
	a.config.Log.Info("made a root", "serial", cert.SerialNumber.Text(16), "not_after", cert.NotAfter)
	return first, nil
}

// makeIssuer makes an issuer, and lets it sign from now on instead of the
// present one. The caller holds mu.
func (a *Authority) makeIssuer(ctx context.Context, now time.Time) error {
	order, key, err := a.order(now)
	if err != nil {
		return fmt.Errorf("making an issuer's key: %w", err)
	}
	template, err := a.config.Profile.Issuer(order, a.root.cert)
	if err != nil {
		return errors.Join(err, os.Remove(a.keyPath(order.Serial)))
	}
	cert, err := a.certifyAuthority(ctx, a.root, template, order)
	if err != nil {
		// It will be tried again: no key stays behind each time.
		return errors.Join(fmt.Errorf("making an issuer: %w", err), os.Remove(a.keyPath(order.Serial)))
	}
	change := store.Change{Add: []store.Authority{{Role: store.Issuer, State: store.Active, Cert: cert}}}
	if present := a.issuer.Load(); present != nil {
		change.Retire = []*x509.Certificate{present.cert}
	}
	epoch, err := a.store.Apply(ctx, a.epoch, change)
	if err != nil {
		return fmt.Errorf("keeping an issuer: %w", err)
	}
	a.epoch = epoch
	a.issuer.Store(&signing{cert: cert, key: key})
	a.config.Log.Info("made an issuer", "serial", cert.SerialNumber.Text(16), "not_after", cert.NotAfter)
	return nil
}

func (a *Authority) certifyAuthority(ctx context.Context, by *signing, template *x509.Certificate, order profile.CAOrder) (*x509.Certificate, error) {
	want := lint.WantAuthority{TrustDomain: order.TrustDomain, Key: order.Key, Now: order.Now}
	if by.cert != template {
		want.Root = by.cert
	}
	return a.certify(ctx, by, certificate{
		template: template, id: order.TrustDomain.ID(), key: order.Key, now: order.Now,
		lint: func(tbs []byte) error { return lint.CheckAuthority(tbs, want) },
	})
}
