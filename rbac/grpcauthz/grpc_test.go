package grpcauthz_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/mtls"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/grpcauthz"
	"github.com/istio-auth/istio-auth/rbac/index"
)

const (
	check = "/grpc.health.v1.Health/Check"
	watch = "/grpc.health.v1.Health/Watch"
)

func ask(t testing.TB, conn *grpc.ClientConn, header ...string) codes.Code {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), header...)
	_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return status.Code(err)
}

func stream(t testing.TB, conn *grpc.ClientConn) codes.Code {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	return status.Code(err)
}

func header(name string) rbac.Attribute { return must(rbac.HeaderAttr(name)) }

// TestGRPC: over mutual TLS, one policy and one call a row.
func TestGRPC(t *testing.T) {
	web := in(rbac.Attr(rbac.Principal), "td.test/ns/front/sa/web")
	rows := []struct {
		name   string
		set    rbac.Set
		id     spiffeid.ID
		header []string
		want   codes.Code
		log    string
	}{
		{"nothing applies", policies(), webID, nil, codes.OK, ""},
		{"unknown", rbac.Set{}, webID, nil, codes.PermissionDenied, "reason=unknown-set"},
		{"no workload", policies(), callID, nil, codes.PermissionDenied, "reason=no-identity"},
		{"the principal", policies(policy(rbac.Allow, web)), webID, nil, codes.OK, ""},
		{"another principal", policies(policy(rbac.Allow, web)), apiID, nil, codes.PermissionDenied, "spiffe_id=spiffe://td.test/ns/front/sa/api method=POST path=/grpc.health.v1.Health/Check reason=no-allow-match"},
		{"the path", policies(policy(rbac.Allow, in(rbac.Attr(rbac.Path), check))), webID, nil, codes.OK, ""},
		{"another path", policies(policy(rbac.Allow, in(rbac.Attr(rbac.Path), watch))), webID, nil, codes.PermissionDenied, "reason=no-allow-match"},
		{"the service", policies(policy(rbac.Allow, in(rbac.Attr(rbac.Path), "/grpc.health.v1.Health/*"))), webID, nil, codes.OK, ""},
		{"a denied path", policies(policy(rbac.Deny, in(rbac.Attr(rbac.Path), check))), webID, nil, codes.PermissionDenied, "reason=deny-rule rule=shop/DENY/0"},
		{"the method", policies(policy(rbac.Allow, in(rbac.Attr(rbac.Method), "POST"))), webID, nil, codes.OK, ""},
		{"the host", policies(policy(rbac.Allow, in(rbac.Attr(rbac.Host), "shop.test"))), webID, nil, codes.OK, ""},
		{"another host", policies(policy(rbac.Deny, notIn(rbac.Attr(rbac.Host), "shop.test"))), webID, nil, codes.OK, ""},
		{"a header", policies(policy(rbac.Allow, in(header("x-a"), "v"))), webID, []string{"x-a", "v"}, codes.OK, ""},
		{"a header of two lines", policies(policy(rbac.Allow, in(header("x-a"), "v"))), webID, []string{"x-a", "v", "x-a", "v"}, codes.PermissionDenied, "reason=no-allow-match"},
		{"a header of two lines is denied", policies(policy(rbac.Deny, in(header("x-a"), "w"))), webID, []string{"x-a", "v", "x-a", "v"}, codes.PermissionDenied, "reason=deny-rule"},
		{"a header in another case", policies(policy(rbac.Allow, in(header("X-A"), "v"))), webID, []string{"X-a", "v"}, codes.OK, ""},
		{"no header", policies(policy(rbac.Allow, in(header("x-a"), "*"))), webID, nil, codes.PermissionDenied, "reason=no-allow-match"},
		{"a binary header is not told", policies(policy(rbac.Allow, in(header("x-bin"), "*"))), webID, []string{"x-bin", "v"}, codes.PermissionDenied, "reason=no-allow-match"},
		{"the address", policies(policy(rbac.Allow, in(rbac.Attr(rbac.SourceIP), "127.0.0.1"), in(rbac.Attr(rbac.RemoteIP), "127.0.0.0/8"), in(rbac.Attr(rbac.DestinationIP), "127.0.0.1"))), webID, nil, codes.OK, ""},
		{"another port", policies(policy(rbac.Deny, in(rbac.Attr(rbac.DestinationPort), "1"))), webID, nil, codes.OK, ""},
		{"a token", policies(policy(rbac.Allow, in(rbac.Attr(rbac.RequestPrincipal), "*"))), webID, nil, codes.PermissionDenied, "reason=no-allow-match"},
		{"a provider and nobody to ask", policies(policy(rbac.Custom)), webID, nil, codes.PermissionDenied, "reason=asked-no"},
		{"marked", policies(policy(rbac.Audit)), webID, nil, codes.OK, "audit=shop/AUDIT/0"},
	}
	if got, want := len(rows), 23; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	ca, held, seen := newAuthority(t), new(grpcauthz.Current), new(lines)
	address := serveGRPC(t, &grpcauthz.Authorizer{Policies: held.Index, PeerID: mtls.PeerID, Log: seen.log()}, ca.server(false))
	conns := map[spiffeid.ID]*grpc.ClientConn{}
	for _, id := range []spiffeid.ID{webID, apiID, callID} {
		conns[id] = dial(t, address, ca.client(id), grpc.WithAuthority("Shop.test:80"))
	}
	for _, row := range rows {
		held.Store(row.set)
		if got := ask(t, conns[row.id], row.header...); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
		if log := seen.take(); !strings.Contains(log, row.log) || (log == "") != (row.log == "") {
			t.Errorf("%s: logs %q, want %q", row.name, log, row.log)
		}
	}
	held.Store(policies(policy(rbac.Allow, in(rbac.Attr(rbac.Path), watch))))
	if got := stream(t, conns[webID]); got != codes.OK {
		t.Errorf("a stream: got %v", got)
	}
	held.Store(policies(policy(rbac.Deny, in(rbac.Attr(rbac.Path), watch))))
	if got := stream(t, conns[webID]); got != codes.PermissionDenied {
		t.Errorf("a stream that is denied: got %v", got)
	}
}

