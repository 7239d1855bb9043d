package compile_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// A hostileHost is an authority, and the host that policy must hold it for;
// without one it cannot be told.
type hostileHost struct {
	authority, host string
	target          string // "": "/"
	headers         []rbactest.Header
	bad1, bad2      string // Envoy's details where it refuses over HTTP/1, and HTTP/2
}

// hostileHosts are the forms. A line is a form.
func hostileHosts() []hostileHost {
	const secret = "secret.test"
	list := []hostileHost{
		{authority: "open.test", target: "http://secret.test/", host: secret},
		{authority: "secret.test", target: "http://open.test/", host: "open.test"},
		{authority: "open.test", target: "HTTP://SECRET.test:80/", host: secret},
		{authority: "open.test", headers: []rbactest.Header{{Name: "x-forwarded-host", Value: secret}}, host: "open.test"},
		{authority: secret, headers: []rbactest.Header{{Name: "x-forwarded-host", Value: "open.test"}}, host: secret},
		{authority: secret, headers: []rbactest.Header{{Name: "x-host", Value: "open.test"}}, host: secret},
		{authority: secret, headers: []rbactest.Header{{Name: "x-envoy-original-host", Value: "open.test"}}, host: secret},
		{authority: secret, headers: []rbactest.Header{{Name: "forwarded", Value: "host=open.test"}}, host: secret},
	}
	for _, same := range []string{
		"secret.test", "Secret.test", "SECRET.TEST", "secret.TEST", "sEcReT.tEsT", "secret.test.", "SECRET.TEST.",
		"secret.test..", // the sidecar takes one dot off, and policy the one that the application sees

		"secret.test:80", "secret.test:443", "secret.test:0", "secret.test:65535", "secret.test:99999", "secret.test:00080", "Secret.Test:8080", "secret.test.:80", "secret.test:1",
	} {
		list = append(list, hostileHost{authority: same, host: secret})
	}
	for _, other := range []string{
		"xsecret.test", "x.secret.test", "secret.test.x", "secret.tes", "secret-test", "secret_test", "secrettest", "secret", "test", "a", "127.0.0.1", "127.0.0.1:80",
		"xn--secret-.test", "secret.test.secret.tes", "0", "secret.testx", "open.test:443",
	} {
		host, _, _ := strings.Cut(other, ":")
		list = append(list, hostileHost{authority: other, host: host})
	}
	list = append(list, hostileHost{authority: "[::1]", host: "[::1]"}, hostileHost{authority: "[::1]:80", host: "[::1]"}, hostileHost{authority: "[2001:DB8::1]:443", host: "[2001:db8::1]"})
	for _, unsure := range []string{"secret..test", ".secret.test", "*", "secret.test%00", "s%65cret.test", "secret.test;x", "secret.test,open.test", "secret.test&x"} {
		list = append(list, hostileHost{authority: unsure})
	}
	return list
}

// TestHostileHosts: the host rows of PA-01.
func TestHostileHosts(t *testing.T) {
	modes := []struct {
		action  rbac.Action
		pattern string
		negated bool
		holds   func(string) bool
	}{
		{rbac.Allow, "secret.test", false, func(h string) bool { return h == "secret.test" }},
		{rbac.Deny, "secret.test", false, func(h string) bool { return h == "secret.test" }},
		{rbac.Allow, "secret.test", true, func(h string) bool { return h == "secret.test" }},
		{rbac.Deny, "secret.test", true, func(h string) bool { return h == "secret.test" }},
		{rbac.Deny, "*.secret.test", false, func(h string) bool { return strings.HasSuffix(h, ".secret.test") }},
		{rbac.Deny, "secret.*", false, func(h string) bool { return strings.HasPrefix(h, "secret.") }},
	}
	var sets []rbac.Set
	var rows []hostileRow
	for i, m := range modes {
		in, notIn := []string{m.pattern}, []string(nil)
		if m.negated {
			in, notIn = notIn, in
		}
		sets = append(sets, onePolicy(t, m.action, rbac.Attr(rbac.Host), in, notIn))
		for _, h := range hostileHosts() {
			for _, http2 := range []bool{false, true} {
				if http2 && h.target != "" {
					continue // no such form
				}
				row := hostileRow{set: i, call: rbactest.Call{HTTP2: http2, Method: http.MethodGet, Target: "/", Authority: h.authority, Headers: h.headers}}
				if h.target != "" {
					row.call.Target = h.target
				}
				unsure, matches := h.host == "", h.host != "" && m.holds(h.host) != m.negated
				switch {
				case h.bad1 != "" && !http2:
					row.code, row.reason = http.StatusBadRequest, h.bad1
				case h.bad2 != "" && http2:
					row.reason = h.bad2
				case m.action == rbac.Allow && matches:
					row.code, row.reason = http.StatusOK, ruleLine
				case m.action == rbac.Allow:
					row.code, row.reason = http.StatusForbidden, "no-allow-match"
				case matches || unsure:
					row.code, row.reason = http.StatusForbidden, ruleLine
				default:
					row.code, row.reason = http.StatusOK, "no-allow"
				}
				rows = append(rows, row)
			}
		}
	}
	if got, want := len(rows), 618; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	decideHostile(t, sets, rows, nil)
}
