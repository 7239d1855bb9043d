// Package registry reads which workloads run on hosts without Kubernetes: for
// each its node, the process that it is (Unix user and executable), and the
// identity that this process has.
//
// CA, agent and manager read the same file through [Parse], so that they cannot
// understand it in two ways: the CA grants by it, the agent recognizes processes
// by it, and the manager selects policies by its labels. It is a rule: it reads
// bytes, not files, and watches nothing.
package registry

import (
	"maps"
	"slices"

	"github.com/istio-auth/istio-auth/attest"
)

// A Workload is an entry of the registry.
type Workload struct {
	// Pod is the workload as everything else knows it. Its name is the entry's.
	// Its UID is a digest of the entry but for the labels: an entry that means
	// another process or another identity is another workload.
	Pod attest.Pod

	// Node is the name of the host that it runs on.
	Node string

	// UserID and Executable are the process: the user that it runs as, and its
	// file by an absolute, clean path.
	UserID     uint32
	Executable string

	// Labels select policies. They grant nothing. Do not change them.
	Labels map[string]string
}

// A Registry is the content of a file. It does not change, and may be read by
// many at once. The zero Registry and a nil one have no workloads.
type Registry struct {
	names     map[string]Workload
	processes map[process]string  // of each process, the workload's name
	nodes     map[string][]string // of each node, its workloads' names, sorted
}

type process struct {
	node       string
	user       uint32
	executable string
}

// All returns every workload, by name.
func (r *Registry) All() []Workload {
	if r == nil {
		return nil
	}
	return r.get(slices.Sorted(maps.Keys(r.names)))
}

// OnNode returns the workloads of a host, by name.
func (r *Registry) OnNode(node string) []Workload {
	if r == nil {
		return nil
	}
	return r.get(r.nodes[node])
}

// Lookup returns the workload of that name, and whether there is one with that
// UID on that host. Only the name and UID of the pod are looked at.
func (r *Registry) Lookup(node string, pod attest.Pod) (Workload, bool) {
	if r == nil {
		return Workload{}, false
	}
	w, ok := r.names[pod.Name]
	if !ok || w.Node != node || w.Pod.UID != pod.UID {
		return Workload{}, false
	}
	return w, true
}

// Match returns the workload that a process on the host is, if it is one. The
// executable is compared byte for byte with the entry's.
func (r *Registry) Match(node string, user uint32, executable string) (Workload, bool) {
	if r == nil {
		return Workload{}, false
	}
	name, ok := r.processes[process{node, user, executable}]
	return r.names[name], ok
}

func (r *Registry) get(names []string) []Workload {
	all := make([]Workload, 0, len(names))
	for _, name := range names {
		all = append(all, r.names[name])
	}
	return all
}
