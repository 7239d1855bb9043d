package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary plays all parts: a keeper, its child, and its child's child.
const role = "KEEPER_TEST_ROLE"

func TestMain(m *testing.M) {
	switch part, arg, _ := strings.Cut(os.Getenv(role), " "); part {
	case "keeper":
		os.Exit(playKeeper(arg))
	case "child":
		os.Exit(playChild(arg))
	}
	os.Exit(m.Run())
}

// playKeeper keeps a child that plays its part. It ends its context when its
// standard input ends.
func playKeeper(part string) int {
	// As programs do: the context ends with the signals that the keeper hands on.
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	go func() { io.Copy(io.Discard, os.Stdin); cancel() }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 99
	}
	k := &Keeper{
		Path: "/proc/self/exe", Args: []string{"child"}, Env: []string{role + "=child " + part}, // not os.Environ: of two values the first counts
		Files: []*os.File{null, os.Stdout, os.Stderr}, Log: slog.New(slog.DiscardHandler),
		Started: func(pid int) { fmt.Println("started", pid) },
	}
	if part == "nothing" {
		k.Path = "/nonexistent"
	}
	code, err := k.Run(ctx)
	if err != nil {
		fmt.Println("error", err)
		return 98
	}
	return code
}

// playChild prints what happens to it.
func playChild(part string) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1)
	switch part {
	case "exit 0":
		return 0
	case "exit 3":
		return 3
	case "parent":
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), role+"=child serve")
		if err := cmd.Start(); err != nil {
			return 97
		}
		fmt.Println("grandchild", cmd.Process.Pid)
	}
	fmt.Println("up", os.Getpid())
	for s := range signals {
		fmt.Println("got", s)
		if s == unix.SIGTERM || s == unix.SIGINT {
			select { // long enough for a second one to be seen, were there one
			case s := <-signals:
				fmt.Println("got another", s)
			case <-time.After(30 * time.Millisecond):
			}
			return 7
		}
	}
	return 96
}

// A stage is a running keeper, and what is printed on it.
type stage struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	lines chan string
}

func play(t *testing.T, part string) *stage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	s := &stage{t: t, cmd: exec.CommandContext(ctx, "/proc/self/exe"), lines: make(chan string, 256)}
	s.cmd.Env = append(os.Environ(), role+"=keeper "+part)
	s.cmd.WaitDelay = time.Second
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.stdin = stdin
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = w, os.Stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		defer close(s.lines)
		for sc := bufio.NewScanner(r); sc.Scan(); {
			s.lines <- sc.Text()
		}
		r.Close()
	}()
	t.Cleanup(func() { s.cmd.Process.Kill(); s.cmd.Wait() })
	return s
}

// wait reads until a line begins with word, and returns the number behind it, if any.
func (s *stage) wait(word string) (n int) {
	s.t.Helper()
	for line := range s.lines {
		if rest, ok := strings.CutPrefix(line, word); ok {
			fmt.Sscan(rest, &n)
			return n
		}
	}
	s.t.Fatalf("the keeper ended without %q", word)
	return 0
}

// end waits for the keeper's exit and returns its code, and the lines left.
func (s *stage) end() (code int, rest []string) {
	s.t.Helper()
	for line := range s.lines {
		rest = append(rest, line)
	}
	if err := s.cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		s.t.Fatal(err)
	}
	return s.cmd.ProcessState.ExitCode(), rest
}

func (s *stage) kill(pid int, sig unix.Signal) {
	s.t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		s.t.Fatal(err)
	}
}

func TestKilledChildIsBackAtOnce(t *testing.T) {
	s := play(t, "serve")
	pid := s.wait("up ")
	for range free {
		s.kill(pid, unix.SIGKILL)
		began := time.Now()
		started := s.wait("started ")
		forked := time.Since(began)
		up := s.wait("up ")
		t.Logf("killed; another started after %v, at work after %v", forked, time.Since(began))
		if up != started || up == pid {
			t.Errorf("started %d, up %d, before %d", started, up, pid)
		}
		if forked > time.Second { // a few milliseconds on an idle machine
			t.Errorf("started after %v", forked)
		}
		pid = up
	}
	s.kill(s.cmd.Process.Pid, unix.SIGTERM)
	if code, _ := s.end(); code != 7 {
		t.Errorf("exit code %d, want the child's 7", code)
	}
}

// A child that is killed again and again comes back each time, after a pause from
// the fourth time on.
func TestKilledAgainAndAgain(t *testing.T) {
	s := play(t, "serve")
	for range free + 2 {
		s.kill(s.wait("up "), unix.SIGKILL)
	}
	s.wait("up ")
	s.kill(s.cmd.Process.Pid, unix.SIGINT)
	if code, _ := s.end(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
}

func TestStop(t *testing.T) {
	for name, stop := range map[string]func(s *stage){
		"SIGTERM":     func(s *stage) { s.kill(s.cmd.Process.Pid, unix.SIGTERM) },
		"SIGINT":      func(s *stage) { s.kill(s.cmd.Process.Pid, unix.SIGINT) },
		"the context": func(s *stage) { s.stdin.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := play(t, "serve")
			s.wait("up ")
			stop(s)
			code, rest := s.end()
			if code != 7 || len(rest) != 1 || !strings.HasPrefix(rest[0], "got ") {
				t.Errorf("exit code %d after %q; want 7 after one signal, and no other start", code, rest)
			}
		})
	}
}

