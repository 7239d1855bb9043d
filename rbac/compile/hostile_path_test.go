package compile_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// pathModes are the policies that every hostile target is sent to. Each speaks
// of /a/admin, but for the others, which speak of another resource.
var pathModes = []struct {
	action    rbac.Action
	in, notIn string
	kind      string // how a path is held to in or notIn: see pathKinds
}{
	{rbac.Allow, "/a/admin", "", "exact"}, {rbac.Allow, "/a/adm*", "", "prefix"}, {rbac.Allow, "*/admin", "", "suffix"}, {rbac.Allow, "/{*}/admin", "", "template"},
	{rbac.Deny, "/a/admin", "", "exact"}, {rbac.Deny, "/a/adm*", "", "prefix"}, {rbac.Deny, "*/admin", "", "suffix"}, {rbac.Deny, "/{*}/admin", "", "template"},
	{rbac.Deny, "", "/a/admin", "exact"}, {rbac.Deny, "", "/a/adm*", "prefix"}, {rbac.Allow, "", "/a/admin", "exact"}, {rbac.Allow, "", "/a/adm*", "prefix"},
	{rbac.Allow, "/a/public", "", "other exact"}, {rbac.Allow, "/a/pub*", "", "other prefix"}, {rbac.Allow, "*/public", "", "other suffix"}, {rbac.Allow, "/{*}/public", "", "other template"},
}

// pathKinds hold a path to a pattern.
var pathKinds = map[string]func(path string) bool{
	"exact":          func(p string) bool { return p == "/a/admin" },
	"prefix":         func(p string) bool { return strings.HasPrefix(p, "/a/adm") },
	"suffix":         func(p string) bool { return strings.HasSuffix(p, "/admin") },
	"template":       func(p string) bool { return oneThen(p, "admin") },
	"other exact":    func(p string) bool { return p == "/a/public" },
	"other prefix":   func(p string) bool { return strings.HasPrefix(p, "/a/pub") },
	"other suffix":   func(p string) bool { return strings.HasSuffix(p, "/public") },
	"other template": func(p string) bool { return oneThen(p, "public") },
}

func oneThen(p, last string) bool {
	parts := strings.Split(p, "/")
	return len(parts) == 3 && parts[0] == "" && parts[1] != "" && parts[2] == last
}

// A hostileTarget is a request's target, the path that the application gets, and
// the one that an obliging application may take that for. Without a path it is
// refused as bad says.
type hostileTarget struct {
	target, is, may string
	bad             string
	http2           bool
}

const (
	badForm  = "path_normalization_failed"
	malform  = "http1.codec_error"
	badGuard = "bad-path"
)

// verdictOf is what a mode must answer.
func (h hostileTarget) verdictOf(mode int) (code int, reason string) {
	switch {
	case h.bad == badGuard:
		return http.StatusForbidden, badGuard
	case h.bad != "":
		return http.StatusBadRequest, h.bad
	}
	m := pathModes[mode]
	holds := pathKinds[m.kind]
	bare := strings.TrimSuffix(h.may, "/")
	folded := holds(bare) || strings.HasSuffix(m.kind, "prefix") && holds(h.may)
	sure, maybe := holds(h.is) && folded, holds(h.is) || folded
	if m.in == "" {
		sure, maybe = !maybe, !sure
	}
	switch {
	case m.action == rbac.Allow && sure:
		return http.StatusOK, ruleLine
	case m.action == rbac.Allow:
		return http.StatusForbidden, "no-allow-match"
	case maybe:
		return http.StatusForbidden, ruleLine
	}
	return http.StatusOK, "no-allow"
}

// encodedTargets are Istio's: every octet but NUL, percent-encoded at every
// position that matters, with what comes of it.
func encodedTargets() (list []hostileTarget) {
	for b := 1; b < 256; b++ {
		code := fmt.Sprintf("%%%02X", b)
		for position, form := range []string{"/a/adm%sin", "/a/%sadmin", "/a/admin%s", "/a%s/admin", "/a/%s/admin", "/a/admin/%s"} {
			h := hostileTarget{target: strings.Replace(form, "%s", code, 1), is: strings.Replace(form, "%s", code, 1)}
			plain := strings.Replace(form, "%s", string(rune(b)), 1)
			before, after, _ := strings.Cut(form, "%s")
			rest := after // what is left of form where this segment ends here
			if position < 3 {
				rest = strings.TrimLeft(after, "admin")
			}
			cut := before + rest
			if position == 4 {
				cut = "/a/admin" // the segment is empty, and is none
			}
			switch c := byte(b); {
			case c == '/' || c == '\\':
				h.bad = badForm
			case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-_~", c) >= 0:
				h.is, h.may = plain, plain
			case 'A' <= c && c <= 'Z':
				h.is, h.may = plain, strings.ToLower(plain)
			case c == '.':
				h.is, h.may = plain, plain
				if after == "" || after[0] == '/' {
					h.may = cut
				}
				switch position {
				case 4:
					h.is = "/a/admin"
				case 5:
					h.is = "/a/admin/"
				}
			case c == '?' || c == '#':
				h.may = before
			case c == ';':
				h.may = cut
			case c == ' ' || '\t' <= c && c <= '\r':
				h.may = plain
				if after == "" || after[0] == '/' {
					h.may = cut
				}
			case c >= 0x80:
				h.may = strings.ToLower(h.target)
			default:
				h.may = plain
			}
			if b == '%' && position == 1 {
				h.may = "/a/%admin" // %ad is not ASCII, and stays
			}
			list = append(list, h)
		}
	}
	return list
}

