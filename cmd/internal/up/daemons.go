package up

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/sync/errgroup"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/attest/jointoken"
	"github.com/istio-auth/istio-auth/attest/registry"
	authority "github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/client"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/cmd/internal/ca"
	"github.com/istio-auth/istio-auth/cmd/internal/caclient"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/cmd/internal/manager"
	"github.com/istio-auth/istio-auth/cmd/internal/nodeagent"
	agent "github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/rbac"
)

// daemons starts CA, manager and agent in the group. It closes started once
// the CA is open; the others wait for what they need.
func (r *run) daemons(ctx context.Context, group *errgroup.Group, started chan<- struct{}) {
	tokens := &jointoken.Memory{}
	opened := make(chan *authority.Authority, 1)
	group.Go(func() error { return r.runCA(ctx, tokens, opened) })
	group.Go(func() error {
		var a *authority.Authority
		select {
		case a = <-opened:
		case <-ctx.Done():
			return nil
		}
		r.view.event(kindReady, "CA open: trust domain %s, certificates live %v", trustDomain, r.options.Life)
		group.Go(func() error { return r.runManager(ctx, a) })
		group.Go(func() error { return r.runAgent(ctx, tokens) })
		close(started)
		return nil
	})
}

func (r *run) runCA(ctx context.Context, tokens *jointoken.Memory, opened chan<- *authority.Authority) error {
	known, err := readRegistry(r.layout.registry())
	if err != nil {
		return err
	}
	c := ca.Defaults()
	c.TrustDomain, c.Listen = trustDomain.Name(), r.layout.address(portCA)
	c.StateDir = filepath.Join(r.layout.state(), "ca")
	c.Life.Workload = daemon.Duration(r.options.Life)
	c.Attestation.Hosts = &ca.Hosts{Registry: r.layout.registry()}
	if err := c.Validate(); err != nil {
		return err
	}
	return ca.Run(ctx, c, ca.Deps{
		Log:      r.options.Log.With("daemon", "ca"),
		Attester: &jointoken.Hosts{TrustDomain: trustDomain, Redeemer: tokens, Registry: func() *registry.Registry { return known }},
		Started: func(a *authority.Authority) error {
			opened <- a
			return nil
		},
	})
}

func readRegistry(path string) (*registry.Registry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the registry: %w", err)
	}
	known, err := registry.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", path, err)
	}
	return known, nil
}

func (r *run) caConfig() caclient.Config {
	return caclient.Config{
		Address: r.layout.address(portCA),
		Bundle:  filepath.Join(r.layout.state(), "ca", ca.BundleFile),
		Token:   r.layout.token(),
	}
}

func (r *run) runManager(ctx context.Context, a *authority.Authority) error {
	c := manager.Defaults()
	c.TrustDomain, c.Listen, c.CA = trustDomain.Name(), r.layout.address(portManager), r.caConfig()
	c.Source.Files = &manager.Files{Policies: r.layout.policies(), Registry: r.layout.registry()}
	if err := c.Validate(); err != nil {
		return err
	}
	first := true
	return manager.Run(ctx, c, manager.Deps{
		Log: r.options.Log.With("daemon", "manager"),
		Own: &service{authority: a, name: "manager"},
		Loaded: func(all []rbac.Policy, bad error) {
			if bad != nil {
				r.view.event(kindFailed, "bad policies keep their last good content: %v", bad)
			}
			if !first || bad == nil {
				r.view.event(kindPolicy, "%d policies read from %s", len(all), r.layout.policies())
			}
			first = false
		},
	})
}

func (r *run) runAgent(ctx context.Context, tokens *jointoken.Memory) error {
	c := nodeagent.Defaults()
	c.TrustDomain, c.RunDir, c.CA = trustDomain.Name(), r.layout.runtime, r.caConfig()
	c.Manager.Address = r.layout.address(portManager)
	c.Workloads.Hosts = &nodeagent.Hosts{Node: nodeName, Registry: r.layout.registry()}
	if err := c.Validate(); err != nil {
		return err
	}
	return nodeagent.Run(ctx, c, nodeagent.Deps{
		Log:     r.options.Log.With("daemon", "nodeagent"),
		Observe: r.workload,
		// A join token is good once, and an agent attests again and again: on
		// loopback we hand out another each time.
		Evidence: func(ctx context.Context) (client.Evidence, error) {
			token := jointoken.New()
			err := tokens.AddJoinToken(ctx, token.Digest(), attest.Node{Name: nodeName, UID: nodeName}, time.Now().Add(time.Minute))
			return client.JoinToken(token), err
		},
	})
}

// workload shows and counts what happens to the workloads' certificates.
func (r *run) workload(e agent.Event) {
	life := time.Until(e.NotAfter).Round(time.Second)
	switch e.Kind {
	case agent.Issued:
		r.counts.issued.Add(1)
		r.view.event(kindIssued, "%s, for %v, in %v", e.ID, life, e.Took.Round(time.Millisecond))
	case agent.Renewed:
		r.counts.renewed.Add(1)
		r.view.event(kindRenewed, "%s, for %v; next in %v", e.ID, life, time.Until(e.Next).Round(time.Second))
	case agent.Refused, agent.Expired:
		r.counts.failed.Add(1)
		r.view.event(kindFailed, "%s: certificate %s (%s)", e.ID, e.Kind, e.Reason)
	case agent.Failed:
		// The next try may succeed well before anything ends: told, not counted.
		r.view.event(kindNote, "%s: no certificate this time (%s)", e.ID, e.Reason)
	}
}

// A service is one of our own, in the CA's process: it is issued its
// certificate without the wire, by the same steps.
type service struct {
	authority *authority.Authority
	name      string

	mu      sync.Mutex // guards current; held while issuing
	current *x509svid.SVID
}

// GetX509SVID issues anew at half of the certificate's life.
func (s *service) GetX509SVID() (*x509svid.SVID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		leaf := s.current.Certificates[0]
		if time.Until(leaf.NotAfter) > leaf.NotAfter.Sub(leaf.NotBefore)/2 {
			return s.current, nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	public, err := keypolicy.Parse(spki)
	if err != nil {
		return nil, err
	}
	identity, err := attest.NewService(s.authority.TrustDomain(), s.name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	issued, err := s.authority.Issue(ctx, authority.Request{Identity: identity, Key: public, Evidence: sha256.Sum256([]byte("istio-auth up"))})
	if err != nil {
		return nil, err
	}
	s.current = &x509svid.SVID{ID: identity.ID(), Certificates: issued.Chain, PrivateKey: key}
	return s.current, nil
}

// GetX509BundleForTrustDomain is the CA's newest.
func (s *service) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return s.authority.GetX509BundleForTrustDomain(td)
}
