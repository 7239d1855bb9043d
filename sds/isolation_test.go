package sds_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/sdstest"
	"github.com/istio-auth/istio-auth/sds/secret"
	"github.com/istio-auth/istio-auth/sds/stream"
)

// A wiretap is a listener that keeps all that is written to its connections.
type wiretap struct {
	net.Listener
	mu      sync.Mutex // guards written
	written bytes.Buffer
}

func (w *wiretap) Accept() (net.Conn, error) {
	conn, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tapped{conn, w}, nil
}

type tapped struct {
	net.Conn
	tap *wiretap
}

func (c *tapped) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.tap.written.Write(b)
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

// byAddress gives each connection's context the address that it came in by.
type byAddress struct{}

type addressKey struct{}

func (byAddress) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, addressKey{}, info.LocalAddr.String())
}
func (byAddress) HandleConn(context.Context, stats.ConnStats)                     {}
func (byAddress) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (byAddress) HandleRPC(context.Context, stats.RPCStats)                       {}

// marks are pieces of an SVID's key as they would travel: a line of its PEM,
// and its raw bytes.
func marks(t *testing.T, svid *x509svid.SVID) [][]byte {
	t.Helper()
	_, key, err := svid.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(key)
	// The second line: the first is the same in all P-256 keys.
	line := strings.Split(string(key), "\n")[2]
	return [][]byte{[]byte(line[8:56]), block.Bytes[40:64]}
}

// AG-06 (CVE-2021-34824): one server, two identities that are told apart by
// their connection. Whatever names they ask for, in whatever way, while both are
// renewed, no byte of the one's key is ever written to the other's connections.
func TestIsolation(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	ca, err := sdstest.NewAuthority(td)
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 60*time.Second)
	dir, err := os.MkdirTemp("", "iso")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })

	type side struct {
		source *secret.Source
		tap    *wiretap
		conn   *grpc.ClientConn
		marks  [][]byte
	}
	sides := map[string]*side{}
	server := &sds.Server{MaxStreams: 1000, Sources: func(ctx context.Context) ([]sds.Source, error) {
		return []sds.Source{sides[ctx.Value(addressKey{}).(string)].source}, nil
	}}
	g := grpc.NewServer(append(sds.Options(), grpc.StatsHandler(byAddress{}))...)
	server.Register(g)
	var running sync.WaitGroup
	t.Cleanup(func() { g.Stop(); running.Wait() })
	renew := func(name string) {
		s := sides[dir+"/"+name]
		svid, err := ca.SVID(idOf(name), sdstest.Leaf{})
		if err != nil {
			t.Fatal(err)
		}
		s.marks = append(s.marks, marks(t, svid)...)
		if err := s.source.Set(secret.Material{SVID: svid, Bundle: ca.Bundle()}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "b"} {
		listener, err := net.Listen("unix", dir+"/"+name)
		if err != nil {
			t.Fatal(err)
		}
		s := &side{source: &secret.Source{}, tap: &wiretap{Listener: listener}}
		if s.conn, err = grpc.NewClient("unix:"+dir+"/"+name, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.conn.Close() })
		sides[dir+"/"+name] = s
		renew(name)
	}
	for _, s := range sides {
		running.Go(func() { _ = g.Serve(s.tap) })
	}

	pool := []string{"default", "ROOTCA", "ALL", "spiffe://td.test", idOf("a").String(), idOf("b").String(), "*", "kubernetes://b/key", "b"}
	for round := range 150 {
		for _, s := range sides {
			var names []string
			for _, name := range pool {
				if random.IntN(3) == 0 {
					names = append(names, name)
				}
			}
			ask(ctx, t, s.conn, names, random.IntN(4))
		}
		if round%10 == 0 {
			renew("a")
			renew("b")
		}
	}
	a, b := sides[dir+"/a"], sides[dir+"/b"]
	for name, pair := range map[string][2]*side{"a": {a, b}, "b": {b, a}} {
		pair[0].tap.mu.Lock()
		wire := pair[0].tap.written.Bytes()
		own := 0
		for _, mark := range pair[0].marks {
			if bytes.Contains(wire, mark) {
				own++
			}
		}
		for _, mark := range pair[1].marks {
			if bytes.Contains(wire, mark) {
				t.Errorf("the other's key was written to %s", name)
			}
		}
		pair[0].tap.mu.Unlock()
		// The test must be able to see a key at all.
		if own < len(pair[0].marks)/4 {
			t.Errorf("%s was seen to get only %d of its own %d marks", name, own, len(pair[0].marks))
		}
	}
}

