package nodeagent

import (
	"testing"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon/daemontest"
)

var configs = daemontest.Suite{
	New: func() daemon.Validator {
		c := Defaults()
		return &c
	},
	Good: map[string]string{
		"csi": `trustDomain: cluster.local
ca: {address: 'istio-ca.istio-auth.svc:15010', bundle: /var/run/bundle/bundle.pem, token: /var/run/token/token}
manager: {address: 'istio-manager.istio-auth.svc:15011'}
workloads: {csi: {}}
`,
		"csi-full": `trustDomain: cluster.local
ca: {address: '10.0.0.1:15010', bundle: /b, token: /t}
manager: {address: '[fd00::1]:15011'}
runDir: /run/istio-auth
health: 0.0.0.0:15014
workloads:
  csi:
    node: node-1.example
    kubeletDir: /var/lib/k0s/kubelet
`,
		"hosts": `trustDomain: cluster.local
ca:
  address: 127.0.0.1:15010
  bundle: /run/bundle.pem
  token: /run/token
manager:
  address: 127.0.0.1:15011
runDir: /run/istio-auth
workloads:
  hosts:
    node: host-1
    registry: /etc/istio-auth/workloads.yaml
`,
	},
	Rows: []daemontest.Row{
		{On: "hosts", Path: "trustDomain", Value: daemontest.Absent, Want: "trustDomain: is required"},
		{On: "hosts", Path: "trustDomain", Value: "cluster.LOCAL", Want: "trustDomain: trust domain characters"},
		{On: "hosts", Path: "trustDomain", Value: "spiffe://cluster.local", Want: "trustDomain: is a bare name"},
		{On: "hosts", Path: "trustDomain", Value: "a b", Want: "trustDomain: trust domain characters"},
		{On: "hosts", Path: "ca", Value: daemontest.Absent, Want: "ca.token: is required"},
		{On: "hosts", Path: "ca.address", Value: `""`, Want: "ca.address: is required"},
		{On: "hosts", Path: "ca.address", Value: "localhost", Want: "ca.address: is host:port"},
		{On: "hosts", Path: "ca.address", Value: "localhost:0", Want: "ca.address: port 0"},
		{On: "hosts", Path: "ca.bundle", Value: "./bundle.pem", Want: "ca.bundle: want an absolute"},
		{On: "hosts", Path: "ca.token", Value: "token", Want: "ca.token: want an absolute"},
		{On: "hosts", Path: "manager", Value: daemontest.Absent, Want: "manager.address: is required"},
		{On: "hosts", Path: "manager.address", Value: ":15011", Want: "manager.address: \":15011\" names no host"},
		{On: "hosts", Path: "manager.address", Value: "manager", Want: "manager.address: is host:port"},
		{On: "hosts", Path: "manager.address", Value: "manager:99999", Want: "manager.address: port"},
		{On: "hosts", Path: "manager.address", Value: `"[fe80::1%eth0:1"`, Want: "manager.address: is host:port"},
		{On: "hosts", Path: "runDir", Value: `""`, Want: "runDir: is required"},
		{On: "hosts", Path: "runDir", Value: "run", Want: "runDir: want an absolute"},
		{On: "hosts", Path: "runDir", Value: "/run/../etc", Want: "runDir: want an absolute"},
		{On: "hosts", Path: "health", Value: "8080", Want: "health: want a string (put it in quotes), not number"},
		{On: "hosts", Path: "health", Value: "x:y", Want: "health: port"},
		{On: "hosts", Path: "workloads", Value: daemontest.Absent, Want: "workloads: set exactly one of csi, hosts"},
		{On: "hosts", Path: "workloads", Value: "{}", Want: "workloads: set exactly one of csi, hosts"},
		{On: "hosts", Path: "workloads", Value: "{csi: }", Want: "(one without settings is written {})"},
		{On: "hosts", Path: "workloads.csi", Value: "{}", Want: "workloads: set exactly one of csi, hosts"},
		{On: "hosts", Path: "workloads.hosts.node", Value: daemontest.Absent, Want: "workloads.hosts.node: "},
		{On: "hosts", Path: "workloads.hosts.node", Value: "Host", Want: "workloads.hosts.node: "},
		{On: "hosts", Path: "workloads.hosts.node", Value: "a/b", Want: "workloads.hosts.node: "},
		{On: "hosts", Path: "workloads.hosts.node", Value: "010", Want: "workloads.hosts.node: want a string (put it in quotes), not number"},
		{On: "hosts", Path: "workloads.hosts.registry", Value: daemontest.Absent, Want: "workloads.hosts.registry: is required"},
		{On: "hosts", Path: "workloads.hosts.registry", Value: "r.yaml", Want: "workloads.hosts.registry: want an absolute"},
		{On: "csi", Path: "workloads.csi.node", Value: "Node_1", Want: "workloads.csi.node: "},
		{On: "csi", Path: "workloads.csi.node", Value: "..", Want: "workloads.csi.node: "},
		{On: "csi", Path: "workloads.csi.kubeletDir", Value: "kubelet", Want: "workloads.csi.kubeletDir: want an absolute"},
		{On: "csi", Path: "workloads.csi.kubeletDir", Value: "/var/lib/kubelet/", Want: "workloads.csi.kubeletDir: want an absolute"},
	},
	Size: 236,
}

func TestConfig(t *testing.T) { configs.Run(t) }

func TestConfigOfTheChart(t *testing.T) { configs.Chart(t, "istio-nodeagent") }

func FuzzDecode(f *testing.F) { configs.Fuzz(f) }
