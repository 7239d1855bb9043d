package ca

import (
	"testing"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon/daemontest"
)

const (
	cluster   = "attestation.kubernetes"
	agents0   = cluster + ".agents[0]"
	agents1   = cluster + ".agents[1]"
	services0 = cluster + ".services[0]"
	services1 = cluster + ".services[1]"
)

var configs = daemontest.Suite{
	New: func() daemon.Validator {
		c := Defaults()
		return &c
	},
	Good: map[string]string{
		"hosts": `trustDomain: cluster.local
stateDir: /var/lib/istio-auth
listen: :15010
attestation:
  hosts:
    registry: /etc/istio-auth/workloads.yaml
`,
		"full": `trustDomain: cluster.local
stateDir: /var/lib/istio-auth
listen: 0.0.0.0:15010
health: "[::1]:15014"
life:
  workload: 6h
  agent: 30m
attestation:
  kubernetes:
    kubeconfig: /etc/kubeconfig
    agents:
    - {namespace: istio-auth, serviceAccount: istio-nodeagent, daemonSet: istio-nodeagent}
    services:
    - {namespace: istio-auth, serviceAccount: istio-manager, name: manager}
bundleConfigMap: {namespace: istio-auth, name: istio-auth-bundle}
istio:
  listen: localhost:15012
  audiences: [istio-ca]
`,
		"nobody": `trustDomain: cluster.local
stateDir: /var/lib/istio-auth
listen: ca.istio-auth.svc:0
attestation: {kubernetes: {}}
`,
	},
	Rows: []daemontest.Row{
		{On: "full", Path: "trustDomain", Value: daemontest.Absent, Want: "trustDomain: is required"},
		{On: "full", Path: "trustDomain", Value: `""`, Want: "trustDomain: is required"},
		{On: "full", Path: "trustDomain", Value: "null", Want: "trustDomain: is required"},
		{On: "full", Path: "trustDomain", Value: "Cluster.Local", Want: "trustDomain: trust domain characters"},
		{On: "full", Path: "trustDomain", Value: "spiffe://cluster.local", Want: `trustDomain: is a bare name such as "cluster.local"`},
		{On: "full", Path: "trustDomain", Value: "spiffe://cluster.local/ns/a", Want: "trustDomain: is a bare name"},
		{On: "full", Path: "trustDomain", Value: "cluster.local/", Want: "trustDomain: "},
		{On: "full", Path: "trustDomain", Value: "cluster.local:80", Want: "trustDomain: trust domain characters"},
		{On: "full", Path: "trustDomain", Value: `" cluster.local"`, Want: "trustDomain: trust domain characters"},
		{On: "full", Path: "trustDomain", Value: "bücher.example", Want: "trustDomain: trust domain characters"},
		{On: "full", Path: "trustDomain", Value: "no", Want: "trustDomain: want a string (put it in quotes), not true or false"},
		{On: "full", Path: "trustDomain", Value: "010", Want: "trustDomain: want a string (put it in quotes), not number"},

		{On: "full", Path: "stateDir", Value: daemontest.Absent, Want: "stateDir: is required"},
		{On: "full", Path: "stateDir", Value: "state", Want: "stateDir: want an absolute, clean path"},
		{On: "full", Path: "stateDir", Value: "./state", Want: "stateDir: want an absolute, clean path"},
		{On: "full", Path: "stateDir", Value: "/var/lib/../lib", Want: "stateDir: want an absolute, clean path"},
		{On: "full", Path: "stateDir", Value: "/var/lib/", Want: "stateDir: want an absolute, clean path"},
		{On: "full", Path: "stateDir", Value: "~/state", Want: "stateDir: want an absolute, clean path"},
		{On: "full", Path: "stateDir", Value: `"/var/a\0b"`, Want: "stateDir: want an absolute, clean path"},

		{On: "full", Path: "listen", Value: daemontest.Absent, Want: "listen: is required"},
		{On: "full", Path: "listen", Value: "localhost", Want: "listen: is host:port"},
		{On: "full", Path: "listen", Value: `"15010"`, Want: "listen: is host:port"},
		{On: "full", Path: "listen", Value: `"localhost:"`, Want: `listen: port "" is not a number`},
		{On: "full", Path: "listen", Value: "localhost:65536", Want: `listen: port "65536" is not`},
		{On: "full", Path: "listen", Value: "localhost:-1", Want: `listen: port "-1" is not`},
		{On: "full", Path: "listen", Value: "localhost:080", Want: `listen: port "080" is not`},
		{On: "full", Path: "listen", Value: "localhost:http", Want: `listen: port "http" is not`},
		{On: "full", Path: "listen", Value: "::1:80", Want: "listen: is host:port"},
		{On: "full", Path: "listen", Value: "http://localhost:80", Want: "listen: is host:port"},
		{On: "full", Path: "listen", Value: `"local host:80"`, Want: "listen: \"local host\" is neither"},
		{On: "full", Path: "listen", Value: "-a:80", Want: "listen: \"-a\" is neither"},
		{On: "full", Path: "listen", Value: "a..b:80", Want: "listen: \"a..b\" is neither"},
		{On: "full", Path: "health", Value: "health", Want: "health: is host:port"},
		{On: "full", Path: "health", Value: "localhost:70000", Want: "health: port"},

		{On: "full", Path: "life.workload", Value: "4999ms", Want: "life.workload: 4.999s is not from 5s to 24h"},
		{On: "full", Path: "life.workload", Value: "24h0m1s", Want: "life.workload: 24h0m1s is not from 5s to 24h"},
		{On: "full", Path: "life.workload", Value: "-6h", Want: "life.workload: -6h0m0s is not"},
		{On: "full", Path: "life.workload", Value: `"0"`, Want: "life.workload: 0s is not"},
		{On: "full", Path: "life.workload", Value: "1d", Want: `life.workload: want a duration with its unit, such as "90s", not "1d"`},
		{On: "full", Path: "life.workload", Value: "1:30", Want: `life.workload: want a duration with its unit, such as "90s", not "1:30"`},
		{On: "full", Path: "life.workload", Value: "9999999h", Want: `life.workload: want a duration with its unit`},
		{On: "full", Path: "life.agent", Value: "1h0m1s", Want: "life.agent: 1h0m1s is not from 5s to 1h"},
		{On: "full", Path: "life.agent", Value: "4s", Want: "life.agent: 4s is not"},

		{On: "full", Path: "attestation", Value: daemontest.Absent, Want: "attestation: set exactly one of hosts, kubernetes"},
		{On: "full", Path: "attestation", Value: "{}", Want: "attestation: set exactly one of hosts, kubernetes"},
		{On: "full", Path: "attestation", Value: "{kubernetes: }", Want: "(one without settings is written {})"},
		{On: "full", Path: "attestation.hosts", Value: "{registry: /x}", Want: "attestation: set exactly one of hosts, kubernetes"},
		{On: "hosts", Path: "attestation.hosts.registry", Value: daemontest.Absent, Want: "attestation.hosts.registry: is required"},
		{On: "hosts", Path: "attestation.hosts.registry", Value: "workloads.yaml", Want: "attestation.hosts.registry: want an absolute"},
		{On: "full", Path: cluster + ".kubeconfig", Value: "~/.kube/config", Want: cluster + ".kubeconfig: want an absolute"},

		{On: "full", Path: agents0 + ".namespace", Value: daemontest.Absent, Want: agents0 + ".namespace: "},
		{On: "full", Path: agents0 + ".namespace", Value: "Istio", Want: agents0 + ".namespace: "},
		{On: "full", Path: agents0 + ".namespace", Value: "a.b", Want: agents0 + ".namespace: "},
		{On: "full", Path: agents0 + ".serviceAccount", Value: `""`, Want: agents0 + ".serviceAccount: "},
		{On: "full", Path: agents0 + ".serviceAccount", Value: `"*"`, Want: agents0 + ".serviceAccount: "},
		{On: "full", Path: agents0 + ".daemonSet", Value: daemontest.Absent, Want: agents0 + ".daemonSet: "},
		{On: "full", Path: agents0 + ".daemonSet", Value: "a/b", Want: agents0 + ".daemonSet: "},
		{On: "full", Path: agents1, Value: "{namespace: istio-auth, serviceAccount: istio-nodeagent, daemonSet: other}", Want: "is that of " + agents0},
		{On: "full", Path: agents1, Value: "{namespace: istio-auth, serviceAccount: istio-manager, daemonSet: other}", Want: "is that of " + agents1},
		{On: "full", Path: services0 + ".name", Value: daemontest.Absent, Want: services0 + ".name: "},
		{On: "full", Path: services0 + ".name", Value: "ca", Want: services0 + `.name: "ca" is taken`},
		{On: "full", Path: services0 + ".name", Value: "node", Want: services0 + ".name: "},
		{On: "full", Path: services0 + ".name", Value: "node/x", Want: services0 + ".name: "},
		{On: "full", Path: services0 + ".name", Value: `"a b"`, Want: services0 + ".name: "},
		{On: "full", Path: services0 + ".name", Value: "..", Want: services0 + ".name: "},
		{On: "full", Path: services0 + ".serviceAccount", Value: "a_b", Want: services0 + ".serviceAccount: "},
		{On: "full", Path: services1, Value: "{namespace: other, serviceAccount: manager, name: manager}", Want: services1 + `.name: "manager" is taken`},
		{On: "full", Path: services1, Value: "{namespace: istio-auth, serviceAccount: istio-manager, name: other}", Want: "is that of " + services0},

		{On: "full", Path: "bundleConfigMap.name", Value: daemontest.Absent, Want: "bundleConfigMap: set namespace and name, or neither"},
		{On: "full", Path: "bundleConfigMap.namespace", Value: `""`, Want: "bundleConfigMap: set namespace and name, or neither"},
		{On: "full", Path: "bundleConfigMap.name", Value: "A", Want: "bundleConfigMap.name: "},
		{On: "full", Path: "bundleConfigMap.namespace", Value: "a/b", Want: "bundleConfigMap.namespace: "},
		{On: "hosts", Path: "bundleConfigMap", Value: "{namespace: a, name: b}", Want: "bundleConfigMap: needs attestation.kubernetes"},

		{On: "full", Path: "istio.listen", Value: daemontest.Absent, Want: "istio.audiences: set without istio.listen"},
		{On: "full", Path: "istio.listen", Value: "x", Want: "istio.listen: is host:port"},
		{On: "full", Path: "istio.audiences", Value: daemontest.Absent, Want: "istio.audiences: an empty list accepts nobody"},
		{On: "full", Path: "istio.audiences", Value: "[]", Want: "istio.audiences: an empty list accepts nobody"},
		{On: "full", Path: "istio.audiences[0]", Value: `""`, Want: "istio.audiences[0]: is empty"},
		{On: "full", Path: "istio.audiences[1]", Value: "agent.istio-auth.cluster.local", Want: "istio.audiences[1]: "},
		{On: "full", Path: "istio.audiences[1]", Value: "workload.istio-auth.cluster.local", Want: "istio.audiences[1]: "},
		{On: "hosts", Path: "istio", Value: "{listen: 'localhost:1', audiences: [a]}", Want: "istio.listen: needs attestation.kubernetes"},
	},
	Size: 304,
}

func TestConfig(t *testing.T) { configs.Run(t) }

func TestConfigOfTheChart(t *testing.T) { configs.Chart(t, "istio-ca") }

func FuzzDecode(f *testing.F) { configs.Fuzz(f) }

// TestProblems: a bad file is told whole, not a line at each start.
func TestProblems(t *testing.T) {
	c := Defaults()
	c.TrustDomain, c.StateDir, c.Listen = "UP", "x", "y"
	const want = `4 problems:
  trustDomain: trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores
  stateDir: want an absolute, clean path, not "x"
  listen: is host:port: address y: missing port in address
  attestation: set exactly one of hosts, kubernetes (one without settings is written {})`
	if err := c.Validate(); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
