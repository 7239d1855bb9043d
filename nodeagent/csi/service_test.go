package csi

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// running starts the driver on its sockets; stop waits for its end.
func (r *rig) running(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func client(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// kubelet registers the driver as the plugin watcher does, and returns the node
// and identity services that it was pointed to.
func (r *rig) kubelet(t *testing.T) (csi.NodeClient, csi.IdentityClient) {
	t.Helper()
	registry := registration.NewRegistrationClient(client(t, filepath.Join(r.KubeletDir, "plugins_registry", Name+"-reg.sock")))
	info, err := registry.GetInfo(t.Context(), &registration.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if info.GetType() != "CSIPlugin" || info.GetName() != "csi.istio-auth.io" || strings.Join(info.GetSupportedVersions(), " ") != "1.0.0" {
		t.Errorf("registered as %v", info)
	}
	for _, taken := range []bool{false, true} {
		if _, err := registry.NotifyRegistrationStatus(t.Context(), &registration.RegistrationStatus{PluginRegistered: taken, Error: "x"}); err != nil {
			t.Fatal(err)
		}
		if r.Registered() != taken {
			t.Errorf("Registered is %v, want %v", r.Registered(), taken)
		}
	}
	conn := client(t, info.GetEndpoint())
	return csi.NewNodeClient(conn), csi.NewIdentityClient(conn)
}

func TestAsAKubeletSeesIt(t *testing.T) {
	r := newRig(t)
	stop := r.running(t)
	node, identity := r.kubelet(t)

	who, err := identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	if err != nil || who.GetName() != Name || who.GetVendorVersion() != "v0" {
		t.Errorf("GetPluginInfo: %v, %v", who, err)
	}
	caps, err := identity.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
	if err != nil || len(caps.GetCapabilities()) != 0 {
		t.Errorf("GetPluginCapabilities: %v, %v", caps, err)
	}
	if _, err := identity.Probe(t.Context(), &csi.ProbeRequest{}); err != nil {
		t.Errorf("Probe: %v", err)
	}
	here, err := node.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || here.GetNodeId() != "n1" {
		t.Errorf("NodeGetInfo: %v, %v", here, err)
	}
	can, err := node.NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	if err != nil || len(can.GetCapabilities()) != 0 {
		t.Errorf("NodeGetCapabilities: %v, %v", can, err)
	}
	if _, err := node.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("NodeStageVolume: %v, want Unimplemented", err)
	}

	req := r.request(t, uid1, "identity", jwt1, time.Hour)
	if _, err := node.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := r.ask(uid1); got != uid1 {
		t.Errorf("the socket says %q", got)
	}
	bad := r.request(t, uid1, "identity", jwt1, time.Hour)
	bad.VolumeContext[tokensKey] = bad.Secrets[tokensKey]
	_, err = node.NodePublishVolume(t.Context(), bad)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "token-in-context") {
		t.Errorf("got %v, want InvalidArgument with the reason", err)
	}
	large := r.request(t, uid1, "identity", jwt1, time.Hour)
	large.VolumeContext["x"] = strings.Repeat("x", 300<<10)
	if _, err = node.NodePublishVolume(t.Context(), large); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("300 KiB: got %v, want ResourceExhausted", err)
	}
	if _, err := node.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: req.GetVolumeId(), TargetPath: req.GetTargetPath()}); err != nil {
		t.Error(err)
	}

	registry := filepath.Join(r.KubeletDir, "plugins_registry", Name+"-reg.sock")
	for _, path := range []string{registry, filepath.Join(r.KubeletDir, "plugins", Name, "csi.sock")} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want 0600", path, info.Mode(), err)
		}
	}
	stop()
	if _, err := os.Lstat(registry); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the kubelet does not see that the driver is gone: %v", err)
	}
	// Not a part of a token in a log at its most talkative (I16).
	if out := r.logged.String(); !strings.Contains(out, "NodePublishVolume") || strings.Contains(out, "c2lnbmF0dXJl") || strings.Contains(out, "eyJ") {
		t.Errorf("the log is empty or holds a token:\n%s", out)
	}
}

// In a rolling update the successor may be there before we are gone: its sockets stay.
func TestStopLeavesTheSuccessorsSockets(t *testing.T) {
	r := newRig(t)
	stop := r.running(t)
	r.kubelet(t)
	path := filepath.Join(r.KubeletDir, "plugins_registry", Name+"-reg.sock")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	successor, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer successor.Close()
	stop()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("took the successor's socket away: %v", err)
	}
}

// A killed agent leaves its sockets' names; the next one takes their place.
func TestRunTakesThePlaceOfTheDead(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(r.KubeletDir, "plugins_registry", Name+"-reg.sock")
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	r.running(t)
	r.kubelet(t)
}

func TestRunDoesNotRemoveWhatIsNoSocket(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(r.KubeletDir, "plugins_registry", Name+"-reg.sock")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil {
		t.Error("started in the place of a file")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "x" {
		t.Errorf("the file is gone: %v", err)
	}
}