// ask opens one call of a random kind, takes its first answer if one comes at
// once, and leaves.
func ask(ctx context.Context, t *testing.T, conn *grpc.ClientConn, names []string, how int) {
	t.Helper()
	ctx, stop := context.WithTimeout(ctx, 30*time.Millisecond)
	defer stop()
	client, ads := secretv3.NewSecretDiscoveryServiceClient(conn), discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
	var answered error
	switch how {
	case 0:
		_, answered = client.FetchSecrets(ctx, &discoveryv3.DiscoveryRequest{ResourceNames: names})
	case 1:
		wire, err := client.StreamSecrets(ctx)
		if err != nil {
			return
		}
		if wire.Send(&discoveryv3.DiscoveryRequest{ResourceNames: names}) == nil {
			_, answered = wire.Recv()
		}
	case 2:
		wire, err := ads.DeltaAggregatedResources(ctx)
		if err != nil {
			return
		}
		if wire.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: sds.SecretType, ResourceNamesSubscribe: names}) == nil {
			_, answered = wire.Recv()
		}
	case 3:
		wire, err := ads.StreamAggregatedResources(ctx)
		if err != nil {
			return
		}
		if wire.Send(&discoveryv3.DiscoveryRequest{TypeUrl: sds.SecretType, ResourceNames: names}) == nil {
			_, answered = wire.Recv()
		}
	}
	_ = answered // silence is an answer too
}

// AG-08: readers that stand still delay nobody, and are let go.
func TestStalledReadersDelayNobody(t *testing.T) {
	const stalled = 200
	big := &spoiler{typeURL: sds.SecretType}
	events := newRecorder()
	server := &sds.Server{Sources: fixed(big), Observe: events.observe, MaxStreams: stalled + 1, WriteTimeout: 500 * time.Millisecond}
	socket := serve(t, server)
	ctx := within(t, 60*time.Second)
	n := 0
	put := func() string {
		n++
		version := fmt.Sprint(n)
		body := &anypb.Any{TypeUrl: sds.SecretType, Value: bytes.Repeat([]byte{1}, 60<<10)}
		big.set(map[string]*stream.Resource{"a": {Name: "a", Version: version, Body: body}})
		return version
	}
	put()
	open := func() secretv3.SecretDiscoveryService_StreamSecretsClient {
		wire, err := secretv3.NewSecretDiscoveryServiceClient(dial(t, socket)).StreamSecrets(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.Send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"a"}}); err != nil {
			t.Fatal(err)
		}
		return wire
	}
	live := open()
	for range stalled {
		open() // and never read
	}
	connected := func(e sds.Event) bool { return e.Kind == sds.Connected }
	events.until(ctx, t, stalled+1, connected)
	var worst time.Duration
	if _, err := live.Recv(); err != nil {
		t.Fatal(err)
	}
	nonce := ""
	for range 20 {
		start := time.Now()
		version := put()
		for {
			got, err := live.Recv()
			if err != nil {
				t.Fatal(err)
			}
			nonce = got.Nonce
			if got.VersionInfo == version {
				break
			}
		}
		worst = max(worst, time.Since(start))
	}
	if nonce == "" || worst > 2*time.Second {
		t.Errorf("the live reader waited %v", worst)
	}
	gone := func(e sds.Event) bool {
		return e.Kind == sds.Disconnected && strings.Contains(e.Detail, "does not read")
	}
	events.until(ctx, t, stalled, gone)
	version := put()
	if got, err := live.Recv(); err != nil || got.VersionInfo != version {
		t.Errorf("in the end the live reader got %v, %v", got.GetVersionInfo(), err)
	}
	t.Logf("the live reader waited at most %v beside %d that stood still", worst, stalled)
}

// AG-07: clients that come and go, however rudely, leave nothing behind.
func TestAbortsLeaveNothing(t *testing.T) {
	source := &secret.Source{}
	ca, err := sdstest.NewAuthority(td)
	if err != nil {
		t.Fatal(err)
	}
	if err := source.Set(secret.Material{Bundle: ca.Bundle()}); err != nil {
		t.Fatal(err)
	}
	events := newRecorder()
	socket := serve(t, &sds.Server{Sources: fixed(source), Observe: events.observe})
	ctx := within(t, 60*time.Second)
	files := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(list)
	}
	before := files()
	streams := 0
	for i := range 1000 {
		if i%2 == 0 {
			conn, err := net.Dial("unix", socket.Path)
			if err != nil {
				t.Fatal(err)
			}
			// Nothing, half a preface, a whole one, or garbage.
			_, _ = conn.Write([]byte([]string{"", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "GET / HTTP/1.1\r\n\r\n"}[i/2%4]))
			_ = conn.Close()
			continue
		}
		conn, err := socket.Dial()
		if err != nil {
			t.Fatal(err)
		}
		call, stop := context.WithCancel(ctx)
		wire, err := secretv3.NewSecretDiscoveryServiceClient(conn).StreamSecrets(call)
		if err == nil {
			_ = wire.Send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"ROOTCA"}})
		}
		if i%4 == 1 && err == nil {
			if _, err := wire.Recv(); err != nil {
				t.Fatal(err)
			}
			streams++
		}
		stop()
		_ = conn.Close()
	}
	// Each stream that was opened ends.
	for {
		opened := events.count(func(e sds.Event) bool { return e.Kind == sds.Connected })
		ended := events.count(func(e sds.Event) bool { return e.Kind == sds.Disconnected })
		if opened >= streams && opened == ended && files() <= before+5 {
			break
		}
		select {
		case <-events.fed:
		case <-time.After(10 * time.Millisecond):
		}
		if ctx.Err() != nil {
			t.Fatalf("%d streams opened, %d ended; %d files open, %d before", opened, ended, files(), before)
		}
	}
}
