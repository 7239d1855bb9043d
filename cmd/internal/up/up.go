// Package up runs the whole system in one process on loopback, with two sample
// services and an Envoy beside each: the same daemons as on Kubernetes, joined
// by the same wire. It adds what a demonstration needs, and no shortcut.
package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/istio-auth/istio-auth/cmd/internal/envoybin"
	"github.com/istio-auth/istio-auth/mesh"
)

// trustDomain of the demonstration.
var trustDomain = spiffeid.RequireTrustDomainFromString("up.local")

// Options of a run. The zero value is not ready: see the command's defaults.
type Options struct {
	Dir      string        // what is kept between runs
	Tools    string        // where Envoy is, or is installed
	Demo     bool          // with the sample services and their traffic
	For      time.Duration // zero: until stopped
	JSON     bool          // nothing but one JSON Summary on Out
	Plain    bool          // lines only, as for a file, though Out is a terminal
	Colour   bool          // where Out is a terminal
	PortBase int
	Life     time.Duration // of the workloads' certificates
	Out      io.Writer
	Log      *slog.Logger
}

// Run runs until ctx ends, or o.For has passed. With o.For and the
// demonstration it returns an error unless everything was seen to work.
func Run(ctx context.Context, o Options) error {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("the directory %s: %w", o.Dir, err)
	}
	l := layout{dir: dir, base: o.PortBase, demo: o.Demo}
	if l.runtime, err = os.MkdirTemp("", "istio-auth-"); err != nil {
		return fmt.Errorf("making a directory for sockets: %w", err)
	}
	defer os.RemoveAll(l.runtime)
	if err := l.checkSockets(); err != nil {
		return err
	}
	if err := l.checkPorts(ctx); err != nil {
		return err
	}
	if err := l.prepare(); err != nil {
		return err
	}
	r := &run{options: o, layout: l, counts: &counts{}, view: o.view()}
	defer r.view.close()
	if o.Demo {
		r.view.event(kindNote, "looking for Envoy %s in %s (it is fetched by pip where it is missing)", envoybin.Version, o.Tools)
		binary, err := envoybin.Ensure(ctx, o.Tools)
		if err != nil {
			return err
		}
		if r.samples, err = l.registerSamples(binary); err != nil {
			return err
		}
	} else if err := l.emptyRegistry(); err != nil {
		return err
	}
	return r.run(ctx)
}

func (o Options) view() *view {
	if o.JSON {
		return nil
	}
	v := &view{out: o.Out}
	f, ok := o.Out.(*os.File)
	if ok && !o.Plain && term.IsTerminal(int(f.Fd())) {
		v.colour = o.Colour
		v.columns = func() int {
			width, _, err := term.GetSize(int(f.Fd()))
			if err != nil || width <= 0 {
				return 80
			}
			return width
		}
	}
	return v
}

// A run is one call of Run.
type run struct {
	options Options
	layout  layout
	samples []sample

	lastVerdict map[string]string // request -> verdict last shown; of verdicts alone
	counts      *counts
	view        *view
}

// errDone ends the group of a run whose time is up.
var errDone = errors.New("time is up")

func (r *run) run(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	started := make(chan struct{})
	r.daemons(inner, group, started)
	group.Go(func() error {
		select {
		case <-started:
		case <-inner.Done():
			return nil
		}
		if !r.options.Demo {
			r.tellDaemons()
			return r.clock(inner)
		}
		return r.demonstrate(inner, group)
	})
	err := group.Wait()
	r.view.close()
	switch {
	case errors.Is(err, errDone):
		return r.finish()
	case ctx.Err() != nil: // stopped by the user
		if r.options.Demo {
			r.view.event(kindCounts, "%s", r.counts.forms()[0])
		}
		return nil
	}
	return err
}

// finish prints the summary, and judges it.
func (r *run) finish() error {
	s := r.counts.summary()
	if r.options.JSON {
		if err := json.NewEncoder(r.options.Out).Encode(s); err != nil {
			return fmt.Errorf("printing the summary: %w", err)
		}
	}
	if !r.options.Demo {
		return nil
	}
	r.view.event(kindCounts, "%s", r.counts.forms()[0])
	return s.Err()
}