// TestWhoIsAsked: each provider of the matching policies must say yes.
func TestWhoIsAsked(t *testing.T) {
	ca := newAuthority(t)
	opa, other := policy(rbac.Custom), policy(rbac.Custom)
	other.Name, other.Provider = "z", "other"
	for _, row := range []struct {
		says string // those who say yes
		set  rbac.Set
		want codes.Code
	}{
		{"opa other", policies(opa, other), codes.OK},
		{"opa", policies(opa, other), codes.PermissionDenied},
		{"other", policies(opa, other), codes.PermissionDenied},
		{"opa", policies(opa), codes.OK},
		{"", policies(opa), codes.PermissionDenied},
		{"opa other", policies(opa, policy(rbac.Deny)), codes.PermissionDenied},
		{"", policies(), codes.OK},
	} {
		a := &grpcauthz.Authorizer{Policies: current(row.set).Index, PeerID: mtls.PeerID, Ask: func(_ context.Context, provider string, req rbac.Request) error {
			if req.Peer.ID != webID || req.Path != check || !strings.Contains(row.says, provider) {
				return errors.New("no")
			}
			return nil
		}}
		if got := ask(t, dial(t, serveGRPC(t, a, ca.server(false)), ca.client(webID))); got != row.want {
			t.Errorf("%q say yes: got %v, want %v", row.says, got, row.want)
		}
	}
}

// TestTokens: what the hook verifies is what policy sees, and its error refuses.
func TestTokens(t *testing.T) {
	ca := newAuthority(t)
	a := &grpcauthz.Authorizer{
		Policies: current(policies(policy(rbac.Allow, in(rbac.Attr(rbac.RequestPrincipal), "issuer/alice")))).Index, PeerID: mtls.PeerID,
		Token: func(_ context.Context, _ *index.Index, req rbac.Request) (*rbac.Token, error) {
			switch lines := req.Headers["authorization"]; {
			case len(lines) == 0:
				return nil, nil
			case lines[0] == "bad":
				return nil, errors.New("forged")
			default:
				return &rbac.Token{Claims: map[string]any{"iss": "issuer", "sub": lines[0]}}, nil
			}
		},
	}
	conn := dial(t, serveGRPC(t, a, ca.server(false)), ca.client(webID))
	for token, want := range map[string]codes.Code{"alice": codes.OK, "bob": codes.PermissionDenied, "bad": codes.PermissionDenied} {
		if got := ask(t, conn, "authorization", token); got != want {
			t.Errorf("%s: got %v, want %v", token, got, want)
		}
	}
	if got := ask(t, conn); got != codes.PermissionDenied {
		t.Errorf("no token: got %v", got)
	}
}

