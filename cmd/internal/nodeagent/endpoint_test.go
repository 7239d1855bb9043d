package nodeagent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/attest"
	peer "github.com/istio-auth/istio-auth/attest/workload"
	"github.com/istio-auth/istio-auth/rbac/distribute"
)

var orders = attest.Pod{Namespace: "demo", Name: "orders", UID: "orders", ServiceAccount: "orders"}

// open opens the endpoint of a workload whose connections admit judges, and
// returns the path of its socket.
func open(t *testing.T, admit func(*net.UnixConn, attest.Pod) (func() error, error)) (path string, closeIt func() error) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "na")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	filters := distribute.NewFilters(spiffeid.RequireTrustDomainFromString("td.test"), nil)
	s := &sockets{log: slog.New(slog.DiscardHandler), filters: filters, dir: func(attest.Pod) string { return dir }, admit: admit}
	endpoint, err := s.Open(t.Context(), orders)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, SocketName), endpoint.Close
}

// ask asks for an identity, and returns the code of the refusal. Where the
// connection stands the workload has none yet, and the answer is a wait.
func ask(t *testing.T, conn *grpc.ClientConn) codes.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", "true"), 300*time.Millisecond)
	defer cancel()
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	return status.Code(err)
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestAdmissionRefuses: a process that is not the workload gets no byte, and
// what was opened to look at it is closed.
func TestAdmissionRefuses(t *testing.T) {
	var asked atomic.Int64
	path, closeIt := open(t, func(conn *net.UnixConn, pod attest.Pod) (func() error, error) {
		asked.Add(1)
		if pod != orders {
			t.Errorf("asked about %v", pod)
		}
		return nil, attest.Refuse("process-not-the-workload", "test")
	})
	raw, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := raw.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v; want the connection closed", n, err)
	}
	if got := ask(t, dial(t, path)); got != codes.Unavailable {
		t.Errorf("got %v, want Unavailable", got)
	}
	if asked.Load() < 2 {
		t.Errorf("admission was asked %d times for two connections", asked.Load())
	}
	if err := closeIt(); err != nil {
		t.Errorf("closing: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket outlives its endpoint: %v", err)
	}
}

// TestAdmittedPeerIsHeld: the peer's pidfd stays open as long as its connection,
// so that its process id cannot become another's, and not longer.
func TestAdmittedPeerIsHeld(t *testing.T) {
	var seen atomic.Value
	released := make(chan struct{}, 8)
	path, closeIt := open(t, func(conn *net.UnixConn, _ attest.Pod) (func() error, error) {
		process, err := peer.Inspect(conn)
		if err != nil {
			return nil, err
		}
		seen.Store(process.Executable)
		return func() error {
			defer func() { released <- struct{}{} }()
			return process.Close()
		}, nil
	})
	before := pidfds(t)
	conn := dial(t, path)
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(t.Context(), state) {
			t.Fatal("no connection")
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got := seen.Load(); got != self {
		t.Errorf("the peer is %v, want %s", got, self)
	}
	if got, want := pidfds(t), before+1; got != want {
		t.Errorf("%d pidfds are open, want %d while the peer is connected", got, want)
	}
	conn.Close()
	select {
	case <-released:
	case <-time.After(10 * time.Second):
		t.Fatal("the peer was not let go after its connection ended")
	}
	if got := pidfds(t); got != before {
		t.Errorf("%d pidfds are open, want %d as before", got, before)
	}
	// One that is connected when the endpoint closes is let go as well.
	dial(t, path).Connect()
	second := dial(t, path)
	second.Connect()
	for state := second.GetState(); state != connectivity.Ready; state = second.GetState() {
		second.WaitForStateChange(t.Context(), state)
	}
	if err := closeIt(); err != nil {
		t.Errorf("closing: %v", err)
	}
	<-released
}

// pidfds counts the descriptors of processes that we hold.
func pidfds(t *testing.T) int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.Contains(target, "pidfd") {
			n++
		}
	}
	return n
}

// TestOldSocketIsReplaced: one that a dead agent left does not stop the next.
func TestOldSocketIsReplaced(t *testing.T) {
	path, closeIt := open(t, nil)
	defer closeIt()
	filters := distribute.NewFilters(spiffeid.RequireTrustDomainFromString("td.test"), nil)
	s := &sockets{log: slog.New(slog.DiscardHandler), filters: filters, dir: func(attest.Pod) string { return filepath.Dir(path) }}
	again, err := s.Open(t.Context(), orders)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("the new socket: %v (%v), want mode 0666 for whoever runs in the pod", info, err)
	}
	// Nothing is published yet: the answer is silence, not an empty identity.
	if got := ask(t, dial(t, path)); got != codes.DeadlineExceeded && got != codes.PermissionDenied {
		t.Errorf("before the first certificate: %v", got)
	}
}

func TestBoundedListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		accepts := &pipes{ends: make(chan net.Conn)}
		b := bound(accepts, 2)
		got := make(chan net.Conn)
		ended := make(chan error, 1)
		go func() {
			for {
				conn, err := b.Accept()
				if err != nil {
					ended <- err
					return
				}
				got <- conn
			}
		}()
		connect := func() {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { theirs.Close() })
			accepts.ends <- ours
		}
		connect()
		first := <-got
		connect()
		<-got
		synctest.Wait()
		select {
		case accepts.ends <- nil:
			t.Fatal("a third connection is accepted")
		default:
		}
		first.Close()
		first.Close() // gives back its own slot alone
		connect()
		<-got
		synctest.Wait()
		select {
		case accepts.ends <- nil:
			t.Fatal("a slot was given back twice")
		default:
		}
		if _, err := unixSocket(first); err == nil {
			t.Error("a pipe is taken for a Unix socket")
		}
		// Closed while it waits for a slot.
		b.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ended with %v, want net.ErrClosed", err)
		}
	})
}

// pipes is a listener of connections that a test hands in.
type pipes struct{ ends chan net.Conn }

func (p *pipes) Accept() (net.Conn, error) { return <-p.ends, nil }
func (p *pipes) Close() error              { return nil }
func (p *pipes) Addr() net.Addr            { return &net.UnixAddr{} }
