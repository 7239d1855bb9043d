package k8stoken

import (
	"context"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/test/kubeapi"
)

func TestMain(m *testing.M) { kubeapi.Main(m, kubeapi.Config{}) }

// A real is a Reviewer of a real API server with the CA's rights and no more,
// and a namespace with a pod on a node whose agent asks.
type real struct {
	*Reviewer
	server    *kubeapi.Server
	namespace string
	node      *corev1.Node
	agent     attest.Identity
	pod       *corev1.Pod
	hint      attest.Pod
}

func newReal(t *testing.T) *real {
	t.Helper()
	server := kubeapi.Shared(t)
	r := &real{server: server, namespace: server.Namespace(t), node: server.CreateNode(t, "node")}
	user := "reviewer-" + r.namespace
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get"}},
	}}
	if _, err := server.Client().RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: user},
		Subjects: []rbacv1.Subject{{APIGroup: "rbac.authorization.k8s.io", Kind: "User", Name: user}}}
	if _, err := server.Client().RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(ClientConfig(server.As(t, user)))
	if err != nil {
		t.Fatal(err)
	}
	r.Reviewer, err = New(Config{TrustDomain: domain, Client: client,
		Agents:   []AgentAccount{{Namespace: r.namespace, ServiceAccount: "nodeagent", DaemonSet: "nodeagent"}},
		Services: []ServiceAccount{{Namespace: r.namespace, ServiceAccount: "manager", Name: "manager"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range []string{"web", "nodeagent", "manager"} {
		server.CreateServiceAccount(t, r.namespace, account)
	}
	r.agent = agentOf(t, attest.Node{Name: r.node.Name, UID: string(r.node.UID)})
	r.pod = r.create(t, "web-0", "web", r.node.Name)
	r.hint = hintOf(r.pod)

	// Rights come with a delay: wait until the API server lets the reviewer ask.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, err := r.ConfirmWorkload(ctx, r.agent, r.hint)
		if err == nil {
			return r
		}
		if ctx.Err() != nil || attest.Reason(err) != "" {
			t.Fatal(err)
		}
	}
}

func (r *real) create(t *testing.T, name, account, node string, owners ...metav1.OwnerReference) *corev1.Pod {
	t.Helper()
	return r.server.CreatePod(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.namespace, Name: name, OwnerReferences: owners},
		Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: account},
	})
}

func hintOf(pod *corev1.Pod) attest.Pod {
	return attest.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
}

