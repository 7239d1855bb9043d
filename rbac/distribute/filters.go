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

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/distribute/policypb"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/sds/stream"
)

const (
	// FilterType is the type of what [Filters] offers.
	FilterType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	// MaxPolicies is how many policies may apply to one workload.
	MaxPolicies = 10_000
	// MaxSize is how many bytes those may have, as the manager sends them. What
	// Envoy gets of them has about as many.
	MaxSize = 8 << 20
	// MaxNamespace is how many bytes the workloads of one namespace on the
	// agent's node may have in all, equal sets counted once: the authors of one
	// namespace must not be able to take the memory of the node's agent.
	MaxNamespace = 32 << 20
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
	build       func(*builder, rbac.Set) ([]*stream.Resource, error)
	lanes       *lanes

	mu       sync.Mutex // guards what follows
	pods     map[string]*PodFilter
	changed  chan struct{} // closed when pods gains or loses one, or there is room again
	compiled map[[32]byte]*compiled
	crowded  map[string]bool // namespaces of which something was refused for want of room
	refused  map[[32]byte]*Refusal
}

// An answer is what the manager said of a pod, as far as we understood it.
type answer struct {
	version string
	body    []byte
	set     rbac.Set
	filter  *compiled
}

// compiled is what one set became, shared by every pod to which it applies.
type compiled struct {
	digest    [32]byte
	resources map[string]*stream.Resource // by name
	size      int                         // bytes of the set, as it was sent
	users     map[string]int              // pods, by namespace
	// builder has made it, and will make what comes after it; nil while it is at
	// work.
	builder *builder
}

// main is the resource that decides.
func (c *compiled) main() *stream.Resource { return c.resources[FilterName] }

// NewFilters compiles policies of one trust domain. observe is told of every
// event and must not block; nil means nobody listens.
func NewFilters(td spiffeid.TrustDomain, observe func(Event)) *Filters {
	if observe == nil {
		observe = func(Event) {}
	}
	return &Filters{
		trustDomain: td, observe: observe, build: (*builder).build, lanes: newLanes(),
		pods: map[string]*PodFilter{}, changed: make(chan struct{}), compiled: map[[32]byte]*compiled{}, crowded: map[string]bool{}, refused: map[[32]byte]*Refusal{},
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
			f.release(p.current.filter, p.pod.Namespace)
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
// when they change, or when one that was refused for want of room may be asked
// for again.
func (f *Filters) Pods() ([]string, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.pods)), f.changed
}

