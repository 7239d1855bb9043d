package main

import (
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/cmd/internal/ca"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/cmd/internal/manager"
	"github.com/istio-auth/istio-auth/cmd/internal/nodeagent"
	"github.com/istio-auth/istio-auth/mesh"
)

var update = flag.Bool("update", false, "rewrite the scripts' expected output")

// TestMain gives the scripts our four programs, as this binary under their
// names: what a script runs is what this package imports, and go test's cache
// knows of it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"istio-auth":      main,
		"istio-ca":        func() { os.Exit(daemon.Execute(ca.Command())) },
		"istio-manager":   func() { os.Exit(daemon.Execute(manager.Command())) },
		"istio-nodeagent": func() { os.Exit(daemon.Execute(nodeagent.Command())) },
	})
}

// What there is of policies from Istio's documentation.
const (
	istioScripts   = 23
	istioDecisions = 429
)

// TestIstioScripts: the scripts that hold policies from Istio's documentation, and
// the decisions in them, get no fewer.
func TestIstioScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/istio-*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	decisions := 0
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "exec istio-auth policy explain ") && strings.Contains(line, " --expect ") {
				decisions++
			}
		}
	}
	if got, want := len(scripts), istioScripts; got != want {
		t.Errorf("%d scripts, want %d", got, want)
	}
	if got, want := decisions, istioDecisions; got != want {
		t.Errorf("%d decisions, want %d", got, want)
	}
}

// TestScript runs testdata/script/*.txtar. Beside what testscript gives them,
// scripts have in their environment:
//
//	BIN    the directory that holds our programs and nothing else
//	TAKEN  a loopback port on which somebody listens
//	FREE   the first of eight loopback ports that were free a moment ago
//
// and the configurations that mesh writes for the sidecars of bootstrap.txtar,
// as server.yaml and client.yaml.
func TestScript(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() }) // the scripts run after this function
	free := freePorts(t, 8)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			program, err := exec.LookPath("istio-auth")
			if err != nil {
				return err
			}
			env.Setenv("BIN", filepath.Dir(program))
			env.Setenv("TAKEN", strconv.Itoa(taken.Addr().(*net.TCPAddr).Port))
			env.Setenv("FREE", strconv.Itoa(free))
			env.Setenv("KUBECONFIG", "")
			env.Setenv("KUBERNETES_SERVICE_HOST", "")
			return writeSidecars(env.WorkDir)
		},
	})
}

func writeSidecars(dir string) error {
	server, client := spiffeid.RequireFromString("spiffe://td.test/ns/demo/sa/server"), spiffeid.RequireFromString("spiffe://td.test/ns/demo/sa/client")
	for name, sidecar := range map[string]mesh.Sidecar{
		"server.yaml": {
			Workload: server, AgentSocket: "/run/istio-auth/agent.sock", RuntimeDir: "/run/envoy", CertificateLife: 6 * time.Hour,
			StatusAddress: "0.0.0.0:15021", Inbound: mesh.Inbound{Listen: "0.0.0.0:15006", App: "127.0.0.1:8080"},
		},
		"client.yaml": {
			Workload: client, AgentSocket: "/s/agent.sock", RuntimeDir: "/r", CertificateLife: time.Minute, AccessLog: "/var/log/access",
			Outbound: []mesh.Upstream{
				{Name: "a", Listen: "127.0.0.1:1001", Address: "a.example:15006", Servers: []spiffeid.ID{server}},
				{Name: "b", Listen: "127.0.0.1:1002", Address: "10.0.0.1:15006", Servers: []spiffeid.ID{server, client}},
			},
		},
	} {
		text, err := mesh.YAML(sidecar)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// freePorts finds n loopback ports in a row that nobody listens on.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for base := 20011; base < 32000; base += 97 {
		var held []net.Listener
		for p := range n {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(base+p))
			if err != nil {
				break
			}
			held = append(held, l)
		}
		for _, l := range held {
			l.Close()
		}
		if len(held) == n {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}
