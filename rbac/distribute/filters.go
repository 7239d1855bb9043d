package distribute

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/distribute/policypb"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/sds/stream"
)

const (
	// FilterType is the type of what [Filters] offers.
	FilterType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	// FilterName is the name of the filter and of its resource. The bootstrap
	// of package mesh asks for it.
	FilterName = "istio-auth.rbac"
	// MaxPolicies is how many policies may apply to one workload.
	MaxPolicies = 10_000
	// MaxSize is how many bytes those may have. A filter has some thirty times
	// as many, and its making takes four times as many again: the authors of one
	// namespace must not be able to take the memory of a node's agent, or to
	// make a message that ends the stream of all its pods.
	MaxSize = 1 << 20
)

// A Refusal is why an agent does not take what the manager says of a workload.
// What it had stays in force.
type Refusal struct {
	// Reason is a stable code in kebab-case.
	Reason string
	Err    error
}

func (r *Refusal) Error() string { return r.Reason + ": " + r.Err.Error() }

// Unwrap gives the error beneath.
func (r *Refusal) Unwrap() error { return r.Err }

func refuse(reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// An EventKind says what happened to the policies of a workload.
type EventKind int

// The kinds of [Event]. The zero kind is none.
const (
	Applied  EventKind = iota + 1 // compiled, and offered to the Envoy
	Refused                       // by us: the last good one stays offered
	Enforced                      // acknowledged by the Envoy
	Rejected                      // by the Envoy: it keeps what it had
)

// String returns the kind as a metrics label.
func (k EventKind) String() string {
	switch k {
	case Applied:
		return "applied"
	case Refused:
		return "refused"
	case Enforced:
		return "enforced"
	case Rejected:
		return "rejected"
	}
	return "none"
}

// An Event is a step of one workload's policies on their way.
type Event struct {
	Kind EventKind
	Pod  attest.Pod
	// Version is the manager's, of the policies that apply. Filter is ours, of
	// what was compiled of them; empty where nothing was.
	Version, Filter string
	// Policies is how many apply.
	Policies int
	// Reason is a refusal's code, and Detail its text.
	Reason, Detail string
}

// Filters turns what the manager says into what the Envoys ask for. Make it
// with [NewFilters]. All methods may be called at once.
type Filters struct {
	trustDomain spiffeid.TrustDomain
	observe     func(Event)
	compile     func(rbac.Set) (*anypb.Any, error)

	applying sync.Mutex // held while compiling, so that answers stay in order

	mu       sync.Mutex // guards what follows
	pods     map[string]*PodFilter
	changed  chan struct{} // closed when pods gains or loses one
	compiled map[[32]byte]*compiled
}

// An answer is what the manager said of a pod, as far as we understood it.
type answer struct {
	version string
	body    []byte
	set     rbac.Set
	filter  *compiled
}

// compiled is one filter, shared by every pod to which the same set applies.
type compiled struct {
	digest   [32]byte
	resource *stream.Resource
	users    int
}

// NewFilters compiles policies of one trust domain. observe is told of every
// event and must not block; nil means nobody listens.
func NewFilters(td spiffeid.TrustDomain, observe func(Event)) *Filters {
	if observe == nil {
		observe = func(Event) {}
	}
	return &Filters{
		trustDomain: td, observe: observe, compile: compile.HTTP,
		pods: map[string]*PodFilter{}, changed: make(chan struct{}), compiled: map[[32]byte]*compiled{},
	}
}

// Add begins to ask for a pod's policies, and returns the source for its
// socket. For a pod that was added before it returns the same source.
func (f *Filters) Add(pod attest.Pod) *PodFilter {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[pod.UID]
	if p == nil {
		p = &PodFilter{pod: pod, filters: f}
		f.pods[pod.UID] = p
		f.wake()
	}
	return p
}

// Remove ends a pod and forgets what applied to it.
func (f *Filters) Remove(podUID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pods[podUID]; p != nil {
		delete(f.pods, podUID)
		if p.current.filter != nil {
			f.release(p.current.filter)
		}
		f.wake()
	}
}

// wake tells whoever waits for a change of the pods. The caller holds mu.
func (f *Filters) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Pods are the UIDs of the pods that were added, and a channel that is closed
// when they change.
func (f *Filters) Pods() ([]string, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.pods)), f.changed
}

// release gives a share in a filter back. The caller holds mu.
func (f *Filters) release(c *compiled) {
	if c.users--; c.users == 0 {
		delete(f.compiled, c.digest)
	}
}

