// Package manager runs the policy manager: its configuration, and the joining
// of policy sources, the workloads of each node, and delivery to agents.
package manager

import (
	"fmt"
	"time"

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
	// TrustDomainAliases are other names that policies may call the trust domain
	// by: an identity of one is the same identity of them all.
	TrustDomainAliases []string `json:"trustDomainAliases,omitempty"`
	// Providers are the names of those whom CUSTOM policies may ask. A sidecar's
	// bootstrap says where each is.
	Providers []string `json:"providers,omitempty"`
	// Keys says how the key sets of end users' issuers are fetched.
	Keys Keys `json:"keys"`
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
func Defaults() Config {
	return Config{RootNamespace: "istio-system", Keys: Keys{Refresh: daemon.Duration(5 * time.Minute)}}
}

// Validate says all that is wrong with c.
func (c *Config) Validate() error {
	var p daemon.Problems
	p.TrustDomain("trustDomain", c.TrustDomain)
	p.Listen("listen", c.Listen, true)
	p.Listen("health", c.Health, false)
	p.Label("rootNamespace", c.RootNamespace)
	for i, name := range c.TrustDomainAliases {
		p.TrustDomain(fmt.Sprintf("trustDomainAliases[%d]", i), name)
	}
	for i, name := range c.Providers {
		p.Subdomain(fmt.Sprintf("providers[%d]", i), name, true)
	}
	c.Keys.validate(&p, "keys")
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
