// Command istio-auth is the command line of Istio-Auth: it runs the whole
// system on loopback, prints a sidecar's configuration, checks a cluster, and
// checks and explains policies.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

func main() { os.Exit(daemon.Execute(command())) }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "istio-auth",
		Short: "Workload identity, mutual TLS and authorization for a service mesh",
		Long: `istio-auth runs, configures and checks Istio-Auth.

On a laptop, "istio-auth up" starts everything on loopback with a demonstration.
On Kubernetes, install the chart; "istio-auth check --pre" says what a cluster
lacks before that. "istio-auth policy" checks and explains policies in files.`,
		// No Args: cobra's own check of them suggests the command that was meant.
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(upCommand(), envoyCommand(), checkCommand(), policyCommand(), daemon.VersionCommand())
	return root
}
