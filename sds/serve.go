package sds

import (
	"context"
	"errors"
	"io"
	"reflect"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/sds/stream"
)

var errStalled = errors.New("sds: the client does not read")

// A request is one message of the client: one field is set.
type request struct {
	sotw  *discoveryv3.DiscoveryRequest
	delta *discoveryv3.DeltaDiscoveryRequest
}

// A conn is one stream with all that serving it needs.
type conn struct {
	ctx     context.Context // the stream's; a conn lives no longer
	session *stream.Session
	recv    func() (request, error)
	send    func(stream.Response) error
	only    string // the one type of the service, or empty

	number  uint64
	sources map[string]Source
	watched []watch
	sent    chan error
}

// A watch is one type that the client has asked for.
type watch struct {
	source   Source
	replaced <-chan struct{}
}

// An observer is a Source that wants to be told of its events.
type observer interface{ Observe(Event) }

// serve runs one stream until it ends.
func (s *service) serve(c *conn) error {
	if s.streams.Add(1) > int64(s.MaxStreams) {
		s.streams.Add(-1)
		return status.Error(codes.ResourceExhausted, "too many streams")
	}
	defer s.streams.Add(-1)
	sources, err := s.sources(c.ctx)
	if err != nil {
		return err
	}
	c.session.Names = s.MaxNames
	c.sources, c.number, c.sent = sources, s.opened.Add(1), make(chan error, 1)
	s.Observe(Event{Kind: Connected, Stream: c.number})
	err = s.loop(c)
	end := Event{Kind: Disconnected, Stream: c.number}
	if errors.Is(err, io.EOF) || c.ctx.Err() != nil {
		err = nil // the client left
	}
	if err != nil {
		end.Detail = err.Error()
		s.Log.WarnContext(c.ctx, "stream ended", "stream", c.number, "err", err)
	}
	s.Observe(end)
	return asStatus(err)
}

// loop feeds the session until the stream fails. The reader beside it is all
// that a quiet stream costs.
func (s *service) loop(c *conn) error {
	requests, failed, done := make(chan request), make(chan error, 1), make(chan struct{})
	// The reader ends with the stream, which gRPC ends when loop's caller
	// returns: Recv cannot be interrupted any sooner.
	go func() {
		for {
			r, err := c.recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- r:
			case <-done:
				return
			}
		}
	}()
	defer close(done)

	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	const fixed = 4
	cases := []reflect.SelectCase{
		{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(c.ctx.Done())},
		{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(failed)},
		{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(requests)},
		{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(timer.C)},
	}
	for {
		cases = cases[:fixed]
		for _, w := range c.watched {
			cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(w.replaced)})
		}
		chosen, value, _ := reflect.Select(cases)
		switch chosen {
		case 0:
			return c.ctx.Err()
		case 1:
			return value.Interface().(error)
		case 2:
			err := c.feed(value.Interface().(request))
			s.report(c)
			if err != nil {
				return err
			}
		}
		if err := s.flush(c); err != nil {
			return err
		}
		if wake := c.session.Wake(); !wake.IsZero() {
			timer.Reset(time.Until(wake))
		}
	}
}

// feed gives a request to the session. It is garbage afterwards, its node of
// tens of kilobytes with it.
func (c *conn) feed(r request) error {
	now := time.Now()
	var err error
	if r.sotw != nil {
		if err = stream.CheckType(r.sotw.GetTypeUrl(), c.only); err == nil {
			err = c.session.SotW(now, r.sotw)
		}
	} else {
		if err = stream.CheckType(r.delta.GetTypeUrl(), c.only); err == nil {
			err = c.session.Delta(now, r.delta)
		}
	}
	if err != nil {
		return err
	}
	for _, typeURL := range c.session.Types()[len(c.watched):] {
		source := c.sources[typeURL]
		if source == nil {
			source = nothing(typeURL)
		}
		snapshot, replaced := source.Current()
		c.session.Set(typeURL, snapshot)
		c.watched = append(c.watched, watch{source, replaced})
	}
	return nil
}

// refresh fetches the snapshots that were replaced.
func (c *conn) refresh() {
	for i, w := range c.watched {
		select {
		case <-w.replaced:
			snapshot, replaced := w.source.Current()
			c.session.Set(w.source.TypeURL(), snapshot)
			c.watched[i].replaced = replaced
		default:
		}
	}
}

// flush writes all that the client is to have. Before each message it looks
// for newer snapshots: what is replaced while the client reads is never sent.
func (s *service) flush(c *conn) error {
	for {
		c.refresh()
		response, ok := c.session.Next(time.Now())
		if !ok {
			return nil
		}
		// The goroutine outlives a timeout until serve's caller has returned;
		// only then does gRPC give up the write.
		go func() { c.sent <- c.send(response) }()
		deadline := time.NewTimer(s.WriteTimeout)
		select {
		case err := <-c.sent:
			deadline.Stop()
			if err != nil {
				return err
			}
		case <-deadline.C:
			return errStalled
		case <-c.ctx.Done():
			deadline.Stop()
			return c.ctx.Err()
		}
	}
}

// report tells of what the client acknowledged or refused.
func (s *service) report(c *conn) {
	for _, e := range c.session.Events() {
		event := Event{Kind: Acked, Stream: c.number, TypeURL: e.TypeURL, Name: e.Name, Version: e.Version, Detail: e.Detail}
		if e.Refused {
			event.Kind = Nacked
			s.Log.WarnContext(c.ctx, "resource refused", "stream", c.number, "type_url", e.TypeURL,
				"name", e.Name, "version", e.Version, "detail", e.Detail)
		}
		s.Observe(event)
		if o, ok := c.sources[e.TypeURL].(observer); ok {
			o.Observe(event)
		}
	}
}

// nothing is the source of a type that nobody offers: no name of it exists.
type nothing string

func (n nothing) TypeURL() string { return string(n) }

func (nothing) Current() (stream.Snapshot, <-chan struct{}) {
	return stream.Snapshot{Complete: true}, nil
}
