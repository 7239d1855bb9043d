package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/attest/registry"
	"github.com/istio-auth/istio-auth/cmd/internal/caclient"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/mtls"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/rbac/files"
	"github.com/istio-auth/istio-auth/sds"
)

// Deps is what a program hands to Run besides the configuration.
type Deps struct {
	Log *slog.Logger
	// Own, where set, takes the place of the CA's client.
	Own Identity
	// Loaded, where set, is told each policy set that was read, and what was
	// wrong with it.
	Loaded func([]rbac.Policy, error)
}

// An Identity is what we show and whom we trust.
type Identity interface {
	x509svid.Source
	x509bundle.Source
}

// Run serves the agents until ctx ends.
func Run(ctx context.Context, c Config, d Deps) error {
	td, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil {
		return fmt.Errorf("trustDomain: %w", err)
	}
	mesh := distribute.Mesh{TrustDomain: td, RootNamespace: c.RootNamespace, Providers: c.Providers}
	for _, name := range c.TrustDomainAliases {
		alias, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return fmt.Errorf("trustDomainAliases: %w", err)
		}
		mesh.Aliases = append(mesh.Aliases, alias)
	}
	keeper, err := c.Keys.keeper(d)
	if err != nil {
		return err
	}
	r := &run{td: td, config: c, deps: d, own: d.Own, health: daemon.NewHealth(), policies: distribute.NewServer(mesh), objects: &objects{keeper: keeper}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.health.Serve(ctx, c.Health, d.Log) })
	group.Go(func() error { return r.join(ctx, group) })
	return group.Wait()
}

// join starts the manager's parts in the group.
func (r *run) join(ctx context.Context, group *errgroup.Group) error {
	if r.own == nil {
		authority, err := caclient.New(ctx, r.config.CA, caclient.Options{TrustDomain: r.td, Log: r.deps.Log})
		if err != nil {
			return err
		}
		group.Go(func() error { return authority.Run(ctx) })
		r.own = authority
	}
	r.health.Ready("ca", func(context.Context) error {
		svid, err := r.own.GetX509SVID()
		if err == nil && time.Now().After(svid.Certificates[0].NotAfter) {
			err = errors.New("our own certificate has expired")
		}
		return err
	})
	r.keepKeys(ctx, group)
	switch source := r.config.Source; {
	case source.Files != nil:
		if err := r.setHosts(source.Files.Registry); err != nil {
			return err
		}
		group.Go(func() error { return files.Watch(ctx, source.Files.Policies, r.loaded) })
	case source.Kubernetes != nil:
		if err := r.watchKubernetes(ctx, group, source.Kubernetes); err != nil {
			return err
		}
	}
	group.Go(func() error { return r.serve(ctx, r.config.Listen) })
	return nil
}

// A run is one call of Run.
type run struct {
	td       spiffeid.TrustDomain
	config   Config
	deps     Deps
	own      Identity
	health   *daemon.Health
	policies *distribute.Server
	objects  *objects
	streams  shares
	bad      string // what the log was told last of bad policies
}

// report tells of a policy set, and of what is wrong with it: in the log once,
// and only so much. Whoever writes bad objects, however many, could else fill it
// whenever anybody writes anything.
func (r *run) report(all []rbac.Policy, bad error) {
	text := ""
	if bad != nil {
		text = cut(bad.Error())
	}
	if text != r.bad && text != "" {
		r.deps.Log.Error("bad policies keep their last good content", "err", text)
	}
	r.bad = text
	r.deps.Log.Info("policies read", "policies", len(all))
	if r.deps.Loaded != nil {
		r.deps.Loaded(all, bad)
	}
}

// cut keeps the beginning of a long text.
func cut(text string) string {
	const most = 8 << 10
	if len(text) <= most {
		return text
	}
	return fmt.Sprintf("%s... and %d bytes more", text[:most], len(text)-most)
}

// What one manager bears. An agent follows 64 pods on a stream, and has twice
// as many streams while it moves to another connection.
const (
	maxStreams  = 40_000 // of all agents
	maxPerAgent = 40
)

// serve answers agents, each about its own node.
func (r *run) serve(ctx context.Context, address string) error {
	listener, err := daemon.Listen(ctx, address)
	if err != nil {
		return err
	}
	g := grpc.NewServer(append(distribute.ServerOptions(),
		grpc.Creds(credentials.NewTLS(mtls.Server(r.own, r.own, mtls.Agents(r.td)))),
		grpc.StreamInterceptor(untilCertificateEnds),
		grpc.UnaryInterceptor(noUnary),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.MaxConcurrentStreams(32), grpc.MaxRecvMsgSize(256<<10), grpc.MaxHeaderListSize(16<<10))...)
	(&sds.Server{Log: r.deps.Log, MaxStreams: maxStreams, Sources: r.sources}).Register(g)
	return daemon.ServeGRPC(ctx, g, listener, r.deps.Log)
}

// sources are the policies of the calling agent's own node. One agent, however
// many connections it makes, cannot take the streams of the others.
func (r *run) sources(ctx context.Context) ([]sds.Source, error) {
	id, _, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	source, err := r.policies.Source(id)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, "refused")
	}
	if !r.streams.take(id) {
		return nil, status.Error(codes.ResourceExhausted, "too many streams")
	}
	context.AfterFunc(ctx, func() { r.streams.release(id) })
	return []sds.Source{source}, nil
}

// shares counts the streams of each agent. The zero value is ready.
type shares struct {
	mu    sync.Mutex // guards taken
	taken map[spiffeid.ID]int
}

func (s *shares) take(id spiffeid.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[id] >= maxPerAgent {
		return false
	}
	if s.taken == nil {
		s.taken = map[spiffeid.ID]int{}
	}
	s.taken[id]++
	return true
}

func (s *shares) release(id spiffeid.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[id]--; s.taken[id] <= 0 {
		delete(s.taken, id)
	}
}

// caller is who has proved to be at the other end, and until when.
func caller(ctx context.Context) (spiffeid.ID, time.Time, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return spiffeid.ID{}, time.Time{}, status.Error(codes.Unauthenticated, "refused")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return spiffeid.ID{}, time.Time{}, status.Error(codes.Unauthenticated, "refused")
	}
	id, err := mtls.PeerID(info.State)
	if err != nil {
		return spiffeid.ID{}, time.Time{}, status.Error(codes.Unauthenticated, "refused")
	}
	return id, info.State.PeerCertificates[0].NotAfter, nil
}

// untilCertificateEnds ends a stream when the caller's certificate does: its
// agent has a newer one by then, and comes again.
func untilCertificateEnds(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	_, end, err := caller(stream.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(stream.Context(), end)
	defer cancel()
	return handle(srv, bounded{stream, ctx})
}

// bounded is a stream under another context.
type bounded struct {
	grpc.ServerStream
	ctx context.Context
}

// Context is the one that ends with the certificate.
func (b bounded) Context() context.Context { return b.ctx }

// noUnary refuses: agents only stream.
func noUnary(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
	return nil, status.Error(codes.Unimplemented, "refused")
}

// setHosts tells the workloads of every host in the registry.
func (r *run) setHosts(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the registry: %w", err)
	}
	known, err := registry.Parse(data)
	if err != nil {
		return fmt.Errorf("registry %s: %w", path, err)
	}
	nodes := map[string][]distribute.Workload{}
	for _, w := range known.All() {
		nodes[w.Node] = append(nodes[w.Node], distribute.Workload{Pod: w.Pod, Labels: w.Labels})
	}
	for node, workloads := range nodes {
		if err := r.policies.SetNode(node, workloads); err != nil {
			return err
		}
	}
	return nil
}
