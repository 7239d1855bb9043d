package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/istio-auth/istio-auth/attest/k8stoken"
	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/profile"
	"github.com/istio-auth/istio-auth/ca/server"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

// BundleFile is the file in the state directory that holds the trust bundle, as
// PEM, for agents on the same host.
const BundleFile = "bundle.pem"

// Deps is what a program hands to Run besides the configuration.
type Deps struct {
	Log *slog.Logger
	// Attester takes the place of the one that the configuration names.
	Attester server.Attester
	// Started, where set, is called once the authority is open, before it serves.
	Started func(*ca.Authority) error
}

// errNoJoinTokens is what hosts come to outside `istio-auth up`: nothing hands
// their agents join tokens yet, nor lets an agent attest again without one.
var errNoJoinTokens = errors.New("attestation.hosts: agents of hosts need join tokens, which only \"istio-auth up\" hands out in this version: use attestation.kubernetes")

// Run opens the authority and serves it until ctx ends.
func Run(ctx context.Context, c Config, d Deps) error {
	td, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil {
		return fmt.Errorf("trustDomain: %w", err)
	}
	if c.Attestation.Hosts != nil && d.Attester == nil {
		return errNoJoinTokens // before any state is made
	}
	authority, err := ca.New(ctx, ca.Config{
		TrustDomain: td, Dir: c.StateDir, Log: d.Log,
		Profile: profile.Profile{Life: c.Life.Workload.Std(), AgentLife: c.Life.Agent.Std()},
	})
	if err != nil {
		return fmt.Errorf("opening the authority in %s: %w", c.StateDir, err)
	}
	defer authority.Close()
	d.Log.Info("authority open", "trust_domain", td.Name(), "life", c.Life.Workload.Std().String(),
		"time_to_darkness", (c.Life.Workload.Std() * 60 / 100).String())
	if d.Started != nil {
		if err := d.Started(authority); err != nil {
			return err
		}
	}
	r := &run{td: td, config: c, deps: d, authority: authority}
	health := daemon.NewHealth()
	health.Ready("certificate", func(context.Context) error {
		own, err := authority.GetX509SVID()
		if err == nil && time.Now().After(own.Certificates[0].NotAfter) {
			err = errors.New("our own certificate has expired")
		}
		return err
	})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return authority.Run(ctx) })
	group.Go(func() error { return health.Serve(ctx, c.Health, d.Log) })
	group.Go(func() error { return publishFile(ctx, authority, filepath.Join(c.StateDir, BundleFile)) })
	group.Go(func() error { return r.join(ctx, group) })
	return group.Wait()
}

// A run is one call of Run.
type run struct {
	td        spiffeid.TrustDomain
	config    Config
	deps      Deps
	authority *ca.Authority
}

// join starts the CA's faces in the group.
func (r *run) join(ctx context.Context, group *errgroup.Group) error {
	c := server.Config{
		TrustDomain: r.td, Authority: r.authority, Attester: r.deps.Attester,
		Hosts: r.config.Attestation.Hosts != nil, Log: r.deps.Log,
		Limits: server.Limits{Agent: agentRate(r.config.Life.Workload.Std())},
	}
	if k := r.config.Attestation.Kubernetes; k != nil {
		reviewer, err := r.joinKubernetes(ctx, group, k)
		if err != nil {
			return err
		}
		if c.Attester == nil {
			c.Attester = reviewer
		}
		for _, s := range k.Services {
			c.Services = append(c.Services, spiffeid.RequireFromSegments(r.td, "istio-auth", s.Name))
		}
	}
	group.Go(func() error { return serve(ctx, r.config.Listen, r.deps.Log, server.New(c)) })
	return nil
}

// agentRate is what an agent of a full node needs, with some to spare, and no
// more: what it asks for is written to a journal that is kept. A thousand pods
// renew at 25 % of their life at the earliest; its burst covers the restart of
// such a node.
func agentRate(life time.Duration) server.Rate {
	const pods, atLeast = 1000, 5
	return server.Rate{PerSecond: max(atLeast, pods*4/life.Seconds()), Burst: pods}
}

// joinKubernetes starts what only a cluster has: first trust in a ConfigMap,
// and the listener for stock Istio clients.
func (r *run) joinKubernetes(ctx context.Context, group *errgroup.Group, k *Kubernetes) (*k8stoken.Reviewer, error) {
	client, err := k.client()
	if err != nil {
		return nil, err
	}
	reviewer, err := k.reviewer(r.td, client)
	if err != nil {
		return nil, err
	}
	if where := r.config.BundleConfigMap; where.Name != "" {
		group.Go(func() error { return publishConfigMap(ctx, r.authority, client, where, r.deps.Log) })
	}
	if istio := r.config.Istio; istio.Listen != "" {
		s := server.NewIstio(server.IstioConfig{TrustDomain: r.td, Authority: r.authority, Attester: reviewer, Audiences: istio.Audiences, Log: r.deps.Log})
		group.Go(func() error { return serve(ctx, istio.Listen, r.deps.Log, s) })
	}
	return reviewer, nil
}

// A service is one of the CA's faces, with what its gRPC server must be made with.
type service interface {
	Options() []grpc.ServerOption
	Register(*grpc.Server)
}

func serve(ctx context.Context, address string, log *slog.Logger, s service) error {
	listener, err := daemon.Listen(ctx, address)
	if err != nil {
		return err
	}
	g := grpc.NewServer(s.Options()...)
	s.Register(g)
	return daemon.ServeGRPC(ctx, g, listener, log)
}

func (k *Kubernetes) client() (kubernetes.Interface, error) {
	config, err := rest.InClusterConfig()
	if k.Kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", k.Kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("reaching the API server: %w", err)
	}
	return kubernetes.NewForConfig(k8stoken.ClientConfig(config))
}

func (k *Kubernetes) reviewer(td spiffeid.TrustDomain, client kubernetes.Interface) (*k8stoken.Reviewer, error) {
	c := k8stoken.Config{TrustDomain: td, Client: client}
	for _, a := range k.Agents {
		c.Agents = append(c.Agents, k8stoken.AgentAccount(a))
	}
	for _, s := range k.Services {
		c.Services = append(c.Services, k8stoken.ServiceAccount(s))
	}
	return k8stoken.New(c)
}

// writeAtomically replaces a file that others may be reading.
func writeAtomically(path string, data []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	if _, err = temporary.Write(data); err == nil {
		err = temporary.Sync()
	}
	if closing := temporary.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}
