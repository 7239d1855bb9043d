package jointoken

import (
	"context"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/attest/registry"
)

// Hosts attests agents by join tokens and workloads by the registry. Its fields
// are all required and must not change after the first call; its methods may be
// called by many at once. Errors are those of the reviewer of Kubernetes'
// tokens: an attest.Refusal, or one that wraps attest.ErrUnavailable.
type Hosts struct {
	// TrustDomain is the one whose identities come out.
	TrustDomain spiffeid.TrustDomain

	// Redeemer holds the tokens of agents.
	Redeemer Redeemer

	// Registry returns the workloads as they are now. It may return nil, and
	// then there are none.
	Registry func() *registry.Registry

	// Now tells the time. Nil means time.Now.
	Now func() time.Time
}

// AttestAgent redeems a join token and returns the agent of its node.
func (h *Hosts) AttestAgent(ctx context.Context, token attest.Token) (attest.Identity, error) {
	d, err := digest(token)
	if err != nil {
		return attest.Identity{}, err
	}
	now := time.Now
	if h.Now != nil {
		now = h.Now
	}
	node, err := h.Redeemer.Redeem(ctx, d, now())
	if err != nil {
		return attest.Identity{}, err
	}
	return attest.NewAgent(h.TrustDomain, node)
}

// AttestWorkload tells whether the registry has that workload on the agent's
// node. The token is not looked at, and there is none: on a host nobody but the
// agent can tell which process is which. So the agent is the only party, and
// whoever has it has the identities that the registry gives to its node, and no
// others. The registry is the second party in this much, that an operator wrote
// it.
func (h *Hosts) AttestWorkload(ctx context.Context, agent attest.Identity, pod attest.Pod, _ attest.Token) (attest.Identity, error) {
	return h.ConfirmWorkload(ctx, agent, pod)
}

// ConfirmWorkload tells whether the registry still has that workload on the
// agent's node. Name and UID of the pod are looked at; the rest is the entry's.
func (h *Hosts) ConfirmWorkload(_ context.Context, agent attest.Identity, pod attest.Pod) (attest.Identity, error) {
	if agent.Kind() != attest.Agent || !agent.ID().MemberOf(h.TrustDomain) {
		return attest.Identity{}, attest.Refuse("not-an-agent", "%s %q asks", agent.Kind(), agent)
	}
	w, ok := h.Registry().Lookup(agent.Node().Name, pod)
	if !ok {
		return attest.Identity{}, attest.Refuse("workload-not-registered", "%.300q, %.80q on node %s", pod.Name, pod.UID, agent.Node().Name)
	}
	return attest.NewWorkload(h.TrustDomain, agent.Node(), w.Pod)
}
