package k8stoken

import (
	"context"
	"fmt"
	"slices"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istio-auth/istio-auth/attest"
)

const (
	// callTimeout is how long one call may take. A request makes three of them,
	// two at once.
	callTimeout = 2 * time.Second

	// maxToken bounds what is sent on for review. Tokens have one to two KiB.
	maxToken = 16 << 10
)

// AttestAgent tells which of our own the token's pod is: the agent of its node,
// or a service that the configuration names. Any other account is refused, and
// so is a workload's token, which is of another audience.
func (r *Reviewer) AttestAgent(ctx context.Context, token attest.Token) (attest.Identity, error) {
	subject, err := r.review(ctx, token, []string{r.AgentAudience})
	if err != nil {
		return attest.Identity{}, err
	}
	account := attest.Pod{Namespace: subject.Pod().Namespace, ServiceAccount: subject.Pod().ServiceAccount}
	role, ok := r.own[account]
	if !ok {
		return attest.Identity{}, attest.Refuse("account-not-ours", "%s/%s", account.Namespace, account.ServiceAccount)
	}
	pod, _, err := r.alive(ctx, subject.Pod(), subject.Node())
	if err != nil {
		return attest.Identity{}, err
	}
	if role.service != "" {
		return attest.NewService(r.TrustDomain, role.service)
	}
	if err := controlledBy(pod, role.daemonSet); err != nil {
		return attest.Identity{}, err
	}
	return attest.NewAgent(r.TrustDomain, subject.Node())
}

// AttestWorkload tells whose certificate the agent may ask for with a pod's own
// token: for the first one. Agent and token must be of the same node, and the
// pod must be the token's.
func (r *Reviewer) AttestWorkload(ctx context.Context, agent attest.Identity, pod attest.Pod, token attest.Token) (attest.Identity, error) {
	if err := r.checkRequest(agent, pod); err != nil {
		return attest.Identity{}, err
	}
	subject, err := r.review(ctx, token, []string{r.WorkloadAudience})
	if err != nil {
		return attest.Identity{}, err
	}
	if subject.Node() != agent.Node() {
		return attest.Identity{}, attest.Refuse("token-other-node", "the token is of node %s, the agent of %s", subject.Node(), agent.Node())
	}
	pod.ServiceAccount = subject.Pod().ServiceAccount
	if subject.Pod() != pod {
		return attest.Identity{}, attest.Refuse("token-other-pod", "asked for %s with the token of %s", pod, subject.Pod())
	}
	if _, _, err := r.alive(ctx, subject.Pod(), subject.Node()); err != nil {
		return attest.Identity{}, err
	}
	return subject, nil
}

// ConfirmWorkload tells whether the pod still runs on the agent's node: for a
// renewal, whose caller has proved to hold the pod's certificate. No token is
// looked at; the service account is the live pod's.
func (r *Reviewer) ConfirmWorkload(ctx context.Context, agent attest.Identity, pod attest.Pod) (attest.Identity, error) {
	if err := r.checkRequest(agent, pod); err != nil {
		return attest.Identity{}, err
	}
	pod.ServiceAccount = "" // nobody but the API server says it
	_, is, err := r.alive(ctx, pod, agent.Node())
	if err != nil {
		return attest.Identity{}, err
	}
	return attest.NewWorkload(r.TrustDomain, agent.Node(), is)
}

// AttestBearer tells whose token this is, for listeners whose clients come
// without an agent. The second party is then the pod itself, live and on the
// node that the token names; so a stolen token suffices until it expires or its
// pod is gone. The audiences must be other than ours, lest a token that an agent
// holds for another purpose be good here; without any, nobody is accepted.
func (r *Reviewer) AttestBearer(ctx context.Context, token attest.Token, audiences []string) (attest.Identity, error) {
	if len(audiences) == 0 {
		return attest.Identity{}, attest.Refuse("audience-none", "no audience is accepted")
	}
	if slices.Contains(audiences, r.AgentAudience) || slices.Contains(audiences, r.WorkloadAudience) {
		return attest.Identity{}, attest.Refuse("audience-reserved", "%q holds an audience of our own protocol", audiences)
	}
	subject, err := r.review(ctx, token, audiences)
	if err != nil {
		return attest.Identity{}, err
	}
	if _, _, err := r.alive(ctx, subject.Pod(), subject.Node()); err != nil {
		return attest.Identity{}, err
	}
	return subject, nil
}

