// Command istio-ca is the certificate authority of a mesh.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/istio-auth/istio-auth/cmd/internal/ca"
	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

func main() {
	config := ca.Defaults()
	os.Exit(daemon.Execute(daemon.Command("istio-ca", "The certificate authority of a mesh", &config,
		func(ctx context.Context, log *slog.Logger) error { return ca.Run(ctx, config, ca.Deps{Log: log}) })))
}
