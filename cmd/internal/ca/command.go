package ca

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

// Command is istio-ca's command line.
func Command() *cobra.Command {
	config := Defaults()
	return daemon.Command("istio-ca", "The certificate authority of a mesh", &config,
		func(ctx context.Context, log *slog.Logger) error { return Run(ctx, config, Deps{Log: log}) })
}
