package nodeagent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/attest/registry"
	"github.com/istio-auth/istio-auth/attest/workload"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/client"
	"github.com/istio-auth/istio-auth/cmd/internal/caclient"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/mtls"
	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/rbac/distribute"
)

// Deps is what a program hands to Run besides the configuration.
type Deps struct {
	Log *slog.Logger
	// NodeName is the node's, where the configuration does not say.
	NodeName string
	// Evidence, where set, takes the place of the token file.
	Evidence func(context.Context) (client.Evidence, error)
	// Observe and ObservePolicy, where set, are told what happens.
	Observe       func(nodeagent.Event)
	ObservePolicy func(distribute.Event)
}

// A run is one call of Run.
type run struct {
	config    Config
	deps      Deps
	td        spiffeid.TrustDomain
	health    *daemon.Health
	filters   *distribute.Filters
	endpoints *sockets
}

// Run serves the node's workloads until ctx ends.
func Run(ctx context.Context, c Config, d Deps) error {
	td, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil {
		return fmt.Errorf("trustDomain: %w", err)
	}
	r := &run{config: c, deps: d, td: td, health: daemon.NewHealth()}
	metrics := newMetrics(r.health.Registry)
	r.filters = distribute.NewFilters(td, func(e distribute.Event) {
		metrics.policy(e)
		logPolicy(d.Log, e)
		if d.ObservePolicy != nil {
			d.ObservePolicy(e)
		}
	})
	r.endpoints = &sockets{log: d.Log, filters: r.filters, observe: metrics.envoy}
	agent := &nodeagent.Agent{TrustDomain: td, Endpoints: r.endpoints, Log: d.Log, Observe: func(e nodeagent.Event) {
		metrics.workload(e)
		if d.Observe != nil {
			d.Observe(e)
		}
	}}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.health.Serve(ctx, c.Health, d.Log) })
	group.Go(func() error { return r.join(ctx, group, agent) })
	return group.Wait()
}

// join starts the agent's parts in the group.
func (r *run) join(ctx context.Context, group *errgroup.Group, agent *nodeagent.Agent) error {
	c := r.config
	var known *registry.Registry
	if hosts := c.Workloads.Hosts; hosts != nil { // before anything that waits
		var err error
		if known, err = readRegistry(hosts.Registry); err != nil {
			return err
		}
	}
	authority, err := caclient.New(ctx, c.CA, caclient.Options{
		TrustDomain: r.td, Log: r.deps.Log, Join: c.Workloads.Hosts != nil, Evidence: r.deps.Evidence,
		OnBundle: func(_ context.Context, b bundle.Versioned) error {
			agent.SetBundle(b.Bundle)
			return nil
		},
	})
	if err != nil {
		return err
	}
	agent.Issuer = issuer{authority}
	r.health.Ready("ca", func(context.Context) error {
		own, err := authority.GetX509SVID()
		if err == nil && time.Now().After(own.Certificates[0].NotAfter) {
			err = fmt.Errorf("our own certificate ended at %v", own.Certificates[0].NotAfter)
		}
		return err
	})
	if known != nil {
		err = r.serveHosts(ctx, agent, known)
	} else {
		err = r.serveCSI(ctx, group, agent)
	}
	if err != nil {
		return err
	}
	group.Go(func() error { return agent.Run(ctx) })
	group.Go(func() error { return authority.Run(ctx) })
	group.Go(func() error { return r.follow(ctx, authority) })
	return nil
}

// follow takes policies from the manager, once we have a certificate to show.
func (r *run) follow(ctx context.Context, own *client.Client) error {
	select {
	case <-own.Ready():
	case <-ctx.Done():
		return nil
	}
	manager, err := dialManager(r.config.Manager.Address, r.td, own)
	if err != nil {
		return err
	}
	defer manager.Close()
	return (&distribute.Client{Conn: manager, Answers: r.filters, Log: r.deps.Log}).Run(ctx)
}

// dialManager connects, when first used, to exactly the manager, with our own
// certificate and trust as they are at each handshake.
func dialManager(address string, td spiffeid.TrustDomain, own *client.Client) (*grpc.ClientConn, error) {
	server := spiffeid.RequireFromSegments(td, "istio-auth", "manager")
	credentials := grpc.WithTransportCredentials(credentials.NewTLS(mtls.Client(own, own, mtls.Exactly(server))))
	conn, err := grpc.NewClient(address, append(distribute.DialOptions(), credentials)...)
	if err != nil {
		return nil, fmt.Errorf("manager.address %q: %w", address, err)
	}
	return conn, nil
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

// serveHosts adds every workload that the registry has on this host. Each gets
// a socket of its own, and each process that connects there must be it.
func (r *run) serveHosts(ctx context.Context, agent *nodeagent.Agent, known *registry.Registry) error {
	hosts := r.config.Workloads.Hosts
	r.endpoints.dir = func(pod attest.Pod) string { return filepath.Join(r.config.RunDir, "workloads", pod.Name) }
	r.endpoints.admit = func(conn *net.UnixConn, pod attest.Pod) (func() error, error) {
		process, err := workload.Inspect(conn)
		if err != nil {
			return nil, err
		}
		if w, ok := known.Match(hosts.Node, process.UserID, process.Executable); !ok || w.Pod != pod {
			process.Close()
			return nil, attest.Refuse("process-not-the-workload", "user %d, %s is not %s/%s", process.UserID, process.Executable, pod.Namespace, pod.Name)
		}
		return process.Close, nil
	}
	here := known.OnNode(hosts.Node)
	if len(here) == 0 {
		r.deps.Log.Warn("the registry has no workload on this host", "node", hosts.Node, "registry", hosts.Registry)
	}
	for _, w := range here {
		if err := agent.Add(ctx, nodeagent.Workload{Pod: w.Pod}); err != nil {
			return fmt.Errorf("workload %s: %w", w.Pod.Name, err)
		}
	}
	return nil
}
