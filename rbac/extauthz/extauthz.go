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
// With each answer goes metadata, for the sidecar and never for the client: why,
// and, beside a yes, which comparisons hold for sure and which do not
// ([YesKey], [NoKey]). That is what lets a filter stand by a rule that it cannot
// read by itself: docs/design/provider.md.
//
// Start at [Server].
package extauthz

import (
	"cmp"
	"context"
	"errors"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
)

// Name is how CUSTOM policies name this provider.
const Name = rbac.OwnProvider

// Keys of the metadata of an answer. YesKey and NoKey are lists of the names of
// comparisons, rbac.Comparison.Name: of those that hold for sure, and of those that do not for
// sure. They are there beside a yes alone. ReasonKey and RuleKey are as of
// [eval.Verdict], or the reason is a [Problem]'s, or one of this package.
const (
	YesKey    = "yes"
	NoKey     = "no"
	ReasonKey = "reason"
	RuleKey   = "rule"
)

// Reasons for a refusal that are neither a verdict's nor a problem's.
const (
	NoPolicies = "no-policies" // nobody could say what applies
	TooLate    = "too-late"    // whoever asked has stopped waiting
)

// Limits of what an answer tells of comparisons. Those that it does not tell are
// not known, with which an ALLOW does not match and a DENY does.
const (
	maxComparisons = 1000
	maxTold        = 128 << 10 // bytes
)

const patience = time.Second

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
	// Timeout is how long an answer may take. Zero means a second, which is what
	// the sidecar waits.
	Timeout time.Duration

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

// Options are for the gRPC server: bounds on what one connection may send and
// leave open. Sidecars are near, and few share a socket.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxQuestion),
		grpc.MaxSendMsgSize(2 * maxTold),
		grpc.MaxConcurrentStreams(1000),
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 10 * time.Second}),
	}
}

// Register adds the service to a gRPC server that does not serve yet. The server
// should have [Options].
func (s *Server) Register(g *grpc.Server) { authv3.RegisterAuthorizationServer(g, s) }

// Check implements envoy.service.auth.v3.Authorization. It never returns an
// error: what cannot be decided is refused.
func (s *Server) Check(ctx context.Context, question *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.Timeout, patience))
	defer cancel()
	answer, set := s.decide(ctx, question)
	if s.Observe != nil {
		s.Observe(answer)
	}
	if answer.Err != nil || !answer.Verdict.Allowed {
		return refusal(answer), nil
	}
	return &authv3.CheckResponse{
		Status:          &rpcstatus.Status{Code: int32(codes.OK)},
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
		DynamicMetadata: told(answer, set),
	}, nil
}

func (s *Server) decide(ctx context.Context, question *authv3.CheckRequest) (Answer, rbac.Set) {
	req, err := Request(question)
	if err != nil {
		return Answer{Err: err}, rbac.Set{}
	}
	if s.Sets == nil {
		return Answer{Request: req, Err: errors.New("extauthz: nobody says what applies")}, rbac.Set{}
	}
	set, err := s.Sets(ctx)
	if err != nil {
		return Answer{Request: req, Err: err}, rbac.Set{}
	}
	verdict := eval.Decide(set, req)
	if ctx.Err() != nil {
		return Answer{Request: req, Err: ctx.Err()}, rbac.Set{}
	}
	return Answer{Request: req, Verdict: verdict}, set
}

// refusal tells a stranger that it was refused, and not why.
func refusal(a Answer) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden},
			Body:   "RBAC: access denied",
		}},
		DynamicMetadata: why(a),
	}
}

// why is for the sidecar's log.
func why(a Answer) *structpb.Struct {
	reason := string(a.Verdict.Reason)
	if a.Err != nil {
		reason = NoPolicies
		if p, ok := errors.AsType[*Problem](a.Err); ok {
			reason = p.Reason
		} else if errors.Is(a.Err, context.DeadlineExceeded) || errors.Is(a.Err, context.Canceled) {
			reason = TooLate
		}
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		ReasonKey: structpb.NewStringValue(reason),
		RuleKey:   structpb.NewStringValue(a.Verdict.Rule),
	}}
}

// told is why, and the comparisons, up to a bound.
func told(a Answer, set rbac.Set) *structpb.Struct {
	fields := why(a)
	yes, no := eval.Compared(set, a.Request)
	count, size := 0, 0
	list := func(names []string) *structpb.Value {
		out := &structpb.ListValue{}
		for _, name := range names {
			if count, size = count+1, size+len(name); count > maxComparisons || size > maxTold {
				break
			}
			out.Values = append(out.Values, structpb.NewStringValue(name))
		}
		return structpb.NewListValue(out)
	}
	// Those that do not hold come first: for want of one a DENY refuses, and
	// nothing makes up for that.
	fields.Fields[NoKey], fields.Fields[YesKey] = list(no), list(yes)
	return fields
}
