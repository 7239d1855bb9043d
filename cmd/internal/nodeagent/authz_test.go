package nodeagent

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/rbac/distribute/policypb"
	"github.com/istio-auth/istio-auth/rbac/extauthz"
)

func address(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// question is about a GET of /a by another workload.
func question() *authv3.CheckRequest {
	var lines []*corev3.HeaderValue
	for _, l := range [][2]string{{":method", "GET"}, {":path", "/a"}, {":authority", "orders"}, {":scheme", "https"}} {
		lines = append(lines, &corev3.HeaderValue{Key: l[0], RawValue: []byte(l[1])})
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Address: address("10.0.0.1", 40000), Principal: "spiffe://td.test/ns/demo/sa/web"},
		Destination: &authv3.AttributeContext_Peer{Address: address("10.0.0.2", 15006)},
		TlsSession:  &authv3.AttributeContext_TLSSession{},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/a", Host: "orders", Scheme: "https", HeaderMap: &corev3.HeaderMap{Headers: lines},
		}},
	}}
}

// TestAuthz: a workload's socket answers by the policies of that workload, and
// refuses while nothing is known of them, and when they are gone.
func TestAuthz(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "na")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	filters := distribute.NewFilters(spiffeid.RequireTrustDomainFromString("td.test"), nil)
	s := &sockets{log: slog.New(slog.DiscardHandler), filters: filters, dir: func(p attest.Pod) string { return filepath.Join(dir, p.UID) }}
	web := attest.Pod{Namespace: "demo", Name: "web", UID: "web", ServiceAccount: "web"}
	for _, pod := range []attest.Pod{orders, web} {
		e, err := s.Open(t.Context(), pod)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, pod.UID, AuthzName)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket outlives its endpoint: %v", err)
			}
		})
	}
	check := func(pod attest.Pod, want codes.Code, reason string) {
		t.Helper()
		conn := dial(t, filepath.Join(dir, pod.UID, AuthzName))
		r, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), question())
		if err != nil {
			t.Fatal(err)
		}
		if got := r.DynamicMetadata.Fields[extauthz.ReasonKey].GetStringValue(); codes.Code(r.Status.Code) != want || got != reason {
			t.Errorf("%s: %v, %s, want %v, %s", pod.UID, codes.Code(r.Status.Code), got, want, reason)
		}
	}
	check(orders, codes.PermissionDenied, extauthz.NoPolicies)
	body, err := proto.Marshal(&policypb.WorkloadPolicies{PodUid: orders.UID, Namespace: orders.Namespace, ServiceAccount: orders.ServiceAccount, TrustDomain: "td.test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := filters.Apply(orders.UID, "1", body); err != nil {
		t.Fatal(err)
	}
	check(orders, codes.OK, "no-allow")
	check(web, codes.PermissionDenied, extauthz.NoPolicies)
	filters.Remove(orders.UID)
	check(orders, codes.PermissionDenied, extauthz.NoPolicies)
}

// TestAuthzAdmits: who may not have the agent's socket has not this one.
func TestAuthzAdmits(t *testing.T) {
	path, closeIt := open(t, func(*net.UnixConn, attest.Pod) (func() error, error) {
		return nil, attest.Refuse("process-not-the-workload", "test")
	})
	defer closeIt()
	conn := dial(t, filepath.Join(filepath.Dir(path), AuthzName))
	if _, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), question()); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
}
