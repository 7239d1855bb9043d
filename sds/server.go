package sds

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	extensionv3 "github.com/envoyproxy/go-control-plane/envoy/service/extension/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/sds/stream"
)

// The types that have a service of their own. Every other one travels on the
// aggregated stream.
const (
	SecretType    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	ExtensionType = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
)

const (
	defaultMaxStreams   = 256
	defaultWriteTimeout = 30 * time.Second
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

	// MaxStreams is how many streams may be open at once. Zero means 256: an
	// Envoy without an aggregated stream opens one for each secret.
	MaxStreams int
	// MaxNames is how many resources of one type a stream may subscribe to by
	// name. Zero means 64: more than one workload has. Who serves nodes sets it.
	MaxNames int
	// WriteTimeout is how long a client may leave a message unread before its
	// stream is ended. Zero means 30 seconds.
	WriteTimeout time.Duration
}

// Options returns the options of a gRPC server for a workload's socket: they
// hold a message to what [Server] would accept before it is parsed, and keep
// the buffers of an idle connection small.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(stream.MaxFirstRequest),
		grpc.MaxConcurrentStreams(defaultMaxStreams),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.ReadBufferSize(4 << 10),
		grpc.SharedWriteBuffer(true),
	}
}

// Register adds the aggregated, secret and extension configuration discovery
// services to a gRPC server that does not serve yet.
func (s *Server) Register(g *grpc.Server) {
	svc := &service{Server: *s}
	if svc.Log == nil {
		svc.Log = slog.New(slog.DiscardHandler)
	}
	if svc.Observe == nil {
		svc.Observe = func(Event) {}
	}
	if svc.MaxStreams == 0 {
		svc.MaxStreams = defaultMaxStreams
	}
	if svc.WriteTimeout == 0 {
		svc.WriteTimeout = defaultWriteTimeout
	}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, aggregated{service: svc})
	secretv3.RegisterSecretDiscoveryServiceServer(g, secrets{service: svc})
	extensionv3.RegisterExtensionConfigDiscoveryServiceServer(g, extensions{service: svc})
}

// A service is a registered Server with its defaults filled in.
type service struct {
	Server
	streams atomic.Int64
	opened  atomic.Uint64
}

// sources returns the connection's sources by type.
func (s *service) sources(ctx context.Context) (map[string]Source, error) {
	list, err := s.Sources(ctx)
	if err != nil {
		if _, ok := status.FromError(err); !ok {
			s.Log.WarnContext(ctx, "no sources for a connection", "err", err)
			err = status.Error(codes.Unavailable, "nothing to serve")
		}
		return nil, err
	}
	byType := make(map[string]Source, len(list))
	for _, source := range list {
		byType[source.TypeURL()] = source
	}
	return byType, nil
}

// asStatus turns the end of a stream into what its client is told.
func asStatus(err error) error {
	var refusal *stream.Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		return status.Error(codes.InvalidArgument, refusal.Reason)
	case errors.Is(err, errStalled):
		return status.Error(codes.DeadlineExceeded, "a message was not read in time")
	}
	return err // of gRPC, with its status
}
