package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/test/node"
)

const (
	rate     = 200 // requests a second
	renewals = 60  // that pass under load
)

// A tally is what demoapp's load prints.
type tally struct {
	Sent, OK, Denied, Failed, Repeated, Fresh int
	Failures                                  []struct{ At, Err string }
	Took, Median, P99, Max                    time.Duration
}

// A load is requests at a steady rate from the client's application through
// both sidecars, on an open schedule.
type load struct {
	cmd    *exec.Cmd
	input  io.Closer
	output *strings.Builder
}

func (s *shop) load(t *testing.T) *load {
	t.Helper()
	l := &load{output: &strings.Builder{}}
	l.cmd = s.n.Command(t.Context(), "kubectl", "--namespace="+s.namespace, "exec", "--stdin", "deployment/client", "--container=app",
		"--", "/demo", "load", "http://127.0.0.1:15001/orders", fmt.Sprint(rate))
	input, err := l.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	l.input, l.cmd.Stdout, l.cmd.Stderr = input, l.output, l.output
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return l
}

// end ends the load and returns what became of it.
func (l *load) end(t *testing.T) tally {
	t.Helper()
	if err := l.input.Close(); err != nil {
		t.Error(err)
	}
	if err := l.cmd.Wait(); err != nil {
		t.Fatalf("the load: %v\n%s", err, l.output)
	}
	var got tally
	if err := json.Unmarshal([]byte(l.output.String()), &got); err != nil {
		t.Fatalf("the load wrote %s: %v", l.output, err)
	}
	return got
}

// clean fails the test unless every request was answered, at the rate that was
// asked for, without net/http repeating one on its own.
func (got tally) clean(t *testing.T, while string) {
	t.Helper()
	if due := int(got.Took.Seconds() * rate); got.Sent < due*98/100 {
		t.Errorf("%s: %d requests sent in %v, want %d: the load itself stalled", while, got.Sent, got.Took, due)
	}
	if got.OK != got.Sent || got.Failed != 0 || got.Denied != 0 || got.Repeated != 0 || got.Sent == 0 {
		t.Errorf("%s: of %d requests %d were answered, %d denied, %d failed, %d repeated: %+v",
			while, got.Sent, got.OK, got.Denied, got.Failed, got.Repeated, got.Failures)
	}
	t.Logf("%s: %d of %d requests answered in %v; median %v, p99 %v, longest %v", while, got.OK, got.Sent,
		got.Took.Round(time.Second), got.Median, got.P99, got.Max)
}

// An account is what happened to certificates since the agent started.
type account struct{ issued, renewed, bad int }

// accounts reads the agent's counters.
func accounts(t *testing.T, n *node.Node) func() (account, error) {
	t.Helper()
	url := "http://" + running(t, n, system, "istio-nodeagent").Status.PodIP + ":15014/metrics"
	return func() (account, error) {
		all, err := metrics(n, url)
		event := func(name string) int { return int(all[`istio_auth_agent_workload_events_total{event="`+name+`"}`]) }
		return account{event("issued"), event("renewed"), event("failed") + event("refused") + event("expired")}, err
	}
}