// Compiled is how many distinct filters are in force.
func (f *Filters) Compiled() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.compiled)
}

// Version is the manager's version of what is in force for a pod, and empty
// where nothing is known.
func (f *Filters) Version(podUID string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pods[podUID]; p != nil {
		return p.current.version
	}
	return ""
}

// Apply takes the manager's answer for one pod: the resource's name, version
// and bytes. An error is a [*Refusal], told to observe as well; what the pod
// had stays in force. An answer for a pod that is not there, as after Remove,
// is of no interest.
func (f *Filters) Apply(uid, version string, body []byte) error {
	f.applying.Lock()
	defer f.applying.Unlock()
	f.mu.Lock()
	p := f.pods[uid]
	known := p == nil || p.current.version == version && bytes.Equal(p.current.body, body)
	f.mu.Unlock()
	if known {
		return nil
	}
	a, err := f.understand(p.pod, version, body)
	if err != nil {
		f.tell(p, Refused, answer{version: version}, err)
		return err
	}
	f.mu.Lock()
	if f.pods[uid] != p { // removed meanwhile
		f.release(a.filter)
		f.mu.Unlock()
		return nil
	}
	p.offer(a)
	f.mu.Unlock()
	f.tell(p, Applied, a, nil)
	return nil
}

func (f *Filters) tell(p *PodFilter, kind EventKind, a answer, err error) {
	e := p.event(kind, a)
	var r *Refusal
	if errors.As(err, &r) {
		e.Reason, e.Detail = r.Reason, r.Err.Error()
	}
	f.observe(e)
}

// understand reads an answer whole, or refuses it, and takes a share in its
// filter.
func (f *Filters) understand(pod attest.Pod, version string, body []byte) (answer, error) {
	if len(body) > MaxSize {
		return answer{}, refuse("too-large", "%d bytes of policies, at most %d", len(body), MaxSize)
	}
	m := &policypb.WorkloadPolicies{}
	if err := proto.Unmarshal(body, m); err != nil {
		return answer{}, refuse("malformed", "%w", err)
	}
	set, err := f.set(pod, m)
	if err != nil {
		return answer{}, err
	}
	c, err := f.filter(set)
	if err != nil {
		return answer{}, err
	}
	return answer{version: version, body: body, set: set, filter: c}, nil
}

// set turns a message into the set that it says, which must be all that it says.
func (f *Filters) set(pod attest.Pod, m *policypb.WorkloadPolicies) (rbac.Set, error) {
	switch {
	case len(m.ProtoReflect().GetUnknown()) > 0:
		return rbac.Set{}, refuse("unknown-field", "the manager says what this agent does not understand: upgrade it")
	case m.PodUid != pod.UID:
		return rbac.Set{}, refuse("wrong-pod", "a resource named %q is for pod %q", pod.UID, m.PodUid)
	case m.Namespace != pod.Namespace || m.ServiceAccount != pod.ServiceAccount:
		return rbac.Set{}, refuse("wrong-workload", "the policies are for service account %s/%s, the pod has %s/%s", m.Namespace, m.ServiceAccount, pod.Namespace, pod.ServiceAccount)
	case m.TrustDomain != f.trustDomain.Name():
		return rbac.Set{}, refuse("wrong-trust-domain", "policies of %q, in %q", m.TrustDomain, f.trustDomain.Name())
	case len(m.Policies) > MaxPolicies:
		return rbac.Set{}, refuse("too-many-policies", "%d policies, at most %d", len(m.Policies), MaxPolicies)
	}
	policies := make([]rbac.Policy, 0, len(m.Policies))
	seen := map[string]bool{}
	for _, p := range m.Policies {
		name := p.Namespace + "/" + p.Name
		read, err := parse.Policies(name, p.Source)
		switch {
		case err != nil:
			return rbac.Set{}, refuse("bad-policy", "%w", err)
		case len(p.ProtoReflect().GetUnknown()) > 0:
			return rbac.Set{}, refuse("unknown-field", "policy %s says what this agent does not understand: upgrade it", name)
		case len(read) != 1 || read[0].Namespace != p.Namespace || read[0].Name != p.Name:
			return rbac.Set{}, refuse("misnamed-policy", "the source of %s is not that policy alone", name)
		case len(read[0].Selector) > 0:
			return rbac.Set{}, refuse("selector-left", "policy %s still has a selector", name)
		case seen[name]:
			return rbac.Set{}, refuse("duplicate-policy", "policy %s is there twice", name)
		}
		seen[name] = true
		policies = append(policies, read[0])
	}
	set := rbac.Select(policies, rbac.Target{Namespace: m.Namespace, RootNamespace: m.RootNamespace, TrustDomain: f.trustDomain})
	if n := len(set.Deny()) + len(set.Allow()); n != len(policies) {
		return rbac.Set{}, refuse("does-not-apply", "%d of %d policies do not apply to namespace %s", len(policies)-n, len(policies), m.Namespace)
	}
	return set, nil
}

