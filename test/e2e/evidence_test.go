package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/client"
	"github.com/istio-auth/istio-auth/test/node"
)

// Audiences of tokens: the agents' and the workloads'.
const (
	forAgents    = "agent.istio-auth.cluster.local"
	forWorkloads = "workload.istio-auth.cluster.local"
)

// token asks the API server for a token that is bound to the pod, as a kubelet
// does. No audience is the API server's own.
func token(t *testing.T, n *node.Node, pod *corev1.Pod, audiences ...string) attest.Token {
	t.Helper()
	seconds := int64(600)
	got, err := n.Client().CoreV1().ServiceAccounts(pod.Namespace).CreateToken(t.Context(), pod.Spec.ServiceAccountName, &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		Audiences: audiences, ExpirationSeconds: &seconds,
		BoundObjectRef: &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return attest.NewToken(got.Status.Token)
}

// stillReviewed tells what the API server itself thinks of a workload's token.
func stillReviewed(t *testing.T, n *node.Node, token attest.Token) bool {
	t.Helper()
	review, err := n.Client().AuthenticationV1().TokenReviews().Create(t.Context(),
		&authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token.Reveal(), Audiences: []string{forWorkloads}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Authenticated
}

// roots is the first trust that the CA has published.
func roots(t *testing.T, n *node.Node) *x509bundle.Bundle {
	t.Helper()
	config, err := n.Client().CoreV1().ConfigMaps(system).Get(t.Context(), "istio-auth-bundle", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := x509bundle.Parse(td, []byte(config.Data["bundle.pem"]))
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// A complaint is a log handler that hands on an error that is logged.
type complaint chan error

func (c complaint) Enabled(context.Context, slog.Level) bool { return true }
func (c complaint) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c complaint) WithGroup(string) slog.Handler            { return c }
func (c complaint) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			select {
			case c <- err:
			default:
			}
		}
		return true
	})
	return nil
}

