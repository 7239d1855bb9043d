// Package analyze tells authors what their policies will not do, or will do
// beyond what they seem to say.
//
// It looks at objects that were read already, before they are in force: what
// rbac/parse takes is well formed, and may still be a slip. It decides nothing;
// whoever admits objects refuses those with a finding that is an [Error]. Where
// this package is in doubt it says nothing. Start at [Check].
package analyze

import (
	"cmp"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// Severity is how much a finding matters. The zero value is none.
type Severity int

const (
	Note    Severity = iota + 1 // good to know
	Warning                     // likely not what was meant; nobody gets in by it
	Error                       // refuse it: a DENY that denies nothing or everything, or what cannot work
)

// String is the word for people.
func (s Severity) String() string {
	switch s {
	case Note:
		return "note"
	case Warning:
		return "warning"
	case Error:
		return "error"
	}
	return "none"
}

// A Finding is one thing that an author should know.
type Finding struct {
	Code     Code
	Severity Severity
	Kind     string // of the object, as "AuthorizationPolicy"
	Object   string // "namespace/name"
	Field    string // as "spec.rules[0].from[1].source.principals[2]"; empty for the whole
	Message  string // for the author
}

// String is "severity: kind namespace/name: field: message (code)".
func (f Finding) String() string {
	text := f.Severity.String() + ": " + f.Kind + " " + f.Object
	if f.Field != "" {
		text += ": " + f.Field
	}
	return text + ": " + f.Message + " (" + string(f.Code) + ")"
}

// A Mesh is what objects are looked at in.
type Mesh struct {
	TrustDomain spiffeid.TrustDomain
	// Aliases and Foreign are as of [rbac.Domains].
	Aliases, Foreign []spiffeid.TrustDomain
	RootNamespace    string
	// Providers are those whom CUSTOM policies may ask.
	Providers []string
	// Plaintext says that some workload listens to peers without a certificate.
	Plaintext bool
	// Around are the objects that are in force besides those that are looked at.
	// One of the same kind and key is taken to be replaced.
	Around parse.Objects
	// Workloads are those that there are. Nil: it is not known.
	Workloads []Workload
}

// A Workload is what policies select.
type Workload struct {
	Namespace, Name string
	Labels          map[string]string
	// TCP are the ports of whose bytes nobody knows the meaning.
	TCP []uint16
}

// The kinds of objects that findings are about.
const (
	policyKind  = "AuthorizationPolicy"
	requestKind = "RequestAuthentication"
	peerKind    = "PeerAuthentication"
)

// Check returns what there is to say about objects, by kind and key, and of one
// object the errors first. It takes time linear in the objects, and in those around where it must look for
// one.
func Check(objects parse.Objects, mesh Mesh) []Finding {
	c := newChecker(objects, mesh)
	for _, p := range objects.Policies {
		c.about(policyKind, p.Key())
		c.policy(p)
	}
	for _, a := range objects.Requests {
		c.about(requestKind, a.Key())
		c.request(a)
	}
	for _, a := range objects.Peers {
		c.about(peerKind, a.Key())
		c.peer(a)
	}
	slices.SortStableFunc(c.found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object, b.Object), cmp.Compare(a.order(), b.order()))
	})
	return c.found
}

// order puts errors first; within one severity findings stay as they were found,
// which is by field.
func (f Finding) order() int { return -int(f.Severity) }

// A checker holds what was found, and the objects by namespace.
type checker struct {
	Mesh
	classes  []class
	fences   map[string][]rbac.Policy                // ALLOW policies in force that do not allow all
	asking   map[string][]rbac.Policy                // CUSTOM policies in force that ask our own provider
	requests map[string][]rbac.RequestAuthentication // those that apply to workloads
	peers    map[string][]rbac.PeerAuthentication
	kind     string // of the object that is looked at
	object   string
	found    []Finding
}

func newChecker(objects parse.Objects, mesh Mesh) *checker {
	c := &checker{
		Mesh: mesh, fences: map[string][]rbac.Policy{}, requests: map[string][]rbac.RequestAuthentication{},
		peers: map[string][]rbac.PeerAuthentication{},
	}
	c.classes = c.classesOf()
	policies := inForce(objects.Policies, mesh.Around.Policies)
	c.asking = c.askOwn(policies)
	for _, p := range policies {
		allowsAll := slices.ContainsFunc(p.Rules, isEmptyRule)
		if p.Action == rbac.Allow && !p.DryRun && len(p.Targets) == 0 && !allowsAll {
			c.fences[p.Namespace] = append(c.fences[p.Namespace], p)
		}
	}
	for _, a := range inForce(objects.Requests, mesh.Around.Requests) {
		if len(a.Targets) == 0 {
			c.requests[a.Namespace] = append(c.requests[a.Namespace], a)
		}
	}
	for _, a := range inForce(objects.Peers, mesh.Around.Peers) {
		c.peers[a.Namespace] = append(c.peers[a.Namespace], a)
	}
	return c
}

// inForce is objects, and of those around the ones that they do not replace.
func inForce[O interface{ Key() string }](objects, around []O) []O {
	replaced := make(map[string]bool, len(objects))
	for _, o := range objects {
		replaced[o.Key()] = true
	}
	all := slices.Clone(objects)
	for _, o := range around {
		if !replaced[o.Key()] {
			all = append(all, o)
		}
	}
	return all
}

func (c *checker) about(kind, object string) { c.kind, c.object = kind, object }

func (c *checker) say(code Code, severity Severity, field, message string) {
	c.found = append(c.found, Finding{code, severity, c.kind, c.object, field, message})
}

// domains are the trust domains of the mesh.
func (c *checker) domains() rbac.Domains {
	return rbac.Domains{Own: c.TrustDomain, Aliases: c.Aliases, Foreign: c.Foreign}
}

// reach lists the namespaces whose objects can apply where those of namespace
// do: it and the root. Those of the root apply wherever any do.
func (c *checker) reach(namespace string) []string {
	if namespace == c.RootNamespace || c.RootNamespace == "" {
		return []string{namespace}
	}
	return []string{namespace, c.RootNamespace}
}

// selected are the workloads that an object selects.
func (c *checker) selected(namespace string, selector map[string]string, targets []rbac.TargetRef) []Workload {
	var list []Workload
	for _, w := range c.Workloads {
		t := rbac.Target{Namespace: w.Namespace, Labels: w.Labels, RootNamespace: c.RootNamespace}
		if t.Selects(namespace, selector, targets) {
			list = append(list, w)
		}
	}
	return list
}
