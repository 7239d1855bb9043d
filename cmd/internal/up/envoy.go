package up

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/istio-auth/istio-auth/mesh"
)

// An envoy is one sidecar of the demonstration.
type envoy struct {
	binary  string
	dir     string // its configuration and log
	sidecar mesh.Sidecar
	// access is called with each line of the access log.
	access func(accessLine)
}

// accessLine is what the demonstration reads of a sidecar's access log.
type accessLine struct {
	Peer    string `json:"peer"`
	Method  string `json:"method"`
	Path    string `json:"path"`
	Code    int    `json:"code"`
	Details string `json:"details"`
	TLS     string `json:"tls"`
}

// run starts Envoy and waits until it ends or ctx does. What Envoy has to say
// goes to envoy.log in its directory; an end of its own accord is an error.
func (e *envoy) run(ctx context.Context) error {
	config, err := mesh.YAML(e.sidecar)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(e.sidecar.RuntimeDir, 0o700); err != nil {
		return fmt.Errorf("making Envoy's directory: %w", err)
	}
	path := filepath.Join(e.dir, "bootstrap.yaml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return fmt.Errorf("writing the bootstrap: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(e.dir, "envoy.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening Envoy's log: %w", err)
	}
	defer log.Close()

	// The parent-death signal is tied to the thread that forks.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	arguments := append(mesh.Arguments(), "--config-path", path, "--concurrency", "1", "--log-level", "warning")
	cmd := exec.CommandContext(ctx, e.binary, arguments...)
	cmd.Stderr = log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 3 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // Ctrl-C is ours to pass on
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting Envoy: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting Envoy: %w", err)
	}
	e.readAccess(stdout)
	err = cmd.Wait()
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = errors.New("it ended")
	}
	return fmt.Errorf("Envoy (see %s): %w", log.Name(), err)
}

// readAccess hands on each line that is an access log entry, until r ends.
func (e *envoy) readAccess(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line accessLine
		if e.access != nil && json.Unmarshal(lines.Bytes(), &line) == nil {
			e.access(line)
		}
	}
	io.Copy(io.Discard, r) // a line too long: keep the pipe flowing
}
