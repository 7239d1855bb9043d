package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/nodeagent/store"
)

// Name is that of the driver, and of its CSIDriver object.
const Name = "csi.istio-auth.io"

// SocketName is what the workload's socket is to be called in its folder.
const SocketName = "agent.sock"

// Audience is that of the tokens that the CSIDriver object must request.
func Audience(td spiffeid.TrustDomain) string { return "workload.istio-auth." + td.Name() }

// PodDir is the folder that a pod sees in its volume: where the pod's socket
// belongs. It exists from before [Workloads].Add until after Remove.
func PodDir(runDir, podUID string) string { return filepath.Join(runDir, "pods", podUID) }

// Workloads is who is told of pods: [nodeagent.Agent].
type Workloads interface {
	// Add returns once the workload's socket listens. It is idempotent.
	Add(ctx context.Context, w nodeagent.Workload) error
	Remove(ctx context.Context, podUID string) error
}

// State is what the driver knows over a restart: [store.Store].
type State interface {
	Put(r store.Record) error
	Delete(podUID string) error
	Load() ([]store.Record, error)
}

var (
	_ Workloads = (*nodeagent.Agent)(nil)
	_ State     = (*store.Store)(nil)
)

// A Driver serves one kubelet. Its exported fields must not change after Run,
// which is called once.
type Driver struct {
	TrustDomain spiffeid.TrustDomain
	Workloads   Workloads
	// State may be nil: then a restart waits for the kubelet's next call.
	State State
	Log   *slog.Logger

	// Node is the name of the Kubernetes node.
	Node string
	// KubeletDir is the kubelet's root folder, at the same path as the kubelet's own.
	// In a container it is mounted with Bidirectional propagation.
	KubeletDir string
	// RunDir holds the pods' folders. Others than its owner must not be able to write to it.
	RunDir string
	// Version is that of the program.
	Version string
	// Mounter is the kernel's where nil.
	Mounter Mounter

	rules      rules
	mounter    Mounter
	registered atomic.Bool

	mu   sync.Mutex // guards pods
	pods map[string]*pod
}

// Registered tells whether the kubelet has taken the driver.
func (d *Driver) Registered() bool { return d.registered.Load() }

// Run brings back the workloads that were here before, and then serves the kubelet
// until ctx ends. The workloads stay: their volumes are still mounted, and the
// next Run finds them.
func (d *Driver) Run(ctx context.Context) error {
	if err := d.prepare(); err != nil {
		return err
	}
	if err := d.restore(ctx); err != nil {
		return err
	}
	endpoint := filepath.Join(d.KubeletDir, "plugins", Name, "csi.sock")
	if len(endpoint) > maxSocket {
		return fmt.Errorf("csi: the kubelet's folder is too deep for a socket: %s", endpoint)
	}
	node := d.server()
	csi.RegisterIdentityServer(node, identityService{version: d.Version})
	csi.RegisterNodeServer(node, nodeService{d: d})
	registrar := d.server()
	registration.RegisterRegistrationServer(registrar, &registrationService{d: d, endpoint: endpoint})

	// The kubelet calls back as soon as it sees the second socket: the first is there by then.
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range []struct {
		path   string
		server *grpc.Server
	}{{endpoint, node}, {filepath.Join(d.KubeletDir, "plugins_registry", Name+"-reg.sock"), registrar}} {
		l, err := listen(s.path)
		if err != nil {
			node.Stop()
			registrar.Stop()
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error { return s.server.Serve(l) })
	}
	group.Go(func() error {
		<-ctx.Done()
		registrar.Stop() // first, so that the kubelet stops calling
		gracefully(node)
		return nil
	})
	return group.Wait()
}

// prepare checks the folders and fills in what is not given.
func (d *Driver) prepare() error {
	d.rules = rules{trustDomain: d.TrustDomain, kubeletDir: filepath.Clean(d.KubeletDir), audience: Audience(d.TrustDomain)}
	pods := filepath.Join(d.rules.kubeletDir, "pods")
	if d.mounter = d.Mounter; d.mounter == nil {
		d.mounter = kernel{base: pods}
	}
	d.pods = map[string]*pod{}
	// Without this folder every pod would look gone.
	if info, err := os.Stat(pods); err != nil || !info.IsDir() {
		return errors.Join(fmt.Errorf("csi: %s is not the kubelet's folder of pods: is it mounted?", pods), err)
	}
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{d.RunDir, 0o755}, {filepath.Join(d.RunDir, "pods"), 0o700}} {
		if err := ownDir(dir.path, dir.mode); err != nil {
			return err
		}
	}
	return nil
}

// server makes a gRPC server that takes what a kubelet sends and no more. Nothing
// of it logs a message: requests hold tokens.
func (d *Driver) server() *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(insecure.NewCredentials()), // the socket is root's alone
		grpc.MaxRecvMsgSize(256<<10),
		grpc.MaxConcurrentStreams(64),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.UnaryInterceptor(d.log),
	)
}

// gracefully lets calls end for a few seconds.
func gracefully(s *grpc.Server) {
	done := make(chan struct{})
	go func() { s.GracefulStop(); close(done) }()
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		s.Stop()
		<-done
	}
}
