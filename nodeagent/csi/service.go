package csi

import (
	"context"
	"log/slog"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/istio-auth/istio-auth/attest"
)

// identityService says who we are.
type identityService struct {
	csi.UnimplementedIdentityServer
	version string
}

func (s identityService) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: Name, VendorVersion: s.version}, nil
}

// GetPluginCapabilities has nothing to tell: there is no controller.
func (s identityService) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

func (s identityService) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// nodeService publishes volumes.
type nodeService struct {
	csi.UnimplementedNodeServer
	d *Driver
}

func (s nodeService) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: s.d.Node}, nil
}

func (s nodeService) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (s nodeService) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	v, err := s.d.rules.publish(req, time.Now())
	if err == nil {
		err = s.d.publish(ctx, v)
	}
	if err != nil {
		return nil, answer(ctx, err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (s nodeService) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	uid, err := s.d.rules.unpublish(req)
	if err == nil {
		err = s.d.unpublish(ctx, uid, req.GetTargetPath())
	}
	if err != nil {
		return nil, answer(ctx, err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// answer is what the kubelet is told, which puts it into an event of the pod: the
// reason is for whoever wrote the pod or the CSIDriver object. No error of ours
// quotes a token.
func answer(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case attest.Reason(err) != "":
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

// registrationService answers the kubelet's plugin watcher.
type registrationService struct {
	registration.UnimplementedRegistrationServer
	d        *Driver
	endpoint string
}

func (s *registrationService) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: Name, Endpoint: s.endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (s *registrationService) NotifyRegistrationStatus(_ context.Context, r *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	s.d.registered.Store(r.GetPluginRegistered())
	if r.GetPluginRegistered() {
		s.d.Log.Info("the kubelet has taken the driver", "driver", Name)
	} else {
		s.d.Log.Error("the kubelet has not taken the driver", "driver", Name, "err", r.GetError())
	}
	return &registration.RegistrationStatusResponse{}, nil
}

// log writes the method and the pod's path: never the request, which holds tokens.
// A kubelet calls at every sync, so what went well is for those who debug.
func (d *Driver) log(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	began := time.Now()
	resp, err := next(ctx, req)
	level, attrs := slog.LevelDebug, []any{"method", info.FullMethod, "took", time.Since(began)}
	if r, ok := req.(interface{ GetTargetPath() string }); ok {
		attrs = append(attrs, "target", r.GetTargetPath())
	}
	if err != nil {
		level, attrs = slog.LevelWarn, append(attrs, "err", err)
	}
	d.Log.Log(ctx, level, "csi", attrs...)
	return resp, err
}
