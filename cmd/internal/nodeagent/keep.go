package nodeagent

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/nodeagent/keeper"
)

// AddKeeper gives the agent's command the flag --keep, with which it runs
// itself as its own child and starts it anew whenever it dies.
func AddKeeper(command *cobra.Command) {
	keep := command.Flags().Bool("keep", false, "be the keeper: run the agent as a child, and start it again at once when it dies")
	agent := command.RunE
	command.RunE = func(cmd *cobra.Command, args []string) error {
		if !*keep {
			return agent(cmd, args)
		}
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
			Args: slices.DeleteFunc(slices.Clone(os.Args), func(arg string) bool { return arg == "--keep" || arg == "--keep=true" }),
		}
		code, err := k.Run(cmd.Context())
		if err == nil && code != 0 {
			err = daemon.ExitCode{Code: code, Err: fmt.Errorf("the agent ended with code %d", code)}
		}
		return err
	}
}
