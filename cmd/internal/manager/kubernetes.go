package manager

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	workloads "github.com/istio-auth/istio-auth/manager/kube"
	"github.com/istio-auth/istio-auth/rbac/access"
	policies "github.com/istio-auth/istio-auth/rbac/kube"
)

// watchKubernetes reads policies and pods of the cluster until ctx ends. We are
// ready once the policies have been read: before that we tell nobody anything.
func (r *run) watchKubernetes(ctx context.Context, group *errgroup.Group, k *Kubernetes) error {
	config, err := rest.InClusterConfig()
	if k.Kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", k.Kubeconfig)
	}
	if err != nil {
		return fmt.Errorf("reaching the API server: %w", err)
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("reading policies: %w", err)
	}
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("reading pods: %w", err)
	}
	var read atomic.Bool
	r.health.Ready("policies", func(context.Context) error {
		if !read.Load() {
			return errors.New("the policies have not been read yet")
		}
		return nil
	})
	group.Go(func() error {
		return policies.Watch(ctx, policies.Config{Client: objects, Log: r.deps.Log}, func(o access.Objects, bad error) {
			r.loaded(o, bad)
			read.Store(true)
		})
	})
	group.Go(func() error {
		return workloads.Watch(ctx, workloads.Config{Client: typed, Log: r.deps.Log}, r.policies)
	})
	return nil
}
