package up

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	envoytest "github.com/istio-auth/istio-auth/test/envoy"
)

// dialVariable makes this binary, run under another name, a workload that
// fetches its identity from the socket that the variable names.
const dialVariable = "UP_TEST_SOCKET"

func TestMain(m *testing.M) {
	socket := os.Getenv(dialVariable)
	if socket == "" {
		os.Exit(m.Run())
	}
	id, err := fetch(context.Background(), socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(id)
}

// fetch is what an application does: its identity, by go-spiffe.
func fetch(ctx context.Context, socket string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	svid, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr("unix://"+socket))
	if err != nil {
		return "", err
	}
	return svid.ID.String(), nil
}

// TestSummary: the whole of the demonstration, as `make up` users and CI have
// it: real Envoys, and one JSON object at the end.
func TestSummary(t *testing.T) {
	u := start(t, Options{Demo: true, JSON: true, For: 8 * time.Second, Life: 10 * time.Second})
	if err := <-u.done; err != nil {
		t.Errorf("ended with %v", err)
	}
	var s Summary
	decoder := json.NewDecoder(strings.NewReader(u.out.String()))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil || decoder.More() {
		t.Fatalf("want one JSON object and nothing else (%v):\n%s", err, u.out)
	}
	if s.Issued != 2 || s.Renewed == 0 || s.Allowed == 0 || s.Denied == 0 || s.Failed != 0 || s.MTLSPeer != "spiffe://up.local/ns/demo/sa/web" {
		t.Errorf("got %+v; want 2 issued, some renewed, allowed and denied, none failed, and web as the peer", s)
	}
	t.Logf("%+v", s)
	u.nothingLeft(t)
}

// TestPolicyEdit: while both Envoys serve, an edit changes the verdict with
// nothing restarted, a broken edit changes nothing and is told, and the end
// leaves nothing behind.
func TestPolicyEdit(t *testing.T) {
	u := start(t, Options{Demo: true, Life: time.Minute})
	u.waitFor(t, "try it: curl")
	u.sidecars(t)
	envoys, listeners := u.envoys(t), u.listeners(t)
	if len(envoys) != 2 {
		t.Fatalf("%d Envoys run, want 2", len(envoys))
	}
	policies := filepath.Join(u.dir, "policies", "orders.yaml")
	original, err := os.ReadFile(policies)
	if err != nil {
		t.Fatal(err)
	}
	allowOnly, _, found := bytes.Cut(original, []byte("---"))
	if !found {
		t.Fatal("the sample is no longer two documents")
	}
	u.until(t, "/admin", http.StatusForbidden)

	for _, edit := range []struct {
		what string
		text []byte
		code int
	}{
		{"the DENY is removed", allowOnly, http.StatusOK},
		{"the DENY is back", original, http.StatusForbidden},
	} {
		began := time.Now()
		save(t, policies, edit.text)
		u.until(t, "/admin", edit.code)
		t.Logf("%s: /admin is %d after %v", edit.what, edit.code, time.Since(began).Round(time.Millisecond))
	}

	save(t, policies, []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: demo}\nspec: {action: PERHAPS}\n"))
	u.waitFor(t, "bad policies keep their last good content")
	u.waitFor(t, "PERHAPS")
	for path, want := range map[string]int{"/orders": http.StatusOK, "/admin": http.StatusForbidden} {
		if got := u.get(t, portWeb, path); got != want {
			t.Errorf("with a broken policy file %s is %d, want %d as before", path, got, want)
		}
	}
	save(t, policies, allowOnly)
	u.until(t, "/admin", http.StatusOK)

	if got := u.envoys(t); !slices.Equal(got, envoys) {
		t.Errorf("Envoys were restarted: %v, then %v", envoys, got)
	}
	if got := u.listeners(t); got != listeners {
		t.Errorf("listeners changed:\n%s\nthen\n%s", listeners, got)
	}
	u.stop()
	if err := <-u.done; err != nil {
		t.Errorf("stopped by its user, it ended with %v", err)
	}
	for _, want := range []string{"issued", "mtls", "TLSv1.3", "denied", "demo/nobody-administers/0", "counts"} {
		if !strings.Contains(u.out.String(), want) {
			t.Errorf("the output has no %q:\n%s", want, u.out)
		}
	}
	u.nothingLeft(t)
}

