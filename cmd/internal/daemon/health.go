package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A Probe tells whether a part works, by trying it. It must return within its
// context's deadline, which is two seconds.
type Probe func(context.Context) error

// Health serves /healthz, /readyz and /metrics. The zero value has no probe;
// its methods may be called at once.
type Health struct {
	Registry *prometheus.Registry

	mu     sync.Mutex // guards probes
	probes map[string]Probe
}

// NewHealth has a registry with the metrics of the process and of Go.
func NewHealth() *Health {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Health{Registry: r}
}

// Ready adds a probe that must pass for the program to be ready.
func (h *Health) Ready(name string, probe Probe) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.probes == nil {
		h.probes = map[string]Probe{}
	}
	h.probes[name] = probe
}

// Check runs every probe and joins what failed.
func (h *Health) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	h.mu.Lock()
	probes := maps.Clone(h.probes)
	h.mu.Unlock()
	var failed []error
	for _, name := range slices.Sorted(maps.Keys(probes)) {
		if err := probes[name](ctx); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(failed...)
}

// Serve answers on address until ctx ends. An empty address serves nothing and
// waits.
func (h *Health) Serve(ctx context.Context, address string, log *slog.Logger) error {
	if address == "" {
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := h.Check(r.Context()); err != nil {
			// Why stays in the log: this port may be seen by others of the pod network.
			log.Warn("not ready", "err", err)
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(h.Registry, promhttp.HandlerOpts{}))
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	listener, err := Listen(ctx, address)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health on %s: %w", address, err)
	}
	return nil
}

// Listen opens a TCP listener, and says what to do where the port is taken.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s (stop what holds the port, or choose another): %w", address, err)
	}
	return listener, nil
}
