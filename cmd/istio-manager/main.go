// Command istio-manager collects policies and sends each node those of its workloads.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/cmd/internal/manager"
)

func main() {
	config := manager.Defaults()
	os.Exit(daemon.Execute(daemon.Command("istio-manager", "The policy manager of a mesh", &config,
		func(ctx context.Context, log *slog.Logger) error {
			return manager.Run(ctx, config, manager.Deps{Log: log})
		})))
}