// TestPeers: without the demonstration, each workload of the registry has a
// socket, and it answers the process that the registry names, and no other.
func TestPeers(t *testing.T) {
	dir := shortDir(t)
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	if err := linkOrCopy(self, other); err != nil {
		t.Fatal(err)
	}
	save(t, filepath.Join(dir, "workloads.yaml"), fmt.Appendf(nil, `workloads:
- {name: self, node: localhost, uid: %[1]d, executable: %[2]q, namespace: demo, serviceAccount: self}
- {name: other, node: localhost, uid: %[1]d, executable: %[3]q, namespace: demo, serviceAccount: other}
- {name: elsewhere, node: another-host, uid: %[1]d, executable: %[2]q, namespace: demo, serviceAccount: elsewhere}
`, os.Getuid(), self, other))
	u := start(t, Options{Dir: dir, Life: time.Minute})
	u.waitFor(t, "issued   spiffe://up.local/ns/demo/sa/self")
	u.waitFor(t, "issued   spiffe://up.local/ns/demo/sa/other")
	socket := func(name string) string {
		found, err := filepath.Glob(filepath.Join(u.temp, "*", "workloads", name, "agent.sock"))
		if err != nil || len(found) != 1 {
			t.Fatalf("sockets of %s: %q (%v), want one", name, found, err)
		}
		return found[0]
	}
	as := func(executable, socket string) (string, error) {
		cmd := exec.CommandContext(t.Context(), executable)
		cmd.Env = append(os.Environ(), dialVariable+"="+socket)
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	for _, row := range []struct{ executable, workload, want string }{
		{self, "self", "spiffe://up.local/ns/demo/sa/self"},
		{other, "other", "spiffe://up.local/ns/demo/sa/other"},
		{other, "self", ""},
		{self, "other", ""},
	} {
		got, err := as(row.executable, socket(row.workload))
		if row.want != "" && (err != nil || got != row.want) {
			t.Errorf("%s at the socket of %s: %q, %v; want %s", filepath.Base(row.executable), row.workload, got, err, row.want)
		}
		if row.want == "" && err == nil {
			t.Errorf("%s at the socket of %s is served as %s", filepath.Base(row.executable), row.workload, got)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(u.temp, "*", "workloads", "elsewhere")); left != nil {
		t.Errorf("a workload of another host has a socket here: %q", left)
	}
	u.stop()
	if err := <-u.done; err != nil {
		t.Errorf("stopped by its user, it ended with %v", err)
	}
	u.nothingLeft(t)
}

// TestEnvoyDies: a sidecar that ends of itself ends the run, with its log named.
func TestEnvoyDies(t *testing.T) {
	u := start(t, Options{Demo: true, Life: time.Minute})
	u.waitFor(t, "try it: curl")
	for _, pid := range u.envoys(t)[:1] {
		process, err := os.FindProcess(pid)
		if err == nil {
			err = process.Kill()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err := <-u.done
	if err == nil || !strings.Contains(err.Error(), "envoy.log") || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("ended with %v, want the log's name and how Envoy ended", err)
	}
	u.nothingLeft(t)
}

// A running is a call of Run under way.
type running struct {
	dir, temp  string
	base       int
	goroutines int
	out        *output
	stop       context.CancelFunc
	done       chan error
	client     *http.Client
}

// start calls Run with what a test leaves open filled in.
func start(t *testing.T, o Options) *running {
	t.Helper()
	if o.Demo {
		// .tools/envoy-<version>/envoy
		o.Tools = filepath.Dir(filepath.Dir(envoytest.Path(t)))
	}
	if o.Dir == "" {
		o.Dir = shortDir(t)
	}
	u := &running{dir: o.Dir, temp: shortDir(t), base: freePorts(t), goroutines: runtime.NumGoroutine(), out: newOutput(), done: make(chan error, 1)}
	t.Setenv("TMPDIR", u.temp)
	o.PortBase, o.Out, o.Log = u.base, u.out, slog.New(slog.DiscardHandler)
	u.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	ctx, stop := context.WithCancel(t.Context())
	u.stop = stop
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		u.done <- Run(ctx, o)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
		if t.Failed() {
			t.Logf("it wrote:\n%s", u.out)
		}
	})
	return u
}

// waitFor waits until the output has text.
func (u *running) waitFor(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		now, more := u.out.read()
		if strings.Contains(now, text) {
			return
		}
		select {
		case <-more:
		case err := <-u.done:
			u.done <- err
			t.Fatalf("it ended (%v) before it wrote %q", err, text)
		case <-timeout:
			t.Fatalf("no %q after a minute", text)
		}
	}
}

