package up

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
)

// answering is traffic to a fake sidecar that answers by the path: /403 with
// 403, and cuts the connection at /cut.
func answering(t *testing.T, out *bytes.Buffer) *traffic {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/403":
			w.WriteHeader(http.StatusForbidden)
		case "/503":
			http.Error(w, "no \x1b[2J upstream", http.StatusServiceUnavailable)
		case "/cut":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
		}
	}))
	t.Cleanup(server.Close)
	traffic := newTraffic(server.URL, &counts{}, &view{out: out})
	t.Cleanup(traffic.client.CloseIdleConnections)
	return traffic
}

func TestTrafficCounts(t *testing.T) {
	var out bytes.Buffer
	traffic := answering(t, &out)
	for _, path := range []string{"/200", "/200", "/403", "/503", "/503", "/cut", "/200", "/503"} {
		traffic.once(t.Context(), path)
	}
	if got, want := traffic.counts.summary(), (Summary{Allowed: 3, Denied: 1, Failed: 4}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// Allowed and denied are told by the server's access log, which knows who
	// decided; failures by us, once as long as they last.
	text := out.String()
	if got := strings.Count(text, "FAILED"); got != 2 {
		t.Errorf("%d failures are shown, want one of /503 and one of /cut:\n%s", got, text)
	}
	if !strings.Contains(text, `GET /503: 503 no \u001b[2J upstream`) || strings.Contains(text, "allowed") {
		t.Errorf("got:\n%s", text)
	}
}

// TestTrafficAtTheEnd: what the end of the run cut off has no outcome.
func TestTrafficAtTheEnd(t *testing.T) {
	var out bytes.Buffer
	traffic := answering(t, &out)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	traffic.once(ctx, "/200")
	if got := traffic.counts.summary(); got != (Summary{}) || out.Len() > 0 {
		t.Errorf("got %+v and %q, want nothing", got, out.String())
	}
	if err := traffic.run(ctx, []string{"/200"}); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// TestAwaitGivesUp says what came instead of the answer, after half a minute.
func TestAwaitGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic := newTraffic("http://sidecar", &counts{}, nil)
		traffic.client.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
			answer := httptest.NewRecorder()
			http.Error(answer, "RBAC: access denied", http.StatusForbidden)
			return answer.Result(), nil
		})
		err := traffic.await(t.Context(), "/orders")
		if err == nil || !strings.Contains(err.Error(), "after 30s (last: 403 RBAC: access denied); look at the envoy.log files") {
			t.Errorf("got %v", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := traffic.await(ctx, "/orders"); err != context.Canceled {
			t.Errorf("stopped: got %v, want the context's error", err)
		}
	})
}

// TestAwaitWaits through refusals and errors, and counts none of them.
func TestAwaitWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic := newTraffic("http://sidecar", &counts{}, nil)
		calls := 0
		traffic.client.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
			answer := httptest.NewRecorder()
			switch calls++; calls {
			case 1:
				return nil, net.ErrClosed
			case 2:
				answer.WriteHeader(http.StatusForbidden)
			}
			return answer.Result(), nil
		})
		if err := traffic.await(t.Context(), "/orders"); err != nil || calls != 3 {
			t.Errorf("%v after %d calls, want an answer at the third", err, calls)
		}
		if got := traffic.counts.summary(); got != (Summary{}) {
			t.Errorf("counted %+v", got)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestVerdicts(t *testing.T) {
	var out bytes.Buffer
	r := &run{counts: &counts{}, view: &view{out: &out}}
	denied := func(policy string) accessLine {
		return accessLine{Peer: "spiffe://td/ns/a/sa/b", Method: "GET", Path: "/x", Code: 403, Details: "rbac_access_denied_matched_policy[" + policy + "]", TLS: "TLSv1.3"}
	}
	allowed := denied("")
	allowed.Code, allowed.Details = 200, "via_upstream"
	plain := accessLine{Peer: "-", Method: "GET", Path: "/y", Code: 403, Details: "something_else", TLS: "-"}
	broken := allowed
	broken.Code = 503
	for _, line := range []accessLine{denied("ns/p/0"), denied("ns/p/0"), allowed, allowed, broken, denied("ns/q/1"), denied("ns/p/0"), plain} {
		r.seen(line)
	}
	const want = `T  mtls     TLSv1.3 between the Envoys; the client proved to be spiffe://td/ns/a/sa/b
T  denied   GET /x from spiffe://td/ns/a/sa/b, by ns/p/0
T  allowed  GET /x from spiffe://td/ns/a/sa/b
T  denied   GET /x from spiffe://td/ns/a/sa/b, by ns/q/1
T  denied   GET /x from spiffe://td/ns/a/sa/b, by ns/p/0
T  denied   GET /y from -, by something_else
`
	if got := clocks.ReplaceAllString(out.String(), "T"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := r.counts.summary().MTLSPeer; got != "spiffe://td/ns/a/sa/b" {
		t.Errorf("the peer is %q", got)
	}
}

// TestReadAccess: what is no access log entry is passed over, however long, and
// Envoy's pipe never fills.
func TestReadAccess(t *testing.T) {
	var seen []string
	e := &envoy{access: func(line accessLine) { seen = append(seen, line.Path) }}
	rest := strings.NewReader("not json\n{\"path\":\"/a\"}\n[1]\n{\"path\":\"/b\",\"code\":200}\n" + strings.Repeat("x", 2<<20) + "\n{\"path\":\"/c\"}\n")
	e.readAccess(rest)
	if got, want := strings.Join(seen, " "), "/a /b"; got != want {
		t.Errorf("saw %q, want %q", got, want)
	}
	if rest.Len() != 0 {
		t.Errorf("%d bytes are left in the pipe", rest.Len())
	}
}
