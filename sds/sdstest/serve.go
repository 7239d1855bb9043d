package sdstest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/istio-auth/istio-auth/sds"
)

// A Socket is a server on a Unix socket in a folder of its own.
type Socket struct {
	// Path is the socket's.
	Path string

	dir    string
	server *grpc.Server
	done   chan error
}

// Serve starts a gRPC server with what register adds to it. The caller closes
// the socket.
func Serve(register func(*grpc.Server), options ...grpc.ServerOption) (*Socket, error) {
	dir, err := os.MkdirTemp("", "sds") // short: a socket's path fits in 107 bytes
	if err != nil {
		return nil, err
	}
	s := &Socket{Path: filepath.Join(dir, "s"), dir: dir, done: make(chan error, 1)}
	if err := s.Restart(register, options...); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// Restart ends the server, if one runs, and starts another on the same path.
func (s *Socket) Restart(register func(*grpc.Server), options ...grpc.ServerOption) error {
	s.Stop()
	listener, err := net.Listen("unix", s.Path)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	server := grpc.NewServer(append(sds.Options(), options...)...)
	register(server)
	s.server = server
	go func() { s.done <- server.Serve(listener) }()
	return nil
}

// Stop ends the server and its streams, and leaves the folder.
func (s *Socket) Stop() {
	if s.server != nil {
		s.server.Stop()
		<-s.done
		s.server = nil
	}
}

// Close is Stop, and removes the folder.
func (s *Socket) Close() error {
	s.Stop()
	return os.RemoveAll(s.dir)
}

// Dial connects to the socket.
func (s *Socket) Dial(options ...grpc.DialOption) (*grpc.ClientConn, error) {
	options = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)
	return grpc.NewClient("unix:"+s.Path, options...)
}