// filter compiles a set, once for all the pods that it applies to.
func (f *Filters) filter(set rbac.Set) (*compiled, error) {
	digest := set.Digest()
	f.mu.Lock()
	c := f.compiled[digest]
	if c != nil {
		c.users++
	}
	f.mu.Unlock()
	if c != nil {
		return c, nil
	}
	filter, err := f.compile(set)
	if err != nil {
		return nil, refuse("does-not-compile", "set %s: %w", hex.EncodeToString(digest[:8]), err)
	}
	r, err := newResource(FilterName, &corev3.TypedExtensionConfig{Name: FilterName, TypedConfig: filter})
	if err != nil {
		return nil, refuse("does-not-compile", "set %s: %w", hex.EncodeToString(digest[:8]), err)
	}
	c = &compiled{digest: digest, resource: r, users: 1}
	f.mu.Lock()
	f.compiled[digest] = c // applying is held: nobody else has made it meanwhile
	f.mu.Unlock()
	return c, nil
}

// An Answer is what [Filters.Save] keeps of a pod.
type Answer struct {
	Pod     string `json:"pod"` // UID
	Version string `json:"version"`
	Body    []byte `json:"body"`
}

// Save returns all answers in force, so that a restart without a manager costs
// nobody their policies.
func (f *Filters) Save() []Answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Answer
	for uid, p := range f.pods {
		if p.current.filter != nil {
			all = append(all, Answer{Pod: uid, Version: p.current.version, Body: p.current.body})
		}
	}
	slices.SortFunc(all, func(a, b Answer) int { return strings.Compare(a.Pod, b.Pod) })
	return all
}

// Restore applies what [Filters.Save] returned, to the pods that have been
// added. An answer that is not understood any more is left out, and named in
// the error.
func (f *Filters) Restore(all []Answer) error {
	var failed error
	for _, a := range all {
		if err := f.Apply(a.Pod, a.Version, a.Body); err != nil {
			failed = errors.Join(failed, fmt.Errorf("pod %s: %w", a.Pod, err))
		}
	}
	return failed
}

// A PodFilter is the source of one pod's filter.
type PodFilter struct {
	pod     attest.Pod
	filters *Filters
	cell    stream.Cell
	current answer // guarded by filters.mu
}

// TypeURL is [FilterType].
func (p *PodFilter) TypeURL() string { return FilterType }

// Current is the newest snapshot: one resource, [FilterName], or, while no
// answer is known, none and nothing said.
func (p *PodFilter) Current() (stream.Snapshot, <-chan struct{}) { return p.cell.Current() }

// offer replaces the snapshot where the filter has changed. The caller holds
// the Filters' mu.
func (p *PodFilter) offer(a answer) {
	old := p.current.filter
	if old != nil {
		p.filters.release(old)
	}
	if old != a.filter {
		p.cell.Set(stream.Snapshot{Resources: map[string]*stream.Resource{FilterName: a.filter.resource}})
	}
	p.current = a
}

// Acknowledged records that the pod's Envoy runs this version of the filter.
func (p *PodFilter) Acknowledged(version string) { p.heard(Enforced, version, "") }

// Rejected records that the pod's Envoy refuses this version of the filter.
func (p *PodFilter) Rejected(version, detail string) { p.heard(Rejected, version, detail) }

func (p *PodFilter) heard(kind EventKind, version, detail string) {
	p.filters.mu.Lock()
	a := p.current
	p.filters.mu.Unlock()
	e := Event{Kind: kind, Pod: p.pod, Filter: version, Detail: detail}
	if kind == Rejected {
		e.Reason = "envoy-rejected"
	}
	if a.filter != nil && a.filter.resource.Version == version {
		e = p.event(kind, a)
		e.Detail = detail
		if kind == Rejected {
			e.Reason = "envoy-rejected"
		}
	}
	p.filters.observe(e)
}

func (p *PodFilter) event(kind EventKind, a answer) Event {
	e := Event{Kind: kind, Pod: p.pod, Version: a.version, Policies: len(a.set.Deny()) + len(a.set.Allow())}
	if a.filter != nil {
		e.Filter = a.filter.resource.Version
	}
	return e
}
