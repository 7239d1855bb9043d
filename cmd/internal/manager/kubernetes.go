package manager

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

func (r *run) watchKubernetes(ctx context.Context, group *errgroup.Group, k *Kubernetes) error {
	return errors.New("being built")
}
