package up

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/attest/registry"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

func TestCheckPortsNamesEach(t *testing.T) {
	base := freePorts(t)
	l := layout{base: base, demo: true}
	for _, port := range []int{portManager, portOrdersStatus} {
		held, err := net.Listen("tcp", l.address(port))
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
	}
	want := "ports are taken; stop what holds them, or choose others with --port-base:" +
		"\n  " + l.address(portManager) + ", for the manager: bind: address already in use" +
		"\n  " + l.address(portOrdersStatus) + ", for the server sidecar's status: bind: address already in use"
	if err := l.checkPorts(t.Context()); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	l.demo = false // asks for its own ports alone
	if err := l.checkPorts(t.Context()); err == nil || strings.Contains(err.Error(), "sidecar") {
		t.Errorf("the bare daemons: got %v, want the manager's port alone", err)
	}
}

func TestCheckSockets(t *testing.T) {
	const rest = len("/workloads/orders/agent.sock")
	if err := (layout{runtime: "/" + strings.Repeat("a", maxSocket-rest-1)}).checkSockets(); err != nil {
		t.Errorf("a path of %d bytes: %v", maxSocket, err)
	}
	if err := (layout{runtime: "/" + strings.Repeat("a", maxSocket-rest)}).checkSockets(); err == nil {
		t.Errorf("a path of %d bytes is accepted", maxSocket+1)
	}
}

// TestPrepareKeepsEdits: what a user has in the policy directory stays, be it
// nothing.
func TestPrepareKeepsEdits(t *testing.T) {
	l := layout{dir: t.TempDir(), demo: true}
	for range 2 {
		if err := l.prepare(); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(l.policies(), "orders.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if policies, err := parse.Policies(path, data); err != nil || len(policies) != 2 {
		t.Errorf("the samples are %d policies (%v), want 2", len(policies), err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := l.prepare(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(l.policies()); err != nil || len(left) > 0 {
		t.Errorf("what was removed is back: %v (%v)", left, err)
	}
	if info, err := os.Stat(l.state()); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the state's mode is %v (%v), want 0700", info.Mode(), err)
	}
}

func TestRegisterSamples(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(t.TempDir(), "envoy")
	if err := os.WriteFile(binary, []byte("elf"), 0o755); err != nil {
		t.Fatal(err)
	}
	own := layout{dir: dir}
	if err := own.emptyRegistry(); err != nil {
		t.Fatal(err)
	}
	demo := layout{dir: dir, demo: true}
	if err := demo.prepare(); err != nil {
		t.Fatal(err)
	}
	var samples []sample
	for range 2 { // a second run replaces what the first left
		var err error
		if samples, err = demo.registerSamples(binary); err != nil {
			t.Fatal(err)
		}
	}
	known, err := readRegistry(demo.registry())
	if err != nil {
		t.Fatal(err)
	}
	if got := len(known.OnNode(nodeName)); got != 2 || len(samples) != 2 {
		t.Errorf("%d workloads and %d samples, want 2", got, len(samples))
	}
	for _, s := range samples {
		w, ok := known.Match(nodeName, uint32(os.Getuid()), s.binary)
		if !ok || w.Pod.ServiceAccount != s.name {
			t.Errorf("%s is not known as %s: %+v", s.binary, s.name, w)
		}
		if data, err := os.ReadFile(s.binary); err != nil || string(data) != "elf" {
			t.Errorf("%s holds %q (%v)", s.binary, data, err)
		}
	}
	data, err := os.ReadFile(own.registry())
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := registry.Parse(data); err != nil || len(kept.All()) != 0 {
		t.Errorf("the user's own registry holds %d workloads (%v), want the empty one", len(kept.All()), err)
	}
}
