package rbac

import (
	"cmp"
	"time"
)

// Mode says whether a listener takes mutual TLS. The zero value says nothing.
type Mode int

const (
	Unset      Mode = iota // as the wider scope says
	Disable                // plaintext only
	Permissive             // both plaintext and mutual TLS
	Strict                 // mutual TLS only
)

// String returns the word that authors write.
func (m Mode) String() string {
	switch m {
	case Disable:
		return "DISABLE"
	case Permissive:
		return "PERMISSIVE"
	case Strict:
		return "STRICT"
	}
	return "UNSET"
}

// A PeerAuthentication says how workloads listen. Its scope is the mesh, where it
// is in the root namespace; or its namespace; or, with a selector, the workloads
// there. With a selector in the root namespace it says nothing.
type PeerAuthentication struct {
	Namespace, Name string
	// Selector is as of [Policy].
	Selector map[string]string
	Mode     Mode
	// Ports are those of the workload that have a mode of their own; Unset is the
	// workload's. They say nothing without a selector.
	Ports map[uint16]Mode
	// Created decides between two of one scope: the older one is in force. Of two
	// that are as old it is the one whose key comes first.
	Created time.Time
}

// Key is "namespace/name".
func (a PeerAuthentication) Key() string { return a.Namespace + "/" + a.Name }

// Compare orders by namespace, then name.
func (a PeerAuthentication) Compare(b PeerAuthentication) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// EffectiveMode is how t listens on a port: as the narrowest scope says that says
// something (port, workload, namespace, mesh), and Permissive where none does. It
// is never Unset. The order of all does not matter.
func EffectiveMode(all []PeerAuthentication, t Target, port uint16) Mode {
	var mesh, namespace, workload *PeerAuthentication
	for i := range all {
		a := &all[i]
		inRoot := t.RootNamespace != "" && a.Namespace == t.RootNamespace
		switch {
		case !t.Selects(a.Namespace, a.Selector, nil):
		case len(a.Selector) > 0:
			if !inRoot {
				workload = older(workload, a)
			}
		case inRoot:
			mesh = older(mesh, a)
		default:
			namespace = older(namespace, a)
		}
	}
	mode := Unset
	if workload != nil {
		mode = cmp.Or(workload.Ports[port], workload.Mode)
	}
	for _, wider := range []*PeerAuthentication{namespace, mesh} {
		if mode == Unset && wider != nil {
			mode = wider.Mode
		}
	}
	return cmp.Or(mode, Permissive)
}

// older is the one of two that is in force; a may be nil.
func older(a, b *PeerAuthentication) *PeerAuthentication {
	if a == nil || cmp.Or(b.Created.Compare(a.Created), b.Compare(*a)) < 0 {
		return b
	}
	return a
}