// attestAs runs the CA's client with a token as its evidence until the test
// ends. It returns the client, attested, or the CA's first answer that it is not.
func attestAs(t *testing.T, n *node.Node, evidence attest.Token) (*client.Client, error) {
	t.Helper()
	bundle, refused := roots(t, n), make(complaint, 1)
	c, err := client.New(client.Config{
		Address: address(t, n, "istio-ca", 15012), TrustDomain: td,
		Server:     spiffeid.RequireFromSegments(td, "istio-auth", "ca"),
		FirstTrust: func() (*x509bundle.Bundle, error) { return bundle, nil },
		Evidence:   func(context.Context) (client.Evidence, error) { return client.KubernetesToken(evidence), nil },
		Log:        slog.New(refused),
		Dial:       func(ctx context.Context, address string) (net.Conn, error) { return n.Dial(ctx, "tcp", address) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	end := func() { stop(); <-done }
	for patience := time.After(20 * time.Second); ; {
		select {
		case <-c.Ready():
			t.Cleanup(end)
			return c, nil
		case err := <-refused:
			if status.Code(err) == codes.Unavailable { // kube-proxy is a moment behind the new CA
				continue
			}
			end()
			return nil, err
		case <-patience:
			end()
			t.Fatal("the CA neither attests nor refuses")
		}
	}
}

// anAgent acts as the agent of the node, with the agent's own evidence: all that
// somebody has who took the agent over.
func anAgent(t *testing.T, n *node.Node) *client.Client {
	t.Helper()
	c, err := attestAs(t, n, token(t, n, running(t, n, system, "istio-nodeagent"), forAgents))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ask asks for the certificate of a pod: with its token, or else with its
// current SVID.
func ask(t *testing.T, agent *client.Client, pod *corev1.Pod, token attest.Token, current *x509svid.SVID) (*x509svid.SVID, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	request := client.Request{Pod: attest.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}, Token: token, Current: current, Key: key}
	chain, err := agent.Issue(ctx, request)
	if err != nil {
		return nil, err
	}
	id, err := x509svid.IDFromCert(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return &x509svid.SVID{ID: id, Certificates: chain, PrivateKey: key}, nil
}

// startPod runs a pod that ignores every request to end, and removes it, with
// whatever holds it, when the test ends.
func startPod(t *testing.T, n *node.Node, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	pods := n.Client().CoreV1().Pods("default")
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = "default"
	}
	pod.Spec.Containers = []corev1.Container{{Name: "app", Image: release.images["demo"], Command: []string{"/demo", "linger"}}}
	for _, v := range pod.Spec.Volumes { // a kubelet leaves out what no container mounts
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/run/" + v.Name})
	}
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_, _ = pods.Patch(ctx, pod.Name, "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err := pods.Delete(ctx, pod.Name, *metav1.NewDeleteOptions(0)); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	var got *corev1.Pod
	n.Until(t, "pod "+pod.Name, func() error {
		var err error
		if got, err = pods.Get(t.Context(), pod.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		if pod.Spec.NodeName == "" && got.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("it is %s", got.Status.Phase)
		}
		return nil
	})
	return got
}

// refused checks that the CA refused for good, and why, as its log has it.
func refused(t *testing.T, n *node.Node, what string, err error, reason string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: not refused", what)
		return
	}
	if got := reasonOf(t, n, err); got != reason {
		t.Errorf("%s: refused for %q (%v), want %q", what, got, err, reason)
	}
}

// TestDeletedPodIsRefusedAtOnce: the API server goes on calling a deleted pod's
// token good for ten seconds. The CA does not go by it, nor by the pod's
// unexpired SVID.
func TestDeletedPodIsRefusedAtOnce(t *testing.T) {
	n := install(t)
	agent := anAgent(t, n)
	pod := startPod(t, n, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "deleted"}})
	own := token(t, n, pod, forWorkloads)
	first, err := ask(t, agent, pod, own, nil)
	if err != nil || first.ID != identity("default", "default") {
		t.Fatalf("got %v, %v", first, err)
	}
	second, err := ask(t, agent, pod, attest.Token{}, first)
	if err != nil {
		t.Fatal(err)
	}
	if !stillReviewed(t, n, own) {
		t.Fatal("a good token is refused")
	}
	if err := n.Client().CoreV1().Pods("default").Delete(t.Context(), pod.Name, *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	_, byToken := ask(t, agent, pod, own, nil)
	_, bySVID := ask(t, agent, pod, attest.Token{}, second)
	asked := time.Since(deleted)
	if !stillReviewed(t, n, own) {
		t.Fatal("the API server refuses the token by now: the test did not test what it is for")
	}
	t.Logf("asked twice within %v of the deletion, and the token was still good after %v", asked, time.Since(deleted))
	for what, err := range map[string]error{"with the token": byToken, "with the SVID": bySVID} {
		if !errors.Is(err, attest.ErrRefused) {
			t.Errorf("%s: got %v", what, err)
			continue
		}
		refused(t, n, what, err, "pod-not-found")
	}
}

// TestTerminatingPodRenewsUntilItsGraceEnds: and not after, though pod object
// and process are still there, and the token still reviews as good.
func TestTerminatingPodRenewsUntilItsGraceEnds(t *testing.T) {
	n := install(t)
	agent := anAgent(t, n)
	pod := startPod(t, n, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "terminating", Finalizers: []string{"test.istio-auth.io/hold"}}})
	own := token(t, n, pod, forWorkloads)
	current, err := ask(t, agent, pod, own, nil)
	if err != nil {
		t.Fatal(err)
	}
	pods := n.Client().CoreV1().Pods("default")
	if err := pods.Delete(t.Context(), pod.Name, *metav1.NewDeleteOptions(6)); err != nil {
		t.Fatal(err)
	}
	pod, err = pods.Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil || pod.DeletionTimestamp == nil {
		t.Fatalf("no terminating pod: %v", err)
	}
	end := pod.DeletionTimestamp.Time
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	renewals, last, after := 0, time.Time{}, 0
	for after < 5 { // the refusals are final: some more of them
		<-tick.C
		asked := time.Now()
		next, err := ask(t, agent, pod, attest.Token{}, current)
		switch {
		case err == nil && after > 0:
			t.Fatalf("renewed %v after the grace had ended", asked.Sub(end))
		case err == nil:
			current, last = next, asked
			renewals++
		case errors.Is(err, attest.ErrRefused):
			if left := time.Until(end); left > 0 {
				t.Fatalf("refused %v before the grace ends, for %s", left, reasonOf(t, n, err))
			}
			after++
		default:
			t.Fatal(err)
		}
	}
	if renewals < 3 || !last.Before(end) || end.Sub(last) > 2*time.Second {
		t.Errorf("%d renewals, the last %v before the end of the grace", renewals, end.Sub(last))
	}
	_, err = ask(t, agent, pod, own, nil)
	if !errors.Is(err, attest.ErrRefused) {
		t.Errorf("with the token: %v", err)
	}
	if !stillReviewed(t, n, own) {
		t.Error("the API server refuses the token: the test did not test what it is for")
	}
	t.Logf("%d renewals, the last %v before the grace ended; %d refusals after it", renewals, end.Sub(last).Round(time.Millisecond), after)
}

