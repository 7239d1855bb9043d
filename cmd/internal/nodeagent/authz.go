package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/extauthz"
)

// AuthzName is the socket in each workload's directory on which its Envoy asks
// our own provider of CUSTOM policies. It is apart from the agent's, so that
// questions, of which there is one a request, keep no certificate waiting.
const AuthzName = "authz.sock"

// provide serves our own provider to a workload.
func (s *sockets) provide(ctx context.Context, pod attest.Pod, path string) (*serving, error) {
	options := append(extauthz.Options(),
		grpc.MaxHeaderListSize(16<<10),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}))
	return s.serve(ctx, pod, path, options, func(g *grpc.Server) {
		(&extauthz.Server{Sets: func(context.Context) (rbac.Set, error) { return s.filters.Set(pod.UID) }}).Register(g)
	})
}

// serving is a gRPC server on one socket.
type serving struct {
	server *grpc.Server
	done   chan error
}

// serve listens at path, where a socket that a dead agent left is replaced, and
// serves what register adds to those that may connect.
func (s *sockets) serve(ctx context.Context, pod attest.Pod, path string, options []grpc.ServerOption, register func(*grpc.Server)) (*serving, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing an old socket: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening for the workload: %w", err)
	}
	// The directory is the workload's alone: any user in it may connect.
	if err := os.Chmod(path, 0o666); err != nil {
		listener.Close()
		return nil, fmt.Errorf("opening the socket to the workload: %w", err)
	}
	if s.admit != nil {
		options = append(options, grpc.Creds(peers{admit: func(c *net.UnixConn) (func() error, error) { return s.admit(c, pod) }, log: s.log}))
	}
	v := &serving{server: grpc.NewServer(options...), done: make(chan error, 1)}
	register(v.server)
	go func() { v.done <- v.server.Serve(bound(listener, maxConnections)) }()
	return v, nil
}

// stop ends it. The listener takes its socket file along.
func (v *serving) stop() error {
	v.server.Stop()
	return <-v.done
}
