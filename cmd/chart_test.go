// Package cmd_test holds what concerns all programs at once.
package cmd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/istio-auth/istio-auth/cmd/internal/ca"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/cmd/internal/manager"
	"github.com/istio-auth/istio-auth/cmd/internal/nodeagent"
)

// TestChartConfigurations: each daemon understands the configuration that the
// chart gives it. The chart's golden files are held to the chart by its own
// tests, which need helm; this one does not.
func TestChartConfigurations(t *testing.T) {
	goldens, err := filepath.Glob("../deploy/testdata/*.out.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(goldens), 2; got != want {
		t.Fatalf("%d golden files, want %d", got, want)
	}
	for _, golden := range goldens {
		data, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		authority, policies, agent := ca.Defaults(), manager.Defaults(), nodeagent.Defaults()
		configs := map[string]daemon.Validator{"istio-ca": &authority, "istio-manager": &policies, "istio-nodeagent": &agent}
		for doc := range strings.SplitSeq(string(data), "\n---") {
			var o struct {
				Kind     string
				Metadata struct{ Name string }
				Data     map[string]string
			}
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatal(err)
			}
			config := configs[o.Metadata.Name]
			if o.Kind != "ConfigMap" || config == nil {
				continue
			}
			if err := daemon.Decode([]byte(o.Data["config.yaml"]), config); err != nil {
				t.Errorf("%s: %s: %v", golden, o.Metadata.Name, err)
			}
			delete(configs, o.Metadata.Name)
		}
		for name := range configs {
			t.Errorf("%s: no configuration for %s", golden, name)
		}
		if authority.TrustDomain != policies.TrustDomain || policies.TrustDomain != agent.TrustDomain {
			t.Errorf("%s: trust domains %q, %q, %q", golden, authority.TrustDomain, policies.TrustDomain, agent.TrustDomain)
		}
	}
}
