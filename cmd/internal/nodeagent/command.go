package nodeagent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/nodeagent/keeper"
)

// Command is istio-nodeagent's command line. With --keep, as in its container,
// it is the keeper: it runs itself as its own child, and starts that anew
// whenever it dies.
func Command() *cobra.Command {
	config := Defaults()
	command := daemon.Command("istio-nodeagent", "The agent of a node", &config,
		func(ctx context.Context, log *slog.Logger) error {
			return Run(ctx, config, Deps{Log: log, NodeName: os.Getenv("NODE_NAME")})
		})
	keep := command.Flags().Bool("keep", false, "be the keeper: run the agent as a child, and start it again at once when it dies")
	agent := command.RunE
	command.RunE = func(cmd *cobra.Command, args []string) error {
		if !*keep {
			return agent(cmd, args)
		}
		return runKeeper(cmd)
	}
	return command
}

// runKeeper runs our own command line as a child, without --keep.
func runKeeper(cmd *cobra.Command) error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding our own program: %w", err)
	}
	level, err := cmd.Flags().GetString("log-level")
	if err != nil {
		return err
	}
	log, err := daemon.Logger(cmd.ErrOrStderr(), level)
	if err != nil {
		return err
	}
	k := &keeper.Keeper{
		Path: path, Env: os.Environ(), Log: log,
		// The last word counts, however the first one was spelt (--keep=1):
		// a child that were a keeper too would have children without end.
		Args: append(slices.Clone(os.Args), "--keep=false"),
	}
	code, err := k.Run(cmd.Context())
	if err == nil && code != 0 {
		err = daemon.ExitCode{Code: code, Err: fmt.Errorf("the agent ended with code %d", code)}
	}
	return err
}
