package nodeagent

import (
	"log/slog"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/rbac/distribute"
)

// NewEndpoints makes sockets as Run does for a kubelet: nobody looks at who
// connects. It is for measurements.
func NewEndpoints(log *slog.Logger, filters *distribute.Filters, dir func(attest.Pod) string) nodeagent.Endpoints {
	return &sockets{log: log, filters: filters, dir: dir}
}
