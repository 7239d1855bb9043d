package sds_test

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	extensionv3 "github.com/envoyproxy/go-control-plane/envoy/service/extension/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/sdstest"
	"github.com/istio-auth/istio-auth/sds/stream"
)

var td = spiffeid.RequireTrustDomainFromString("td.test")

func idOf(name string) spiffeid.ID { return spiffeid.RequireFromPath(td, "/ns/default/sa/"+name) }

// values is a source of plain values, and remembers its events.
type values struct {
	stream.Cell
	typeURL string

	mu     sync.Mutex // guards events
	events []sds.Event
}

func (v *values) TypeURL() string { return v.typeURL }

func (v *values) Observe(e sds.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.events = append(v.events, e)
}

func (v *values) set(pairs ...string) {
	s := stream.Snapshot{Complete: true, Resources: map[string]*stream.Resource{}}
	for _, pair := range pairs {
		name, version, _ := strings.Cut(pair, "=")
		s.Resources[name] = &stream.Resource{Name: name, Version: version, Body: &anypb.Any{TypeUrl: v.typeURL, Value: []byte(pair)}}
	}
	v.Cell.Set(s)
}

// serve starts a server on a socket that ends with the test.
func serve(t testing.TB, server *sds.Server) *sdstest.Socket {
	t.Helper()
	socket, err := sdstest.Serve(func(g *grpc.Server) { server.Register(g) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return socket
}

func fixed(sources ...sds.Source) func(context.Context) ([]sds.Source, error) {
	return func(context.Context) ([]sds.Source, error) { return sources, nil }
}

func dial(t testing.TB, socket *sdstest.Socket) *grpc.ClientConn {
	t.Helper()
	conn, err := socket.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), d)
	t.Cleanup(stop)
	return ctx
}

// recorder collects events.
type recorder struct {
	mu     sync.Mutex // guards events
	events []sds.Event
	fed    chan struct{}
}

func newRecorder() *recorder { return &recorder{fed: make(chan struct{}, 1)} }

func (r *recorder) observe(e sds.Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	select {
	case r.fed <- struct{}{}:
	default:
	}
}

func (r *recorder) count(match func(sds.Event) bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if match(e) {
			n++
		}
	}
	return n
}

// until waits until n events match.
func (r *recorder) until(ctx context.Context, t testing.TB, n int, match func(sds.Event) bool) {
	t.Helper()
	for r.count(match) < n {
		select {
		case <-r.fed:
		case <-ctx.Done():
			have := r.count(match)
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Fatalf("%d of %d events in time; have %+v", have, n, r.events)
		}
	}
}

