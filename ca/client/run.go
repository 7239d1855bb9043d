package client

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/istio-auth/istio-auth/attest"
)

// Run attests, keeps the client's own SVID fresh, and keeps the streams of
// certificates and bundles, until ctx ends. It tries for ever: a CA that
// refuses today, since a clock is wrong or a configuration is missing, may not
// tomorrow. It returns ctx's error and leaves nothing running. Call it once.
func (c *Client) Run(ctx context.Context) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	retire := func() {} // lets the last certificate's session finish its work and end
	for generation := 1; ; generation++ {
		own, ok := c.attestUntilDone(ctx)
		if !ok {
			retire()
			return ctx.Err()
		}
		// What the new certificate is used for begins before the old one's ends.
		retired := make(chan struct{})
		replaced := retire
		sessions.Go(func() { c.keepSession(ctx, term{generation, retired, replaced}) })
		retire = sync.OnceFunc(func() { close(retired) })
		select {
		case <-c.ready:
		default:
			close(c.ready)
		}
		_, err := attest.AgentFromID(own.svid.ID)
		c.config.Log.Info("attested", "spiffe_id", own.svid.ID.String(), "agent", err == nil, "life", own.life.Round(time.Second))
		if !sleepByBoth(ctx, renewIn(own.life, rand.Float64())) {
			retire()
			return ctx.Err()
		}
	}
}

// attestUntilDone attests until it succeeds. It returns false when ctx has ended.
func (c *Client) attestUntilDone(ctx context.Context) (*attested, bool) {
	for n := 0; ; n++ {
		// The certificate that we have makes us no stranger, if it still counts.
		own, err := c.attest(ctx, n%2 == 0)
		if err == nil {
			return own, true
		}
		if ctx.Err() != nil {
			return nil, false
		}
		c.config.Log.Warn("not attested", "attempt", n+1, "err", err)
		if !pause(ctx, n, err) {
			return nil, false
		}
	}
}

// A term is the time in which one certificate of the client's is used.
type term struct {
	generation int             // counts the certificates
	retired    <-chan struct{} // closed when the next one is in use
	begun      func()          // to be called when this one is; any number of times
}

// keepSession keeps one session at a time open until its term ends.
func (c *Client) keepSession(ctx context.Context, t term) {
	defer t.begun()
	for n := 0; ; n++ {
		began := time.Now()
		err := c.runSession(ctx, t)
		if ctx.Err() != nil || closed(t.retired) {
			return
		}
		if time.Since(began) > maxWait {
			n = 0 // it worked for a while
		}
		c.config.Log.Warn("the connection to the CA ended", "attempt", n+1, "err", err)
		if !pause(ctx, n, err) || closed(t.retired) {
			return
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
