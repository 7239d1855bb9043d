package manager

import (
	"fmt"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestOneAgentCannotTakeTheStreamsOfAll(t *testing.T) {
	agent := func(n int) spiffeid.ID {
		return spiffeid.RequireFromString(fmt.Sprintf("spiffe://cluster.local/istio-auth/node/n%d/uid", n))
	}
	var s shares
	for range maxPerAgent {
		if !s.take(agent(1)) {
			t.Fatal("refused below its share")
		}
	}
	if s.take(agent(1)) {
		t.Error("an agent has more than its share")
	}
	if !s.take(agent(2)) {
		t.Error("another agent is refused")
	}
	s.release(agent(1))
	if !s.take(agent(1)) {
		t.Error("a stream that ended is not given back")
	}
	for range maxPerAgent {
		s.release(agent(1))
	}
	s.release(agent(2))
	if len(s.taken) != 0 {
		t.Errorf("%d agents are remembered for nothing", len(s.taken))
	}
}
