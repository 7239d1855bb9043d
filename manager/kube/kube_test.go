package kube_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istio-auth/istio-auth/manager/kube"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/test/kubeapi"
)

func TestMain(m *testing.M) { kubeapi.Main(m, kubeapi.Config{}) }

// A sink remembers the last word on each node, as "name/account/app ...".
type sink struct {
	mu    sync.Mutex // guards nodes
	nodes map[string]string
	told  chan struct{}
}

func (s *sink) SetNode(name string, workloads []distribute.Workload) error {
	var words []string
	for _, w := range workloads {
		words = append(words, w.Pod.Name+"/"+w.Pod.ServiceAccount+"/"+w.Labels["app"])
		if w.Pod.UID == "" || w.Pod.Namespace == "" {
			words = append(words, "incomplete")
		}
	}
	s.mu.Lock()
	s.nodes[name] = strings.Join(words, " ")
	s.mu.Unlock()
	select {
	case s.told <- struct{}{}:
	default:
	}
	return nil
}

func (s *sink) until(t *testing.T, node, want string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		got, ok := s.nodes[node]
		s.mu.Unlock()
		if ok && got == want {
			return
		}
		select {
		case <-s.told:
		case <-deadline:
			t.Fatalf("node %s: got %q (told: %v), want %q", node, got, ok, want)
		}
	}
}

func TestWatch(t *testing.T) {
	s := kubeapi.Shared(t)
	ns := s.Namespace(t)
	s.CreateServiceAccount(t, ns, "web")
	a, b := s.CreateNode(t, "a"), s.CreateNode(t, "b")
	pod := func(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: "web"},
		}
		for _, f := range change {
			f(p)
		}
		return s.CreatePod(t, p)
	}
	first := pod("first", a.Name)
	out := &sink{nodes: map[string]string{}, told: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- kube.Watch(ctx, kube.Config{Client: s.Client()}, out) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	out.until(t, a.Name, "first/web/first")

	pod("unscheduled", "")
	pod("elsewhere", b.Name)
	out.until(t, b.Name, "elsewhere/web/elsewhere")
	if out.nodes[""] != "" {
		t.Error("told of a pod without a node")
	}
	// A label changes, a pod ends.
	patch := []byte(`{"metadata":{"labels":{"app":"other"}}}`)
	if _, err := s.Client().CoreV1().Pods(ns).Patch(t.Context(), "first", "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	out.until(t, a.Name, "first/web/other")
	s.SetPhase(t, first, corev1.PodRunning)
	s.SetPhase(t, first, corev1.PodSucceeded)
	out.until(t, a.Name, "")
	// A pod is deleted, with its grace: it stays until it has gone.
	zero := int64(0)
	if err := s.Client().CoreV1().Pods(ns).Delete(t.Context(), "elsewhere", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	out.until(t, b.Name, "")
}