// TestAgentOfAnotherNodeIsRefused: an agent gets the identities of pods that the
// scheduler put on its node, and of no other, whatever it has of the pod.
func TestAgentOfAnotherNodeIsRefused(t *testing.T) {
	n := install(t)
	agent := anAgent(t, n)
	here := startPod(t, n, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "here"}})
	nodes := n.Client().CoreV1().Nodes()
	if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-2"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nodes.Delete(context.WithoutCancel(t.Context()), "node-2", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	there := startPod(t, n, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "there"}, Spec: corev1.PodSpec{NodeName: "node-2"}})

	svid, err := ask(t, agent, here, token(t, n, here, forWorkloads), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = ask(t, agent, here, attest.Token{}, svid); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name    string
		pod     *corev1.Pod
		token   attest.Token
		current *x509svid.SVID
		want    string
	}{
		{"the other node's pod, with its own token", there, token(t, n, there, forWorkloads), nil, "token-other-node"},
		{"a pod of this node, with the other's token", here, token(t, n, there, forWorkloads), nil, "token-other-node"},
		{"the other node's pod, with a token of this node", there, token(t, n, here, forWorkloads), nil, "token-other-pod"},
		{"the other node's pod, with an SVID of the same name", there, attest.Token{}, svid, "pod-other-node"},
	} {
		_, err := ask(t, agent, row.pod, row.token, row.current)
		if !errors.Is(err, attest.ErrRefused) {
			t.Errorf("%s: got %v", row.name, err)
			continue
		}
		refused(t, n, row.name, err, row.want)
	}
}

// TestTokensOfOtherAudiencesAreRefused: no token is good for what it was not
// made for, and nobody becomes one of ours by a token of the right audience.
func TestTokensOfOtherAudiencesAreRefused(t *testing.T) {
	n := install(t)
	agentPod := running(t, n, system, "istio-nodeagent")
	pod := startPod(t, n, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "swapped"}})
	for _, row := range []struct {
		name  string
		token attest.Token
		want  string
	}{
		{"a workload's token", token(t, n, pod, forWorkloads), "token-not-authenticated"},
		{"a workload on the right node, with a token for agents", token(t, n, pod, forAgents), "account-not-ours"},
		{"the agent's own token for workloads", token(t, n, agentPod, forWorkloads), "token-not-authenticated"},
		{"the agent's token for the API server", token(t, n, agentPod), "token-not-authenticated"},
		{"the CA's account", token(t, n, running(t, n, system, "istio-ca"), forAgents), "account-not-ours"},
	} {
		_, err := attestAs(t, n, row.token)
		refused(t, n, "attesting as an agent with "+row.name, err, row.want)
	}

	agent := anAgent(t, n)
	for _, row := range []struct {
		name  string
		token attest.Token
		want  string
	}{
		{"for agents", token(t, n, pod, forAgents), "token-not-authenticated"},
		{"for the API server", token(t, n, pod), "token-not-authenticated"},
		{"for Istio's CA", token(t, n, pod, "istio-ca"), "token-not-authenticated"},
		{"of the agent itself", token(t, n, agentPod, forWorkloads), "token-other-pod"},
	} {
		_, err := ask(t, agent, pod, row.token, nil)
		refused(t, n, "a certificate with a token "+row.name, err, row.want)
	}
	// The manager is a service: it may not ask for anybody's certificate.
	manager, err := attestAs(t, n, token(t, n, running(t, n, system, "istio-manager"), forAgents))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, manager, pod, token(t, n, pod, forWorkloads), nil); err == nil {
		t.Errorf("the manager got %s", got.ID)
	}
}
