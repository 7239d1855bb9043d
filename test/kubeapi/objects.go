package kubeapi

import (
	"context"
	"fmt"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespace makes a namespace with a name of its own, so that tests that share a
// server do not meet, with the service account "default" in it. It is deleted
// when the test ends, which completes only under a namespace controller.
func (s *Server) Namespace(t testing.TB) string {
	t.Helper()
	ns, err := s.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.client.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), ns.Name, metav1.DeleteOptions{})
	})
	s.CreateServiceAccount(t, ns.Name, "default")
	return ns.Name
}

// CreateServiceAccount makes a service account, or gives the one that is there; without a controller manager a
// pod can only be made where its account exists.
func (s *Server) CreateServiceAccount(t testing.TB, namespace, name string) *corev1.ServiceAccount {
	t.Helper()
	account, err := s.client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: name},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // a controller was faster
		account, err = s.client.CoreV1().ServiceAccounts(namespace).Get(t.Context(), name, metav1.GetOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return account
}

// CreateNode makes a node whose name begins with prefix, and deletes it when the
// test ends.
func (s *Server) CreateNode(t testing.TB, prefix string) *corev1.Node {
	t.Helper()
	node, err := s.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{GenerateName: prefix + "-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.client.CoreV1().Nodes().Delete(context.WithoutCancel(t.Context()), node.Name, metav1.DeleteOptions{})
	})
	return node
}

// CreatePod makes a pod as it is given, with one container where it has none. A
// pod that names a node counts as scheduled; its phase is Pending until
// [Server.SetPhase].
func (s *Server) CreatePod(t testing.TB, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	pod = pod.DeepCopy()
	if len(pod.Spec.Containers) == 0 {
		pod.Spec.Containers = []corev1.Container{{Name: "app", Image: "app"}}
	}
	made, err := s.client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// SetPhase plays the kubelet: it reports a pod's phase.
func (s *Server) SetPhase(t testing.TB, pod *corev1.Pod, phase corev1.PodPhase) *corev1.Pod {
	t.Helper()
	patch := fmt.Appendf(nil, `{"status":{"phase":%q}}`, phase)
	made, err := s.client.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, "application/strategic-merge-patch+json", patch, metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// DeletePod removes a pod at once, as a kubelet does when its grace has passed.
func (s *Server) DeletePod(t testing.TB, pod *corev1.Pod) {
	t.Helper()
	err := s.client.CoreV1().Pods(pod.Namespace).Delete(t.Context(), pod.Name, *metav1.NewDeleteOptions(0))
	if err != nil {
		t.Fatal(err)
	}
}

// TokenFor plays the kubelet: it asks for a token of the pod's service account
// that is bound to the pod and lives ten minutes. No audience means the API
// server's own.
func (s *Server) TokenFor(t testing.TB, pod *corev1.Pod, audiences ...string) string {
	t.Helper()
	seconds := int64(10 * time.Minute / time.Second)
	answer, err := s.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(t.Context(), pod.Spec.ServiceAccountName, &authv1.TokenRequest{
		Spec: authv1.TokenRequestSpec{
			Audiences:         audiences,
			ExpirationSeconds: &seconds,
			BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}
