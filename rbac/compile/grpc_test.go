package compile_test

import (
	"errors"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/interpret"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestGRPC: the rules for grpc-go decide as eval does about whatever a gRPC
// client can ask, or are refused.
func TestGRPC(t *testing.T) {
	paths := []string{"/a/b", "/A/b", "/a/B", "/a.b/c", "/admin/x", "/x/admin", "/b/a", "/prod/web", "/a/ab", "/ADMIN/x", "/x.y/admin"}
	g := rbactest.New(9, rbactest.Headers|rbactest.TrustDomains|rbactest.AnyDomain|rbactest.Templates|rbactest.Conditions|rbactest.Expressions|rbactest.Compat|rbactest.Plaintext|rbactest.Customs)
	compiled, yes, decided := 0, 0, 0
	for range 2000 {
		c := g.Case()
		set := rbac.Select(c.Policies, c.Target)
		packed, err := compile.GRPC(set)
		var cannot *compile.Inexpressible
		if errors.As(err, &cannot) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		compiled++
		var filters []*interpret.Filter
		for _, p := range packed {
			f, err := interpret.Decode(p)
			if err != nil {
				t.Fatal(err)
			}
			filters = append(filters, f)
		}
		for range 20 {
			c.Call = g.Call(c.Policies)
			req, err := c.Request()
			if err != nil {
				continue
			}
			req.Protocol, req.Method, req.Path = rbac.HTTP, "POST", paths[g.IntN(len(paths))]
			want := eval.Decide(set, req)
			allowed := true
			for _, f := range filters {
				allowed = allowed && f.Decide(interpret.FromRequest(req)).Allowed
			}
			if allowed != (want.Allowed && len(want.Ask) == 0) {
				t.Fatalf("allowed is %t; eval says %+v of %v\n%v", allowed, want, req, c)
			}
			decided++
			if allowed {
				yes++
			}
		}
	}
	t.Logf("%d sets compiled, %d decisions, %d allowed", compiled, decided, yes)
	if compiled < 300 || yes < decided/10 || yes > decided*9/10 {
		t.Error("that shows little")
	}
}

// TestGRPCRefuses: what grpc-go cannot ask is refused, and said.
func TestGRPCRefuses(t *testing.T) {
	claim, err := rbac.ClaimAttr("groups")
	if err != nil {
		t.Fatal(err)
	}
	rows := []struct {
		attribute rbac.Attribute
		value     string
		what      string
	}{
		{rbac.Attr(rbac.Host), "a.test", "request.host"},
		{rbac.Attr(rbac.ServerName), "a.test", "connection.sni"},
		{rbac.Attr(rbac.SourceIP), "10.0.0.0/8", "source.ip"},
		{rbac.Attr(rbac.RemoteIP), "10.0.0.0/8", "remote.ip"},
		{rbac.Attr(rbac.DestinationIP), "10.0.0.0/8", "destination.ip"},
		{rbac.Attr(rbac.DestinationPort), "443", "destination.port"},
		{rbac.Attr(rbac.RequestPrincipal), "*", "request.auth.principal"},
		{rbac.Attr(rbac.Audience), "a", "a claim of the token"},
		{claim, "a", "a claim of the token"},
	}
	for _, row := range rows {
		p, err := rbac.ParseValue(row.attribute, row.value, rbactest.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range []rbac.Test{{Attribute: row.attribute, In: []rbac.Pattern{p}}, {Attribute: row.attribute, NotIn: []rbac.Pattern{p}}} {
			for _, action := range []rbac.Action{rbac.Allow, rbac.Deny} {
				policy := rbac.Policy{Namespace: rbactest.Namespace, Name: "p", Action: action, Rules: []rbac.Rule{{When: rbac.Clause{test}}}}
				_, err := compile.GRPC(rbac.Select([]rbac.Policy{policy}, rbactest.Target()))
				var cannot *compile.Inexpressible
				if !errors.As(err, &cannot) || cannot.What != row.what || cannot.Rule != "shop/p/0" {
					t.Errorf("%v %v %v: got %v", action, row.attribute, row.value, err)
				}
			}
		}
	}
}
