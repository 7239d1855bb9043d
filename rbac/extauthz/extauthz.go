// Package extauthz answers Envoy's external authorization from rbac/eval.
//
// It is the provider that comes with Istio-Auth, for what no filter can
// express: a comparison of two attributes, above all. It decides by the whole
// set that applies to the workload, with every attribute, and says yes or no. A
// CUSTOM policy that names it makes the sidecar ask; what else the sidecar's own
// filter decides stands beside it, and each of the two can refuse.
//
// What it is told must be of one piece: see [Request]. Who asks is not what the
// message says but what the connection shows, which is [Server.Sets]' business.
//
// Start at [Server].
package extauthz

import (
	"context"
	"errors"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
)

// A Server is an envoy.service.auth.v3.Authorization. Its fields must not
// change after Register.
type Server struct {
	// Sets returns what applies to the workload whose sidecar is at the other end
	// of this connection. Whose it is, the context tells, never the message. An
	// error, and the zero Set, refuse.
	Sets func(context.Context) (rbac.Set, error)
	// Observe is told of every answer, by many at once. It must not block. Nil
	// means nobody listens.
	Observe func(Answer)

	authv3.UnimplementedAuthorizationServer
}

var _ authv3.AuthorizationServer = (*Server)(nil)

// An Answer is what a sidecar was told, and why. One that did not come to a
// decision has Err.
type Answer struct {
	Request rbac.Request
	Verdict eval.Verdict
	// Err is a [*Problem] where the question was not of one piece, and else why
	// it is not known what applies.
	Err error
}

// Register adds the service to a gRPC server that does not serve yet.
func (s *Server) Register(g *grpc.Server) { authv3.RegisterAuthorizationServer(g, s) }

// Check implements envoy.service.auth.v3.Authorization. It never returns an
// error: what cannot be decided is refused.
func (s *Server) Check(ctx context.Context, question *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	answer := s.decide(ctx, question)
	if s.Observe != nil {
		s.Observe(answer)
	}
	if answer.Err != nil || !answer.Verdict.Allowed {
		return refusal(), nil
	}
	return &authv3.CheckResponse{
		Status:       &rpcstatus.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}, nil
}

func (s *Server) decide(ctx context.Context, question *authv3.CheckRequest) Answer {
	req, err := Request(question)
	if err != nil {
		return Answer{Err: err}
	}
	if s.Sets == nil {
		return Answer{Request: req, Err: errors.New("extauthz: nobody says what applies")}
	}
	set, err := s.Sets(ctx)
	if err != nil {
		return Answer{Request: req, Err: err}
	}
	return Answer{Request: req, Verdict: eval.Decide(set, req)}
}

// refusal tells a stranger that it was refused, and not why.
func refusal() *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden},
			Body:   "RBAC: access denied",
		}},
	}
}
