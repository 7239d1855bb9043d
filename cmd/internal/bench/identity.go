package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/attest/jointoken"
	"github.com/istio-auth/istio-auth/attest/registry"
	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/client"
	"github.com/istio-auth/istio-auth/ca/server"
	glue "github.com/istio-auth/istio-auth/cmd/internal/nodeagent"
	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/rbac/distribute"
)

// firstIdentity is the time from the opening of a workload's socket until a
// client of the Workload API that connects at once holds its X.509-SVID: a key,
// the CA's attestation and issuance over mutual TLS with a durable journal, and
// the answer. The API server's part is not in it: workloads are a registry's.
func firstIdentity(ctx context.Context) (Figure, error) {
	const rounds = 40
	dir, err := os.MkdirTemp("", "bench-id-")
	if err != nil {
		return Figure{}, err
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	defer group.Wait()
	defer stop()

	known, err := manyWorkloads(rounds)
	if err != nil {
		return Figure{}, err
	}
	agent, err := startNode(ctx, group, dir, known)
	if err != nil {
		return Figure{}, err
	}
	var took []time.Duration
	for _, w := range known.All() {
		start := time.Now()
		if err := agent.Add(ctx, nodeagent.Workload{Pod: w.Pod}); err != nil {
			return Figure{}, err
		}
		socket := "unix://" + filepath.Join(dir, w.Pod.Name, glue.SocketName)
		svid, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr(socket))
		if err != nil {
			return Figure{}, err
		}
		took = append(took, time.Since(start))
		if svid.ID.Path() != "/ns/bench/sa/"+w.Pod.ServiceAccount {
			return Figure{}, fmt.Errorf("%s got the identity %s", w.Pod.Name, svid.ID)
		}
	}
	return Figure{Value: milliseconds(median(took)), Unit: "ms", Note: fmt.Sprintf("from opening the socket to the SVID in go-spiffe's client, median of %d; slowest %.1f ms", rounds, milliseconds(took[len(took)-1]))}, nil
}

func manyWorkloads(n int) (*registry.Registry, error) {
	text := "workloads:\n"
	for i := range n {
		text += fmt.Sprintf("- {name: w%03d, node: bench, uid: %d, executable: /bin/bench, namespace: bench, serviceAccount: w%03d}\n", i, i+1, i)
	}
	return registry.Parse([]byte(text))
}

// startNode starts CA and agent, joined over loopback, and waits until the
// agent has attested.
func startNode(ctx context.Context, group *errgroup.Group, dir string, known *registry.Registry) (*nodeagent.Agent, error) {
	log := slog.New(slog.DiscardHandler)
	authority, err := ca.New(ctx, ca.Config{TrustDomain: trustDomain, Dir: filepath.Join(dir, "ca"), Log: log})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	tokens := &jointoken.Memory{}
	s := server.New(server.Config{
		TrustDomain: trustDomain, Authority: authority, Log: log, Hosts: true,
		Attester: &jointoken.Hosts{TrustDomain: trustDomain, Redeemer: tokens, Registry: func() *registry.Registry { return known }},
	})
	g := grpc.NewServer(s.Options()...)
	s.Register(g)
	group.Go(func() error { return g.Serve(listener) })
	group.Go(func() error {
		<-ctx.Done()
		g.Stop()
		return authority.Close()
	})

	agent := &nodeagent.Agent{TrustDomain: trustDomain, Log: log}
	token := jointoken.New()
	if err := tokens.AddJoinToken(ctx, token.Digest(), attest.Node{Name: "bench", UID: "bench"}, time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{
		Address: listener.Addr().String(), TrustDomain: trustDomain, Log: log,
		Server:     spiffeid.RequireFromSegments(trustDomain, "istio-auth", "ca"),
		FirstTrust: func() (*x509bundle.Bundle, error) { return authority.GetX509BundleForTrustDomain(trustDomain) },
		Evidence:   func(context.Context) (client.Evidence, error) { return client.JoinToken(token), nil },
		OnBundle: func(_ context.Context, b bundle.Versioned) error {
			agent.SetBundle(b.Bundle)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	agent.Issuer = issuer{c}
	agent.Endpoints = glue.NewEndpoints(log, distribute.NewFilters(trustDomain, nil), func(pod attest.Pod) string { return filepath.Join(dir, pod.Name) })
	group.Go(func() error { return c.Run(ctx) })
	group.Go(func() error { return agent.Run(ctx) })
	select {
	case <-c.Ready():
		return agent, nil
	case <-time.After(10 * time.Second):
		return nil, errors.New("the agent did not attest")
	}
}

type issuer struct{ *client.Client }

// Issue is [nodeagent.Issuer].
func (i issuer) Issue(ctx context.Context, r nodeagent.Request) ([]*x509.Certificate, error) {
	return i.Client.Issue(ctx, client.Request(r))
}
