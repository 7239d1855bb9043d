// Package ca runs the certificate authority: its configuration, and the
// joining of attestation, issuance and the wire. The work is done in the
// packages below /ca and /attest.
package ca

import (
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/attest/k8stoken"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

// Config is the file of istio-ca.
type Config struct {
	// TrustDomain is the one that this CA issues for, such as "cluster.local".
	TrustDomain string `json:"trustDomain"`
	// StateDir holds keys, journal and store. It is 0700 and ours alone.
	StateDir string `json:"stateDir"`
	// Listen is where agents and services attest and are issued to.
	Listen string `json:"listen"`
	// Life of the certificates. What it implies is computed and logged.
	Life Life `json:"life"`
	// Attestation says whom to believe. Exactly one of its parts is set.
	Attestation Attestation `json:"attestation"`
	// BundleConfigMap is filled with the trust bundle: first trust of agents.
	BundleConfigMap ConfigMap `json:"bundleConfigMap"`
	// Istio serves the stock istio.v1.auth.IstioCertificateService. Off unless
	// its listen address is set. Its second party is the live pod alone: a
	// stolen token suffices until it expires (SECURITY.md).
	Istio Istio `json:"istio"`
	// Health serves /healthz, /readyz and /metrics. Empty: not at all.
	Health string `json:"health"`
}

// Life of what is issued. Zero fields take the defaults.
type Life struct {
	Workload daemon.Duration `json:"workload,omitempty"` // default 6h, from 5s to 24h
	Agent    daemon.Duration `json:"agent,omitempty"`    // default and most 1h
}

// Attestation names the authorities whose word is evidence.
type Attestation struct {
	Kubernetes *Kubernetes `json:"kubernetes,omitempty"`
	Hosts      *Hosts      `json:"hosts,omitempty"`
}

// Kubernetes is the cluster in which the CA runs, or that a kubeconfig names.
type Kubernetes struct {
	Kubeconfig string `json:"kubeconfig,omitempty"` // empty: in-cluster
	// Agents that may have a node's identity. An empty list means nobody.
	Agents []Agent `json:"agents"`
	// Services of ours, by exact service account. An empty list means nobody.
	Services []Service `json:"services"`
}

// An Agent is a pod of this DaemonSet under this service account.
type Agent struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
	DaemonSet      string `json:"daemonSet"`
}

// A Service of ours gets spiffe://<td>/istio-auth/<name>.
type Service struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
	Name           string `json:"name"`
}

// Hosts without Kubernetes: agents join by one-time tokens, and the registry
// says which workloads each may speak for.
type Hosts struct {
	Registry string `json:"registry"`
}

// A ConfigMap is named by both fields, or by neither.
type ConfigMap struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

// Istio is the compatibility listener.
type Istio struct {
	Listen    string   `json:"listen,omitempty"`
	Audiences []string `json:"audiences,omitempty"`
}

// Defaults is what a file overrides.
func Defaults() Config {
	return Config{Life: Life{Workload: daemon.Duration(6 * time.Hour), Agent: daemon.Duration(time.Hour)}}
}

// Validate says all that is wrong with c.
func (c *Config) Validate() error {
	var p daemon.Problems
	p.TrustDomain("trustDomain", c.TrustDomain)
	p.Path("stateDir", c.StateDir, true)
	p.Listen("listen", c.Listen, true)
	p.Listen("health", c.Health, false)
	if d := c.Life.Workload.Std(); d < 5*time.Second || d > 24*time.Hour {
		p.Addf("life.workload", "%v is not from 5s to 24h", d)
	}
	if d := c.Life.Agent.Std(); d < 5*time.Second || d > time.Hour {
		p.Addf("life.agent", "%v is not from 5s to 1h", d)
	}
	p.OneOf("attestation", map[string]bool{"kubernetes": c.Attestation.Kubernetes != nil, "hosts": c.Attestation.Hosts != nil})
	if k := c.Attestation.Kubernetes; k != nil {
		k.validate(&p)
	}
	if h := c.Attestation.Hosts; h != nil {
		p.Path("attestation.hosts.registry", h.Registry, true)
	}
	switch where := c.BundleConfigMap; {
	case (where.Name == "") != (where.Namespace == ""):
		p.Addf("bundleConfigMap", "set namespace and name, or neither")
	case where.Name != "":
		p.Label("bundleConfigMap.namespace", where.Namespace)
		p.Subdomain("bundleConfigMap.name", where.Name, true)
	}
	if c.BundleConfigMap.Name != "" && c.Attestation.Kubernetes == nil {
		p.Addf("bundleConfigMap", "needs attestation.kubernetes")
	}
	c.Istio.validate(&p, c.TrustDomain, c.Attestation.Kubernetes != nil)
	return p.Err()
}

func (k *Kubernetes) validate(p *daemon.Problems) {
	p.Path("attestation.kubernetes.kubeconfig", k.Kubeconfig, false)
	// An account has one role: a second one would be a matter of order.
	roles := map[[2]string]string{}
	account := func(field, namespace, name string) {
		p.Label(field+".namespace", namespace)
		p.Subdomain(field+".serviceAccount", name, true)
		if first, taken := roles[[2]string{namespace, name}]; taken {
			p.Addf(field, "the service account %s/%s is that of %s", namespace, name, first)
			return
		}
		roles[[2]string{namespace, name}] = field
	}
	for i, a := range k.Agents {
		field := fmt.Sprintf("attestation.kubernetes.agents[%d]", i)
		account(field, a.Namespace, a.ServiceAccount)
		p.Subdomain(field+".daemonSet", a.DaemonSet, true)
	}
	names := map[string]bool{"ca": true} // ours, and nobody else's
	for i, s := range k.Services {
		field := fmt.Sprintf("attestation.kubernetes.services[%d]", i)
		account(field, s.Namespace, s.ServiceAccount)
		if _, err := attest.NewService(anyDomain, s.Name); err != nil {
			p.Addf(field+".name", "%v", err)
		} else if names[s.Name] {
			p.Addf(field+".name", "%q is taken", s.Name)
		}
		names[s.Name] = true
	}
}

// anyDomain stands in where a name is checked, whatever the trust domain.
var anyDomain = spiffeid.RequireTrustDomainFromString("any.example")

func (i *Istio) validate(p *daemon.Problems, domain string, kubernetes bool) {
	p.Listen("istio.listen", i.Listen, false)
	if i.Listen == "" {
		if len(i.Audiences) > 0 {
			p.Addf("istio.audiences", "set without istio.listen")
		}
		return
	}
	if !kubernetes {
		p.Addf("istio.listen", "needs attestation.kubernetes")
	}
	if len(i.Audiences) == 0 {
		p.Addf("istio.audiences", "an empty list accepts nobody: name one, such as \"istio-ca\"")
	}
	var reserved []string
	if td, err := spiffeid.TrustDomainFromString(domain); err == nil {
		reserved = []string{k8stoken.AgentAudience(td), k8stoken.WorkloadAudience(td)}
	}
	for n, a := range i.Audiences {
		switch field := fmt.Sprintf("istio.audiences[%d]", n); {
		case a == "":
			p.Addf(field, "is empty")
		case slices.Contains(reserved, a):
			p.Addf(field, "%q is an audience of our own protocol: no token is good for both", a)
		}
	}
}
