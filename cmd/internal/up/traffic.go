package up

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/istio-auth/istio-auth/cmd/internal/daemon"
)

// interval between two requests of the demonstration's client.
const interval = 50 * time.Millisecond

// serveOrders is the sample service: plain HTTP on loopback, behind its
// sidecar. It knows nothing of certificates.
func serveOrders(ctx context.Context, address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "orders: %s %s\n", r.Method, r.URL.Path)
	})
	listener, err := daemon.Listen(ctx, address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); ctx.Err() == nil {
		return fmt.Errorf("serving the sample service: %w", err)
	}
	return nil
}

// traffic is the sample client: it asks the server through both Envoys, over
// and over, and counts what comes back.
type traffic struct {
	base   string // http://host:port of the client's sidecar
	counts *counts
	view   *view
	client *http.Client
	last   map[string]string // path -> last outcome shown
}

func newTraffic(base string, c *counts, v *view) *traffic {
	return &traffic{
		base: base, counts: c, view: v, last: map[string]string{},
		client: &http.Client{
			Timeout:   5 * time.Second,
			Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: time.Second}).DialContext, MaxIdleConnsPerHost: 4},
		},
	}
}

// await asks for path until it is answered with 200, so that start-up, where
// everything is denied until policy arrives, is not counted.
func (t *traffic) await(ctx context.Context, path string) error {
	deadline := time.Now().Add(30 * time.Second)
	last := "nothing"
	for time.Now().Before(deadline) {
		code, body, err := t.get(ctx, path)
		if err == nil && code == http.StatusOK {
			return nil
		}
		last = fmt.Sprintf("%d %s", code, strings.TrimSpace(body))
		if err != nil {
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("no answer from the sample service after 30s (last: %s); look at the envoy.log files", last)
}

// run asks for each path in turn until ctx ends.
func (t *traffic) run(ctx context.Context, paths []string) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.once(ctx, paths[i%len(paths)])
		}
	}
}

func (t *traffic) once(ctx context.Context, path string) {
	code, body, err := t.get(ctx, path)
	if ctx.Err() != nil {
		return // cut off by the end of the run: no outcome
	}
	switch {
	case err == nil && code == http.StatusOK:
		t.counts.allowed.Add(1)
		t.last[path] = kindAllowed
	case err == nil && code == http.StatusForbidden:
		t.counts.denied.Add(1)
		t.last[path] = kindDenied // the server's access log tells who decided: see run.verdicts
	case err != nil:
		t.counts.failed.Add(1)
		t.show(path, kindFailed, "GET %s: %v", path, err)
	default:
		t.counts.failed.Add(1)
		t.show(path, kindFailed, "GET %s: %d %s", path, code, strings.TrimSpace(body))
	}
}

// show writes an outcome when it differs from the last one of that path.
func (t *traffic) show(path, kind, format string, args ...any) {
	if t.last[path] == kind {
		return
	}
	t.last[path] = kind
	t.view.event(kind, format, args...)
}

func (t *traffic) get(ctx context.Context, path string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.base+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return resp.StatusCode, string(body), err
}
