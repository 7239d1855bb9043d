package mesh_test

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/extauthz"
)

// TestOwnProvider: rbac/extauthz behind a real sidecar decides what no filter
// can express, and is told of the request what rbac/eval wants to know; the
// sidecar's filter, of the same policies, takes its word.
func TestOwnProvider(t *testing.T) {
	if mesh.OwnProvider != extauthz.Name {
		t.Fatalf("%s is not %s", mesh.OwnProvider, extauthz.Name)
	}
	user := newEndUser(t)
	claim, err := rbac.ClaimAttr("sub")
	if err != nil {
		t.Fatal(err)
	}
	tenant, err := rbac.HeaderAttr("x-tenant")
	if err != nil {
		t.Fatal(err)
	}
	// Everybody under their own name; and nobody in the host that a header names.
	compare := func(c rbac.Comparison) []rbac.Rule {
		return []rbac.Rule{{Expression: &rbac.Expression{Op: rbac.Compare, Comparison: c}}}
	}
	target := rbac.Target{Namespace: "shop", TrustDomain: domain, Providers: []string{mesh.OwnProvider}}
	tokens := []rbac.RequestAuthentication{{Namespace: "shop", Name: "users", Rules: []rbac.TokenRule{{Issuer: "https://issuer.test", Keys: user.keys(t)}}}}
	set := rbac.Select([]rbac.Policy{
		{Namespace: "shop", Name: "mine", Action: rbac.Allow, Rules: compare(rbac.Comparison{Left: rbac.Attr(rbac.Path), How: rbac.Prefix, Lead: "/users/", Right: claim, Trail: "/"})},
		{Namespace: "shop", Name: "host", Action: rbac.Deny, Rules: compare(rbac.Comparison{Left: rbac.Attr(rbac.Host), How: rbac.Exact, Right: tenant})},
		{Namespace: "shop", Name: "ask", Action: rbac.Custom, Provider: mesh.OwnProvider, Rules: []rbac.Rule{{}}},
	}, target).WithTokens(tokens, target)

	answers := make(chan extauthz.Answer, 100)
	server := grpc.NewServer()
	(&extauthz.Server{
		Sets:    func(context.Context) (rbac.Set, error) { return set, nil },
		Observe: func(a extauthz.Answer) { answers <- a },
	}).Register(server)
	t.Cleanup(server.Stop)

	w := newWorld(t, func(s *mesh.Sidecar) {
		socket := filepath.Join(filepath.Dir(s.AgentSocket), "authz.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go server.Serve(l)
		s.Providers = []mesh.Provider{{Name: mesh.OwnProvider, GRPC: socket, Lines: true}}
	})
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.untilOpen(t)
	w.enforce(t, set)
	ann := "Authorization: Bearer " + user.token(t, map[string]any{"groups": []string{"a", "b"}})
	c := w.tls(w.ca.SVID(t, clientID, time.Hour))
	c.ServerName = "cart.test"
	listen := netip.MustParseAddrPort(w.sidecar.Inbound.Listen)
	table := []struct {
		name, path, header string
		code               int
		reason             eval.Reason
		headers            []string // x-tenant
	}{
		{"one's own", "/users/ann/a?x=1", ann, 200, eval.AllowRule, nil},
		{"another's", "/users/bob/a", ann, 403, eval.NoAllowMatch, nil},
		{"nobody's", "/users/ann/a", "X: y", 403, eval.NoAllowMatch, nil},
		{"another's, in disguise", "/users/ann/%252e%252e/bob", ann, 403, eval.NoAllowMatch, nil},
		{"the host", "/users/ann/a", ann + "\r\nX-Tenant: cart", 403, eval.DenyRule, []string{"cart"}},
		{"another host", "/users/ann/a", ann + "\r\nX-Tenant: shop", 200, eval.AllowRule, []string{"shop"}},
		{"two lines", "/users/ann/a", ann + "\r\nX-Tenant: shop\r\nX-Tenant: cart", 403, eval.DenyRule, []string{"shop", "cart"}},
		{"a comma", "/users/ann/a", ann + "\r\nX-Tenant: shop, cart", 403, eval.DenyRule, []string{"shop, cart"}},
		{"odd bytes", "/users/ann/a", ann + "\r\nX-Tenant: sh\xffp", 200, eval.AllowRule, []string{"sh\xffp"}},
	}
	if got, want := len(table), 9; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	for _, row := range table {
		code := w.raw(t, c, "GET "+row.path+" HTTP/1.1\r\nHost: Cart:80\r\n"+row.header+"\r\n\r\n")
		var a extauthz.Answer
		select {
		case a = <-answers:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: nobody asked", row.name)
		}
		if code != row.code || a.Err != nil || a.Verdict.Reason != row.reason {
			t.Errorf("%s: %d, %v (%v), want %d, %v", row.name, code, a.Verdict.Reason, a.Err, row.code, row.reason)
		}
		path, _, _ := strings.Cut(row.path, "?")
		r := a.Request
		if r.Peer.ID != clientID || r.Path != path || r.Method != "GET" || rbac.FoldHost(r.Host) != "cart" || r.ServerName != "cart.test" ||
			!r.Source.IsLoopback() || r.Remote != r.Source || r.Destination != listen || !reflect.DeepEqual(r.Headers["x-tenant"], row.headers) {
			t.Errorf("%s: the provider was told %+v", row.name, r)
		}
		if signed := strings.HasPrefix(row.header, ann); signed != (len(r.Token.Texts("groups")) == 2) {
			t.Errorf("%s: the provider was told of %+v", row.name, r.Token)
		}
	}
}
