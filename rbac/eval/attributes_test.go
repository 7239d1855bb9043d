package eval_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
)

// test reads "attribute: in, in; not: notIn, notIn": an attribute as authors write
// it, and values.
func test(t testing.TB, text string) rbac.Test {
	t.Helper()
	key, rest, _ := strings.Cut(text, ": ")
	in, notIn, _ := strings.Cut(rest, "not: ")
	out := rbac.Test{Attribute: attribute(t, key)}
	list := func(values string) (list []rbac.Pattern) {
		values = strings.Trim(values, " ;")
		if values == "" {
			return nil
		}
		for value := range strings.SplitSeq(values, " | ") {
			p, err := rbac.ParseValue(out.Attribute, value, "shop")
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			list = append(list, p)
		}
		return list
	}
	out.In, out.NotIn = list(in), list(notIn)
	return out
}

func attribute(t testing.TB, key string) rbac.Attribute {
	t.Helper()
	if name, ok := strings.CutPrefix(key, "request.headers["); ok {
		a, err := rbac.HeaderAttr(strings.TrimSuffix(name, "]"))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if path, ok := strings.CutPrefix(key, "request.auth.claims["); ok {
		a, err := rbac.ClaimAttr(strings.Split(strings.TrimSuffix(path, "]"), "][")...)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for kind := rbac.Principal; kind <= rbac.Claim; kind++ {
		if a := rbac.Attr(kind); a.String() == key {
			return a
		}
	}
	t.Fatalf("no attribute is %q", key)
	return rbac.Attribute{}
}

func domain(name string) spiffeid.TrustDomain { return spiffeid.RequireTrustDomainFromString(name) }

// world is a workload with everything on.
func world() rbac.Target {
	return rbac.Target{
		Namespace: "shop", TrustDomain: domain("td.test"), Plaintext: true, Providers: []string{"opa"},
		Aliases: []spiffeid.TrustDomain{domain("cluster.local")}, Foreign: []spiffeid.TrustDomain{domain("other.test")},
	}
}

// answer asks one rule about one request, as ALLOW and as each other action.
func answer(t testing.TB, rule rbac.Rule, req rbac.Request, compat bool) string {
	t.Helper()
	decide := func(action rbac.Action) eval.Verdict {
		p := rbac.Policy{Namespace: "shop", Name: "p", Action: action, IstioCompat: compat, Rules: []rbac.Rule{rule}}
		if action == rbac.Custom {
			p.Provider = "opa"
		}
		return eval.Decide(rbac.Select([]rbac.Policy{p}, world()), req)
	}
	allow, deny := decide(rbac.Allow), decide(rbac.Deny)
	for _, v := range []eval.Verdict{allow, deny} {
		if v.Reason != eval.AllowRule && v.Reason != eval.NoAllowMatch && v.Reason != eval.DenyRule && v.Reason != eval.NoAllow {
			return string(v.Reason)
		}
	}
	if denied := deny.Reason == eval.DenyRule; (decide(rbac.Audit).Audit != "") != denied || (len(decide(rbac.Custom).Ask) > 0) != denied {
		t.Errorf("%+v: DENY is %v, and AUDIT or CUSTOM another", rule, denied)
	}
	switch {
	case allow.Allowed && !deny.Allowed:
		return "yes"
	case !allow.Allowed && !deny.Allowed:
		return "maybe"
	case !allow.Allowed:
		return "no"
	}
	return "allowed by ALLOW and not denied by DENY"
}

// base is a request that has everything.
func base() rbac.Request {
	return rbac.Request{
		Protocol: rbac.HTTP, Peer: rbac.Peer{ID: spiffeid.RequireFromString("spiffe://td.test/ns/front/sa/web")},
		Source: netip.MustParseAddr("10.1.0.1"), Remote: netip.MustParseAddr("192.0.2.1"),
		Destination: netip.MustParseAddrPort("10.2.0.1:8080"), ServerName: "Shop.example",
		Method: "GET", Host: "Shop.Example:80", Path: "/a/b",
		Headers: map[string][]string{"x-one": {"v"}, "x-two": {"v", "w"}, "x-comma": {"v,w"}, "x-empty": {""}, "x-same": {"v", "v"}},
		Token: &rbac.Token{Claims: map[string]any{
			"iss": "https://i.example", "sub": "u", "aud": []any{"a", "b"}, "azp": "app", "groups": []any{"dev", 1.0, "ops"},
			"realm": map[string]any{"roles": []any{"admin"}}, "n": 1.0, "null": nil, "empty": "", "none": []any{}, "a.b": "dotted",
		}},
	}
}

// requests are base with one thing other.
func requests() map[string]rbac.Request {
	with := func(change func(*rbac.Request)) rbac.Request {
		r := base()
		change(&r)
		return r
	}
	peer := func(id string) rbac.Request {
		return with(func(r *rbac.Request) { r.Peer.ID = spiffeid.RequireFromString(id) })
	}
	claims := func(key string, value any) rbac.Request {
		return with(func(r *rbac.Request) { r.Token.Claims[key] = value })
	}
	return map[string]rbac.Request{
		"base":      base(),
		"plaintext": with(func(r *rbac.Request) { r.Peer = rbac.Peer{} }),
		"alias":     peer("spiffe://cluster.local/ns/front/sa/web"),
		"foreign":   peer("spiffe://other.test/ns/front/sa/web"),
		"stranger":  peer("spiffe://third.test/ns/front/sa/web"),
		"service":   peer("spiffe://td.test/istio-auth/manager"),
		"tcp": with(func(r *rbac.Request) {
			r.Protocol, r.Method, r.Path, r.Host, r.Headers, r.Token = rbac.TCP, "", "", "", nil, nil
		}),
		"ipv6": with(func(r *rbac.Request) {
			r.Source, r.Remote = netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("::ffff:192.0.2.1")
		}),
		"nowhere": with(func(r *rbac.Request) {
			r.Source, r.Remote, r.Destination, r.ServerName = netip.Addr{}, netip.Addr{}, netip.AddrPort{}, ""
		}),
		"odd host":   with(func(r *rbac.Request) { r.Host = "u@shop.example" }),
		"no host":    with(func(r *rbac.Request) { r.Host = "" }),
		"no headers": with(func(r *rbac.Request) { r.Headers = nil }),
		"no token":   with(func(r *rbac.Request) { r.Token = nil }),
		"dash":       claims("sub", "-"),
		"no subject": claims("sub", ""),
		"list":       claims("sub", []any{"u"}),
		"number":     claims("sub", 1.0),
		"aud text":   claims("aud", "a"),
		"no issuer":  with(func(r *rbac.Request) { delete(r.Token.Claims, "iss") }),
		"/A/b":       with(func(r *rbac.Request) { r.Path = "/A/b" }),
		"/a/b/":      with(func(r *rbac.Request) { r.Path = "/a/b/" }),
		"/c":         with(func(r *rbac.Request) { r.Path = "/c" }),
		"/x/;/a/b":   with(func(r *rbac.Request) { r.Path = "/x/..%252f;/a/b" }),
	}
}

// TestAttributes: for every attribute, what a test of it is for a request that
// has it, that has another, that does not have it, and of which it cannot be told.
func TestAttributes(t *testing.T) {
	const yes, maybe, no = "yes", "maybe", "no"
	rows := []struct{ test, request, want, compat string }{
		{"source.principal: td.test/ns/front/sa/web", "base", yes, yes}, {"source.principal: td.test/ns/front/sa/web", "alias", yes, yes}, {"source.principal: cluster.local/ns/front/sa/web", "base", yes, yes},
		{"source.principal: cluster.local/*", "base", yes, yes}, {"source.principal: *t/ns/front/sa/web", "alias", yes, yes}, {"source.principal: td.test/ns/front/sa/web", "foreign", no, no}, {"source.principal: other.test/ns/front/sa/web", "foreign", yes, yes},
		{"source.principal: *", "plaintext", no, no}, {"source.principal: not: *", "plaintext", maybe, yes}, {"source.principal: td.test/* | *; not: */sa/web", "plaintext", no, no}, {"source.principal: not: td.test/ns/x/*", "foreign", yes, yes},
		{"source.principal: not: cluster.local/ns/front/*", "base", no, no}, {"source.principal: *; not: */sa/web", "foreign", no, no}, {"source.principal: *", "tcp", yes, yes}, {"source.principal: *", "stranger", "no-identity", "no-identity"}, {"source.principal: not: *", "service", "no-identity", "no-identity"},
		{"source.namespace: front", "base", yes, yes}, {"source.namespace: front", "alias", yes, yes}, {"source.namespace: front", "foreign", no, no}, {"source.namespace: not: front", "foreign", maybe, yes}, {"source.namespace: not: back", "base", yes, yes}, {"source.namespace: front", "plaintext", no, no}, {"source.namespace: not: front", "plaintext", maybe, yes},
		{"source.namespace of any trust domain: front", "foreign", yes, yes}, {"source.namespace of any trust domain: not: front", "foreign", no, no}, {"source.namespace of any trust domain: not: back", "plaintext", maybe, yes}, {"source.namespace of any trust domain: front", "base", yes, yes},
		{"source.serviceAccount: front/web", "base", yes, yes}, {"source.serviceAccount: web", "base", no, no}, {"source.serviceAccount: front/web", "alias", yes, yes}, {"source.serviceAccount: front/web", "foreign", no, no}, {"source.serviceAccount: not: front/web", "foreign", maybe, yes}, {"source.serviceAccount: not: front/api", "base", yes, yes},
		{"source.serviceAccount of any trust domain: front/web", "foreign", yes, yes}, {"source.serviceAccount of any trust domain: not: front/web", "base", no, no}, {"source.serviceAccount of any trust domain: front/web", "plaintext", no, no},
		{"source.trustDomain: td.test", "base", yes, yes}, {"source.trustDomain: cluster.local", "base", yes, yes}, {"source.trustDomain: td.test", "alias", yes, yes}, {"source.trustDomain: td.test", "foreign", no, no}, {"source.trustDomain: *.test", "foreign", yes, yes}, {"source.trustDomain: not: cluster.local", "base", no, no}, {"source.trustDomain: not: td.test", "foreign", yes, yes}, {"source.trustDomain: not: td.test", "plaintext", maybe, yes}, {"source.trustDomain: *", "plaintext", no, no},
		{"source.ip: 10.0.0.0/8", "base", yes, yes}, {"source.ip: 10.2.0.0/16", "base", no, no}, {"source.ip: not: 10.0.0.0/8", "base", no, no}, {"source.ip: 10.0.0.0/8; not: 10.1.0.1", "base", no, no}, {"source.ip: fe80::/10", "ipv6", yes, yes}, {"source.ip: 0.0.0.0/0 | ::/0", "nowhere", no, no}, {"source.ip: not: 10.0.0.0/8", "nowhere", maybe, yes}, {"source.ip: 10.0.0.0/8", "tcp", yes, yes},
		{"remote.ip: 192.0.2.0/24", "base", yes, yes}, {"remote.ip: 192.0.2.0/24", "ipv6", yes, yes}, {"remote.ip: ::/0", "ipv6", no, no}, {"remote.ip: not: 192.0.2.1", "base", no, no}, {"remote.ip: 10.1.0.1", "base", no, no},
		{"destination.ip: 10.2.0.1", "base", yes, yes}, {"destination.ip: not: 10.2.0.1", "base", no, no}, {"destination.ip: not: 10.2.0.1", "nowhere", maybe, yes}, {"destination.port: 8080", "base", yes, yes}, {"destination.port: 80", "base", no, no}, {"destination.port: not: 80", "tcp", yes, yes}, {"destination.port: not: 8080", "base", no, no},
		{"connection.sni: shop.example", "base", yes, yes}, {"connection.sni: *.example", "tcp", yes, yes}, {"connection.sni: not: shop.example", "base", no, no}, {"connection.sni: *", "nowhere", no, no}, {"connection.sni: not: x", "nowhere", maybe, yes},
		{"request.method: GET", "base", yes, yes}, {"request.method: P*", "base", no, no}, {"request.method: not: GET", "base", no, no}, {"request.method: GET", "tcp", maybe, maybe}, {"request.method: not: GET", "tcp", maybe, maybe}, {"request.method: *", "tcp", maybe, maybe},
		{"request.host: shop.example", "base", yes, yes}, {"request.host: *.example", "base", yes, yes}, {"request.host: x", "base", no, no}, {"request.host: not: shop.example", "base", no, no}, {"request.host: *", "odd host", maybe, maybe}, {"request.host: shop.example", "odd host", maybe, maybe}, {"request.host: not: x", "odd host", maybe, maybe}, {"request.host: x", "no host", maybe, maybe}, {"request.host: *", "tcp", maybe, maybe},
		{"request.path: /a/b", "base", yes, yes}, {"request.path: /a/b", "/c", no, no}, {"request.path: /a/b", "/A/b", maybe, maybe}, {"request.path: /a/b", "/a/b/", maybe, maybe}, {"request.path: /a/b", "/x/;/a/b", maybe, maybe}, {"request.path: /a/*", "/A/b", maybe, maybe}, {"request.path: /a/*", "/a/b/", yes, yes}, {"request.path: /A/*", "/A/b", yes, yes},
		{"request.path: not: /a/b", "base", no, no}, {"request.path: not: /a/b", "/c", yes, yes}, {"request.path: not: /a/b", "/A/b", maybe, maybe}, {"request.path: /*; not: /a/b", "/A/b", maybe, maybe}, {"request.path: /c | /a/b", "/A/b", maybe, maybe}, {"request.path: /A/b | /a/b", "/A/b", yes, yes}, {"request.path: /{*}/b", "/A/b", yes, yes}, {"request.path: /a/{*}", "/A/b", maybe, maybe}, {"request.path: *", "/A/b", yes, yes}, {"request.path: *", "tcp", maybe, maybe}, {"request.path: not: /a/b | /c", "/A/b", maybe, maybe},
		{"request.headers[x-one]: v", "base", yes, yes}, {"request.headers[x-one]: w", "base", no, no}, {"request.headers[x-one]: *", "base", yes, yes}, {"request.headers[x-one]: not: v", "base", no, no}, {"request.headers[x-one]: not: w", "base", yes, yes}, {"request.headers[X-One]: v", "base", yes, yes},
		{"request.headers[x-two]: v", "base", maybe, maybe}, {"request.headers[x-two]: *", "base", maybe, maybe}, {"request.headers[x-two]: not: x", "base", maybe, maybe}, {"request.headers[x-comma]: v", "base", maybe, maybe}, {"request.headers[x-comma]: not: v", "base", maybe, maybe}, {"request.headers[x-same]: v", "base", maybe, maybe}, {"request.headers[x-two]: x; not: y", "base", maybe, maybe},
		{"request.headers[x-none]: v", "base", no, no}, {"request.headers[x-none]: *", "base", no, no}, {"request.headers[x-none]: not: v", "base", maybe, yes}, {"request.headers[x-none]: v; not: w", "base", no, no}, {"request.headers[x-one]: not: *", "no headers", maybe, yes}, {"request.headers[x-empty]: *", "base", maybe, maybe}, {"request.headers[x-empty]: not: *", "base", maybe, maybe}, {"request.headers[x-one]: v", "tcp", maybe, maybe},
		{"request.auth.principal: https://i.example/u", "base", yes, yes}, {"request.auth.principal: *", "base", yes, yes}, {"request.auth.principal: https://i.example/*", "base", yes, yes}, {"request.auth.principal: */u", "base", yes, yes}, {"request.auth.principal: https://i.example/v", "base", no, no}, {"request.auth.principal: not: */u", "base", no, no}, {"request.auth.principal: *", "no token", no, no}, {"request.auth.principal: not: *", "no token", maybe, yes}, {"request.auth.principal: *", "dash", no, no}, {"request.auth.principal: not: x/y", "dash", maybe, yes}, {"request.auth.principal: *", "no subject", no, no}, {"request.auth.principal: *", "no issuer", no, no}, {"request.auth.principal: */u", "list", no, no}, {"request.auth.principal: not: */u", "number", maybe, yes}, {"request.auth.principal: *", "tcp", maybe, maybe},
		{"request.auth.audiences: a", "base", yes, yes}, {"request.auth.audiences: b", "base", yes, yes}, {"request.auth.audiences: c", "base", no, no}, {"request.auth.audiences: a", "aud text", yes, yes}, {"request.auth.audiences: not: b", "base", no, no}, {"request.auth.audiences: a; not: b", "base", no, no}, {"request.auth.audiences: not: b", "aud text", yes, yes}, {"request.auth.audiences: not: b", "no token", maybe, yes},
		{"request.auth.presenter: app", "base", yes, yes}, {"request.auth.presenter: a*", "base", yes, yes}, {"request.auth.presenter: not: app", "base", no, no}, {"request.auth.presenter: *", "no token", no, no},
		{"request.auth.claims[groups]: dev", "base", yes, yes}, {"request.auth.claims[groups]: ops", "base", yes, yes}, {"request.auth.claims[groups]: 1", "base", no, no}, {"request.auth.claims[groups]: not: dev", "base", no, no}, {"request.auth.claims[groups]: not: x", "base", yes, yes}, {"request.auth.claims[groups]: not: x", "no token", maybe, yes},
		{"request.auth.claims[realm][roles]: admin", "base", yes, yes}, {"request.auth.claims[realm]: *", "base", no, no}, {"request.auth.claims[realm.roles]: admin", "base", no, no}, {"request.auth.claims[a.b]: dotted", "base", yes, yes}, {"request.auth.claims[n]: 1", "base", no, no}, {"request.auth.claims[n]: not: 1", "base", maybe, yes}, {"request.auth.claims[null]: not: x", "base", maybe, yes}, {"request.auth.claims[empty]: *", "base", no, no}, {"request.auth.claims[empty]: not: x", "base", yes, yes}, {"request.auth.claims[none]: not: x", "base", maybe, yes}, {"request.auth.claims[iss]: https://i.example", "base", yes, yes}, {"request.auth.claims[sub]: u", "list", yes, yes}, {"request.auth.claims[x]: y", "tcp", maybe, maybe},
	}
	if got, want := len(rows), 171; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	all := requests()
	for _, row := range rows {
		req, ok := all[row.request]
		if !ok {
			t.Fatalf("no request is %q", row.request)
		}
		rule := rbac.Rule{When: rbac.Clause{test(t, row.test)}}
		if got := answer(t, rule, req, false); got != row.want {
			t.Errorf("%s, %s: got %s, want %s", row.test, row.request, got, row.want)
		}
		if got := answer(t, rule, req, true); got != row.compat {
			t.Errorf("%s, %s, as Istio reads it: got %s, want %s", row.test, row.request, got, row.compat)
		}
		asExpression := rbac.Rule{Expression: &rbac.Expression{Op: rbac.Matches, Test: rule.When[0]}}
		if got := answer(t, asExpression, req, false); got != row.want {
			t.Errorf("%s, %s, as an expression: got %s, want %s", row.test, row.request, got, row.want)
		}
	}
	for _, none := range []rbac.Rule{{When: rbac.Clause{{}}}, {Expression: &rbac.Expression{}}} {
		if got := answer(t, none, base(), false); got == yes {
			t.Errorf("%+v: got %s", none, got)
		}
	}
}
