// Package distribute brings policies from the manager to the Envoys.
//
// The manager holds a [Server]: of all policies and all workloads it makes, for
// each node, one resource a pod that holds the policies that select it. The
// node's agent holds a [Client], which follows these resources, and [Filters],
// which compiles each distinct set once and offers every workload its filter.
// Both ends offer sources in the form of package sds, which serves them; a
// program joins the two.
//
// Nobody is ever told that policies are gone because they are not known: of a
// pod that the manager does not know it says nothing, and what an agent was
// told last holds until it is told otherwise. That no policy applies is an
// answer like any other.
package distribute

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/distribute/policypb"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/sds/stream"
)

// PoliciesType is the type of what the manager serves: one resource for each
// pod of the agent's node, named by the pod's UID.
const PoliciesType = "type.googleapis.com/istioauth.policy.v1.WorkloadPolicies"

// ErrNotAgent reports a peer that is no agent of our trust domain.
var ErrNotAgent = errors.New("distribute: the peer is no agent")

// A Workload is a pod as the manager knows it.
type Workload struct {
	Pod    attest.Pod
	Labels map[string]string
}

// A Mesh is what is the same for all of its workloads.
type Mesh struct {
	TrustDomain spiffeid.TrustDomain
	// Aliases and Foreign are as of [rbac.Domains].
	Aliases, Foreign []spiffeid.TrustDomain
	// RootNamespace is the namespace whose policies apply to the whole mesh.
	RootNamespace string
	// Providers are those that CUSTOM policies may ask.
	Providers []string
}

func (m Mesh) target(w Workload) rbac.Target {
	return rbac.Target{
		Namespace: w.Pod.Namespace, Labels: w.Labels, RootNamespace: m.RootNamespace,
		TrustDomain: m.TrustDomain, Aliases: m.Aliases, Foreign: m.Foreign, Providers: m.Providers,
	}
}

// A Server knows all policies and the workloads of every node. Make it with
// [NewServer]. All methods may be called at once. It serves nothing until it
// has been told of policies, and nothing to a node until it has been told of
// that node's workloads: an empty list of either is an answer, silence is none.
type Server struct {
	mesh Mesh

	mu     sync.Mutex // guards what follows
	known  bool       // Set was called
	byHome map[string]*home
	nodes  map[string]*node
}

// A home is what the objects of one namespace say, with the messages that say
// it, which are made once for all workloads.
type home struct {
	policies []rbac.Policy
	requests []rbac.RequestAuthentication
	// What says them, where it has been made, at the same places.
	policyMessages, requestMessages []*policypb.Policy
}

// A node is a Kubernetes node or a host, by name.
type node struct {
	known     bool // SetNode was called
	workloads []Workload
	resources map[string]*stream.Resource
	cell      stream.Cell
}

// NewServer serves the policies of one mesh.
func NewServer(m Mesh) *Server { return &Server{mesh: m, nodes: map[string]*node{}} }

// Set replaces all policies, and all rules for end users' tokens.
func (s *Server) Set(policies []rbac.Policy, requests []rbac.RequestAuthentication) error {
	byHome := map[string]*home{}
	at := func(namespace string) *home {
		h := byHome[namespace]
		if h == nil {
			h = &home{}
			byHome[namespace] = h
		}
		return h
	}
	for _, p := range policies {
		h := at(p.Namespace)
		h.policies = append(h.policies, p)
	}
	for _, r := range requests {
		h := at(r.Namespace)
		h.requests = append(h.requests, r)
	}
	for _, h := range byHome {
		h.policyMessages = make([]*policypb.Policy, len(h.policies))
		h.requestMessages = make([]*policypb.Policy, len(h.requests))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.byHome = true, byHome
	var failed error
	for name, n := range s.nodes {
		if err := s.refresh(n); err != nil {
			failed = errors.Join(failed, fmt.Errorf("node %s: %w", name, err))
		}
	}
	return failed
}

// SetNode replaces the workloads of a node. An empty list says that there are
// none. What an agent was told of a pod that is not in the list stays with it.
func (s *Server) SetNode(name string, workloads []Workload) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(name)
	n.known, n.workloads = true, slices.Clone(workloads)
	if err := s.refresh(n); err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	return nil
}

// RemoveNode forgets a node that is gone. Its agent, where it is still
// connected, hears nothing more.
func (s *Server) RemoveNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[name]; n != nil {
		n.known, n.workloads, n.resources = false, nil, nil
		n.cell.Set(stream.Snapshot{})
	}
}

// Source is what the agent of this identity may see: the workloads of its own
// node. The identity is that of the connection's certificate. The error is
// [ErrNotAgent].
func (s *Server) Source(id spiffeid.ID) (*NodeSource, error) {
	agent, err := attest.AgentFromID(id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotAgent, err)
	}
	if id.TrustDomain() != s.mesh.TrustDomain {
		return nil, fmt.Errorf("%w: %s is of another trust domain", ErrNotAgent, id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &NodeSource{Agent: agent, node: s.node(agent.Node().Name)}, nil
}

func (s *Server) node(name string) *node {
	n := s.nodes[name]
	if n == nil {
		n = &node{}
		s.nodes[name] = n
	}
	return n
}

// refresh makes the node's resources anew. What has not changed stays the same
// resource. A workload that cannot be told all keeps what it was told last of its
// own namespace, and is told what is the mesh's.
func (s *Server) refresh(n *node) error {
	if !s.known || !n.known {
		return nil
	}
	resources := make(map[string]*stream.Resource, len(n.workloads))
	var failed error
	for _, w := range n.workloads {
		uid := w.Pod.UID
		r, err := s.resource(w)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("pod %s/%s: %w", w.Pod.Namespace, w.Pod.Name, err))
			r = s.instead(w, n.resources[uid])
		}
		if old := n.resources[uid]; r != nil && old != nil && old.Version == r.Version {
			r = old
		}
		if r != nil {
			resources[uid] = r
		}
	}
	if maps.Equal(resources, n.resources) && n.resources != nil {
		return failed // pointers: nothing has changed
	}
	n.resources = resources
	n.cell.Set(stream.Snapshot{Resources: resources})
	return failed
}

