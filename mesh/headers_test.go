package mesh_test

import (
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/mesh"
)

// TestHeaderIsThere: a DENY of whoever sends a header also refuses it empty, or
// of bytes that are no text, since applications ask for the name alone; an ALLOW
// of it, or of whoever does not send it, takes neither from an empty one.
func TestHeaderIsThere(t *testing.T) {
	w := newWorld(t)
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.untilOpen(t)
	w.enforce(t, selected(t, policy("deny", `{action: DENY, rules: [{when: [{key: "request.headers[x-debug]", values: ["*"]}]}]}`)+
		policy("unless", `{action: DENY, rules: [{to: [{operation: {paths: ["/unless"]}}], when: [{key: "request.headers[x-ticket]", notValues: ["*"]}]}]}`)+
		policy("open", `{rules: [{to: [{operation: {paths: ["/open", "/unless"]}}]}]}`)+
		policy("with", `{rules: [{to: [{operation: {paths: ["/with"]}}], when: [{key: "request.headers[x-ticket]", values: ["*"]}]}]}`)+
		policy("without", `{rules: [{to: [{operation: {paths: ["/without"]}}], when: [{key: "request.headers[x-ticket]", notValues: ["*"]}]}]}`)),
		mesh.RBACFilter)
	for _, row := range []struct {
		path, header string
		code         int
	}{
		{"/open", "x-other:", 200},
		{"/open", "x-debug: 1", 403}, {"/open", "x-debug:", 403}, {"/open", "x-debug: \t ", 403}, {"/open", "x-debug: \xff", 403}, {"/open", "x-debug: \xc3", 403},
		{"/with", "x-ticket: 1", 200}, {"/with", "x-ticket:", 403}, {"/with", "x-other:", 403},
		{"/without", "x-ticket:", 403}, {"/without", "x-ticket: 1", 403}, {"/without", "x-other:", 403},
		{"/unless", "x-ticket: 1", 200}, {"/unless", "x-ticket:", 403}, {"/unless", "x-other:", 403},
	} {
		if got := w.code(t, row.path, row.header); got != row.code {
			t.Errorf("%s with %q: %d, want %d", row.path, row.header, got, row.code)
		}
	}
}
