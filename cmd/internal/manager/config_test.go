package manager

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
		"kubernetes": `trustDomain: cluster.local
listen: :15011
ca: {address: 'istio-ca.istio-auth.svc:15010', bundle: /var/run/bundle/bundle.pem, token: /var/run/token/token}
source: {kubernetes: {}}
`,
		"full": `trustDomain: cluster.local
listen: 127.0.0.1:15011
health: 127.0.0.1:15014
rootNamespace: mesh-root
trustDomainAliases: [old.example]
providers: [opa.authz]
keys:
  refresh: 1m
  allowNetworks: [10.0.0.0/8, 'fd00::/8']
  caFile: /etc/issuers.pem
ca:
  address: 127.0.0.1:15010
  bundle: /run/bundle.pem
  token: /run/token
source:
  files:
    policies: /etc/istio-auth/policies
    registry: /etc/istio-auth/workloads.yaml
`,
		"kubeconfig": `trustDomain: cluster.local
listen: "[::]:15011"
ca: {address: '[::1]:15010', bundle: /b, token: /t}
source:
  kubernetes:
    kubeconfig: /root/.kube/config
`,
	},
	Rows: []daemontest.Row{
		{On: "full", Path: "trustDomain", Value: daemontest.Absent, Want: "trustDomain: is required"},
		{On: "full", Path: "trustDomain", Value: "CLUSTER.local", Want: "trustDomain: trust domain characters"},
		{On: "full", Path: "trustDomain", Value: "spiffe://cluster.local", Want: "trustDomain: is a bare name"},
		{On: "full", Path: "trustDomain", Value: "spiffe://", Want: "trustDomain: "},
		{On: "full", Path: "trustDomain", Value: "on", Want: "trustDomain: want a string"},
		{On: "full", Path: "listen", Value: daemontest.Absent, Want: "listen: is required"},
		{On: "full", Path: "listen", Value: "15011", Want: "listen: want a string (put it in quotes), not number"},
		{On: "full", Path: "listen", Value: "0.0.0.0", Want: "listen: is host:port"},
		{On: "full", Path: "listen", Value: "unix:///run/x.sock", Want: "listen: "},
		{On: "full", Path: "health", Value: "localhost:http", Want: "health: port"},
		{On: "full", Path: "health", Value: "localhost:+80", Want: "health: port"},
		{On: "full", Path: "rootNamespace", Value: `""`, Want: "rootNamespace: "},
		{On: "full", Path: "rootNamespace", Value: "Mesh", Want: "rootNamespace: "},
		{On: "full", Path: "rootNamespace", Value: "a.b", Want: "rootNamespace: "},
		{On: "full", Path: "rootNamespace", Value: "a/b", Want: "rootNamespace: "},
		{On: "full", Path: "rootNamespace", Value: "-a", Want: "rootNamespace: "},
		{On: "full", Path: "trustDomainAliases[0]", Value: "spiffe://old.example", Want: "trustDomainAliases[0]: is a bare name"},
		{On: "full", Path: "trustDomainAliases[0]", Value: "OLD", Want: "trustDomainAliases[0]: "},
		{On: "full", Path: "providers[0]", Value: `""`, Want: "providers[0]: "},
		{On: "full", Path: "providers[0]", Value: "a_b", Want: "providers[0]: "},
		{On: "full", Path: "keys.refresh", Value: "1s", Want: "keys.refresh: 1s: want 10s to 6h"},
		{On: "full", Path: "keys.refresh", Value: "24h", Want: "keys.refresh: "},
		{On: "full", Path: "keys.allowNetworks[0]", Value: "10.0.0.1/8", Want: "keys.allowNetworks[0]: "},
		{On: "full", Path: "keys.allowNetworks[0]", Value: "0.0.0.0/0", Want: "keys.allowNetworks[0]: "},
		{On: "full", Path: "keys.allowNetworks[0]", Value: "169.254.169.254/32", Want: "keys.allowNetworks[0]: "},
		{On: "full", Path: "keys.allowNetworks[0]", Value: "::/0", Want: "keys.allowNetworks[0]: "},
		{On: "full", Path: "keys.allowNetworks[0]", Value: "10.0.0.1", Want: "keys.allowNetworks[0]: "},
		{On: "full", Path: "keys.caFile", Value: "issuers.pem", Want: "keys.caFile: want an absolute"},
		{On: "full", Path: "ca", Value: daemontest.Absent, Want: "ca.address: is required"},
		{On: "full", Path: "ca.address", Value: daemontest.Absent, Want: "ca.address: is required"},
		{On: "full", Path: "ca.address", Value: ":15010", Want: "ca.address: \":15010\" names no host"},
		{On: "full", Path: "ca.address", Value: "localhost:0", Want: "ca.address: port 0 cannot be reached"},
		{On: "full", Path: "ca.address", Value: "https://localhost:1", Want: "ca.address: is host:port"},
		{On: "full", Path: "ca.address", Value: "a/b:1", Want: "ca.address: \"a/b\" is neither"},
		{On: "full", Path: "ca.address", Value: "dns:///ca:1", Want: "ca.address: "},
		{On: "full", Path: "ca.bundle", Value: daemontest.Absent, Want: "ca.bundle: is required"},
		{On: "full", Path: "ca.bundle", Value: "bundle.pem", Want: "ca.bundle: want an absolute"},
		{On: "full", Path: "ca.token", Value: daemontest.Absent, Want: "ca.token: is required"},
		{On: "full", Path: "ca.token", Value: "../token", Want: "ca.token: want an absolute"},
		{On: "full", Path: "ca.insecure", Value: "true", Want: `unknown field "ca.insecure"`},
		{On: "full", Path: "source", Value: daemontest.Absent, Want: "source: set exactly one of files, kubernetes"},
		{On: "full", Path: "source", Value: "{kubernetes: null}", Want: "(one without settings is written {})"},
		{On: "full", Path: "source.kubernetes", Value: "{}", Want: "source: set exactly one of files, kubernetes"},
		{On: "full", Path: "source.files.policies", Value: daemontest.Absent, Want: "source.files.policies: is required"},
		{On: "full", Path: "source.files.policies", Value: "policies", Want: "source.files.policies: want an absolute"},
		{On: "full", Path: "source.files.registry", Value: daemontest.Absent, Want: "source.files.registry: is required"},
		{On: "full", Path: "source.files.registry", Value: "/a//b", Want: "source.files.registry: want an absolute"},
		{On: "kubeconfig", Path: "source.kubernetes.kubeconfig", Value: "config", Want: "source.kubernetes.kubeconfig: want an absolute"},
	},
	Size: 271,
}

func TestConfig(t *testing.T) { configs.Run(t) }

func TestConfigOfTheChart(t *testing.T) { configs.Chart(t, "istio-manager") }

func FuzzDecode(f *testing.F) { configs.Fuzz(f) }