func TestServices(t *testing.T) {
	secrets, filters, others := &values{typeURL: sds.SecretType}, &values{typeURL: sds.ExtensionType}, &values{typeURL: "type.googleapis.com/istioauth.policy.v1.WorkloadPolicies"}
	for _, v := range []*values{secrets, filters, others} {
		v.set("a=1", "b=1")
	}
	conn := dial(t, serve(t, &sds.Server{Sources: fixed(secrets, filters, others)}))
	ctx := within(t, 20*time.Second)
	ads, sdsc, ecds := discoveryv3.NewAggregatedDiscoveryServiceClient(conn), secretv3.NewSecretDiscoveryServiceClient(conn), extensionv3.NewExtensionConfigDiscoveryServiceClient(conn)

	type sotw = grpc.BidiStreamingClient[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	type delta = grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
	for name, c := range map[string]struct {
		typeURL, asked string
		open           func() (sotw, error)
	}{
		"ADS secrets":  {sds.SecretType, sds.SecretType, func() (sotw, error) { return ads.StreamAggregatedResources(ctx) }},
		"ADS policies": {others.typeURL, others.typeURL, func() (sotw, error) { return ads.StreamAggregatedResources(ctx) }},
		"SDS":          {sds.SecretType, "", func() (sotw, error) { return sdsc.StreamSecrets(ctx) }},
		"ECDS":         {sds.ExtensionType, sds.ExtensionType, func() (sotw, error) { return ecds.StreamExtensionConfigs(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			wire, err := c.open()
			if err != nil {
				t.Fatal(err)
			}
			if err := wire.Send(&discoveryv3.DiscoveryRequest{TypeUrl: c.asked, ResourceNames: []string{"b"}}); err != nil {
				t.Fatal(err)
			}
			got, err := wire.Recv()
			if err != nil || got.TypeUrl != c.typeURL || len(got.Resources) != 1 || string(got.Resources[0].Value) != "b=1" {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	for name, c := range map[string]struct {
		typeURL, asked string
		open           func() (delta, error)
	}{
		"ADS delta":  {others.typeURL, others.typeURL, func() (delta, error) { return ads.DeltaAggregatedResources(ctx) }},
		"SDS delta":  {sds.SecretType, "", func() (delta, error) { return sdsc.DeltaSecrets(ctx) }},
		"ECDS delta": {sds.ExtensionType, "", func() (delta, error) { return ecds.DeltaExtensionConfigs(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			wire, err := c.open()
			if err != nil {
				t.Fatal(err)
			}
			if err := wire.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: c.asked, ResourceNamesSubscribe: []string{"b"}}); err != nil {
				t.Fatal(err)
			}
			got, err := wire.Recv()
			if err != nil || got.TypeUrl != c.typeURL || len(got.Resources) != 1 || got.Resources[0].Name != "b" || got.Resources[0].Version != "1" {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	t.Run("another type on a service for one", func(t *testing.T) {
		wire, err := sdsc.StreamSecrets(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.Send(&discoveryv3.DiscoveryRequest{TypeUrl: sds.ExtensionType}); err != nil {
			t.Fatal(err)
		}
		_, err = wire.Recv()
		if got := status.Convert(err); got.Code() != codes.InvalidArgument || got.Message() != "type-url-unsupported" {
			t.Errorf("got %v", err)
		}
	})
}

func TestFetch(t *testing.T) {
	secrets := &values{typeURL: sds.SecretType}
	conn := dial(t, serve(t, &sds.Server{Sources: fixed(secrets)}))
	client, ctx := secretv3.NewSecretDiscoveryServiceClient(conn), within(t, 20*time.Second)
	fetch := func(request *discoveryv3.DiscoveryRequest) (string, codes.Code) {
		got, err := client.FetchSecrets(ctx, request)
		var values []string
		for _, r := range got.GetResources() {
			values = append(values, string(r.Value))
		}
		return strings.Join(values, " "), status.Code(err)
	}
	if got, code := fetch(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"a"}}); code != codes.Unavailable {
		t.Errorf("not known yet: %q, %v", got, code)
	}
	secrets.set("a=1", "b=2")
	for _, c := range []struct {
		name    string
		request *discoveryv3.DiscoveryRequest
		want    string
		code    codes.Code
	}{
		{"one", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"b"}}, "b=2", codes.OK},
		{"twice", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"b", "b"}}, "b=2", codes.OK},
		{"all", &discoveryv3.DiscoveryRequest{}, "a=1 b=2", codes.OK},
		{"an unknown name fails alone", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"a", "x"}}, "a=1", codes.OK},
		{"only unknown names", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"x"}}, "", codes.NotFound},
		{"another type", &discoveryv3.DiscoveryRequest{TypeUrl: sds.ExtensionType}, "", codes.InvalidArgument},
		{"a bad name", &discoveryv3.DiscoveryRequest{ResourceNames: []string{"a\x00"}}, "", codes.InvalidArgument},
	} {
		if got, code := fetch(c.request); got != c.want || code != c.code {
			t.Errorf("%s: got %q, %v, want %q, %v", c.name, got, code, c.want, c.code)
		}
	}
}

