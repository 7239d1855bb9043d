package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

func TestCheckGivesProbesTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth()
		h.Ready("slow", func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		h.Ready("broken", func(context.Context) error { return errors.New("no disk") })
		h.Ready("well", func(context.Context) error { return nil })
		start := time.Now()
		err := h.Check(t.Context())
		if got, want := time.Since(start), 2*time.Second; got != want {
			t.Errorf("answered after %v, want %v", got, want)
		}
		if got, want := fmt.Sprint(err), "broken: no disk\nslow: context deadline exceeded"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestZeroHealthIsReady(t *testing.T) {
	if err := new(Health).Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestReadyzTellsNobodyWhy: whoever can reach the port learns that we are not
// ready; the log learns why.
func TestReadyzTellsNobodyWhy(t *testing.T) {
	h, log := NewHealth(), &lockedBuilder{}
	failing := errors.New("the secret reason")
	var mu sync.Mutex
	current := failing
	h.Ready("part", func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		return current
	})
	address := serveHealth(t, h, slog.New(slog.NewTextHandler(log, nil)))

	code, body := get(t, address, "/readyz")
	if code != http.StatusServiceUnavailable || body != "not ready\n" {
		t.Errorf("got %d %q, want 503 and nothing but \"not ready\"", code, body)
	}
	if !strings.Contains(log.String(), failing.Error()) {
		t.Errorf("the log does not tell why: %s", log)
	}
	if code, body := get(t, address, "/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("alive and not ready: got %d %q, want 200", code, body)
	}
	mu.Lock()
	current = nil
	mu.Unlock()
	if code, body := get(t, address, "/readyz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("got %d %q, want 200", code, body)
	}
	if code, body := get(t, address, "/metrics"); code != http.StatusOK || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: got %d, %.80q", code, body)
	}
	for _, path := range []string{"/", "/debug/pprof/", "/readyz/"} {
		if code, _ := get(t, address, path); code != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404", path, code)
		}
	}
}

func TestServeSaysThatAPortIsTaken(t *testing.T) {
	taken := listen(t)
	err := NewHealth().Serve(t.Context(), taken.Addr().String(), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "listening on "+taken.Addr().String()+" (stop what holds the port, or choose another)") {
		t.Errorf("got %v, want the address and what to do", err)
	}
}

func TestServeWithoutAnAddressWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- NewHealth().Serve(ctx, "", slog.New(slog.DiscardHandler)) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("ended early: %v", err)
		default:
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestServeGRPCEndsWithItsContext: a stream that its client holds open does not
// hold up the end, and a call under way gets its second.
func TestServeGRPCEndsWithItsContext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health.NewServer())
	listener, done := listen(t), make(chan error, 1)
	go func() { done <- ServeGRPC(ctx, g, listener, slog.New(slog.DiscardHandler)) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	stop()
	if err := <-done; err != nil {
		t.Errorf("ended with %v, want nil", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v to end, want about a second", took)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want Unavailable", err)
	}
}

func TestServeGRPCReportsABrokenListener(t *testing.T) {
	listener := listen(t)
	listener.Close()
	err := ServeGRPC(t.Context(), grpc.NewServer(), listener, slog.New(slog.DiscardHandler))
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed in it", err)
	}
}

// serveHealth serves h until the test ends, and waits for that end.
func serveHealth(t *testing.T, h *Health, log *slog.Logger) string {
	t.Helper()
	// Serve opens its own listener: we look for a port that is free.
	listener := listen(t)
	address := listener.Addr().String()
	listener.Close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, address, log) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
			return address
		}
		select {
		case err := <-done:
			done <- nil
			t.Fatal(err)
		default:
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func get(t *testing.T, address, path string) (int, string) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// lockedBuilder is a log that is read while it is written.
type lockedBuilder struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
