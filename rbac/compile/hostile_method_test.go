package compile_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestHostileMethods: no word passes a rule of DELETE that a server may take
// for it, whatever headers say; and nothing is switched to another protocol.
func TestHostileMethods(t *testing.T) {
	method := rbac.Attr(rbac.Method)
	sets := []rbac.Set{
		onePolicy(t, rbac.Allow, method, []string{"DELETE"}, nil), onePolicy(t, rbac.Deny, method, []string{"DELETE"}, nil),
		onePolicy(t, rbac.Allow, method, nil, []string{"DELETE"}), onePolicy(t, rbac.Deny, method, nil, []string{"DELETE"}),
	}
	// Of both, one line each: what may be asked, and what no rule decides upon.
	plain := strings.Fields("GET HEAD POST PUT DELETE PATCH OPTIONS TRACE PROPFIND MKCOL COPY MOVE LOCK UNLOCK PURGE REPORT SEARCH LINK UNLINK")
	words := strings.Fields("ANYWORD DELET DELETEX XDELETE DE-LETE PRI M-SEARCH") // over HTTP/2 alone
	odd := strings.Fields("delete Delete DELETe dELETE get Get DELETE1 D_ELETE DEL.ETE * -DELETE GET! DELETE| pri connect")
	overrides := strings.Fields("x-http-method-override x-http-method x-method-override x-original-method x-forwarded-method")
	var rows []hostileRow
	add := func(m string, http2 bool, code int, reason string, headers ...rbactest.Header) {
		for set := range sets {
			row := hostileRow{set: set, code: code, reason: reason, call: rbactest.Call{HTTP2: http2, Method: m, Target: "/", Authority: "shop.test", Headers: headers}}
			if reason == "" {
				switch matches := (m == "DELETE") == (set < 2); {
				case set%2 == 0 && matches:
					row.code, row.reason = http.StatusOK, ruleLine
				case set%2 == 0:
					row.code, row.reason = http.StatusForbidden, "no-allow-match"
				case matches:
					row.code, row.reason = http.StatusForbidden, ruleLine
				default:
					row.code, row.reason = http.StatusOK, "no-allow"
				}
			}
			rows = append(rows, row)
		}
	}
	for _, m := range plain {
		add(m, false, 0, "")
		add(m, true, 0, "")
	}
	for _, m := range words {
		add(m, false, http.StatusBadRequest, "http1.codec_error")
		add(m, true, 0, "")
	}
	for _, m := range odd {
		add(m, false, http.StatusBadRequest, "http1.codec_error")
		add(m, true, http.StatusForbidden, "no-method")
	}
	json := rbactest.Header{Name: "content-type", Value: "application/json"}
	for _, http2 := range []bool{false, true} {
		add("QUERY", http2, http.StatusBadRequest, "query_missing_content_type") // draft-ietf-httpbis-safe-method-w-body
		add("QUERY", http2, 0, "", json)
	}
	for _, name := range overrides {
		for _, value := range []string{"DELETE", "GET"} {
			for _, m := range []string{"POST", "DELETE"} {
				add(m, false, 0, "", rbactest.Header{Name: name, Value: value})
				add(m, true, 0, "", rbactest.Header{Name: name, Value: value})
			}
		}
	}
	// Without a rule's word: protocols that are switched to, and targets that are
	// no path (incident 55).
	for _, protocol := range []string{"websocket", "WebSocket", "HTTP/2.0", "TLS/1.0", "x"} {
		add("GET", false, http.StatusForbidden, "upgrade_failed", rbactest.Header{Name: "connection", Value: "Upgrade"}, rbactest.Header{Name: "upgrade", Value: protocol})
	}
	connection := rbactest.Header{Name: "connection", Value: "Upgrade"}
	add("GET", false, http.StatusNotFound, "invalid_path", connection, rbactest.Header{Name: "upgrade", Value: "connect-udp"})
	add("GET", false, 0, "", connection, rbactest.Header{Name: "upgrade", Value: "h2c"}) // is not heard
	form := func(m, target string, http2 bool, code int, reason string) {
		// The set that would let it in.
		rows = append(rows, hostileRow{set: 2, code: code, reason: reason, call: rbactest.Call{HTTP2: http2, Method: m, Target: target, Authority: "shop.test"}})
	}
	for _, target := range []string{"pkg.Svc/Method", "a/admin", "*", "?x", "..", "%2fa", "shop.test:80"} {
		form("GET", target, true, 0, "connection ended")
	}
	form("GET", "*", false, http.StatusBadRequest, "http1.invalid_url")
	form("OPTIONS", "*", false, http.StatusNotFound, "absolute_path_rejected")
	form("CONNECT", "shop.test:80", false, http.StatusForbidden, "none") // has no path, without which nobody is let in
	form("CONNECT", "/", false, http.StatusBadRequest, "http1.invalid_url")
	form("CONNECT", "/", true, 0, "connection ended")
	if got, want := len(rows), 544; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	decideHostile(t, sets, rows, nil)
}