// get asks a port of the run, and returns the answer's code.
func (u *running) get(t *testing.T, port int, path string) int {
	t.Helper()
	code, _ := u.body(t, port, path)
	return code
}

func (u *running) body(t *testing.T, port int, path string) (int, string) {
	t.Helper()
	resp, err := u.client.Get("http://" + layout{base: u.base}.address(port) + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// until asks through both Envoys until the answer is code.
func (u *running) until(t *testing.T, path string, code int) {
	t.Helper()
	poll(t, fmt.Sprintf("%s to be %d", path, code), func() bool { return u.get(t, portWeb, path) == code })
}

// sidecars looks at what both Envoys serve to anybody: that they are ready,
// their figures, and nothing else.
func (u *running) sidecars(t *testing.T) {
	t.Helper()
	for _, port := range []int{portWebStatus, portOrdersStatus} {
		poll(t, portNames[port]+" to be ready", func() bool { return u.get(t, port, "/ready") == http.StatusOK })
		if code, body := u.body(t, port, "/stats/prometheus"); code != http.StatusOK || !strings.Contains(body, "# TYPE envoy_") {
			t.Errorf("%s: /stats/prometheus is %d %.100q", portNames[port], code, body)
		}
		for _, path := range []string{"/", "/stats", "/certs", "/config_dump", "/quitquitquit", "/ready/../certs", "/logging"} {
			if got := u.get(t, port, path); got != http.StatusNotFound {
				t.Errorf("%s: %s is %d, want 404", portNames[port], path, got)
			}
		}
	}
}

// listeners is what the server's sidecar tells of changes to its listeners, and
// of connections that it asked to end.
func (u *running) listeners(t *testing.T) string {
	t.Helper()
	_, body := u.body(t, portOrdersStatus, "/stats/prometheus")
	var lines []string
	for line := range strings.Lines(body) {
		for _, name := range []string{"envoy_listener_manager_listener_modified", "envoy_listener_manager_total_listeners_draining", "envoy_http_downstream_cx_drain_close"} {
			if strings.HasPrefix(line, name) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	if len(lines) < 3 {
		t.Fatalf("the sidecar tells too little of its listeners: %q", lines)
	}
	return strings.Join(lines, "\n")
}

// envoys are the processes that run an executable of this run's directory.
func (u *running) envoys(t *testing.T) []int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil || links == nil {
		t.Fatalf("no processes in /proc (%v)", err)
	}
	var pids []int
	for _, link := range links {
		if path, err := os.Readlink(link); err == nil && strings.HasPrefix(path, u.dir+"/") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// nothingLeft looks for what a run may leave behind: processes, sockets,
// goroutines.
func (u *running) nothingLeft(t *testing.T) {
	t.Helper()
	if left := u.envoys(t); left != nil {
		t.Errorf("Envoys still run: %v", left)
	}
	if left, err := os.ReadDir(u.temp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v (%v)", left, err)
	}
	u.client.CloseIdleConnections()
	deadline := time.After(5 * time.Second)
	for runtime.NumGoroutine() > u.goroutines {
		select {
		case <-deadline:
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), u.goroutines, stacks[:runtime.Stack(stacks, true)])
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// poll asks until it is so.
func poll(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !so() {
		select {
		case <-deadline:
			t.Fatalf("waited 20 s for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func save(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// shortDir is a temporary directory without the test's name: a socket's path
// must fit in 107 bytes. Symbolic links on the way to it are resolved.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "up")
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// freePorts finds as many loopback ports in a row as a run needs.
func freePorts(t *testing.T) int {
	t.Helper()
	for base := 21013; base < 32000; base += 101 {
		if (layout{base: base, demo: true}).checkPorts(t.Context()) == nil {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// An output is what a run writes, and tells of each write.
type output struct {
	mu   sync.Mutex // guards text and more
	text []byte
	more chan struct{}
}

func newOutput() *output { return &output{more: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	close(o.more)
	o.more = make(chan struct{})
	return len(p), nil
}

func (o *output) read() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text), o.more
}

func (o *output) String() string {
	text, _ := o.read()
	return text
}