// release gives a share in a filter back. The caller holds mu.
func (f *Filters) release(c *compiled, namespace string) {
	if c.users[namespace]--; c.users[namespace] == 0 {
		delete(c.users, namespace)
	}
	if len(c.users) == 0 {
		delete(f.compiled, c.digest)
	}
	if c.users[namespace] == 0 && f.crowded[namespace] {
		delete(f.crowded, namespace)
		f.wake()
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
// is of no interest. Of one pod, one answer is applied at a time; the pods do
// not wait for each other, but that heavy sets take turns.
func (f *Filters) Apply(uid, version string, body []byte) error {
	f.mu.Lock()
	p := f.pods[uid]
	f.mu.Unlock()
	if p == nil {
		return nil
	}
	p.applying.Lock()
	defer p.applying.Unlock()
	f.mu.Lock()
	known := p.current.version == version && bytes.Equal(p.current.body, body)
	f.mu.Unlock()
	if known {
		return nil
	}
	a, err := f.understand(p, version, body)
	if err != nil {
		f.tell(p, Refused, answer{version: version}, err)
		return err
	}
	f.mu.Lock()
	if f.pods[uid] != p { // removed meanwhile
		f.release(a.filter, p.pod.Namespace)
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
func (f *Filters) understand(p *PodFilter, version string, body []byte) (answer, error) {
	if len(body) > MaxSize {
		return answer{}, refuse("too-large", "%d bytes of policies, at most %d", len(body), MaxSize)
	}
	m := &policypb.WorkloadPolicies{}
	if err := proto.Unmarshal(body, m); err != nil {
		return answer{}, refuse("malformed", "%w", err)
	}
	defer f.lanes.enter(p.pod.Namespace, len(body))()
	f.mu.Lock()
	old, b := p.current.filter, &builder{}
	borrowed := old != nil && old.builder != nil
	if borrowed {
		b, old.builder = old.builder, nil
	}
	f.mu.Unlock()
	set, err := f.set(b, p.pod, m)
	var c *compiled
	if err == nil {
		c, err = f.filter(b, set, p, len(body))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err != nil && borrowed:
		old.builder = b
	case err == nil && c.builder == nil && set.Len() >= manyPolicies:
		c.builder = b
	}
	return answer{version: version, body: body, set: set, filter: c}, err
}

// manyPolicies is from how many on it pays to keep what a set was made of.
const manyPolicies = 256

// set turns a message into the set that it says, which must be all that it says.
func (f *Filters) set(b *builder, pod attest.Pod, m *policypb.WorkloadPolicies) (rbac.Set, error) {
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
	target := rbac.Target{Namespace: m.Namespace, RootNamespace: m.RootNamespace, TrustDomain: f.trustDomain, Providers: m.Providers}
	var err error
	if target.Aliases, err = domains(m.Aliases); err != nil {
		return rbac.Set{}, err
	}
	if target.Foreign, err = domains(m.Foreign); err != nil {
		return rbac.Set{}, err
	}
	defer b.forget(m.Policies) // also where they are refused
	policies, err := read(m.Policies, target, b.policy, func(p rbac.Policy) object {
		return object{p.Namespace, p.Name, p.Selector, p.Targets}
	})
	if err != nil {
		return rbac.Set{}, err
	}
	requests, err := read(m.Requests, target, requestOf, func(r rbac.RequestAuthentication) object {
		return object{r.Namespace, r.Name, r.Selector, r.Targets}
	})
	if err != nil {
		return rbac.Set{}, err
	}
	return rbac.Select(policies, target).WithTokens(requests, target), nil
}

func domains(names []string) ([]spiffeid.TrustDomain, error) {
	var list []spiffeid.TrustDomain
	for _, name := range names {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil || td.Name() != name {
			return nil, refuse("bad-trust-domain", "%.80q is no trust domain", name)
		}
		list = append(list, td)
	}
	return list, nil
}

// An object is what all kinds have.
type object struct {
	namespace, name string
	selector        map[string]string
	targets         []rbac.TargetRef
}

// read reads objects that are what their messages call them, each once, and
// that apply to the target.
func read[V any](messages []*policypb.Policy, target rbac.Target, parse func([]byte) (V, error), about func(V) object) ([]V, error) {
	values := make([]V, 0, len(messages))
	seen := map[string]bool{}
	for _, m := range messages {
		name := m.Namespace + "/" + m.Name
		v, err := parse(m.Source)
		o := about(v)
		switch {
		case err != nil:
			return nil, refuse("bad-policy", "%s: %w", name, err)
		case len(m.ProtoReflect().GetUnknown()) > 0:
			return nil, refuse("unknown-field", "policy %s says what this agent does not understand: upgrade it", name)
		case o.namespace != m.Namespace || o.name != m.Name:
			return nil, refuse("misnamed-policy", "the source of %s is not that policy", name)
		case len(o.selector) > 0 || len(o.targets) > 0:
			return nil, refuse("selector-left", "policy %s still has a selector", name)
		case seen[name]:
			return nil, refuse("duplicate-policy", "policy %s is there twice", name)
		case !target.Selects(o.namespace, nil, nil):
			return nil, refuse("does-not-apply", "policy %s does not apply to namespace %s", name, target.Namespace)
		}
		seen[name] = true
		values = append(values, v)
	}
	return values, nil
}

// requestOf reads an object that is one RequestAuthentication.
func requestOf(source []byte) (rbac.RequestAuthentication, error) {
	o, err := parse.Wire(source)
	if err == nil && len(o.Requests) != 1 {
		err = errors.New("no RequestAuthentication")
	}
	if err != nil {
		return rbac.RequestAuthentication{}, err
	}
	return o.Requests[0], nil
}

// filter builds a set, once for all the pods that it applies to.
func (f *Filters) filter(b *builder, set rbac.Set, p *PodFilter, size int) (*compiled, error) {
	digest := set.Digest()
	if c, err := f.share(digest, nil, p, size); c != nil || err != nil {
		return c, err
	}
	if r := f.refusal(digest); r != nil {
		return nil, r
	}
	resources, err := f.build(b, set)
	if err != nil {
		return nil, f.refuse(digest, err)
	}
	return f.share(digest, resources, p, size)
}

// maxRefused is how many sets that cannot be built are remembered.
const maxRefused = 1024

// refusal is why a set cannot be built, where that is known: the manager says it
// again, and of other pods. To find it out may have taken long.
func (f *Filters) refusal(digest [32]byte) *Refusal {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refused[digest]
}

// refuse remembers why a set cannot be built.
func (f *Filters) refuse(digest [32]byte, err error) *Refusal {
	var r *Refusal
	if !errors.As(err, &r) {
		r = refuse("does-not-compile", "set %s: %w", hex.EncodeToString(digest[:8]), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.refused) >= maxRefused {
		clear(f.refused)
	}
	f.refused[digest] = r
	return r
}

// crowdedReason is that of the one refusal that may end by itself.
const crowdedReason = "namespace-too-large"

// share takes a share in what a set became: the one that there is, or the one
// of these resources, or none. What the pod has now, and nobody else of its
// namespace, takes no room: the new one replaces it.
func (f *Filters) share(digest [32]byte, resources []*stream.Resource, p *PodFilter, size int) (*compiled, error) {
	namespace := p.pod.Namespace
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.compiled[digest]
	if c == nil || c.users[namespace] == 0 {
		total := size
		for _, other := range f.compiled {
			if n := other.users[namespace]; n > 1 || n == 1 && other != p.current.filter {
				total += other.size
			}
		}
		if total > MaxNamespace {
			f.crowded[namespace] = true
			return nil, refuse(crowdedReason, "the workloads of namespace %s on this node would have %d bytes of policies in all, at most %d", namespace, total, MaxNamespace)
		}
	}
	if c == nil && resources == nil {
		return nil, nil
	}
	if c == nil {
		c = &compiled{digest: digest, resources: map[string]*stream.Resource{}, size: size, users: map[string]int{}}
		for _, r := range resources {
			c.resources[r.Name] = r
		}
		f.compiled[digest] = c
	}
	c.users[namespace]++
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

// A PodFilter is the source of one pod's filters.
type PodFilter struct {
	pod      attest.Pod
	applying sync.Mutex // held while an answer is applied
	filters  *Filters
	cell     stream.Cell
	current  answer // guarded by filters.mu
}

// TypeURL is [FilterType].
func (p *PodFilter) TypeURL() string { return FilterType }

// Current is the newest snapshot: what build makes of the pod's set, or, while
// no answer is known, nothing and nothing said.
func (p *PodFilter) Current() (stream.Snapshot, <-chan struct{}) { return p.cell.Current() }

// offer replaces the snapshot where the filter has changed. The caller holds
// the Filters' mu.
func (p *PodFilter) offer(a answer) {
	old := p.current.filter
	if old != nil {
		p.filters.release(old, p.pod.Namespace)
	}
	if old != a.filter {
		p.cell.Set(stream.Snapshot{Resources: a.filter.resources})
	}
	p.current = a
}

// Acknowledged records that the pod's Envoy runs this version of a filter.
// What decides is told to observe.
func (p *PodFilter) Acknowledged(name, version string) {
	if name == FilterName {
		p.heard(Enforced, name, version, "")
	}
}

// Rejected records that the pod's Envoy refuses this version of a filter.
func (p *PodFilter) Rejected(name, version, detail string) { p.heard(Rejected, name, version, detail) }

func (p *PodFilter) heard(kind EventKind, name, version, detail string) {
	p.filters.mu.Lock()
	a := p.current
	p.filters.mu.Unlock()
	e := Event{Kind: kind, Pod: p.pod, Filter: version}
	if a.filter != nil && a.filter.resources[name] != nil && a.filter.resources[name].Version == version {
		e = p.event(kind, a)
	}
	if kind == Rejected {
		e.Reason, e.Detail = "envoy-rejected", name+": "+detail
	}
	p.filters.observe(e)
}

func (p *PodFilter) event(kind EventKind, a answer) Event {
	e := Event{Kind: kind, Pod: p.pod, Version: a.version, Policies: a.set.Len()}
	if a.filter != nil {
		e.Filter = a.filter.main().Version
	}
	return e
}