// checkRequest looks at what an agent sent before anything dear is done for it.
func (r *Reviewer) checkRequest(agent attest.Identity, pod attest.Pod) error {
	if agent.Kind() != attest.Agent || !agent.ID().MemberOf(r.TrustDomain) {
		return attest.Refuse("not-an-agent", "%s %q asks", agent.Kind(), agent)
	}
	return attest.CheckHint(pod)
}

// review has the API server look at the token, and judges its answer.
func (r *Reviewer) review(ctx context.Context, token attest.Token, audiences []string) (attest.Identity, error) {
	secret := token.Reveal()
	if secret == "" {
		return attest.Identity{}, attest.Refuse("token-missing", "no token")
	}
	if len(secret) > maxToken {
		return attest.Identity{}, attest.Refuse("token-too-long", "%d bytes, at most %d", len(secret), maxToken)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := r.Client.AuthenticationV1().TokenReviews().Create(ctx,
		&authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: secret, Audiences: audiences}}, metav1.CreateOptions{})
	switch {
	case said(err, metav1.StatusReasonBadRequest), said(err, metav1.StatusReasonInvalid):
		return attest.Identity{}, &attest.Refusal{Reason: "token-not-reviewable", Err: err}
	case err != nil:
		return attest.Identity{}, unavailable("reviewing a token", err)
	}
	return interpret(r.TrustDomain, answer.Status, audiences)
}

// alive asks for the pod and for its node, and judges both.
func (r *Reviewer) alive(ctx context.Context, meant attest.Pod, node attest.Node) (*corev1.Pod, attest.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	nodes := make(chan error, 1)
	go func() { nodes <- r.nodeIs(ctx, node) }()
	pod, is, err := r.podIs(ctx, meant, node)
	if nodeErr := <-nodes; err == nil {
		err = nodeErr
	}
	if err != nil {
		return nil, attest.Pod{}, err
	}
	return pod, is, nil
}

func (r *Reviewer) podIs(ctx context.Context, meant attest.Pod, node attest.Node) (*corev1.Pod, attest.Pod, error) {
	pod, err := r.Client.CoreV1().Pods(meant.Namespace).Get(ctx, meant.Name, metav1.GetOptions{})
	switch {
	case said(err, metav1.StatusReasonNotFound):
		return nil, attest.Pod{}, attest.Refuse("pod-not-found", "%s/%s", meant.Namespace, meant.Name)
	case err != nil:
		return nil, attest.Pod{}, unavailable("getting pod "+meant.Namespace+"/"+meant.Name, err)
	}
	is, err := live(pod, meant, node, r.Now())
	return pod, is, err
}

func (r *Reviewer) nodeIs(ctx context.Context, meant attest.Node) error {
	node, err := r.Client.CoreV1().Nodes().Get(ctx, meant.Name, metav1.GetOptions{})
	switch {
	case said(err, metav1.StatusReasonNotFound):
		return attest.Refuse("node-not-found", "%s", meant.Name)
	case err != nil:
		return unavailable("getting node "+meant.Name, err)
	}
	return sameNode(node, meant)
}

// said tells whether the API server itself gave this reason. What a proxy in
// between says with the same number is no answer about a pod.
func said(err error, reason metav1.StatusReason) bool {
	return apierrors.ReasonForError(err) == reason && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// unavailable marks an error of the API server, or of the way to it, or of our
// own rights there, as one that says nothing about whom we asked for.
func unavailable(doing string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, attest.ErrUnavailable, err)
}
