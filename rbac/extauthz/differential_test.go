package extauthz_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/extauthz"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// ask is how our sidecar's Envoy puts the question about req.
func ask(t testing.TB, req rbac.Request) *authv3.CheckRequest {
	source := socket(req.Source.String(), 40000)
	destination := socket(req.Destination.Addr().String(), uint32(req.Destination.Port()))
	about := &authv3.AttributeContext{Source: source, Destination: destination}
	if !req.Peer.ID.IsZero() {
		source.Principal = req.Peer.ID.String()
	}
	if !req.Peer.ID.IsZero() || req.ServerName != "" {
		about.TlsSession = &authv3.AttributeContext_TLSSession{Sni: req.ServerName}
	}
	if req.Protocol == rbac.HTTP {
		lines := []*corev3.HeaderValue{line(":method", req.Method), line(":path", req.Path), line(":authority", req.Host), line(":scheme", "https")}
		for name, values := range req.Headers {
			for _, value := range values {
				lines = append(lines, line(name, value))
			}
		}
		about.Request = &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: req.Method, Path: req.Path, Host: req.Host, Scheme: "https", HeaderMap: &corev3.HeaderMap{Headers: lines},
		}}
	}
	if req.Token != nil {
		about.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			"envoy.filters.http.jwt_authn": object(t, map[string]any{"payload": req.Token.Claims}),
		}}
	}
	// What is asked went over a wire.
	data, err := proto.Marshal(&authv3.CheckRequest{Attributes: about})
	if err != nil {
		t.Fatal(err)
	}
	out := &authv3.CheckRequest{}
	if err := proto.Unmarshal(data, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestProviderIsEval: for requests with every feature, what comes out of a
// question is what eval says of the request that went in, with its comparisons;
// and where a question is refused as such, no request that a sidecar would ask
// about is lost.
func TestProviderIsEval(t *testing.T) {
	g := rbactest.New(31, rbactest.Everything)
	seen := map[string]int{}
	var set rbac.Set
	var answer extauthz.Answer
	server := &extauthz.Server{
		Sets:    func(context.Context) (rbac.Set, error) { return set, nil },
		Observe: func(a extauthz.Answer) { answer = a },
	}
	for range 600 {
		c := g.Case()
		set = c.Selected("")
		for range 6 {
			c.Call = g.Call(c.Policies)
			req, err := c.Request()
			if err != nil {
				continue
			}
			req.Remote = req.Source // Envoy tells no other
			if !req.Destination.IsValid() {
				req.Destination = netip.MustParseAddrPort("10.0.0.2:8080")
			}
			want := eval.Decide(set, req)
			response, err := server.Check(t.Context(), ask(t, req))
			if err != nil {
				t.Fatal(err)
			}
			reason := response.DynamicMetadata.Fields[extauthz.ReasonKey].GetStringValue()
			seen[reason]++
			allowed := response.Status.Code == int32(codes.OK)
			if p, refused := errors.AsType[*extauthz.Problem](answer.Err); refused {
				if allowed || p.Reason != reason || !unaskable(req, reason) {
					t.Fatalf("refused for %v (allowed: %t)\n%+v\n%s", p, allowed, req, c)
				}
				continue
			}
			if got := answer.Verdict; got.Allowed != want.Allowed || got.Rule != want.Rule || got.Reason != want.Reason || !slices.Equal(got.Ask, want.Ask) ||
				allowed != want.Allowed || reason != string(want.Reason) || response.DynamicMetadata.Fields[extauthz.RuleKey].GetStringValue() != want.Rule {
				t.Fatalf("got %+v (allowed: %t, %s), want %+v\n%s", got, allowed, reason, want, c)
			}
			if yes, no := eval.Compared(set, req); allowed && (!slices.Equal(names(response, extauthz.YesKey), yes) || !slices.Equal(names(response, extauthz.NoKey), no)) {
				t.Fatalf("told %v, want %q and %q\n%s", response.DynamicMetadata, yes, no, c)
			} else if !allowed && len(response.DynamicMetadata.Fields) != 2 {
				t.Fatalf("a refusal tells %v", response.DynamicMetadata)
			}
		}
	}
	t.Log(seen)
	for _, reason := range []eval.Reason{eval.AllowRule, eval.DenyRule, eval.NoAllow, eval.NoAllowMatch, eval.NoIdentity, eval.NoProvider} {
		if seen[string(reason)] == 0 {
			t.Errorf("no request is for %s: the mixture shows little", reason)
		}
	}
}

// unaskable tells whether our sidecar's Envoy would never ask about req, for this
// reason.
func unaskable(req rbac.Request, reason string) bool {
	switch reason {
	case "no-http":
		return req.Protocol != rbac.HTTP
	case "not-canonical":
		canonical, err := rbac.CanonicalPath(req.Path)
		return (err != nil || canonical != req.Path) && !rbac.PlainPath(req.Path)
	case "bad-token":
		for _, name := range []string{"iss", "sub"} {
			if v, there := req.Token.Claims[name]; there {
				if _, text := v.(string); !text {
					return true
				}
			}
		}
	}
	return false
}

func names(r *authv3.CheckResponse, key string) []string {
	var out []string
	for _, v := range r.DynamicMetadata.Fields[key].GetListValue().GetValues() {
		out = append(out, v.GetStringValue())
	}
	return out
}
