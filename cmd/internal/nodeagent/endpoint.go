package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/nodeagent/workloadapi"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/secret"
)

// SocketName is the agent's socket in each workload's directory.
const SocketName = "agent.sock"

// sockets makes a Unix socket for each workload, on which its Envoy finds
// secrets and filters, and its application the SPIFFE Workload API. What a
// socket serves is fixed when it is made: there is no name by which one
// workload could ask for another's.
type sockets struct {
	log *slog.Logger
	// dir is where a workload's socket lives; it is made where it is missing.
	dir     func(attest.Pod) string
	filters *distribute.Filters
	// observe is told what the Envoys acknowledge and refuse, and may be nil.
	observe func(sds.Event)
	// admit, where set, judges each process that connects.
	admit func(*net.UnixConn, attest.Pod) (release func() error, err error)
}

var _ nodeagent.Endpoints = (*sockets)(nil)

// Open is [nodeagent.Endpoints]. A socket that a dead agent left is replaced.
func (s *sockets) Open(ctx context.Context, pod attest.Pod) (nodeagent.Endpoint, error) {
	dir := s.dir(pod)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the workload's directory: %w", err)
	}
	e := &endpoint{secrets: &secret.Source{}, api: &workloadapi.Server{Log: s.log}}
	e.forget = func() { s.filters.Remove(pod.UID) }
	sources := []sds.Source{e.secrets, reportingFilter{s.filters.Add(pod)}}
	options := append(sds.Options(),
		grpc.MaxHeaderListSize(16<<10),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}))
	var err error
	e.agent, err = s.serve(ctx, pod, filepath.Join(dir, SocketName), options, func(g *grpc.Server) {
		(&sds.Server{Sources: func(context.Context) ([]sds.Source, error) { return sources, nil }, Observe: s.observe, Log: s.log}).Register(g)
		e.api.Register(g)
	})
	if err != nil {
		e.forget()
		return nil, err
	}
	if e.authz, err = s.provide(ctx, pod, filepath.Join(dir, AuthzName)); err != nil {
		e.forget()
		return nil, errors.Join(err, e.agent.stop())
	}
	return e, nil
}

// reportingFilter tells the workload's policies what its Envoy makes of them.
type reportingFilter struct{ *distribute.PodFilter }

// Observe is called by package sds with the events of this type.
func (f reportingFilter) Observe(e sds.Event) {
	switch e.Kind {
	case sds.Acked:
		f.Acknowledged(e.Name, e.Version)
	case sds.Nacked:
		f.Rejected(e.Name, e.Version, e.Detail)
	}
}

// An endpoint serves one workload.
type endpoint struct {
	secrets *secret.Source
	api     *workloadapi.Server
	agent   *serving
	authz   *serving
	forget  func()
}

// Publish is [nodeagent.Endpoint]. Envoy is told first: it refuses more.
func (e *endpoint) Publish(u nodeagent.Update) error {
	if err := e.secrets.Set(secret.Material{SVID: u.SVID, Bundle: u.Bundle}); err != nil {
		return err
	}
	return e.api.Publish(u)
}

// Close is [nodeagent.Endpoint].
func (e *endpoint) Close() error {
	err := errors.Join(e.authz.stop(), e.agent.stop())
	e.forget()
	return err
}

// peers are the transport credentials of a socket that looks at who connects.
type peers struct {
	admit func(*net.UnixConn) (release func() error, err error)
	log   *slog.Logger
}

// peerInfo says that admission was passed; it carries nothing.
type peerInfo struct{ credentials.CommonAuthInfo }

// AuthType names the transport.
func (peerInfo) AuthType() string { return "unix-peer" }

// ServerHandshake admits the process, or closes the connection.
func (p peers) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, err := unixSocket(raw)
	if err != nil {
		return nil, nil, err
	}
	release, err := p.admit(conn)
	if err != nil {
		p.log.Warn("refused a process", "reason", attest.Reason(err), "err", err)
		return nil, nil, err
	}
	return &heldConn{Conn: raw, release: release}, peerInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
}

// heldConn keeps the peer's pidfd for as long as the connection lives.
type heldConn struct {
	net.Conn
	release func() error
}

// Close closes the connection and lets the peer go.
func (c *heldConn) Close() error { return errors.Join(c.Conn.Close(), c.release()) }

// ClientHandshake is not for servers.
func (peers) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a server's credentials")
}

// Info says what the credentials are.
func (peers) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

// Clone returns an equal value.
func (p peers) Clone() credentials.TransportCredentials { return p }

// OverrideServerName does nothing: nothing here has a server's name.
func (peers) OverrideServerName(string) error { return nil }
