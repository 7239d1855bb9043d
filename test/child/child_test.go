package child_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/test/child"
)

func start(t *testing.T, script string) *child.Process {
	t.Helper()
	p, err := child.Start(exec.Command("/bin/sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(0) })
	return p
}

func TestStop(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		grace  time.Duration
		signal syscall.Signal
	}{
		"asked":      {"exec sleep 600", time.Minute, syscall.SIGTERM},
		"deaf":       {"trap '' TERM; echo deaf; while :; do sleep 600; done", 10 * time.Millisecond, syscall.SIGKILL},
		"not waited": {"exec sleep 600", 0, syscall.SIGKILL},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, tc.script)
			if name == "deaf" {
				said(t, p, "deaf")
			}
			p.Stop(tc.grace)
			exit, ok := errors.AsType[*exec.ExitError](p.Err())
			if !ok || exit.Sys().(syscall.WaitStatus).Signal() != tc.signal {
				t.Errorf("ended by %v, want %v", p.Err(), tc.signal)
			}
			p.Stop(time.Minute) // the second time there is nothing to do
		})
	}
}

// said waits until p has written text.
func said(t *testing.T, p *child.Process, text string) {
	t.Helper()
	err := p.Until(t.Context(), func(context.Context) error {
		if !strings.Contains(p.Output(), text) {
			return errors.New("silent")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestStopEndsTheGroup: what the child started ends with it.
func TestStopEndsTheGroup(t *testing.T) {
	p := start(t, "sleep 600 & echo pid $!; wait")
	said(t, p, "pid")
	var grandchild int
	if _, err := fmt.Sscanf(p.Output(), "pid %d", &grandchild); err != nil {
		t.Fatal(err)
	}
	p.Stop(0)
	dies(t, grandchild)
}

func TestUntil(t *testing.T) {
	never := func(context.Context) error { return errors.New("no socket") }
	t.Run("ends", func(t *testing.T) {
		p := start(t, "echo last words; exit 3")
		err := p.Until(t.Context(), never)
		if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "last words") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("too slow", func(t *testing.T) {
		p := start(t, "exec sleep 600")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := p.Until(ctx, never); err == nil || !strings.Contains(err.Error(), "no socket") {
			t.Errorf("got %v", err)
		}
	})
}

func TestOutputKeepsTheEnd(t *testing.T) {
	o := &child.Output{Keep: 4}
	for range 100 {
		fmt.Fprint(o, "abcdefgh")
	}
	fmt.Fprint(o, "last")
	if got := o.String(); !strings.HasSuffix(got, "last") || len(got) > 12 {
		t.Errorf("kept %q", got)
	}
}

// TestDeath: a child does not outlive a test process that is killed.
func TestDeath(t *testing.T) {
	if os.Getenv("CHILD_TEST") == "parent" {
		p := start(t, "exec sleep 600")
		fmt.Printf("pid %d\n", p.PID())
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeath$")
	cmd.Env = append(os.Environ(), "CHILD_TEST=parent")
	out, _ := cmd.Output()
	var pid int
	if _, err := fmt.Sscanf(string(out), "pid %d", &pid); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	dies(t, pid)
}

// dies waits until the process is gone, or a zombie that nobody has reaped yet:
// the kernel kills while the test runs on.
func dies(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 10_000 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		<-tick.C
	}
	t.Errorf("process %d lives", pid)
}
