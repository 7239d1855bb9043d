package client

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/istio-auth/istio-auth/ca/server"
)

// serveWith serves the world with limits and interceptors of the test's.
func (w *world) serveWith(limits server.Limits, options ...grpc.ServerOption) {
	s := server.New(server.Config{TrustDomain: td, Authority: w, Attester: w, Log: slog.New(slog.DiscardHandler), Limits: limits})
	g := grpc.NewServer(append(s.Options(), options...)...)
	s.Register(g)
	listener := bufconn.Listen(1 << 16)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	w.t.Cleanup(func() { g.Stop(); <-done })
	w.set(func() { w.listener, w.server = listener, s })
}

// TestShowsWhatItHas: an agent with a certificate is no stranger to the CA, and
// attests anew however many of those there are.
func TestShowsWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serveWith(server.Limits{Strangers: server.Rate{PerSecond: 1e-9, Burst: 1}})
		c, _ := run(t, w.config())
		<-c.Ready()
		time.Sleep(24 * time.Hour)
		own, err := c.GetX509SVID()
		if err != nil || time.Until(own.Certificates[0].NotAfter) < 30*time.Minute {
			t.Errorf("after a day our own certificate ends at %v, %v", own.Certificates[0].NotAfter, err)
		}
	})
}

// TestAttestsWithoutABadCertificate: a certificate that the CA does not take any
// more does not stand in the way of the token that it does.
func TestAttestsWithoutABadCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.life = 10 * time.Minute
		w.start()
		c, _ := run(t, w.config())
		<-c.Ready()
		c.mu.Lock()
		c.svid = newWorld(t).ca.SVID(t, agentID, time.Hour) // of a root that the CA never had
		c.mu.Unlock()
		time.Sleep(10 * time.Minute)
		if attests, _ := w.counts(); attests < 2 {
			t.Errorf("attested %d times", attests)
		}
	})
}

// TestSilentCA: a CA that takes the connection and says nothing is left, and
// another one is looked for.
func TestSilentCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var silent atomic.Bool
		silent.Store(true)
		w.serveWith(server.Limits{}, grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if silent.Load() && info.FullMethod != "/istioauth.ca.v1.CertificateAuthority/Attest" {
				<-ss.Context().Done()
				return ss.Context().Err()
			}
			return next(srv, ss)
		}))
		c, _ := run(t, w.config())
		<-c.Ready()
		time.Sleep(time.Second)
		silent.Store(false) // of the first connection it remains
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Issue(ctx, firstIssue(t)); err != nil {
			t.Errorf("a minute later: %v", err)
		}
	})
}

// TestLifeless: a certificate that has ended when it comes is no attestation, and
// is not asked for five times a second.
func TestLifeless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.life = -time.Minute
		w.start()
		c, _ := run(t, w.config())
		time.Sleep(10 * time.Minute)
		if attests, _ := w.counts(); attests > 100 {
			t.Errorf("attested %d times in ten minutes", attests)
		}
		if _, err := c.GetX509SVID(); err == nil {
			t.Error("a certificate that has ended is ours")
		}
	})
}

// TestRemains: an hour that a machine slept is an hour of its certificate's, and
// a clock that is set back gives none.
func TestRemains(t *testing.T) {
	for name, c := range map[string]struct{ wall, timers, want time.Duration }{
		"as it goes":          {10 * time.Minute, 10 * time.Minute, 10 * time.Minute},
		"asleep for an hour":  {70 * time.Minute, 10 * time.Minute, -50 * time.Minute},
		"set back by an hour": {-50 * time.Minute, 10 * time.Minute, 10 * time.Minute},
	} {
		if got := remains(20*time.Minute, c.wall, c.timers); got != c.want {
			t.Errorf("%s: %v left, want %v", name, got, c.want)
		}
	}
}
