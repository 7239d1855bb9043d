package nodeagent

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/istio-auth/istio-auth/nodeagent"
)

func serveCSI(ctx context.Context, group *errgroup.Group, c Config, d Deps, agent *nodeagent.Agent, endpoints *sockets) error {
	return errors.New("being built")
}

// AddKeeper adds the flag --keep to the agent's command.
func AddKeeper(command *cobra.Command) {}
