package sds

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"
)

// A Server serves the sources of a connection by xDS. Its fields must not
// change after Register.
type Server struct {
	// Sources returns the sources that the peer of this connection may see.
	// Whoever it is, the context tells it, never what a stream says of itself.
	// An error ends the stream; one that carries a gRPC status keeps it.
	Sources func(context.Context) ([]Source, error)
	// Observe is told of every event, in order within a stream and from many
	// streams at once. It must not block. Nil means nobody listens.
	Observe func(Event)
	// Log is where refused requests go. Nil discards.
	Log *slog.Logger
}

// Register adds the services to a gRPC server that does not serve yet.
func (s *Server) Register(g *grpc.Server) {
}