// resource is what applies to one workload.
func (s *Server) resource(w Workload) (*stream.Resource, error) {
	if w.Pod.UID == "" || w.Pod.Namespace == "" {
		return nil, errors.New("no UID, or no namespace")
	}
	return takeable(s.message(w))
}

// takeable refuses what an agent would refuse whole.
func takeable(m *policypb.WorkloadPolicies) (*stream.Resource, error) {
	if size := proto.Size(m); size > MaxSize || len(m.Policies) > MaxPolicies {
		return nil, fmt.Errorf("%d policies of %d bytes, at most %d of %d", len(m.Policies), size, MaxPolicies, MaxSize)
	}
	return newResource(m.PodUid, m)
}

// instead is what a workload is told that cannot be told all: too many policies
// of its own namespace must not keep the mesh's from it. Those that it was told
// last of its own stay. Nil, or old, where that is too much as well.
func (s *Server) instead(w Workload, old *stream.Resource) *stream.Resource {
	before := &policypb.WorkloadPolicies{}
	if old == nil || w.Pod.Namespace == s.mesh.RootNamespace || proto.Unmarshal(old.Body.Value, before) != nil {
		return old
	}
	m := s.message(w)
	own := func(p *policypb.Policy) bool { return p.Namespace == w.Pod.Namespace }
	mix := func(last, now []*policypb.Policy) []*policypb.Policy {
		foreign := func(p *policypb.Policy) bool { return !own(p) }
		mixed := append(slices.DeleteFunc(last, foreign), slices.DeleteFunc(now, own)...)
		slices.SortStableFunc(mixed, byName)
		return mixed
	}
	m.Policies, m.Requests = mix(before.Policies, m.Policies), mix(before.Requests, m.Requests)
	r, err := takeable(m)
	if err != nil {
		return old
	}
	return r
}

// message is what applies to one workload. The selectors have done their work
// and are left out: an agent does not know labels, and need not.
func (s *Server) message(w Workload) *policypb.WorkloadPolicies {
	target := s.mesh.target(w)
	message := &policypb.WorkloadPolicies{
		PodUid:         w.Pod.UID,
		Namespace:      w.Pod.Namespace,
		ServiceAccount: w.Pod.ServiceAccount,
		RootNamespace:  s.mesh.RootNamespace,
		TrustDomain:    s.mesh.TrustDomain.Name(),
		Aliases:        domainNames(s.mesh.Aliases),
		Foreign:        domainNames(s.mesh.Foreign),
		Providers:      s.mesh.Providers,
	}
	homes := []string{w.Pod.Namespace}
	if s.mesh.RootNamespace != w.Pod.Namespace {
		homes = append(homes, s.mesh.RootNamespace)
	}
	for _, namespace := range homes {
		h := s.byHome[namespace]
		if h == nil {
			continue
		}
		for i, p := range h.policies {
			if target.Selects(p.Namespace, p.Selector, p.Targets) {
				message.Policies = append(message.Policies, h.policy(i))
			}
		}
		for i, r := range h.requests {
			if target.Selects(r.Namespace, r.Selector, r.Targets) {
				message.Requests = append(message.Requests, h.request(i))
			}
		}
	}
	slices.SortStableFunc(message.Policies, byName)
	slices.SortStableFunc(message.Requests, byName)
	return message
}

func byName(a, b *policypb.Policy) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// policy is the message for a policy, without its selector.
func (h *home) policy(i int) *policypb.Policy {
	if h.policyMessages[i] == nil {
		p := h.policies[i]
		p.Selector = nil
		h.policyMessages[i] = &policypb.Policy{Namespace: p.Namespace, Name: p.Name, Source: parse.JSON(p)}
	}
	return h.policyMessages[i]
}

func (h *home) request(i int) *policypb.Policy {
	if h.requestMessages[i] == nil {
		r := h.requests[i]
		r.Selector = nil
		h.requestMessages[i] = &policypb.Policy{Namespace: r.Namespace, Name: r.Name, Source: parse.RequestJSON(r)}
	}
	return h.requestMessages[i]
}

func domainNames(list []spiffeid.TrustDomain) []string {
	var names []string
	for _, td := range list {
		names = append(names, td.Name())
	}
	return names
}

// newResource marshals a message once; its version is the digest of its bytes.
func newResource(name string, m proto.Message) (*stream.Resource, error) {
	body := new(anypb.Any)
	if err := anypb.MarshalFrom(body, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("marshalling: %w", err)
	}
	sum := sha256.Sum256(body.Value)
	return &stream.Resource{Name: name, Version: hex.EncodeToString(sum[:16]), Body: body}, nil
}

// A NodeSource is a source for the agent of one node.
type NodeSource struct {
	// Agent is whose it is.
	Agent attest.Identity
	node  *node
}

// TypeURL is [PoliciesType].
func (s *NodeSource) TypeURL() string { return PoliciesType }

// Current is the newest snapshot, and a channel that is closed when it is
// replaced. It is never complete: what is not in it is not known.
func (s *NodeSource) Current() (stream.Snapshot, <-chan struct{}) { return s.node.cell.Current() }
