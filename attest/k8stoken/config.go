package k8stoken

import (
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/client-go/kubernetes"

	"github.com/istio-auth/istio-auth/attest"
)

// AgentAudience is the audience of tokens with which agents and our own services
// attest themselves in td.
func AgentAudience(td spiffeid.TrustDomain) string { return "agent.istio-auth." + td.Name() }

// WorkloadAudience is the audience of tokens with which agents attest the
// workloads of td.
func WorkloadAudience(td spiffeid.TrustDomain) string { return "workload.istio-auth." + td.Name() }

// An AgentAccount names whose pods are agents: those that run under the service
// account and are controlled by the DaemonSet, both in Namespace.
type AgentAccount struct{ Namespace, ServiceAccount, DaemonSet string }

// A ServiceAccount names whose pods are our service Name, such as "manager".
type ServiceAccount struct{ Namespace, ServiceAccount, Name string }

// Config is what a [Reviewer] needs. It must not change after New.
type Config struct {
	// TrustDomain is the one whose identities come out.
	TrustDomain spiffeid.TrustDomain

	// Client asks the cluster's API server: it creates TokenReviews and gets pods
	// and nodes. Make it with [ClientConfig].
	Client kubernetes.Interface

	// The two audiences. Empty means AgentAudience and WorkloadAudience of the
	// trust domain. They must differ.
	AgentAudience, WorkloadAudience string

	// Agents and Services say who is one of ours. Empty means nobody.
	Agents   []AgentAccount
	Services []ServiceAccount

	// Now tells the time. Nil means time.Now.
	Now func() time.Time
}

// A Reviewer attests the pods of one cluster. Its methods may be called by many
// at once. Each returns an error wrapping [attest.ErrUnavailable] where the API
// server gave no answer, and an [*attest.Refusal] otherwise.
type Reviewer struct {
	Config
	own map[attest.Pod]own
}

// own is what a service account of ours may become; the keys of Reviewer.own
// have its namespace and service account alone.
type own struct{ daemonSet, service string }

// New returns a Reviewer, or what is wrong with the configuration.
func New(c Config) (*Reviewer, error) {
	if c.TrustDomain.IsZero() || c.Client == nil {
		return nil, errors.New("k8stoken: a trust domain and a client are required")
	}
	if c.AgentAudience == "" {
		c.AgentAudience = AgentAudience(c.TrustDomain)
	}
	if c.WorkloadAudience == "" {
		c.WorkloadAudience = WorkloadAudience(c.TrustDomain)
	}
	if c.AgentAudience == c.WorkloadAudience {
		return nil, fmt.Errorf("k8stoken: %q is the audience of agents and of workloads", c.AgentAudience)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &Reviewer{Config: c, own: map[attest.Pod]own{}}
	for _, a := range c.Agents {
		if err := r.add(a.Namespace, a.ServiceAccount, own{daemonSet: a.DaemonSet}); err != nil {
			return nil, fmt.Errorf("k8stoken: agents: %w", err)
		}
	}
	for _, s := range c.Services {
		if _, err := attest.NewService(c.TrustDomain, s.Name); err != nil {
			return nil, fmt.Errorf("k8stoken: services: %w", err)
		}
		if err := r.add(s.Namespace, s.ServiceAccount, own{service: s.Name}); err != nil {
			return nil, fmt.Errorf("k8stoken: services: %w", err)
		}
	}
	return r, nil
}

// add enters an account, which can be only one thing: what a token becomes must
// not depend on the order of a list.
func (r *Reviewer) add(namespace, account string, o own) error {
	// A DaemonSet has a pod's kind of name, and is borrowed as one to be checked.
	pod := attest.Pod{Namespace: namespace, ServiceAccount: account, Name: o.daemonSet + o.service, UID: "x"}
	if _, err := attest.NewWorkload(r.TrustDomain, attest.Node{Name: "x", UID: "x"}, pod); err != nil {
		return fmt.Errorf("%s/%s: %w", namespace, account, err)
	}
	key := attest.Pod{Namespace: namespace, ServiceAccount: account}
	if _, ok := r.own[key]; ok {
		return fmt.Errorf("%s/%s: named twice", namespace, account)
	}
	r.own[key] = o
	return nil
}