func TestEventsTravelUp(t *testing.T) {
	filters, all := &values{typeURL: sds.ExtensionType}, newRecorder()
	filters.set("f=1")
	conn := dial(t, serve(t, &sds.Server{Sources: fixed(filters), Observe: all.observe}))
	ctx := within(t, 20*time.Second)
	wire, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	step := func(request *discoveryv3.DeltaDiscoveryRequest, want string) string {
		t.Helper()
		request.TypeUrl = sds.ExtensionType
		if err := wire.Send(request); err != nil {
			t.Fatal(err)
		}
		if want == "" {
			return ""
		}
		got, err := wire.Recv()
		if err != nil || string(got.Resources[0].Resource.Value) != want {
			t.Fatalf("got %v, %v, want %s", got, err, want)
		}
		return got.Nonce
	}
	nonce := step(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"f"}}, "f=1")
	step(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: nonce}, "")
	acked := func(e sds.Event) bool { return e.Kind == sds.Acked }
	all.until(ctx, t, 1, acked)
	filters.set("f=2")
	got, err := wire.Recv()
	if err != nil {
		t.Fatal(err)
	}
	// The refusal is told, and the last good one comes at once.
	step(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: got.Nonce, ErrorDetail: &statuspb.Status{Code: 13, Message: "no\nsuch"}}, "f=1")
	if err := wire.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.Recv(); err != io.EOF {
		t.Errorf("the stream's end: %v", err)
	}
	all.until(ctx, t, 1, func(e sds.Event) bool { return e.Kind == sds.Disconnected })
	want := []sds.Event{
		{Kind: sds.Connected, Stream: 1},
		{Kind: sds.Acked, Stream: 1, TypeURL: sds.ExtensionType, Name: "f", Version: "1"},
		{Kind: sds.Nacked, Stream: 1, TypeURL: sds.ExtensionType, Name: "f", Version: "2", Detail: `code 13: no\nsuch`},
		{Kind: sds.Disconnected, Stream: 1},
	}
	if diff := cmp.Diff(want, all.events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[1:3], filters.events); diff != "" {
		t.Errorf("the source's events (-want +got):\n%s", diff)
	}
}

func TestSourcesDecideWhoIsServed(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code codes.Code
	}{
		"a status":  {status.Error(codes.PermissionDenied, "no"), codes.PermissionDenied},
		"an error":  {io.ErrUnexpectedEOF, codes.Unavailable},
		"nil, none": {nil, codes.NotFound},
	} {
		server := &sds.Server{Sources: func(context.Context) ([]sds.Source, error) { return nil, c.err }}
		_, err := secretv3.NewSecretDiscoveryServiceClient(dial(t, serve(t, server))).FetchSecrets(within(t, 20*time.Second), &discoveryv3.DiscoveryRequest{ResourceNames: []string{"default"}})
		if got := status.Convert(err); got.Code() != c.code || strings.Contains(got.Message(), "EOF") {
			t.Errorf("%s: got %v, want %v", name, err, c.code)
		}
	}
}

func TestTooManyStreams(t *testing.T) {
	secrets, events := &values{typeURL: sds.SecretType}, newRecorder()
	secrets.set("a=1")
	client := secretv3.NewSecretDiscoveryServiceClient(dial(t, serve(t, &sds.Server{Sources: fixed(secrets), MaxStreams: 3, Observe: events.observe})))
	ctx := within(t, 20*time.Second)
	open := func() (func() error, error) {
		wire, err := client.StreamSecrets(ctx)
		if err == nil {
			err = wire.Send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"a"}})
		}
		if err == nil {
			_, err = wire.Recv()
		}
		return func() error { return wire.CloseSend() }, err
	}
	var closers []func() error
	for range 3 {
		closer, err := open()
		if err != nil {
			t.Fatal(err)
		}
		closers = append(closers, closer)
	}
	if _, err := open(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the fourth stream: %v", err)
	}
	if err := closers[0](); err != nil {
		t.Fatal(err)
	}
	events.until(ctx, t, 1, func(e sds.Event) bool { return e.Kind == sds.Disconnected })
	// The place is given back right after the event.
	for {
		_, err := open()
		if err == nil {
			break
		}
		if status.Code(err) != codes.ResourceExhausted || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// A request that is too large to be meant is refused by the transport or by the
// session, and the connection goes on serving.
func TestTooLarge(t *testing.T) {
	secrets := &values{typeURL: sds.SecretType}
	secrets.set("a=1")
	client := secretv3.NewSecretDiscoveryServiceClient(dial(t, serve(t, &sds.Server{Sources: fixed(secrets)})))
	ctx := within(t, 20*time.Second)
	for _, size := range []int{65, 5000, 100_000} {
		names := make([]string, size)
		for i := range names {
			names[i] = "name"
		}
		wire, err := client.StreamSecrets(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.Send(&discoveryv3.DiscoveryRequest{ResourceNames: names}); err != nil {
			t.Fatal(err)
		}
		if _, err := wire.Recv(); status.Code(err) != codes.InvalidArgument && status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%d names: %v", size, err)
		}
	}
	if _, err := client.FetchSecrets(ctx, &discoveryv3.DiscoveryRequest{ResourceNames: []string{"a"}}); err != nil {
		t.Error(err)
	}
}
