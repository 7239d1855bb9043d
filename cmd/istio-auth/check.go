package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/istio-auth/istio-auth/cmd/internal/check"
)

func checkCommand() *cobra.Command {
	var pre, uninstall bool
	var output string
	var cluster clusterFlags
	command := &cobra.Command{
		Use:   "check --pre | --uninstall",
		Short: "Say what a cluster lacks, or who an uninstall would cut off",
		Long: `check reads a cluster and changes nothing.

With --pre it says what the cluster lacks before an installation: version,
your rights, the CSI driver's name, nodes, swap. With --uninstall it names the
pods that still mount our volume; the chart's uninstall hook runs it.

It exits 0 if all is well, 1 if a check did not pass or could not be made.`,
		Example: "  istio-auth check --pre\n  istio-auth check --pre --context staging --output json\n  istio-auth check --uninstall",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			client, err := cluster.client()
			if err != nil {
				return err
			}
			if uninstall {
				return checkUninstall(cmd, client, output)
			}
			return checkBefore(cmd, client, output)
		},
	}
	command.Flags().BoolVar(&pre, "pre", false, "what the cluster lacks before an installation")
	command.Flags().BoolVar(&uninstall, "uninstall", false, "which pods still mount our volume")
	command.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	command.MarkFlagsOneRequired("pre", "uninstall")
	command.MarkFlagsMutuallyExclusive("pre", "uninstall")
	cluster.add(command)
	return command
}

func checkBefore(cmd *cobra.Command, client kubernetes.Interface, output string) error {
	findings, err := check.Before(cmd.Context(), client, func(ctx context.Context, name string) ([]byte, error) {
		return client.Discovery().RESTClient().Get().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", name).DoRaw(ctx)
	})
	if output == "json" {
		if err := printJSON(cmd, findings); err != nil {
			return err
		}
	} else {
		for _, f := range findings {
			mark := "ok  "
			if !f.OK {
				mark = "FAIL"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s  %-8s %s\n", mark, f.Check, f.Detail)
			if f.Fix != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "      %-8s %s\n", "", f.Fix)
			}
		}
	}
	if err != nil {
		return err
	}
	failed := 0
	for _, f := range findings {
		if !f.OK {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks did not pass", failed, len(findings))
	}
	return nil
}

func checkUninstall(cmd *cobra.Command, client kubernetes.Interface, output string) error {
	users, err := check.Users(cmd.Context(), client)
	if err != nil {
		return err
	}
	if output == "json" {
		if err := printJSON(cmd, map[string]any{"pods": append([]string{}, users...)}); err != nil {
			return err
		}
	}
	if len(users) > 0 {
		return fmt.Errorf("%w: remove or re-deploy without it, then uninstall:\n  %s", check.ErrInUse, strings.Join(users, "\n  "))
	}
	if output == "text" {
		fmt.Fprintln(cmd.OutOrStdout(), "no pod mounts a volume of "+check.Driver)
	}
	return nil
}

func printJSON(cmd *cobra.Command, value any) error {
	encoder := json.NewEncoder(cmd.OutOrStdout())
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// clusterFlags choose the cluster, as kubectl's do.
type clusterFlags struct{ kubeconfig, context string }

func (c *clusterFlags) add(command *cobra.Command) {
	command.Flags().StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig file (default: as kubectl chooses; in a pod, its service account)")
	command.Flags().StringVar(&c.context, "context", "", "context in the kubeconfig")
}

func (c *clusterFlags) client() (kubernetes.Interface, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.context}).ClientConfig()
	if errors.Is(err, rest.ErrNotInCluster) || clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("no cluster: set KUBECONFIG, or name a file with --kubeconfig")
	}
	if err != nil {
		return nil, fmt.Errorf("choosing a cluster: %w", err)
	}
	return kubernetes.NewForConfig(config)
}
