// Command istio-nodeagent serves the workloads of one node their identities
// and the policies that concern them.
//
// Started with --keep, as in its container, it is the keeper: it runs itself
// once more without the flag, and again at once whenever that child dies.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/cmd/internal/nodeagent"
)

func main() {
	config := nodeagent.Defaults()
	command := daemon.Command("istio-nodeagent", "The agent of a node", &config,
		func(ctx context.Context, log *slog.Logger) error {
			return nodeagent.Run(ctx, config, nodeagent.Deps{Log: log, NodeName: os.Getenv("NODE_NAME")})
		})
	nodeagent.AddKeeper(command)
	os.Exit(daemon.Execute(command))
}
