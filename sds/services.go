package sds

import (
	"context"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	extensionv3 "github.com/envoyproxy/go-control-plane/envoy/service/extension/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/sds/stream"
)

// The wire of both protocols, whichever service it comes by.
type (
	sotwWire  = grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	deltaWire = grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
)

type aggregated struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	*service
}

func (a aggregated) StreamAggregatedResources(wire discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return a.sotw(wire, "")
}

func (a aggregated) DeltaAggregatedResources(wire discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return a.delta(wire, "")
}

type secrets struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	*service
}

func (s secrets) StreamSecrets(wire secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	return s.sotw(wire, SecretType)
}

func (s secrets) DeltaSecrets(wire secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	return s.delta(wire, SecretType)
}

func (s secrets) FetchSecrets(ctx context.Context, request *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	return s.fetch(ctx, request, SecretType)
}

type extensions struct {
	extensionv3.UnimplementedExtensionConfigDiscoveryServiceServer
	*service
}

func (e extensions) StreamExtensionConfigs(wire extensionv3.ExtensionConfigDiscoveryService_StreamExtensionConfigsServer) error {
	return e.sotw(wire, ExtensionType)
}

func (e extensions) DeltaExtensionConfigs(wire extensionv3.ExtensionConfigDiscoveryService_DeltaExtensionConfigsServer) error {
	return e.delta(wire, ExtensionType)
}

func (e extensions) FetchExtensionConfigs(ctx context.Context, request *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	return e.fetch(ctx, request, ExtensionType)
}

// sotw serves one state-of-the-world stream of one type, or of all where only
// is empty.
func (s *service) sotw(wire sotwWire, only string) error {
	return s.serve(&conn{
		ctx:     wire.Context(),
		session: stream.NewSotW(),
		recv: func() (request, error) {
			r, err := wire.Recv()
			if err == nil && r.GetTypeUrl() == "" {
				r.TypeUrl = only
			}
			return request{sotw: r}, err
		},
		send: func(r stream.Response) error { return wire.Send(r.SotW) },
		only: only,
	})
}

// delta is sotw for delta streams.
func (s *service) delta(wire deltaWire, only string) error {
	return s.serve(&conn{
		ctx:     wire.Context(),
		session: stream.NewDelta(),
		recv: func() (request, error) {
			r, err := wire.Recv()
			if err == nil && r.GetTypeUrl() == "" {
				r.TypeUrl = only
			}
			return request{delta: r}, err
		},
		send: func(r stream.Response) error { return wire.Send(r.Delta) },
		only: only,
	})
}

// fetch answers once: with those of the names that are known, NotFound where
// none exists, and Unavailable where it is not known yet.
func (s *service) fetch(ctx context.Context, in *discoveryv3.DiscoveryRequest, only string) (*discoveryv3.DiscoveryResponse, error) {
	if in.GetTypeUrl() == "" {
		in.TypeUrl = only
	}
	if err := stream.Check(in, only); err != nil {
		s.Log.WarnContext(ctx, "fetch refused", "err", err)
		return nil, asStatus(err)
	}
	sources, err := s.sources(ctx)
	if err != nil {
		return nil, err
	}
	snapshot := stream.Snapshot{Complete: true}
	if source := sources[in.GetTypeUrl()]; source != nil {
		snapshot, _ = source.Current()
	}
	names := slices.Compact(slices.Sorted(slices.Values(in.GetResourceNames())))
	if len(names) == 0 {
		for name := range snapshot.Resources {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	out := &discoveryv3.DiscoveryResponse{TypeUrl: in.GetTypeUrl()}
	for _, name := range names {
		if r := snapshot.Resources[name]; r != nil {
			out.Resources = append(out.Resources, r.Body)
			out.VersionInfo = r.Version
		}
	}
	switch {
	case len(out.Resources) < len(names) && !snapshot.Complete, len(names) == 0 && !snapshot.Complete:
		return nil, status.Error(codes.Unavailable, "not known yet")
	case len(out.Resources) == 0 && len(names) > 0:
		return nil, status.Error(codes.NotFound, "no such resource")
	}
	return out, nil
}
