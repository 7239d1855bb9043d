package manager

import (
	"context"
	"errors"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/distribute"
)

func watchKubernetes(ctx context.Context, group *errgroup.Group, k *Kubernetes, policies *distribute.Server, loaded func([]rbac.Policy, error), log *slog.Logger, health *daemon.Health) error {
	return errors.New("being built")
}
