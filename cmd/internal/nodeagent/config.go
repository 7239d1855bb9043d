// Package nodeagent runs the agent of a node: its configuration, and the
// joining of workloads, the CA, the manager and the sockets that serve Envoy.
package nodeagent

import (
	"github.com/istio-auth/istio-auth/cmd/internal/caclient"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

// Config is the file of istio-nodeagent.
type Config struct {
	// TrustDomain is that of the mesh.
	TrustDomain string `json:"trustDomain"`
	// CA is where certificates come from.
	CA caclient.Config `json:"ca"`
	// Manager is where policies come from.
	Manager Manager `json:"manager"`
	// RunDir holds the workloads' sockets, and the list of workloads that a
	// restart needs. On Kubernetes it is a tmpfs that cannot swap.
	RunDir string `json:"runDir"`
	// Workloads says who they are. Exactly one of its parts is set.
	Workloads Workloads `json:"workloads"`
	// Health serves /healthz, /readyz and /metrics. Empty: not at all.
	Health string `json:"health"`
}

// Manager is the policy manager as the agent sees it. It must show
// spiffe://<td>/istio-auth/manager.
type Manager struct {
	Address string `json:"address"`
}

// Workloads of the node.
type Workloads struct {
	CSI   *CSI   `json:"csi,omitempty"`
	Hosts *Hosts `json:"hosts,omitempty"`
}

// CSI is the driver csi.istio-auth.io on a kubelet.
type CSI struct {
	// Node is the name of the Kubernetes node. Empty: the environment's
	// NODE_NAME, which a pod gets from the downward API.
	Node string `json:"node,omitempty"`
	// KubeletDir is the kubelet's root directory; default /var/lib/kubelet.
	KubeletDir string `json:"kubeletDir,omitempty"`
}

// Hosts are workloads of a registry: Unix user and executable.
type Hosts struct {
	Node     string `json:"node"`
	Registry string `json:"registry"`
}

// Defaults is what a file overrides.
func Defaults() Config { return Config{RunDir: "/run/istio-auth"} }

// Validate says all that is wrong with c.
func (c *Config) Validate() error {
	var p daemon.Problems
	p.TrustDomain("trustDomain", c.TrustDomain)
	c.CA.Validate(&p)
	p.Dial("manager.address", c.Manager.Address)
	p.Path("runDir", c.RunDir, true)
	p.Listen("health", c.Health, false)
	p.OneOf("workloads", map[string]bool{"csi": c.Workloads.CSI != nil, "hosts": c.Workloads.Hosts != nil})
	if d := c.Workloads.CSI; d != nil {
		if d.KubeletDir == "" {
			d.KubeletDir = "/var/lib/kubelet"
		}
		p.Subdomain("workloads.csi.node", d.Node, false)
		p.Path("workloads.csi.kubeletDir", d.KubeletDir, true)
	}
	if h := c.Workloads.Hosts; h != nil {
		p.Subdomain("workloads.hosts.node", h.Node, true)
		p.Path("workloads.hosts.registry", h.Registry, true)
	}
	return p.Err()
}
