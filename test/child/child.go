// Package child runs programs for tests so that none outlives its test.
//
// The kernel kills a child whose test process dies, however it dies. The child
// leads a process group of its own, so that Ctrl-C reaches it through
// [Process.Stop] alone and its end is orderly. Start at [Start].
package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// A Process is a running, or ended, program. Its methods may be called at once.
type Process struct {
	cmd    *exec.Cmd
	done   chan struct{}
	output *Output
	err    error // read after done is closed
}

// Start starts cmd. Its SysProcAttr is set here; what it writes to standard
// output and standard error goes to the writers that it has, and to
// [Process.Output].
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{}), output: &Output{Keep: 64 << 10}}
	cmd.Stdout, cmd.Stderr = both(cmd.Stdout, p.output), both(cmd.Stderr, p.output)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	// A grandchild that holds the pipe must not hold up the test.
	cmd.WaitDelay = 2 * time.Second
	started := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, not
		// when the process does: this thread stays for as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return p, nil
}

func both(w io.Writer, o *Output) io.Writer {
	if w == nil {
		return o
	}
	return io.MultiWriter(w, o)
}

// PID is the process's id, which stays its own until [Process.Done].
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err waits for the end and says what it was, nil for exit code 0.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Output is the last of what the process has written.
func (p *Process) Output() string { return p.output.String() }

// Signal sends the process a signal; after its end it is an error.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop ends the process: it asks with SIGTERM, waits for grace at most, then
// kills its group. It returns when the process has ended. Zero kills at once.
func (p *Process) Stop(grace time.Duration) {
	if grace > 0 {
		_ = p.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
			return
		case <-time.After(grace):
		}
	}
	select {
	case <-p.done: // its group's number may be another's by now
	default:
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		<-p.done
	}
}

// Until asks ready every few milliseconds until it answers nil. It returns an
// error with the process's last words when the process ends first, and one with
// ready's last answer when ctx does.
func (p *Process) Until(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%s ended: %w\n%s", p.cmd.Args[0], p.end(), p.Output())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.cmd.Args[0], err, p.Output())
		}
	}
}

func (p *Process) end() error {
	if p.err == nil {
		return errExit0
	}
	return p.err
}

// errExit0 is the end of a process that should have stayed.
var errExit0 = errors.New("exit status 0")

// An Output is a writer that keeps the last of what is written to it. Its
// methods may be called at once.
type Output struct {
	// Keep is how many bytes stay at least. Zero keeps nothing.
	Keep int

	mu   sync.Mutex // guards text
	text []byte
}

// Write implements [io.Writer]; it never fails.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if len(o.text) > 2*o.Keep {
		o.text = bytes.Clone(o.text[len(o.text)-o.Keep:])
	}
	return len(p), nil
}

// String is what is kept.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}
