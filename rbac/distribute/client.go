package distribute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/istio-auth/istio-auth/sds/stream"
)

const (
	minWait = 100 * time.Millisecond
	maxWait = 10 * time.Second
	// maxMessage bounds what one answer may hold, in bytes.
	maxMessage = 16 << 20
)

// Answers takes what the manager says: a [*Filters], or a fake. All methods may
// be called at once.
type Answers interface {
	// Pods are the UIDs to ask for, and a channel that is closed when they change.
	Pods() ([]string, <-chan struct{})
	// Version is the manager's version of what a pod has, empty for nothing.
	Version(podUID string) string
	// Apply takes an answer; the error goes back to the manager. Of one pod, one
	// answer is applied at a time.
	Apply(podUID, version string, body []byte) error
}

var _ Answers = (*Filters)(nil)

// DialOptions are for the connection to the manager: gRPC's own back-off would
// else leave the agent out for two minutes after a long outage, and a manager
// that is gone without a word would go unnoticed.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minWait, Multiplier: 1.6, Jitter: 0.5, MaxDelay: maxWait},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	}
}

// maxAge is how long a connection takes new streams. A stream ends with the
// certificate that its connection was made with; on the same connection, which
// may live for ever, so would the next one, at once. It is no longer than any
// certificate lives, and costs nothing: the stream that there is goes on.
const maxAge = 10 * time.Second

// ServerOptions are for the manager's gRPC server: without them it takes the
// agents' keepalives for abuse, and ends their connections; and an agent whose
// first certificate has ended is never told anything again.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 10 * time.Second, MaxConnectionAge: maxAge}),
	}
}

// A Client follows the policies of the agent's pods. Its fields must not change
// after Run.
type Client struct {
	// Conn is the connection to the manager, whose identity its credentials
	// check. It wants [DialOptions]. Who we are the manager learns from our
	// certificate.
	Conn    grpc.ClientConnInterface
	Answers Answers
	// Log is told of streams that end and of refusals. Nil discards.
	Log *slog.Logger
	// Draw is a number from 0 to below 1 that spreads reconnects. Nil means
	// math/rand.
	Draw func() float64
}

// Run follows the manager until ctx ends, and returns nil then. It reconnects
// with a back-off; what was applied stays in force meanwhile.
func (c *Client) Run(ctx context.Context) error {
	r := &run{Client: *c}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if r.Draw == nil {
		r.Draw = rand.Float64
	}
	var streams sync.WaitGroup
	defer func() { streams.Wait(); r.turns.running.Wait() }()
	var shards []*shard
	for {
		pods, changed := r.Answers.Pods()
		shards = spread(shards, pods, func(s *shard) {
			streams.Go(func() { r.keep(ctx, s) })
		})
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// A run is a Client with its defaults filled in, at work.
type run struct {
	Client
	turns turns
}

// A shard is the pods of one stream, for a stream may name only so many.
type shard struct {
	mu   sync.Mutex // guards pods
	pods map[string]bool
	wake chan struct{} // has one element after a change
}

// spread gives each pod a place in a shard, keeps the places that it has, and
// starts new shards as needed. All shards are woken: a pod that was made anew
// has its place still.
func spread(shards []*shard, pods []string, start func(*shard)) []*shard {
	placed := map[string]bool{}
	for _, s := range shards {
		s.mu.Lock()
		maps.DeleteFunc(s.pods, func(uid string, _ bool) bool { return !slices.Contains(pods, uid) })
		maps.Copy(placed, s.pods)
		s.mu.Unlock()
		s.changed()
	}
	for _, uid := range pods {
		if placed[uid] {
			continue
		}
		at := slices.IndexFunc(shards, func(s *shard) bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.pods) < stream.MaxNames })
		if at < 0 {
			s := &shard{pods: map[string]bool{}, wake: make(chan struct{}, 1)}
			shards, at = append(shards, s), len(shards)
			start(s)
		}
		s := shards[at]
		s.mu.Lock()
		s.pods[uid] = true
		s.mu.Unlock()
		s.changed()
	}
	return shards
}

func (s *shard) changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *shard) names() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.pods)
}

// keep has a stream for the shard whenever it has a pod, until ctx ends.
func (r *run) keep(ctx context.Context, s *shard) {
	wait := minWait
	for {
		if len(s.names()) == 0 {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		heard, err := r.follow(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if heard {
			wait = minWait
		}
		if err == nil {
			continue // no pods are left
		}
		pause := time.Duration((0.5 + r.Draw()) * float64(wait))
		r.Log.WarnContext(ctx, "lost the manager; policies stay as they are", "err", err, "retry", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		wait = min(2*wait, maxWait)
	}
}

type deltaStream = grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]

// follow is one stream. It tells whether the manager said anything on it, and
// ends without an error when no pods are left.
func (r *run) follow(ctx context.Context, s *shard) (heard bool, err error) {
	long := ctx
	ctx, cancel := context.WithCancel(ctx)
	d, err := discoveryv3.NewAggregatedDiscoveryServiceClient(r.Conn).DeltaAggregatedResources(ctx, grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		cancel()
		return false, fmt.Errorf("opening the stream: %w", err)
	}
	responses, ended := receive(ctx, d)
	applying := newApplier(ctx, long, r)
	defer func() { cancel(); <-ended; applying.wait() }()
	asked := newAsked(r.Answers, s.names())
	if err := d.Send(r.hello(asked.pods)); err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("subscribing: %w", err)
	}
	for {
		// After a Send that failed with EOF the stream's end says why.
		select {
		case response := <-responses:
			heard = true
			applying.take(response)
		case reply := <-applying.replies:
			asked.heard(reply)
			reply.request.ResourceNamesSubscribe = asked.lost(reply.applied)
			err = d.Send(reply.request)
		case <-s.wake:
			now := s.names()
			if len(now) == 0 {
				return heard, nil
			}
			if request := asked.change(now); request != nil {
				err = d.Send(request)
			}
		case err := <-ended:
			ended <- err // for the deferred wait
			return heard, fmt.Errorf("waiting for policies: %w", err)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return heard, fmt.Errorf("answering the manager: %w", err)
		}
	}
}

// receive reads the stream until it ends; why is then in the second channel.
func receive(ctx context.Context, d deltaStream) (<-chan *discoveryv3.DeltaDiscoveryResponse, chan error) {
	responses, ended := make(chan *discoveryv3.DeltaDiscoveryResponse), make(chan error, 1)
	go func() {
		for {
			response, err := d.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case responses <- response:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	return responses, ended
}

// hello asks for pods and says what they have, so that it is not sent again.
func (r *run) hello(pods map[string]bool) *discoveryv3.DeltaDiscoveryRequest {
	request := &discoveryv3.DeltaDiscoveryRequest{
		Node:                    &corev3.Node{Id: "istio-nodeagent"},
		TypeUrl:                 PoliciesType,
		ResourceNamesSubscribe:  slices.Sorted(maps.Keys(pods)),
		InitialResourceVersions: map[string]string{},
	}
	for uid := range pods {
		if version := r.Answers.Version(uid); version != "" {
			request.InitialResourceVersions[uid] = version
		}
	}
	return request
}

// cut keeps a refusal within what a manager keeps of it.
func cut(text string) string {
	const most = 1 << 10
	if len(text) > most {
		text = text[:most]
	}
	return text
}