// TestPeers: who is nobody, and who is refused before policy is asked.
func TestPeers(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	strict, open := policies(), target()
	open.Plaintext = true
	anybody := rbac.Select(nil, open)
	named := rbac.Select([]rbac.Policy{policy(rbac.Allow, in(rbac.Attr(rbac.Principal), "*"))}, open)
	web := ca.svid(webID.String())
	two := ca.svid(webID.String(), apiID.String())
	no, yes := codes.PermissionDenied, codes.OK
	for _, row := range []struct {
		name           string
		server, client *tls.Config
		ours           bool
		set            rbac.Set
		want           codes.Code
	}{
		{"plaintext", nil, nil, true, strict, no},
		{"plaintext is listened to", nil, nil, true, anybody, yes},
		{"plaintext has no name", nil, nil, true, named, no},
		{"no certificate", ca.server(true), ca.client(spiffeid.ID{}), true, strict, no},
		{"no certificate is listened to", ca.server(true), ca.client(spiffeid.ID{}), true, anybody, yes},
		{"no certificate has no name", ca.server(true), ca.client(spiffeid.ID{}), true, named, no},
		{"a certificate where none is needed", ca.server(true), ca.client(webID), true, named, yes},
		{"stock TLS", ca.stock(tls.RequireAndVerifyClientCert), ca.stockClient(web), false, named, yes},
		{"stock TLS without a certificate", ca.stock(tls.VerifyClientCertIfGiven), ca.stockClient(nil), false, anybody, yes},
		{"stock TLS without a certificate where one is asked for", ca.stock(tls.VerifyClientCertIfGiven), ca.stockClient(nil), false, strict, no},
		{"nobody verifies", ca.stock(tls.RequireAnyClientCert), ca.stockClient(web), false, anybody, no},
		{"nobody verifies a forgery", ca.stock(tls.RequestClientCert), ca.stockClient(other.svid(webID.String())), false, anybody, no},
		{"two names", ca.stock(tls.RequireAndVerifyClientCert), ca.stockClient(two), false, anybody, no},
		{"no name", ca.stock(tls.RequireAndVerifyClientCert), ca.stockClient(ca.svid()), false, anybody, no},
		{"a name that is no SPIFFE ID", ca.stock(tls.RequireAndVerifyClientCert), ca.stockClient(ca.svid("spiffe://td.test/a", "https://td.test/")), false, anybody, no},
	} {
		a := &grpcauthz.Authorizer{Policies: current(row.set).Index}
		if row.ours {
			a.PeerID = mtls.PeerID
		}
		if got := ask(t, dial(t, serveGRPC(t, a, row.server), row.client)); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
	resumed := tls.ConnectionState{HandshakeComplete: true, DidResume: true, PeerCertificates: web.Certificates, VerifiedChains: [][]*x509.Certificate{web.Certificates}}
	if id, err := grpcauthz.VerifiedPeerID(resumed); err == nil {
		t.Errorf("a resumed session is %s", id)
	}
	resumed.DidResume = false
	if id, err := grpcauthz.VerifiedPeerID(resumed); err != nil || id != webID {
		t.Errorf("a verified one: got %v, %v", id, err)
	}
	empty := &grpcauthz.Authorizer{Policies: current(anybody).Index, PeerID: func(tls.ConnectionState) (spiffeid.ID, error) { return spiffeid.ID{}, nil }}
	if got := ask(t, dial(t, serveGRPC(t, empty, ca.server(false)), ca.client(webID))); got != no {
		t.Errorf("a peer whose ID is empty: got %v", got)
	}
}

// TestMethods: a server that handles whatever it is asked is not asked for what
// is no method.
func TestMethods(t *testing.T) {
	ca, seen := newAuthority(t), new(lines)
	a := &grpcauthz.Authorizer{Policies: current(policies()).Index, PeerID: mtls.PeerID, Log: seen.log()}
	address := serveGRPC(t, a, ca.server(false), grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(codes.DataLoss, "handled") }))
	conn := dial(t, address, ca.client(webID))
	for method, want := range map[string]codes.Code{
		"/s/m": codes.DataLoss, "/a.b/M": codes.DataLoss, "/a/b;c": codes.DataLoss,
		"/s": codes.PermissionDenied, "/s/": codes.PermissionDenied, "//m": codes.PermissionDenied, "/a/b/c": codes.PermissionDenied, "/a/../b": codes.PermissionDenied,
		"/a/..": codes.PermissionDenied, "/a/%62": codes.PermissionDenied, "/a/b?c": codes.PermissionDenied, "/a\\b/c": codes.PermissionDenied, "/a/b#c": codes.PermissionDenied, "/./a": codes.PermissionDenied,
		"/a/%2f": codes.PermissionDenied, "/..;/a": codes.PermissionDenied,
	} {
		got := status.Code(conn.Invoke(t.Context(), method, &grpc_health_v1.HealthCheckRequest{}, &grpc_health_v1.HealthCheckResponse{}))
		if got != want {
			// grpc-go itself refuses what has no slash between two names.
			if want == codes.PermissionDenied && got == codes.Unimplemented {
				continue
			}
			t.Errorf("%s: got %v, want %v", method, got, want)
		}
	}
}

// TestZero: nothing is let in by what knows nothing.
func TestZero(t *testing.T) {
	ca := newAuthority(t)
	for name, a := range map[string]*grpcauthz.Authorizer{
		"zero": {}, "no policies yet": {Policies: new(grpcauthz.Current).Index, PeerID: mtls.PeerID, Ask: allowAll},
		"the zero index": {Policies: func() *index.Index { return &index.Index{} }, PeerID: mtls.PeerID},
	} {
		if got := ask(t, dial(t, serveGRPC(t, a, ca.server(false)), ca.client(webID))); got != codes.PermissionDenied {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
