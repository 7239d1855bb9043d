package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
)

// ServeGRPC serves until ctx ends. Then it lets calls under way finish, for a
// second: streams never end of themselves.
func ServeGRPC(ctx context.Context, g *grpc.Server, listener net.Listener, log *slog.Logger) error {
	log.Info("serving", "address", listener.Addr().String())
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		hard := time.AfterFunc(time.Second, g.Stop)
		defer hard.Stop()
		g.GracefulStop()
	})
	err := g.Serve(listener)
	if !stop() {
		<-done
		return nil
	}
	g.Stop()
	return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
}
