package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Keeper keeps one child process alive. Its fields must not change after Run,
// which is called once in a process: it reaps every child that the process has.
type Keeper struct {
	// Path is the program, Args its arguments with its own name first, Env its environment.
	Path string
	Args []string
	Env  []string
	// Files are the child's standard input, output and error, and what follows
	// them: descriptors that outlive it. Nil: the keeper's own three.
	Files []*os.File
	Log   *slog.Logger
	// Started is told the process id of each child. May be nil.
	Started func(pid int)
}

const (
	// young is an age at which a child should not die.
	young = 5 * time.Second
	// free is how many times in a row one that died young is started again at once.
	free = 3
	// firstPause doubles for each further death, up to longestPause.
	firstPause, longestPause = 100 * time.Millisecond, 10 * time.Second
	// hopeless is how many times in a row a child may end itself young, with an exit
	// code: a bad configuration is told to the kubelet, which shows it. Kills do not
	// count, however many.
	hopeless = 6
)

// forwarded are the signals that the child gets from us. Of a stop (the first two)
// we know that it wants the child's end.
var forwarded = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}

// Run starts the child and keeps it until it is to stop, which is when a SIGTERM or
// SIGINT came, or ctx has ended (the child gets a SIGTERM then). It hands each
// signal on, waits for the child, and returns the child's exit code, 128 and the
// signal's number where a signal ended it. A ctx that the same signal ends does not
// make it two: many programs take the second for "at once".
//
// A child that dies otherwise is started again: at once, and after a pause where it
// died young several times in a row. Run returns too when the child exits with 0,
// which is its way to say that it is done, and when it exits with another code for
// the sixth time in a row within five seconds of its start.
//
// The error is that of starting the child.
func (k *Keeper) Run(ctx context.Context) (code int, err error) {
	// The kernel sends the death signal when the thread that forked ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Orphans of the child come to us, though we may not be process 1.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("becoming the reaper of orphans: %w", err)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, append([]os.Signal{unix.SIGCHLD}, forwarded...)...)
	defer signal.Stop(signals)

	var deaths streak
	for {
		began := time.Now()
		pid, err := k.start()
		if err != nil {
			return 0, fmt.Errorf("starting %s: %w", k.Path, err)
		}
		end, stopped := k.watch(ctx, pid, signals)
		if stopped || end.Exited() && end.ExitStatus() == 0 {
			return exitCode(end), nil
		}
		pause, over := deaths.add(time.Since(began), end.Exited())
		if over {
			k.Log.Error("the child ends itself again and again: giving up", "code", end.ExitStatus())
			return exitCode(end), nil
		}
		k.Log.Warn("the child died: starting it again", "pid", pid, "how", how(end), "age", time.Since(began), "pause", pause)
		if !rest(ctx, pause, signals) {
			return exitCode(end), nil
		}
	}
}

// start starts a child that does not outlive us.
func (k *Keeper) start() (pid int, err error) {
	files := k.Files
	if files == nil {
		files = []*os.File{os.Stdin, os.Stdout, os.Stderr}
	}
	fds := make([]uintptr, len(files))
	for i, f := range files {
		fds[i] = f.Fd()
	}
	// Not os/exec, whose Wait would quarrel with ours over who reaps.
	pid, err = syscall.ForkExec(k.Path, k.Args, &syscall.ProcAttr{
		Env: k.Env, Files: fds,
		// A group of its own, so that a terminal's Ctrl-C comes once, through us.
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true},
	})
	runtime.KeepAlive(files)
	if err == nil && k.Started != nil {
		k.Started(pid)
	}
	return pid, err
}

// watch waits for the child's end, and reports whether it was wanted.
func (k *Keeper) watch(ctx context.Context, pid int, signals <-chan os.Signal) (end syscall.WaitStatus, stopped bool) {
	done := ctx.Done()
	fromContext := false // the child was told by us, and not by a signal
	for {
		// First, for the child may have died before its signal could be heard of.
		if end, dead := reap(pid); dead {
			return end, stopped
		}
		select {
		case s := <-signals:
			if s == unix.SIGCHLD {
				continue
			}
			if stops(s) {
				stopped = true
				if fromContext {
					fromContext = false // the signal that ended the context: one wish, told once
					continue
				}
			}
			k.forward(pid, s.(syscall.Signal))
		case <-done:
			done = nil
			if !stopped {
				stopped, fromContext = true, true
				k.forward(pid, unix.SIGTERM)
			}
		}
	}
}

// forward sends the child a signal. Its id is its own until we have reaped it.
func (k *Keeper) forward(pid int, s syscall.Signal) {
	if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
		k.Log.Error("handing a signal on", "signal", s.String(), "err", err)
	}
}

func stops(s os.Signal) bool { return s == unix.SIGTERM || s == unix.SIGINT }

// reap takes the ends of all children that have died, orphans too, and returns
// that of pid when it is among them.
func reap(pid int) (end syscall.WaitStatus, dead bool) {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil || got == 0:
			return end, dead
		case got == pid:
			end, dead = status, true
		}
	}
}

// rest waits before the next start, and reports whether there is to be one.
func rest(ctx context.Context, pause time.Duration, signals <-chan os.Signal) bool {
	if pause <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		case s := <-signals:
			if stops(s) {
				return false
			}
			reap(0) // orphans
		}
	}
}

// A streak is of deaths in a row, each soon after the start.
type streak struct {
	deaths int
	exits  int // in a row, among them
}

// add takes one more death, and says how long to wait, or that there is no hope.
func (s *streak) add(age time.Duration, exited bool) (pause time.Duration, isHopeless bool) {
	if age >= young {
		*s = streak{}
		return 0, false
	}
	s.deaths++
	if s.exits++; !exited {
		s.exits = 0
	}
	if s.exits >= hopeless {
		return 0, true
	}
	if s.deaths <= free {
		return 0, false
	}
	pause = firstPause
	for range s.deaths - free - 1 {
		if pause *= 2; pause >= longestPause {
			return longestPause, false
		}
	}
	return pause, false
}

func exitCode(end syscall.WaitStatus) int {
	if end.Signaled() {
		return 128 + int(end.Signal())
	}
	return end.ExitStatus()
}

func how(end syscall.WaitStatus) string {
	if end.Signaled() {
		return "signal " + end.Signal().String()
	}
	return fmt.Sprintf("exit %d", end.ExitStatus())
}
