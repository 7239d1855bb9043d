package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/nodeagent/csi"
	"github.com/istio-auth/istio-auth/nodeagent/store"
)

// serveCSI serves a kubelet: it tells of pods, with their tokens, and mounts
// their sockets. Who connects to a socket needs no look: it is mounted in the
// pod's own volume and nowhere else.
func (r *run) serveCSI(ctx context.Context, group *errgroup.Group, agent *nodeagent.Agent) error {
	node := r.config.Workloads.CSI.Node
	if node == "" {
		node = r.deps.NodeName
	}
	if node == "" {
		return errors.New("workloads.csi.node: the node has no name: set it, or NODE_NAME in the environment")
	}
	r.endpoints.dir = func(pod attest.Pod) string { return csi.PodDir(r.config.RunDir, pod.UID) }
	state := filepath.Join(r.config.RunDir, "state")
	if err := store.Mount(state); err != nil {
		return fmt.Errorf("keeping tokens over a restart: %w", err)
	}
	kept, err := store.Open(state)
	if err != nil {
		return fmt.Errorf("keeping tokens over a restart: %w", err)
	}
	driver := &csi.Driver{
		TrustDomain: agent.TrustDomain, Workloads: agent, State: kept, Log: r.deps.Log,
		Node: node, KubeletDir: r.config.Workloads.CSI.KubeletDir, RunDir: r.config.RunDir, Version: daemon.Version(),
	}
	r.health.Ready("kubelet", func(context.Context) error {
		if !driver.Registered() {
			return errors.New("the kubelet has not taken the driver")
		}
		return nil
	})
	group.Go(func() error {
		err := driver.Run(ctx)
		return errors.Join(err, kept.Close())
	})
	return nil
}
