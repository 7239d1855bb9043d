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

// Run opens the authority and serves it until ctx ends.
func Run(ctx context.Context, c Config, d Deps) error {
	td, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil {
		return fmt.Errorf("trustDomain: %w", err)
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
	attester, services := d.Attester, []spiffeid.ID(nil)
	if k := c.Attestation.Kubernetes; k != nil {
		client, err := k.client()
		if err != nil {
			return err
		}
		reviewer, err := k.reviewer(td, client)
		if err != nil {
			return err
		}
		if attester == nil {
			attester = reviewer
		}
		for _, s := range k.Services {
			services = append(services, spiffeid.RequireFromSegments(td, "istio-auth", s.Name))
		}
		if c.BundleConfigMap.Name != "" {
			group.Go(func() error { return publishConfigMap(ctx, authority, client, c.BundleConfigMap, d.Log) })
		}
		if c.Istio.Listen != "" {
			istio := server.NewIstio(server.IstioConfig{TrustDomain: td, Authority: authority, Attester: reviewer, Audiences: c.Istio.Audiences, Log: d.Log})
			group.Go(func() error { return serve(ctx, c.Istio.Listen, d.Log, istio) })
		}
	}
	if attester == nil {
		return errors.New("attestation: nobody's word is evidence")
	}
	s := server.New(server.Config{TrustDomain: td, Authority: authority, Attester: attester, Services: services, Hosts: c.Attestation.Hosts != nil, Log: d.Log})
	group.Go(func() error { return serve(ctx, c.Listen, d.Log, s) })
	return group.Wait()
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
