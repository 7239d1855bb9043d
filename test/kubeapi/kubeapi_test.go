package kubeapi_test

import (
	"slices"
	"strings"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/istio-auth/istio-auth/test/kubeapi"
)

func TestMain(m *testing.M) { kubeapi.Main(m, kubeapi.Config{}) }

// TestToken goes the way of every attestation: a pod's token, reviewed.
func TestToken(t *testing.T) {
	s := kubeapi.Shared(t)
	ns, node := s.Namespace(t), s.CreateNode(t, "node")
	pod := s.CreatePod(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec:       corev1.PodSpec{NodeName: node.Name},
	})
	if got := s.SetPhase(t, pod, corev1.PodRunning).Status.Phase; got != corev1.PodRunning {
		t.Errorf("phase %s", got)
	}
	token := s.TokenFor(t, pod, "ours")
	review := func(audience string) authv1.TokenReviewStatus {
		answer, err := s.Client().AuthenticationV1().TokenReviews().Create(t.Context(), &authv1.TokenReview{
			Spec: authv1.TokenReviewSpec{Token: token, Audiences: []string{audience}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status
	}
	good := review("ours")
	if !good.Authenticated || !slices.Equal(good.User.Extra["authentication.kubernetes.io/node-uid"], []string{string(node.UID)}) {
		t.Errorf("the right audience: %+v", good)
	}
	if got := review("theirs"); got.Authenticated {
		t.Errorf("another audience: %+v", got)
	}
	s.DeletePod(t, pod)
}

// TestWho: clients are who their configuration says.
func TestWho(t *testing.T) {
	s := kubeapi.Shared(t)
	who := func(client kubernetes.Interface) string {
		answer, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status.UserInfo.Username
	}
	kubelet := kubernetes.NewForConfigOrDie(s.As(t, "system:node:n1", "system:nodes"))
	if got := who(kubelet); got != "system:node:n1" {
		t.Errorf("the kubelet is %s", got)
	}
	if _, err := kubelet.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a kubelet lists secrets: %v", err)
	}
	ns := s.Namespace(t)
	pod := s.CreatePod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}})
	if got, want := who(kubernetes.NewForConfigOrDie(s.Bearer(s.TokenFor(t, pod)))), "system:serviceaccount:"+ns+":default"; got != want {
		t.Errorf("the pod is %s, want %s", got, want)
	}
}

func TestTools(t *testing.T) {
	s := kubeapi.Shared(t)
	if got := s.Kubectl(t, "version"); !strings.Contains(got, "Server Version: v1.37.2") {
		t.Errorf("got %s", got)
	}
	if got := s.Helm(t, "list", "--all-namespaces", "--output", "json"); strings.TrimSpace(got) != "[]" {
		t.Errorf("got %q", got)
	}
}

// TestControllers: with the right controllers a namespace is born with its
// account and can be deleted.
func TestControllers(t *testing.T) {
	s := kubeapi.Start(t, kubeapi.Config{Controllers: []string{"serviceaccount-controller", "namespace-controller"}})
	s.Kubectl(t, "create", "namespace", "born")
	s.Kubectl(t, "wait", "--for=create", "serviceaccount/default", "--namespace=born", "--timeout=30s")
	s.Kubectl(t, "delete", "namespace", "born", "--timeout=30s")
}
