package grpcauthz

import (
	"context"
	"crypto/tls"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
)

var (
	_ grpc.UnaryServerInterceptor  = (*Authorizer)(nil).Unary
	_ grpc.StreamServerInterceptor = (*Authorizer)(nil).Stream
)

// Unary is a grpc.UnaryServerInterceptor. What is refused is PermissionDenied.
func (a *Authorizer) Unary(ctx context.Context, msg any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := a.call(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, msg)
}

// Stream is a grpc.StreamServerInterceptor, likewise.
func (a *Authorizer) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := a.call(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, stream)
}

// call decides about a gRPC call, which is a POST (its protocol's "Requests").
func (a *Authorizer) call(ctx context.Context, method string) error {
	req := rbac.Request{Protocol: rbac.HTTP, Method: "POST", Path: method}
	denied := status.Error(codes.PermissionDenied, "access denied")
	if !isMethod(method) {
		a.refused(ctx, req, eval.Verdict{Reason: BadMethod}, nil)
		return denied
	}
	state, remote, local := connectionOf(ctx)
	if err := a.connection(&req, state, remote, local); err != nil {
		a.refused(ctx, req, eval.Verdict{Reason: BadIdentity}, err)
		return denied
	}
	req.Host, req.Headers = fromMetadata(ctx)
	if !a.allows(ctx, req) {
		return denied
	}
	return nil
}

// isMethod tells whether a full method is "/service/method", as it stands.
func isMethod(method string) bool {
	rest, rooted := strings.CutPrefix(method, "/")
	service, name, ok := strings.Cut(rest, "/")
	canonical, err := rbac.CanonicalPath(method)
	return rooted && ok && service != "" && name != "" && !strings.Contains(name, "/") && err == nil && canonical == method
}

func connectionOf(ctx context.Context) (state *tls.ConnectionState, remote, local net.Addr) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, nil, nil
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		state = &info.State
	}
	return state, p.Addr, p.LocalAddr
}

// fromMetadata returns the authority and the headers. A binary header goes over
// the wire as base64, padded or not, so that nobody can tell what it was: it has
// two lines, which no rule decides upon.
func fromMetadata(ctx context.Context) (host string, headers map[string][]string) {
	md, _ := metadata.FromIncomingContext(ctx)
	headers = make(map[string][]string, len(md))
	for name, lines := range md {
		switch {
		case strings.HasSuffix(name, "-bin"):
			lines = append(lines[:len(lines):len(lines)], "")
			headers[name] = append(lines, "")
		case !strings.HasPrefix(name, ":"):
			headers[name] = lines
		}
	}
	if authority := md[":authority"]; len(authority) == 1 {
		host = authority[0]
	}
	return host, headers
}
