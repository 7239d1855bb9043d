package nodeagent

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac/distribute"
)

// TestOneSocketDoesNotTakeTheNodesDescriptors: a workload that connects without
// end holds at most its share of what the agent may have open.
func TestOneSocketDoesNotTakeTheNodesDescriptors(t *testing.T) {
	dir := t.TempDir()
	pod := attest.Pod{Namespace: "demo", Name: "greedy", UID: "greedy", ServiceAccount: "greedy"}
	filters := distribute.NewFilters(spiffeid.RequireTrustDomainFromString("cluster.local"), nil)
	endpoint, err := NewEndpoints(slog.New(slog.DiscardHandler), filters, func(attest.Pod) string { return dir }).Open(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	defer endpoint.Close()
	before := descriptors(t)
	const dials = 300
	for range dials {
		conn, err := net.Dial("unix", filepath.Join(dir, SocketName))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	// Ours are dials many; what is above them is the agent's. It accepts in its
	// own time, so look until it has what it will take.
	agents := func() int { return descriptors(t) - before - dials }
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); agents() < maxConnections && time.Now().Before(deadline); {
		<-tick.C
	}
	if got := agents(); got > maxConnections {
		t.Errorf("the agent holds %d connections of one workload, want %d at most", got, maxConnections)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
