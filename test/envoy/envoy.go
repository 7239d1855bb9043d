// Package envoy runs the real, pinned Envoy in tests.
//
// A test gives a bootstrap and gets a process that is ready, whose admin
// interface it can ask, and that ends with the test. Nothing listens on a port
// that the test did not ask for: the admin interface is on a Unix socket. Where
// a bootstrap asks for port 0, [Envoy.Address] tells what it became. Start at
// [Start].
package envoy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/test/child"
	"github.com/istio-auth/istio-auth/test/testreq"
)

// Version is the version of the Envoy that tests run. The installer, which
// tests that it is the one it installs, is cmd/internal/envoybin.
const Version = "1.40.0"

// Config is how an Envoy starts. Exactly one of YAML and Proto must be set.
type Config struct {
	// YAML is the bootstrap as YAML or JSON.
	YAML []byte

	// Proto is the bootstrap as a message.
	Proto *bootstrapv3.Bootstrap

	// LogLevel is Envoy's. Empty means warning.
	LogLevel string

	// Concurrency is the number of worker threads. Zero means one.
	Concurrency int

	// Early makes Start return when the admin interface answers, without
	// waiting for every secret and listener.
	Early bool

	// Args are more arguments.
	Args []string
}

// An Envoy is a running process. Its methods may be called at once.
type Envoy struct {
	process *child.Process
	stdout  *child.Output
	admin   *http.Client
}

// Path is the pinned Envoy. Where it is not installed the test ends as with
// [testreq.Missing].
func Path(t testing.TB) string {
	t.Helper()
	return testreq.Tool(t, "envoy-"+Version+"/envoy", "run make envoy")
}

// Start starts an Envoy, waits until its listeners are ready (see
// [Config.Early]), and stops it when the test ends. When Envoy refuses its
// bootstrap, or ends early, the test fails with what it wrote.
func Start(t testing.TB, c Config) *Envoy {
	t.Helper()
	dir := folder(t)
	e := &Envoy{stdout: &child.Output{Keep: 1 << 20}}
	socket := filepath.Join(dir, "admin.sock")
	// No hot restart: it would leave shared memory behind, one base id a process.
	args := append(bootstrap(t, dir, c), "--disable-hot-restart",
		"--config-yaml", fmt.Sprintf("admin: {address: {pipe: {path: %s}}}", socket))
	cmd := exec.Command(Path(t), args...)
	cmd.Stdout = e.stdout
	process, err := child.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	e.process = process
	e.admin = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	t.Cleanup(func() {
		e.Stop()
		if t.Failed() {
			t.Logf("envoy wrote:\n%s", process.Output())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ready := func(ctx context.Context) error {
		answer, err := e.get(ctx, "/ready")
		if c.Early && answer != "" {
			return nil
		}
		return err
	}
	if err := process.Until(ctx, ready); err != nil {
		t.Fatal(err)
	}
	return e
}

// Validate asks Envoy whether it would start with a bootstrap, and returns an
// error with what it says where it would not.
func Validate(t testing.TB, c Config) error {
	t.Helper()
	args := append(bootstrap(t, folder(t), c), "--mode", "validate")
	if out, err := exec.CommandContext(t.Context(), Path(t), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("envoy refuses: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// folder makes a temporary folder with a short name: t.TempDir holds the test's
// name, and a Unix socket's path must fit in 107 bytes.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "envoy")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// bootstrap writes the configuration into dir and returns Envoy's arguments.
func bootstrap(t testing.TB, dir string, c Config) []string {
	t.Helper()
	if (c.YAML == nil) == (c.Proto == nil) {
		t.Fatal("envoy.Config: give one of YAML and Proto")
	}
	file, data := filepath.Join(dir, "bootstrap.yaml"), c.YAML
	if c.Proto != nil {
		// Binary: JSON would need every Any's type linked into the test.
		file = filepath.Join(dir, "bootstrap.pb")
		var err error
		if data, err = proto.Marshal(c.Proto); err != nil {
			t.Fatalf("marshalling the bootstrap: %v", err)
		}
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	level := c.LogLevel
	if level == "" {
		level = "warning"
	}
	return append([]string{"-c", file, "--concurrency", fmt.Sprint(max(c.Concurrency, 1)), "--log-level", level}, c.Args...)
}

// Admin asks the admin interface for a path with GET, and fails the test unless
// the answer is 200.
func (e *Envoy) Admin(t testing.TB, path string) string {
	t.Helper()
	answer, err := e.get(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// Post sends a POST to the admin interface, as /drain_listeners and its like
// want it.
func (e *Envoy) Post(t testing.TB, path string) string {
	t.Helper()
	answer, err := e.ask(t.Context(), http.MethodPost, path)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func (e *Envoy) get(ctx context.Context, path string) (string, error) {
	return e.ask(ctx, http.MethodGet, path)
}

// ask returns the body of an answer too where its code is an error.
func (e *Envoy) ask(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return "", fmt.Errorf("asking envoy: %w", err)
	}
	resp, err := e.admin.Do(req)
	if err != nil {
		return "", fmt.Errorf("asking envoy: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("asking envoy for %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return string(body), fmt.Errorf("envoy answers %s to %s: %s", resp.Status, path, bytes.TrimSpace(body))
	}
	return string(body), nil
}

// Address is where the named listener listens now: a port when the bootstrap
// asked for port 0. It fails the test where there is no such listener, or where
// it listens on a Unix socket.
func (e *Envoy) Address(t testing.TB, listener string) netip.AddrPort {
	t.Helper()
	var list struct {
		Statuses []struct {
			Name  string `json:"name"`
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    uint16 `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	text := e.Admin(t, "/listeners?format=json")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	for _, l := range list.Statuses {
		if l.Name == listener {
			ip, err := netip.ParseAddr(l.Local.Socket.Address)
			if err != nil {
				t.Fatalf("listener %s: %v", listener, err)
			}
			return netip.AddrPortFrom(ip, l.Local.Socket.Port)
		}
	}
	t.Fatalf("no listener %q in %s", listener, text)
	return netip.AddrPort{}
}

// Stat is the value of a counter or gauge by its whole name, and whether Envoy
// has it.
func (e *Envoy) Stat(t testing.TB, name string) (uint64, bool) {
	t.Helper()
	for line := range strings.Lines(e.Admin(t, "/stats")) {
		var value uint64
		if text, ok := strings.CutPrefix(line, name+": "); ok {
			if _, err := fmt.Sscan(text, &value); err == nil {
				return value, true
			}
		}
	}
	return 0, false
}

// Until asks ready every few milliseconds until it says true. It fails the test
// when Envoy ends first, or after 30 seconds, with what was waited for.
func (e *Envoy) Until(t testing.TB, what string, ready func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := e.process.Until(ctx, func(context.Context) error {
		if !ready() {
			return errors.New("not yet: " + what)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Log is the last of what Envoy has written: its log, and its access logs to
// standard error and output.
func (e *Envoy) Log() string { return e.process.Output() }

// Stdout is the last of what Envoy has written to standard output, where access
// logs usually go.
func (e *Envoy) Stdout() string { return e.stdout.String() }

// PID is the process's id.
func (e *Envoy) PID() int { return e.process.PID() }

// Done is closed when Envoy has ended.
func (e *Envoy) Done() <-chan struct{} { return e.process.Done() }

// Stop ends Envoy and waits until it has ended; the end of the test does it too.
func (e *Envoy) Stop() {
	e.admin.CloseIdleConnections()
	e.process.Stop(3 * time.Second)
}
