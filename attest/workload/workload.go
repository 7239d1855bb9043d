//go:build linux

// Package workload tells which process is at the other end of a Unix socket,
// from the kernel's word and not the process's own.
//
// A process id alone names whoever has it when one looks. So [Inspect] also
// takes the peer's pidfd, which names one process for good (SO_PEERPIDFD, Linux
// 6.5), and reads /proc between two proofs by it that the process lives: what it
// read is that process's. Without a pidfd it refuses; there is no weaker way.
//
// The kernel tells who called connect, and not who holds the socket now: a
// process may hand it on. Whoever gets it speaks for the one that connected. And
// processes of one user are not walled off from each other: one can trace
// another, or start it with a library of its own. The user is the boundary; the
// executable tells honest workloads of one user apart.
package workload

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/istio-auth/istio-auth/attest"
)

// maxPath is the kernel's PATH_MAX, in which readlink of /proc/<pid>/exe fits.
const maxPath = 4096

// A Process is one that called connect, held by its pidfd so that its id cannot
// become another's unnoticed. Close it.
type Process struct {
	PID        int32
	UserID     uint32 // effective, when it connected, in our user namespace
	Executable string // absolute path of its file, the same file in our mount namespace
	pidfd      *os.File
}

// Inspect returns the process that connected to conn. It returns an
// [*attest.Refusal] where the process has ended, is in a PID namespace that we
// cannot see into, runs a file that is gone, or where the kernel gives no pidfd.
// The connection stays the caller's.
func Inspect(conn *net.UnixConn) (Process, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Process{}, fmt.Errorf("workload: %w", err)
	}
	var p Process
	var refused error
	if err := raw.Control(func(fd uintptr) { p, refused = peer(int(fd)) }); err != nil {
		return Process{}, fmt.Errorf("workload: %w", err)
	}
	if refused != nil {
		return Process{}, refused
	}
	if p.Executable, err = p.executable(); err != nil {
		return Process{}, errors.Join(err, p.Close())
	}
	return p, nil
}

// peer asks the kernel who connected.
func peer(fd int) (Process, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Process{}, &attest.Refusal{Reason: "peer-credentials", Err: err}
	}
	if cred.Pid <= 0 {
		return Process{}, attest.Refuse("peer-unseen", "process id %d: it is in no PID namespace of ours", cred.Pid)
	}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENODATA):
		return Process{}, attest.Refuse("peer-gone", "process %d: %w", cred.Pid, err)
	case err != nil:
		return Process{}, attest.Refuse("peer-pidfd", "process %d: %w (SO_PEERPIDFD is of Linux 6.5)", cred.Pid, err)
	}
	unix.CloseOnExec(pidfd)
	return Process{PID: cred.Pid, UserID: cred.Uid, pidfd: os.NewFile(uintptr(pidfd), "pidfd")}, nil
}

// executable reads /proc/<pid>/exe while the pidfd proves, before and after,
// that the id was the same process's all the time.
//
// The path is one in the process's mount namespace, and who may make such a
// namespace may put any file at any path of it. So the file that runs must be
// the one at that path for us too.
func (p Process) executable() (string, error) {
	if err := p.Alive(); err != nil {
		return "", err
	}
	if err := p.sameID(); err != nil {
		return "", err
	}
	link := "/proc/" + strconv.Itoa(int(p.PID)) + "/exe"
	path, err := os.Readlink(link)
	runs, statErr := os.Stat(link) // follows the link to the file itself, wherever it lies
	if err := p.Alive(); err != nil {
		return "", err
	}
	if err := errors.Join(err, statErr); err != nil {
		return "", &attest.Refusal{Reason: "peer-executable", Err: err}
	}
	// The kernel marks a file that was unlinked or replaced. What runs is then not
	// what lies at the path, and a file may also be named so: refuse both.
	if len(path) >= maxPath || !strings.HasPrefix(path, "/") || strings.HasSuffix(path, " (deleted)") {
		return "", attest.Refuse("peer-executable", "%.200q is no file that is there", path)
	}
	if here, err := os.Lstat(path); err != nil || !os.SameFile(here, runs) {
		return "", attest.Refuse("peer-executable", "%.200q is another file for us: %v", path, err)
	}
	return path, nil
}

// Alive returns nil as long as the process lives, and an [*attest.Refusal] from
// when it has ended, be it waited for or not.
func (p Process) Alive() error {
	fds := []unix.PollFd{{Fd: int32(p.pidfd.Fd()), Events: unix.POLLIN}}
	for {
		// A pidfd becomes readable when its process ends (pidfd_open(2)).
		n, err := unix.Poll(fds, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("workload: polling the pidfd of %d: %w", p.PID, err)
		case n != 0:
			return attest.Refuse("peer-gone", "process %d has ended", p.PID)
		}
		return nil
	}
}

// sameID checks that the pidfd and the id name one process: SO_PEERCRED and
// SO_PEERPIDFD are two questions, and the id that /proc is read by must be this
// process's. The kernel tells in /proc/self/fdinfo.
func (p Process) sameID() error {
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(p.pidfd.Fd())))
	if err != nil {
		return &attest.Refusal{Reason: "peer-pidfd", Err: err}
	}
	for line := range strings.Lines(string(info)) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			if strings.TrimSpace(value) == strconv.Itoa(int(p.PID)) {
				return nil
			}
			return attest.Refuse("peer-gone", "the pidfd is of process %s, not %d", strings.TrimSpace(value), p.PID)
		}
	}
	return attest.Refuse("peer-pidfd", "the kernel tells no process of the pidfd")
}

// Close releases the pidfd. Closing again, or a zero Process, does nothing.
func (p Process) Close() error {
	if p.pidfd == nil {
		return nil
	}
	if err := p.pidfd.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("workload: %w", err)
	}
	return nil
}
