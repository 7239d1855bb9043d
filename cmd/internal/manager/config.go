// Package manager runs the policy manager: its configuration, and the joining
// of policy sources, the workloads of each node, and delivery to agents.
package manager

import (
	"github.com/istio-auth/istio-auth/cmd/internal/caclient"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

// Config is the file of istio-manager.
type Config struct {
	// TrustDomain is that of the mesh.
	TrustDomain string `json:"trustDomain"`
	// Listen is where agents connect.
	Listen string `json:"listen"`
	// CA is where we get our own certificate.
	CA caclient.Config `json:"ca"`
	// Source says where policies and workloads come from. Exactly one is set.
	Source Source `json:"source"`
	// RootNamespace holds the policies of the whole mesh.
	RootNamespace string `json:"rootNamespace"`
	// Health serves /healthz, /readyz and /metrics. Empty: not at all.
	Health string `json:"health"`
}

// Source of policies and workloads.
type Source struct {
	Kubernetes *Kubernetes `json:"kubernetes,omitempty"`
	Files      *Files      `json:"files,omitempty"`
}

// Kubernetes reads AuthorizationPolicies and pods of the cluster.
type Kubernetes struct {
	Kubeconfig string `json:"kubeconfig,omitempty"` // empty: in-cluster
}

// Files reads policies from a directory, and workloads from a registry.
type Files struct {
	Policies string `json:"policies"`
	Registry string `json:"registry"`
}

// Defaults is what a file overrides.
func Defaults() Config { return Config{RootNamespace: "istio-system"} }

// Validate says all that is wrong with c.
func (c *Config) Validate() error {
	var p daemon.Problems
	p.TrustDomain("trustDomain", c.TrustDomain)
	p.Listen("listen", c.Listen, true)
	p.Listen("health", c.Health, false)
	p.Label("rootNamespace", c.RootNamespace)
	c.CA.Validate(&p)
	p.OneOf("source", map[string]bool{"kubernetes": c.Source.Kubernetes != nil, "files": c.Source.Files != nil})
	if k := c.Source.Kubernetes; k != nil {
		p.Path("source.kubernetes.kubeconfig", k.Kubeconfig, false)
	}
	if f := c.Source.Files; f != nil {
		p.Path("source.files.policies", f.Policies, true)
		p.Path("source.files.registry", f.Registry, true)
	}
	return p.Err()
}
