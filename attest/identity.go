package attest

import (
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Kind says what an [Identity] stands for.
type Kind int

const (
	None     Kind = iota // no identity: the zero Identity
	Workload             // a workload of the mesh, under /ns/
	Agent                // the agent of one node, under /istio-auth/node/
	Service              // one of our own services, directly under /istio-auth/
)

// String returns a word for logs.
func (k Kind) String() string {
	switch k {
	case None:
		return "none"
	case Workload:
		return "workload"
	case Agent:
		return "agent"
	case Service:
		return "service"
	}
	return "unknown"
}

// A Node names a machine. The UID tells it from an older one of the same name.
type Node struct{ Name, UID string }

// A Pod names a workload: a Kubernetes pod, or an entry of the registry of host
// workloads. The UID tells it from an older one of the same name.
type Pod struct{ Namespace, Name, UID, ServiceAccount string }

// An Identity is what was proved about a peer. It cannot hold a bad value: the
// constructors of this package are the only ones that make one. The zero value
// is no identity. Identities are comparable by ==, whole.
type Identity struct {
	kind Kind
	id   spiffeid.ID
	node Node
	pod  Pod
}

// ID returns spiffe://td/ns/<namespace>/sa/<service account> for a workload,
// spiffe://td/istio-auth/node/<name>/<uid> for an agent,
// spiffe://td/istio-auth/<name> for a service, and the zero ID for none.
func (i Identity) ID() spiffeid.ID { return i.id }

// Kind says what i stands for.
func (i Identity) Kind() Kind { return i.kind }

// Node is an agent's node, or the node that a workload runs on.
func (i Identity) Node() Node { return i.node }

// Pod is the workload, and zero for agents and services.
func (i Identity) Pod() Pod { return i.pod }

// IsZero reports whether i is no identity.
func (i Identity) IsZero() bool { return i.kind == None }

// String returns the SPIFFE ID, or "" for none.
func (i Identity) String() string { return i.id.String() }

// Segments of the paths that we give out.
const (
	ownSegment  = "istio-auth"
	nodeSegment = "node"
)

// NewWorkload returns the identity of the pod that runs on the node:
// spiffe://td/ns/<namespace>/sa/<service account>. It returns a [*Refusal]
// where a part is missing or not the name that Kubernetes would allow there.
func NewWorkload(td spiffeid.TrustDomain, node Node, pod Pod) (Identity, error) {
	if err := check(
		part{"bad-trust-domain", td.Name(), trustDomain},
		part{"bad-node-name", node.Name, subdomain},
		part{"bad-node-uid", node.UID, uid},
		part{"bad-namespace", pod.Namespace, label},
		part{"bad-service-account", pod.ServiceAccount, subdomain},
		part{"bad-pod-name", pod.Name, subdomain},
		part{"bad-pod-uid", pod.UID, uid},
	); err != nil {
		return Identity{}, err
	}
	i := Identity{kind: Workload, node: node, pod: pod}
	return i.named(td, "ns", pod.Namespace, "sa", pod.ServiceAccount)
}

// NewAgent returns the identity of the agent of a node:
// spiffe://td/istio-auth/node/<name>/<uid>. It returns a [*Refusal] where a
// part is missing or bad.
func NewAgent(td spiffeid.TrustDomain, node Node) (Identity, error) {
	if err := check(
		part{"bad-trust-domain", td.Name(), trustDomain},
		part{"bad-node-name", node.Name, subdomain},
		part{"bad-node-uid", node.UID, uid},
	); err != nil {
		return Identity{}, err
	}
	return Identity{kind: Agent, node: node}.named(td, ownSegment, nodeSegment, node.Name, node.UID)
}

// NewService returns the identity of one of our own services, such as "ca" or
// "manager": spiffe://td/istio-auth/<name>. It returns a [*Refusal] where the
// name is not an RFC 1123 label, or is "node", below which agents live.
func NewService(td spiffeid.TrustDomain, name string) (Identity, error) {
	if err := check(
		part{"bad-trust-domain", td.Name(), trustDomain},
		part{"bad-service-name", name, label},
	); err != nil {
		return Identity{}, err
	}
	if name == nodeSegment {
		return Identity{}, Refuse("bad-service-name", "%q is taken by the agents", name)
	}
	return Identity{kind: Service}.named(td, ownSegment, name)
}

// AgentFromID reads an agent's identity from its SPIFFE ID, and is the one
// place that does. What it read is built anew and compared whole, so that an ID
// that we would not have written is a [*Refusal].
func AgentFromID(id spiffeid.ID) (Identity, error) {
	if len(id.String()) > maxID {
		return Identity{}, Refuse("id-too-long", "%d bytes, at most %d", len(id.String()), maxID)
	}
	rest, ok := strings.CutPrefix(id.Path(), "/"+ownSegment+"/"+nodeSegment+"/")
	if !ok {
		return Identity{}, Refuse("not-an-agent", "path %q", id.Path())
	}
	name, uid, ok := strings.Cut(rest, "/")
	if !ok {
		return Identity{}, Refuse("not-an-agent", "path %q", id.Path())
	}
	agent, err := NewAgent(id.TrustDomain(), Node{Name: name, UID: uid})
	if err != nil {
		return Identity{}, err
	}
	if agent.id != id {
		return Identity{}, Refuse("not-an-agent", "%q is not how %q is written", id, agent.id)
	}
	return agent, nil
}

// named returns i with the ID that the segments make in td.
func (i Identity) named(td spiffeid.TrustDomain, segments ...string) (Identity, error) {
	id, err := spiffeid.FromSegments(td, segments...)
	if err != nil {
		return Identity{}, &Refusal{Reason: "bad-path", Err: err}
	}
	if len(id.String()) > maxID {
		return Identity{}, Refuse("id-too-long", "%d bytes, at most %d", len(id.String()), maxID)
	}
	i.id = id
	return i, nil
}