// writtenTargets are those of incidents. A line is a target.
func writtenTargets() []hostileTarget {
	const admin = "/a/admin"
	return []hostileTarget{
		{target: "/a/admin", is: admin, may: admin},
		{target: "/a/admin?x=/b", is: admin, may: admin},
		{target: "/a/admin/", is: "/a/admin/", may: "/a/admin/"},
		{target: "//a/admin", is: admin, may: admin},
		{target: "/a//admin", is: admin, may: admin},
		{target: "/a/admin//", is: "/a/admin/", may: "/a/admin/"},
		{target: "/./a/admin", is: admin, may: admin},
		{target: "/a/./admin", is: admin, may: admin},
		{target: "/a/admin/.", is: "/a/admin/", may: "/a/admin/"},
		{target: "/a/x/../admin", is: admin, may: admin},
		{target: "/../a/admin", is: admin, may: admin},
		{target: "/a/public/../admin", is: admin, may: admin},
		{target: "/a/public/%2e%2e/admin", is: admin, may: admin},
		{target: "/a/public/.%2E/admin", is: admin, may: admin},
		{target: "/a/public/..;/admin", is: admin, may: admin},
		{target: "/a/public/..;x=y/admin", is: admin, may: admin},
		{target: "/a/public/%2e%2e;/admin", bad: badGuard},
		{target: "/a/public/.%2e;x/admin", bad: badGuard},
		{target: "/a/%2e;x/admin", bad: badGuard},
		{target: "/a/public/..%3b/admin", is: "/a/public/..%3b/admin", may: admin},
		{target: "/a/public/..%3Bx/admin", is: "/a/public/..%3Bx/admin", may: admin},
		{target: "/a/public/%252e%252e/admin", is: "/a/public/%252e%252e/admin", may: admin},
		{target: "/a/public/%25252e%25252e/admin", is: "/a/public/%25252e%25252e/admin", may: admin},
		{target: "/a/public%252f..%252fadmin", is: "/a/public%252f..%252fadmin", may: admin},
		{target: "/a/public%255c..%255cadmin", is: "/a/public%255c..%255cadmin", may: admin},
		{target: `/a\admin`, is: admin, may: admin},
		{target: `\a\admin`, bad: malform},
		{target: `/a/public\..\admin`, is: admin, may: admin},
		{target: "/a%2fadmin", bad: badForm},
		{target: "/a%5Cadmin", bad: badForm},
		{target: "/a/x%2f..%2fadmin", bad: badForm},
		{target: "/a/admin%00", bad: badForm},
		{target: "/a/admin%00.html", bad: badForm},
		{target: "/a/admin%2500", is: "/a/admin%2500", may: admin},
		{target: "/a/admin%2500.html", is: "/a/admin%2500.html", may: admin},
		{target: "/a/admin#x", bad: badForm},
		{target: "/a/public#/../admin", bad: badForm},
		{target: "/a/admin%23x", is: "/a/admin%23x", may: admin},
		{target: "/a/admin%3fx", is: "/a/admin%3fx", may: admin},
		{target: "/a/admin%253fx", is: "/a/admin%253fx", may: admin},
		{target: "/A/ADMIN", is: "/A/ADMIN", may: admin},
		{target: "/a/Admin", is: "/a/Admin", may: admin},
		{target: "/a/%61dmin", is: admin, may: admin},
		{target: "/a/%41dmin", is: "/a/Admin", may: admin},
		{target: "/a/%2561dmin", is: "/a/%2561dmin", may: admin},
		{target: "/a/%252561dmin", is: "/a/%252561dmin", may: admin},
		{target: "/a/%25252561dmin", is: "/a/%25252561dmin", may: admin},
		{target: "/a/admin;a=b", is: "/a/admin;a=b", may: admin},
		{target: "/a/admin;", is: "/a/admin;", may: admin},
		{target: "/a;x/admin", is: "/a;x/admin", may: admin},
		{target: "/;/a/admin", is: "/;/a/admin", may: admin},
		{target: "/a/;x=y/admin", is: "/a/;x=y/admin", may: admin},
		{target: "/a/admin/;x", is: "/a/admin/;x", may: "/a/admin/"},
		{target: "/a/admin%3bx", is: "/a/admin%3bx", may: admin},
		{target: "/a/admin%253bx", is: "/a/admin%253bx", may: admin},
		{target: "/a/admin%20", is: "/a/admin%20", may: admin},
		{target: "/a/admin.", is: "/a/admin.", may: admin},
		{target: "/a/admin...", is: "/a/admin...", may: admin},
		{target: "/a/admin.%20.", is: "/a/admin.%20.", may: admin},
		{target: "/a./admin", is: "/a./admin", may: admin},
		{target: "/a/public/.../admin", is: "/a/public/.../admin", may: "/a/public/admin"},
		{target: "/a/%c1%a1dmin", is: "/a/%c1%a1dmin", may: "/a/%c1%a1dmin"},
		{target: "/a/public/%c0%ae%c0%ae/admin", is: "/a/public/%c0%ae%c0%ae/admin", may: "/a/public/%c0%ae%c0%ae/admin"},
		{target: "/a%c0%afadmin", is: "/a%c0%afadmin", may: "/a%c0%afadmin"},
		{target: "/a%e2%88%95admin", is: "/a%e2%88%95admin", may: "/a%e2%88%95admin"},
		{target: "http://c0/a/admin", is: admin, may: admin},
		{target: "HTTP://c0//a/./admin", is: admin, may: admin},
		{target: "https://c0/a/admin?x", is: admin, may: admin},
		{target: "/" + strings.Repeat("x/../", 2000) + "a/admin", is: admin, may: admin},
		{target: "/" + strings.Repeat("/", 9000) + "a/admin", is: admin, may: admin},
		{target: "/a/admin" + strings.Repeat(";x", 4000), is: "/a/admin" + strings.Repeat(";x", 4000), may: admin},
		{target: "/a/admin" + strings.Repeat(".", 9000), is: "/a/admin" + strings.Repeat(".", 9000), may: admin},
		{target: "/a/admin" + strings.Repeat("/", 9000), is: "/a/admin/", may: "/a/admin/"},
		{target: "/a/admin", is: admin, may: admin, http2: true},
		{target: "/a/%61dmin", is: admin, may: admin, http2: true},
		{target: "//a/admin", is: admin, may: admin, http2: true},
		{target: "/a/admin;x", is: "/a/admin;x", may: admin, http2: true},
		{target: "/a/admin\xff", is: "/a/admin%FF", may: "/a/admin%ff", http2: true},
		{target: "/a/\xc1\xa1dmin", is: "/a/%C1%A1dmin", may: "/a/%c1%a1dmin", http2: true},
	}
}

