// Package kube tells the manager which workloads each node has, from a
// Kubernetes API server.
//
// Start at [Watch]. Policies are another package's: rbac/kube.
package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac/distribute"
)

// settle is how long changes of pods are gathered.
const settle = 20 * time.Millisecond

// byNode indexes pods by the node that they are bound to.
const byNode = "node"

// A Sink is told the workloads of a node, all of them, whenever they change: a
// [*distribute.Server].
type Sink interface {
	SetNode(name string, workloads []distribute.Workload) error
}

// Config is what Watch reads from. It wants the rights get, list and watch for
// pods, in all namespaces.
type Config struct {
	Client kubernetes.Interface
	// Log is told when the API server cannot be read, and of workloads that the
	// sink did not take. Nil discards.
	Log *slog.Logger
}

// Watch tells sink of every node that has a pod, once the pods have been
// listed, and again on each change, until ctx ends; it returns nil then. While
// the API server cannot be read nothing is told: what was told stays.
func Watch(ctx context.Context, c Config, sink Sink) error {
	w := &watcher{sink: sink, log: c.Log, dirty: map[string]bool{}, wake: make(chan struct{}, 1)}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	factory := informers.NewSharedInformerFactory(c.Client, 0)
	informer := factory.Core().V1().Pods().Informer()
	if err := w.listen(informer); err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	done := make(chan struct{})
	go func() { defer close(done); informer.RunWithContext(ctx) }()
	defer func() { <-done }()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	for {
		for _, node := range w.take() {
			pods, err := informer.GetIndexer().ByIndex(byNode, node)
			if err == nil {
				err = w.sink.SetNode(node, workloads(pods))
			}
			if err != nil {
				w.log.ErrorContext(ctx, "some workloads keep the policies that they had", "node", node, "err", err)
			}
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return nil
		}
	}
}

// A watcher gathers the nodes whose pods have changed.
type watcher struct {
	sink Sink
	log  *slog.Logger
	wake chan struct{}

	mu    sync.Mutex // guards dirty
	dirty map[string]bool
}

func (w *watcher) listen(informer cache.SharedIndexInformer) error {
	if err := informer.SetTransform(slim); err != nil {
		return err
	}
	if err := informer.AddIndexers(cache.Indexers{byNode: func(object any) ([]string, error) {
		if pod, ok := object.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	}}); err != nil {
		return err
	}
	err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		w.log.WarnContext(ctx, "pods cannot be read; what was told stays", "err", err)
	})
	if err != nil {
		return err
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    w.touch,
		UpdateFunc: func(before, now any) { w.touch(before); w.touch(now) },
		DeleteFunc: func(object any) {
			if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = unknown.Obj
			}
			w.touch(object)
		},
	})
	return err
}

func (w *watcher) touch(object any) {
	pod, ok := object.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	w.mu.Lock()
	w.dirty[pod.Spec.NodeName] = true
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	nodes := slices.Sorted(maps.Keys(w.dirty))
	w.dirty = map[string]bool{}
	return nodes
}

// slim keeps what workloads reads: a manager holds every pod of the cluster.
func slim(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	kept := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion, Labels: pod.Labels,
		},
		Spec:   corev1.PodSpec{NodeName: pod.Spec.NodeName, ServiceAccountName: pod.Spec.ServiceAccountName},
		Status: corev1.PodStatus{Phase: pod.Status.Phase},
	}
	if mirror, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		kept.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: mirror}
	}
	return kept, nil
}

// workloads are the pods that may have an identity: with a service account, not
// ended, and no mirror of a static pod. A pod that is being deleted still has
// one, until it has ended.
func workloads(pods []any) []distribute.Workload {
	list := []distribute.Workload{}
	for _, object := range pods {
		pod, ok := object.(*corev1.Pod)
		if !ok || pod.Spec.ServiceAccountName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
			continue
		}
		list = append(list, distribute.Workload{
			Pod:    attest.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), ServiceAccount: pod.Spec.ServiceAccountName},
			Labels: pod.Labels,
		})
	}
	slices.SortFunc(list, func(a, b distribute.Workload) int { return strings.Compare(a.Pod.UID, b.Pod.UID) })
	return list
}
