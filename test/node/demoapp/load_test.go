package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestLoad: every request is counted once, as what it became, and one on twenty
// comes on a connection of its own. A generator that lost failures would make
// every test that uses it pass.
func TestLoad(t *testing.T) {
	const total = 40
	input, end := io.Pipe()
	var asked, connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch n := asked.Add(1); {
		case n == total:
			end.Close()
		case n%10 == 1:
			w.WriteHeader(http.StatusForbidden)
		case n%10 == 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case n%10 == 3:
			panic(http.ErrAbortHandler)
		}
	}))
	server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		connections.Add(1)
		return ctx
	}
	server.Start()
	defer server.Close()

	var out strings.Builder
	if err := runLoad(t.Context(), []string{server.URL, "200"}, input, &out); err != nil {
		t.Fatal(err)
	}
	var got tally
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	if n := int(asked.Load()); n < total || got.OK+got.Denied+got.Failed != got.Sent || got.Sent+got.Repeated != n {
		t.Errorf("%d asked, counted %+v", n, got)
	}
	// What is aborted on a kept connection is repeated by the client and becomes something else.
	if got.Denied < 4 || got.Failed < 4 || len(got.Failures) != min(got.Failed, keptFailures) {
		t.Errorf("counted %+v", got)
	}
	if n := int(connections.Load()); n < got.Fresh || got.Fresh < 2 {
		t.Errorf("%d connections, %d of them for one request each", n, got.Fresh)
	}
}

func TestLoadRate(t *testing.T) {
	for _, rate := range []string{"", "0", "-1", "10001", "1.5", "x"} {
		if err := runLoad(t.Context(), []string{"http://127.0.0.1:1", rate}, strings.NewReader(""), io.Discard); err == nil {
			t.Errorf("a rate of %q is taken", rate)
		}
	}
}
