package workloadapi

import (
	"context"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A service is the generated service over a Server. The methods of the JWT and
// WIT profiles look at the header first: without it every call is refused alike.
type service struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	server *Server
}

var errNotServed = status.Error(codes.Unimplemented, "only the X.509 profile is served")

func (s service) FetchX509SVID(_ *workload.X509SVIDRequest, wire grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return s.server.follow(wire.Context(), func(now answer) error {
		if now.svids == nil {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		return wire.Send(now.svids)
	})
}

func (s service) FetchX509Bundles(_ *workload.X509BundlesRequest, wire grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return s.server.follow(wire.Context(), func(now answer) error { return wire.Send(now.bundles) })
}

func (s service) FetchJWTSVID(ctx context.Context, _ *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	return nil, notServed(ctx)
}

func (s service) FetchJWTBundles(_ *workload.JWTBundlesRequest, wire grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	return notServed(wire.Context())
}

func (s service) ValidateJWTSVID(ctx context.Context, _ *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	return nil, notServed(ctx)
}

func (s service) FetchWITSVID(_ *workload.WITSVIDRequest, wire grpc.ServerStreamingServer[workload.WITSVIDResponse]) error {
	return notServed(wire.Context())
}

func (s service) FetchWITBundles(_ *workload.WITBundlesRequest, wire grpc.ServerStreamingServer[workload.WITBundlesResponse]) error {
	return notServed(wire.Context())
}

func notServed(ctx context.Context) error {
	if err := fromWorkload(ctx); err != nil {
		return err
	}
	return errNotServed
}