func TestSignalsAreHandedOn(t *testing.T) {
	s := play(t, "serve")
	s.wait("up ")
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGHUP} {
		s.kill(s.cmd.Process.Pid, sig)
		s.wait("got " + sig.String())
	}
	s.kill(s.cmd.Process.Pid, unix.SIGTERM)
	if code, _ := s.end(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
}

func TestExits(t *testing.T) {
	for part, want := range map[string]struct{ code, starts int }{
		"exit 0": {0, 1},
		"exit 3": {3, hopeless},
	} {
		t.Run(part, func(t *testing.T) {
			code, rest := play(t, part).end()
			if code != want.code || len(rest) != want.starts {
				t.Errorf("exit code %d after %q; want %d after %d starts", code, rest, want.code, want.starts)
			}
		})
	}
}

func TestNothingToStart(t *testing.T) {
	if code, rest := play(t, "nothing").end(); code != 98 || len(rest) != 1 || !strings.Contains(rest[0], "/nonexistent") {
		t.Errorf("exit code %d, %q", code, rest)
	}
}

// What the child leaves behind when it is killed comes to the keeper, which buries it.
func TestOrphansAreReaped(t *testing.T) {
	s := play(t, "parent")
	orphan := s.wait("grandchild ")
	child := s.wait("up ")
	if child == orphan { // the grandchild may be up first
		child = s.wait("up ")
	}
	s.kill(child, unix.SIGKILL)
	s.wait("started ")
	if got := parent(t, orphan); got != s.cmd.Process.Pid {
		t.Fatalf("the orphan's parent is %d, want the keeper %d", got, s.cmd.Process.Pid)
	}
	s.kill(orphan, unix.SIGKILL)
	eventually(t, "the orphan to be reaped", func() bool { return errors.Is(unix.Kill(orphan, 0), unix.ESRCH) })
	// The second child has a grandchild too: it holds the pipe that end reads.
	second := s.wait("grandchild ")
	s.kill(s.cmd.Process.Pid, unix.SIGTERM)
	s.wait("got ")
	unix.Kill(second, unix.SIGKILL)
	if code, _ := s.end(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
}

// A child must not outlive its keeper, since nobody would keep it.
func TestChildDiesWithTheKeeper(t *testing.T) {
	s := play(t, "serve")
	pid := s.wait("up ")
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	s.kill(s.cmd.Process.Pid, unix.SIGKILL)
	// A signal to the test (the runtime sends itself some) interrupts a poll.
	n, err := 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	}
	if n != 1 || err != nil {
		t.Errorf("the child lives: %d, %v", n, err)
	}
}

func TestStreak(t *testing.T) {
	type death struct {
		age    time.Duration
		exited bool
	}
	kill, exit, old := death{time.Second, false}, death{time.Second, true}, death{young, true}
	const ms = time.Millisecond
	for _, c := range []struct {
		name   string
		deaths []death
		pause  time.Duration
		over   bool
	}{
		{"the first", []death{kill}, 0, false},
		{"the third", []death{kill, kill, kill}, 0, false},
		{"the fourth", []death{kill, kill, kill, kill}, 100 * ms, false},
		{"the sixth", []death{kill, kill, kill, kill, kill, kill}, 400 * ms, false},
		{"the hundredth", make([]death, 100), 10 * time.Second, false},
		{"an old one forgives", []death{kill, kill, kill, kill, old}, 0, false},
		{"and starts anew", []death{kill, kill, kill, kill, old, kill}, 0, false},
		{"exits, one fewer", []death{exit, exit, exit, exit, exit}, 200 * ms, false},
		{"exits, enough", []death{exit, exit, exit, exit, exit, exit}, 0, true},
		{"exits with a kill between", []death{exit, exit, exit, kill, exit, exit}, 400 * ms, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s streak
			var pause time.Duration
			var over bool
			for _, d := range c.deaths {
				pause, over = s.add(d.age, d.exited)
			}
			if pause != c.pause || over != c.over {
				t.Errorf("got %v, %v; want %v, %v", pause, over, c.pause, c.over)
			}
		})
	}
}

// A stop that comes in a pause ends it.
func TestRest(t *testing.T) {
	signals := make(chan os.Signal, 1)
	signals <- unix.SIGTERM
	if rest(t.Context(), time.Hour, signals) {
		t.Error("a stop in a pause starts the child again")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if rest(ctx, time.Hour, signals) || rest(ctx, 0, signals) {
		t.Error("an ended context starts the child again")
	}
	if !rest(t.Context(), 0, signals) || !rest(t.Context(), time.Millisecond, signals) {
		t.Error("a pause does not end")
	}
}

// parent reads a process's parent.
func parent(t *testing.T, pid int) int {
	t.Helper()
	var ppid int
	eventually(t, "a parent", func() bool {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, after, ok := strings.Cut(string(data), "PPid:")
		if ok {
			fmt.Sscan(after, &ppid)
		}
		return ok
	})
	return ppid
}

// eventually looks again and again at what has no event to wait for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick, end := time.NewTicker(2*time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
