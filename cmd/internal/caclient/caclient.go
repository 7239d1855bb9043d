// Package caclient joins the CA's client with the files from which a daemon
// reads its first trust and its own token.
package caclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/client"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

// Config is how a daemon reaches the CA.
type Config struct {
	// Address is host:port.
	Address string `json:"address"`
	// Bundle is a PEM file with the roots of first trust: the mounted bundle
	// ConfigMap. An empty or missing file is waited for.
	Bundle string `json:"bundle"`
	// Token is a file with our own evidence: a service account token, or on a
	// host a join token. It is read anew at each attempt.
	Token string `json:"token"`
}

// Validate adds what is wrong with c to p.
func (c Config) Validate(p *daemon.Problems) {
	p.Dial("ca.address", c.Address)
	p.Path("ca.bundle", c.Bundle, true)
	p.Path("ca.token", c.Token, true)
}

// Options are what differs between the daemons.
type Options struct {
	TrustDomain spiffeid.TrustDomain
	Log         *slog.Logger
	// Join says that the token is a join token.
	Join bool
	// Evidence, where set, takes the place of the token file.
	Evidence func(context.Context) (client.Evidence, error)
	// OnBundle is the client's.
	OnBundle func(context.Context, bundle.Versioned) error
}

// New waits until the first trust is there, so that a CA that starts beside us
// is no failure, and returns a client that has started nothing.
func New(ctx context.Context, c Config, o Options) (*client.Client, error) {
	first := firstTrust(c.Bundle, o.TrustDomain)
	if err := await(ctx, first, o.Log); err != nil {
		return nil, err
	}
	evidence := o.Evidence
	if evidence == nil {
		evidence = tokenFile(c.Token, o.Join)
	}
	return client.New(client.Config{
		Address: c.Address, TrustDomain: o.TrustDomain,
		Server:     spiffeid.RequireFromSegments(o.TrustDomain, "istio-auth", "ca"),
		FirstTrust: first, Evidence: evidence, OnBundle: o.OnBundle, Log: o.Log,
	})
}

// firstTrust reads the bundle that is trusted until the first attestation: PEM
// in a file that somebody else fills. Nothing is trusted on first use.
func firstTrust(path string, td spiffeid.TrustDomain) func() (*x509bundle.Bundle, error) {
	return func() (*x509bundle.Bundle, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading the first trust: %w", err)
		}
		if len(data) == 0 {
			return nil, fmt.Errorf("the first trust in %s is empty: the CA has not filled it", path)
		}
		return x509bundle.Parse(td, data)
	}
}

func await(ctx context.Context, read func() (*x509bundle.Bundle, error), log *slog.Logger) error {
	const every = 200 * time.Millisecond
	for told := false; ; {
		_, err := read()
		if err == nil {
			return nil
		}
		if !told {
			log.Info("waiting for the first trust", "err", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(every):
		}
	}
}

// tokenFile reads our token at each attempt: the kubelet replaces it long
// before it ends.
func tokenFile(path string, join bool) func(context.Context) (client.Evidence, error) {
	return func(context.Context) (client.Evidence, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return client.Evidence{}, fmt.Errorf("reading our token: %w", err)
		}
		text := strings.TrimSpace(string(data))
		if text == "" {
			return client.Evidence{}, fmt.Errorf("our token %s is empty", path)
		}
		if join {
			return client.JoinToken(attest.NewToken(text)), nil
		}
		return client.KubernetesToken(attest.NewToken(text)), nil
	}
}