// TestHostilePaths: PA-01. No spelling of a path that a server may take for the
// one of a DENY passes it, and none passes an ALLOW of another.
func TestHostilePaths(t *testing.T) {
	var sets []rbac.Set
	for _, m := range pathModes {
		sets = append(sets, onePolicy(t, m.action, rbac.Attr(rbac.Path), strings.Fields(m.in), strings.Fields(m.notIn)))
	}
	targets := append(writtenTargets(), encodedTargets()...)
	var rows []hostileRow
	for _, h := range targets {
		for mode := range pathModes {
			code, reason := h.verdictOf(mode)
			rows = append(rows, hostileRow{set: mode, code: code, reason: reason, call: rbactest.Call{
				HTTP2: h.http2, Method: http.MethodGet, Target: h.target, Authority: "c0",
			}})
		}
	}
	resolved := 0
	decideHostile(t, sets, rows, func(row hostileRow, got answer) {
		if got.code != http.StatusOK {
			return
		}
		m := pathModes[row.set]
		for name, backend := range backends {
			resource := strings.TrimSuffix(backend(got.path), "/")
			resolved++
			denied := m.action == rbac.Deny && m.in != "" && pathKinds[m.kind](resource)
			other := strings.HasPrefix(m.kind, "other") && resource == "/a/admin"
			excepted := m.action == rbac.Allow && m.notIn != "" && pathKinds[m.kind](resource)
			if denied || other || excepted {
				t.Errorf("%v: %s passes, and %s takes it for %s; denied %t, another's %t, excepted %t", row, got.path, name, resource, denied, other, excepted)
			}
		}
	})
	if got, want := len(rows), 25_744; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	t.Logf("%d rows; backends resolved %d paths", len(rows), resolved)
}