// clock ends the run when its time is up.
func (r *run) clock(ctx context.Context) error {
	if r.options.For == 0 {
		<-ctx.Done()
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(r.options.For):
		return errDone
	}
}

func (r *run) tellDaemons() {
	l := r.layout
	r.view.event(kindReady, "CA on %s, manager on %s, trust domain %s", l.address(portCA), l.address(portManager), trustDomain)
	r.view.event(kindReady, "policies in %s, workloads in %s", l.policies(), l.registry())
	r.view.event(kindReady, "a workload's socket is %s", filepath.Join(l.runtime, "workloads", "<name>", "agent.sock"))
}

// demonstrate starts the sample services and their Envoys, and asks.
func (r *run) demonstrate(ctx context.Context, group *errgroup.Group) error {
	l := r.layout
	group.Go(func() error { return serveOrders(ctx, l.address(portOrders)) })
	orders := r.envoy(r.samples[1], mesh.Sidecar{
		StatusAddress: l.address(portOrdersStatus),
		Inbound:       mesh.Inbound{Listen: l.address(portOrdersMTLS), App: l.address(portOrders)},
	})
	orders.access = r.seen
	web := r.envoy(r.samples[0], mesh.Sidecar{
		StatusAddress: l.address(portWebStatus),
		Outbound: []mesh.Upstream{{
			Name: "orders", Listen: l.address(portWeb), Address: l.address(portOrdersMTLS),
			Servers: []spiffeid.ID{workloadID("orders")},
		}},
	})
	group.Go(func() error { return orders.run(ctx) })
	group.Go(func() error { return web.run(ctx) })

	t := newTraffic("http://"+l.address(portWeb), r.counts, r.view)
	r.view.event(kindNote, "waiting for the first answer through both Envoys")
	if err := t.await(ctx, "/orders"); err != nil {
		return ignoreEnd(ctx, err)
	}
	r.view.event(kindReady, "try it: curl -i http://%s/orders", l.address(portWeb))
	r.view.event(kindReady, "edit the policies in %s and watch the verdict change", l.policies())
	group.Go(func() error { return t.run(ctx, []string{"/orders", "/admin"}) })
	group.Go(func() error { return r.count(ctx) })
	return r.clock(ctx)
}

func workloadID(name string) spiffeid.ID {
	return spiffeid.RequireFromSegments(trustDomain, "ns", namespace, "sa", name)
}

// envoy completes what all sidecars have in common.
func (r *run) envoy(s sample, sidecar mesh.Sidecar) *envoy {
	sidecar.Workload = workloadID(s.name)
	sidecar.AgentSocket = filepath.Join(r.layout.runtime, "workloads", s.name, "agent.sock")
	sidecar.RuntimeDir = filepath.Join(r.layout.runtime, "envoy-"+s.name)
	sidecar.CertificateLife = r.options.Life
	return &envoy{binary: s.binary, dir: filepath.Dir(s.binary), sidecar: sidecar}
}

// seen is told each request that the server's Envoy logs.
func (r *run) seen(line accessLine) {
	if line.Peer != "" && line.Peer != "-" && r.counts.peer.CompareAndSwap(nil, &line.Peer) {
		r.view.event(kindMTLS, "%s between the Envoys; the client proved to be %s", line.TLS, line.Peer)
	}
	r.verdicts(line)
}

// count draws the counters, ten times a second on a terminal and else every
// five seconds.
func (r *run) count(ctx context.Context) error {
	if r.view == nil {
		return nil
	}
	every := 5 * time.Second
	if r.view.columns != nil {
		every = 100 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.view.counters(r.counts.forms()...)
		}
	}
}

// decider is the policy and rule in an access log's details, or the details.
func decider(details string) string {
	_, rest, found := strings.Cut(details, "rbac_access_denied_matched_policy[")
	if !found {
		return details
	}
	return strings.TrimSuffix(rest, "]")
}

// ignoreEnd is nil where err is but the end of the run.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
