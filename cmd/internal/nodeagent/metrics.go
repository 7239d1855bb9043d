package nodeagent

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/secret"
)

// metrics count what happens on the node. They name no identity: who runs where
// is not for everybody who may scrape.
type metrics struct {
	certificates *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	policies     *prometheus.CounterVec
	envoys       *prometheus.CounterVec
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		certificates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_auth_agent_workload_events_total",
			Help: "What happened to the workloads' certificates: added, issued, renewed, failed, refused, expired, removed.",
		}, []string{"event"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "istio_auth_agent_issue_seconds",
			Help:    "How long the CA took to answer; for a first certificate, from the workload's arrival.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 14),
		}, []string{"event"}),
		policies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_auth_agent_policy_events_total",
			Help: "What became of policy sets: applied or refused by the agent, enforced or rejected by an Envoy.",
		}, []string{"event"}),
	}
	m.envoys = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "istio_auth_agent_envoy_events_total",
		Help: "What Envoys did: connected, disconnected, acked or nacked a resource of the type.",
	}, []string{"event", "type"})
	r.MustRegister(m.certificates, m.seconds, m.policies, m.envoys)
	return m
}

func (m *metrics) workload(e nodeagent.Event) {
	m.certificates.WithLabelValues(e.Kind.String()).Inc()
	if e.Took > 0 {
		m.seconds.WithLabelValues(e.Kind.String()).Observe(e.Took.Seconds())
	}
}

func (m *metrics) policy(e distribute.Event) {
	m.policies.WithLabelValues(e.Kind.String()).Inc()
}

// envoy counts what an Envoy did. Types are a closed set: an Envoy chooses the
// one that it asks for.
func (m *metrics) envoy(e sds.Event) {
	kind := "other"
	switch e.TypeURL {
	case "":
		kind = "none"
	case secret.TypeURL:
		kind = "secret"
	case distribute.FilterType:
		kind = "filter"
	}
	m.envoys.WithLabelValues(e.Kind.String(), kind).Inc()
}

// logPolicy says which policies are in force, by digest.
func logPolicy(log *slog.Logger, e distribute.Event) {
	attributes := []any{"event", e.Kind.String(), "namespace", e.Pod.Namespace, "pod", e.Pod.Name, "version", e.Version, "filter", e.Filter, "policies", e.Policies}
	if e.Reason != "" {
		log.Error("policies", append(attributes, "reason", e.Reason, "err", e.Detail)...)
		return
	}
	log.Info("policies", attributes...)
}