// stillReviewed tells what the API server itself thinks of the token.
func (r *real) stillReviewed(t *testing.T, token attest.Token, audience string) bool {
	t.Helper()
	answer, err := r.server.Client().AuthenticationV1().TokenReviews().Create(t.Context(),
		&authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token.Reveal(), Audiences: []string{audience}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Authenticated
}

func TestRealToken(t *testing.T) {
	r := newReal(t)
	node := attest.Node{Name: r.node.Name, UID: string(r.node.UID)}
	want, err := attest.NewWorkload(domain, node, attest.Pod{Namespace: r.namespace, Name: "web-0", UID: string(r.pod.UID), ServiceAccount: "web"})
	if err != nil {
		t.Fatal(err)
	}
	good := attest.NewToken(r.server.TokenFor(t, r.pod, WorkloadAudience(domain)))
	for range 2 { // the second time from the API server's cache
		if got, err := r.AttestWorkload(t.Context(), r.agent, r.hint, good); err != nil || got != want {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	}
	if got, err := r.ConfirmWorkload(t.Context(), r.agent, r.hint); err != nil || got != want {
		t.Errorf("confirmed %+v, %v, want %+v", got, err, want)
	}
	istio := attest.NewToken(r.server.TokenFor(t, r.pod, "istio-ca"))
	if got, err := r.AttestBearer(t.Context(), istio, []string{"istio-ca"}); err != nil || got != want {
		t.Errorf("bearer: got %+v, %v, want %+v", got, err, want)
	}

	both := attest.NewToken(r.server.TokenFor(t, r.pod, WorkloadAudience(domain), AgentAudience(domain)))
	if got, err := r.AttestWorkload(t.Context(), r.agent, r.hint, both); err != nil || got != want {
		t.Errorf("a token of two audiences, for the one that was asked: got %+v, %v", got, err)
	}
	unscheduled := r.create(t, "unscheduled", "web", "")
	unbound, err := r.server.Client().CoreV1().ServiceAccounts(r.namespace).CreateToken(t.Context(), "web",
		&authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: []string{WorkloadAudience(domain)}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := r.create(t, "elsewhere", "web", r.server.CreateNode(t, "node").Name)
	for _, row := range []struct {
		name, token string
		hint        attest.Pod
		want        string
	}{
		{"another audience", istio.Reveal(), r.hint, "token-not-authenticated"},
		{"the API server's audience", r.server.TokenFor(t, r.pod), r.hint, "token-not-authenticated"},
		{"the agent's audience", r.server.TokenFor(t, r.pod, AgentAudience(domain)), r.hint, "token-not-authenticated"},
		{"tampered with", good.Reveal()[:len(good.Reveal())-4] + "AAAA", r.hint, "token-not-authenticated"},
		{"no JWT", "x", r.hint, "token-not-authenticated"},
		{"bound to no pod", unbound.Status.Token, r.hint, "token-claim-missing"},
		{"of a pod on no node", r.server.TokenFor(t, unscheduled, WorkloadAudience(domain)), hintOf(unscheduled), "token-claim-missing"},
		{"of a pod on another node", r.server.TokenFor(t, elsewhere, WorkloadAudience(domain)), hintOf(elsewhere), "token-other-node"},
		{"of another pod", r.server.TokenFor(t, r.create(t, "web-1", "web", r.node.Name), WorkloadAudience(domain)), r.hint, "token-other-pod"},
	} {
		got, err := r.AttestWorkload(t.Context(), r.agent, row.hint, attest.NewToken(row.token))
		judge(t, row.name, got, err, row.want)
	}

	r.server.SetPhase(t, r.pod, corev1.PodRunning)
	if got, err := r.AttestWorkload(t.Context(), r.agent, r.hint, good); err != nil || got != want {
		t.Errorf("running: got %+v, %v", got, err)
	}
	r.server.SetPhase(t, r.pod, corev1.PodFailed)
	got, err := r.AttestWorkload(t.Context(), r.agent, r.hint, good)
	judge(t, "failed", got, err, "pod-not-running")
}

func TestRealAgent(t *testing.T) {
	r := newReal(t)
	yes := true
	daemonSet := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "nodeagent", UID: "x", Controller: &yes}
	agent := r.create(t, "agent", "nodeagent", r.node.Name, daemonSet)
	for _, row := range []struct {
		name     string
		pod      *corev1.Pod
		audience string
		want     string
		identity string
	}{
		{"agent", agent, AgentAudience(domain), "", r.agent.ID().String()},
		{"manager", r.create(t, "manager", "manager", r.node.Name), AgentAudience(domain), "", "spiffe://mesh.example/istio-auth/manager"},
		{"the agent's token for workloads", agent, WorkloadAudience(domain), "token-not-authenticated", ""},
		{"a workload on the right node, with a token for agents", r.pod, AgentAudience(domain), "account-not-ours", ""},
		{"the agent's account in a pod of its own", r.create(t, "bare", "nodeagent", r.node.Name), AgentAudience(domain), "agent-not-of-daemonset", ""},
	} {
		got, err := r.AttestAgent(t.Context(), attest.NewToken(r.server.TokenFor(t, row.pod, row.audience)))
		judge(t, row.name, got, err, row.want)
		if err == nil && got.ID().String() != row.identity {
			t.Errorf("%s: got %s, want %s", row.name, got, row.identity)
		}
	}
}

// TestRealDeletedPod is done within the ten seconds for which the API server
// still calls the token good, which the test asks it.
func TestRealDeletedPod(t *testing.T) {
	r := newReal(t)
	token := attest.NewToken(r.server.TokenFor(t, r.pod, WorkloadAudience(domain)))
	bearer := attest.NewToken(r.server.TokenFor(t, r.pod, "istio-ca"))
	for _, c := range []struct {
		audience string
		token    attest.Token
	}{{WorkloadAudience(domain), token}, {"istio-ca", bearer}} {
		if !r.stillReviewed(t, c.token, c.audience) {
			t.Fatalf("%s: a good token is refused", c.audience)
		}
	}
	r.server.DeletePod(t, r.pod)
	ask := func(when, want string) {
		t.Helper()
		got, err := r.AttestWorkload(t.Context(), r.agent, r.hint, token)
		judge(t, when+", attest", got, err, want)
		got, err = r.ConfirmWorkload(t.Context(), r.agent, r.hint)
		judge(t, when+", confirm", got, err, want)
		got, err = r.AttestBearer(t.Context(), bearer, []string{"istio-ca"})
		judge(t, when+", bearer", got, err, want)
	}
	ask("deleted", "pod-not-found")

	again := r.create(t, "web-0", "web", r.node.Name)
	ask("made anew under its name", "pod-other-uid")
	got, err := r.AttestWorkload(t.Context(), r.agent, hintOf(again), token)
	judge(t, "the new pod with the old one's token", got, err, "token-other-pod")
	if !r.stillReviewed(t, token, WorkloadAudience(domain)) || !r.stillReviewed(t, bearer, "istio-ca") {
		t.Error("the API server refuses the tokens by now: the test did not test what it is for")
	}
}

// TestRealTerminatingPod: a pod has its identity until its grace ends, and not
// after, though the API server goes on calling its token good.
func TestRealTerminatingPod(t *testing.T) {
	r := newReal(t)
	token := attest.NewToken(r.server.TokenFor(t, r.pod, WorkloadAudience(domain)))
	if err := r.server.Client().CoreV1().Pods(r.namespace).Delete(t.Context(), r.pod.Name, *metav1.NewDeleteOptions(30)); err != nil {
		t.Fatal(err)
	}
	pod, err := r.server.Client().CoreV1().Pods(r.namespace).Get(t.Context(), r.pod.Name, metav1.GetOptions{})
	if err != nil || pod.DeletionTimestamp == nil {
		t.Fatalf("no terminating pod: %v", err)
	}
	if grace := time.Until(pod.DeletionTimestamp.Time); grace < 20*time.Second || grace > 31*time.Second {
		t.Errorf("deletionTimestamp is %s ahead: it is not when the grace ends", grace)
	}
	for _, row := range []struct {
		name string
		now  time.Time
		want string
	}{
		{"now", time.Now(), ""},
		{"a moment before the end", pod.DeletionTimestamp.Add(-time.Nanosecond), ""},
		{"at the end", pod.DeletionTimestamp.Time, "pod-terminated"},
		{"within the token's leeway", pod.DeletionTimestamp.Add(30 * time.Second), "pod-terminated"},
	} {
		r.Now = func() time.Time { return row.now }
		got, err := r.AttestWorkload(t.Context(), r.agent, r.hint, token)
		judge(t, row.name+", attest", got, err, row.want)
		got, err = r.ConfirmWorkload(t.Context(), r.agent, r.hint)
		judge(t, row.name+", confirm", got, err, row.want)
	}
	if !r.stillReviewed(t, token, WorkloadAudience(domain)) {
		t.Error("the API server refuses the token: the test did not test what it is for")
	}
}

func TestRealNodeMadeAnew(t *testing.T) {
	r := newReal(t)
	token := attest.NewToken(r.server.TokenFor(t, r.pod, WorkloadAudience(domain)))
	nodes := r.server.Client().CoreV1().Nodes()
	if err := nodes.Delete(t.Context(), r.node.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := r.AttestWorkload(t.Context(), r.agent, r.hint, token)
	judge(t, "node gone", got, err, "node-not-found")
	if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.node.Name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err = r.AttestWorkload(t.Context(), r.agent, r.hint, token)
	judge(t, "node made anew", got, err, "node-other-uid")
	got, err = r.ConfirmWorkload(t.Context(), r.agent, r.hint)
	judge(t, "node made anew, confirm", got, err, "node-other-uid")
}