// TestLoadThroughRenewalsAndAKilledAgent: with certificates of ten seconds'
// life no request fails, neither through 60 renewals nor when the agent is
// killed with the CA up.
func TestLoadThroughRenewalsAndAKilledAgent(t *testing.T) {
	n := install(t, "ca.life.workload=10s")
	s := openShop(t, n, "load", 10*time.Second)
	// Every renewal that is counted is to be one of an Envoy in the path.
	s.kubectl(t, "delete", "deployment", "stranger", "--wait")
	s.kubectl(t, "wait", "pod", "--selector=app=stranger", "--for=delete", "--timeout=30s")
	s.kubectl(t, "scale", "deployment", "server", "--replicas=3")
	s.ready(t)
	within(t, 20*time.Second, "the policy", func() error {
		for range 5 {
			if got := s.ask(t, "client", "/orders"); got != "200 OK" {
				return fmt.Errorf("got %q", got)
			}
		}
		return nil
	})
	count := accounts(t, n)

	l := s.load(t)
	before, err := count()
	if err != nil {
		t.Fatal(err)
	}
	began, now := time.Now(), before
	within(t, 3*time.Minute, "60 renewals", func() (err error) {
		if now, err = count(); err == nil && now.renewed < before.renewed+renewals {
			err = fmt.Errorf("%+v, at first %+v", now, before)
		}
		return err
	})
	t.Logf("%d renewals in %v", now.renewed-before.renewed, since(began))
	l.end(t).clean(t, "through the renewals")
	if now.bad != before.bad {
		t.Errorf("%d renewals were refused, failed or came too late", now.bad-before.bad)
	}

	t.Run("kill -9 of the agent", func(t *testing.T) {
		restarted(t, s, false).clean(t, "with the agent killed")
	})
	// The kubelet brings the container back within seconds, which the life of
	// ten leaves room for; how soon is the kubelet's matter, so that what fails
	// is told and does not fail the test. All must be well in the end.
	t.Run("kill -9 of the keeper", func(t *testing.T) {
		got := restarted(t, s, true)
		t.Logf("with the container killed: %+v", got)
		after := s.load(t)
		then, err := count()
		if err != nil {
			t.Fatal(err)
		}
		within(t, 30*time.Second, "more renewals", func() error {
			if now, err := count(); err != nil || now.renewed < then.renewed+20 {
				return fmt.Errorf("%+v, at first %+v, %v", now, then, err)
			}
			return nil
		})
		after.end(t).clean(t, "after the container came back")
	})
}

// restarted kills the agent, or its whole container, under load, waits until every certificate that was
// in use before has been replaced and has expired, and returns what the load saw.
func restarted(t *testing.T, s *shop, container bool) tally {
	t.Helper()
	count := accounts(t, s.n)
	l := s.load(t)
	before, err := count()
	if err != nil {
		t.Fatal(err)
	}
	within(t, 20*time.Second, "a renewal under load", func() error {
		if now, err := count(); err != nil || now.renewed == before.renewed {
			return fmt.Errorf("%+v, %v", now, err)
		}
		return nil
	})
	keeper, victim := agentProcesses(t, s.n)
	restarts := 0
	if container {
		victim, restarts = keeper, 1
	}
	s.n.Exec(t, "kill", "-9", victim)
	killed := time.Now()
	within(t, 40*time.Second, "the new agent to issue to four workloads", func() error {
		if now, err := count(); err != nil || now.issued < 4 || now.renewed >= before.renewed {
			return fmt.Errorf("%+v, before %+v, %v", now, before, err)
		}
		return nil
	})
	t.Logf("all four workloads have a certificate by the new agent %v after the kill", since(killed))
	expired := time.NewTimer(time.Until(killed.Add(11 * time.Second))) // what counts is that this time passes
	<-expired.C
	within(t, 20*time.Second, "renewals by the new agent", func() error {
		if now, err := count(); err != nil || now.renewed < 8 {
			return fmt.Errorf("%+v, %v", now, err)
		}
		return nil
	})
	pod := running(t, s.n, system, "istio-nodeagent")
	if got := int(pod.Status.ContainerStatuses[0].RestartCount); got != restarts {
		t.Errorf("the container was restarted %d times, want %d", got, restarts)
	}
	return l.end(t)
}

// agentProcesses finds the keeper, the first process of the agent's container,
// and the agent, its child.
func agentProcesses(t *testing.T, n *node.Node) (keeper, agent string) {
	t.Helper()
	parents := map[string]string{}
	lines := n.Exec(t, "sh", "-c", `grep -lsx istio-nodeagent /proc/[0-9]*/comm | while IFS=/ read -r _ _ pid _; do
		echo "$pid $(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status")"; done`)
	for line := range strings.Lines(lines) {
		if f := strings.Fields(line); len(f) == 2 {
			parents[f[0]] = f[1]
		}
	}
	for pid, parent := range parents {
		if _, child := parents[parent]; child {
			agent = pid
		} else {
			keeper = pid
		}
	}
	if len(parents) != 2 || keeper == "" || agent == "" {
		t.Fatalf("the agent's processes with their parents are %v, want a keeper and its child", parents)
	}
	return keeper, agent
}
