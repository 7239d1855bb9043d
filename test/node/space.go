package node

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/istio-auth/istio-auth/test/child"
)

//go:embed space.sh
var script string

// A space is a set of namespaces with a part of each cgroup hierarchy: what the
// node lives in. It ends with its first process.
type space struct {
	cgroups []string // our folder in each hierarchy
	init    int      // the first process, as this namespace numbers it
	holder  *child.Process
}

// ErrCgroups reports a machine whose cgroups this harness cannot use.
var ErrCgroups = errors.New("node: needs writable cgroup v1 hierarchies")

// A hierarchy is one of cgroup v1's trees.
type hierarchy struct {
	name string // its controllers, or "name=systemd"
	own  string // the folder of this process in it
}

// hierarchies finds the cgroup v1 trees that this process is in.
func hierarchies() ([]hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the mounts: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("reading the cgroups: %w", err)
	}
	var found []hierarchy
	for line := range strings.Lines(string(own)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || parts[1] == "" { // the unified one has no name
			continue
		}
		if at, ok := mountedAt(string(mounts), parts[1], parts[2]); ok {
			found = append(found, hierarchy{parts[1], at})
		}
	}
	if len(found) == 0 {
		return nil, ErrCgroups
	}
	return found, nil
}

// mountedAt finds the folder of a cgroup in a mountinfo (proc(5)).
func mountedAt(mountinfo, controllers, path string) (string, bool) {
	first, _, _ := strings.Cut(controllers, ",")
	for line := range strings.Lines(mountinfo) {
		left, right, _ := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 5 || len(r) < 3 || r[0] != "cgroup" {
			continue
		}
		for option := range strings.SplitSeq(r[2], ",") {
			rel, below := strings.CutPrefix(path, strings.TrimSuffix(l[3], "/"))
			if option == first && below {
				return filepath.Join(l[4], rel), true
			}
		}
	}
	return "", false
}

// openSpace makes the cgroups and namespaces and waits until space.sh has
// furnished them. The caller closes it, also after an error.
func openSpace(ctx context.Context, run, cgroup, name, address string) (*space, error) {
	s := &space{}
	trees, err := hierarchies()
	if err != nil {
		return s, err
	}
	args := []string{"-c", `
		n=$1 script=$2; shift 2
		while test "$n" -gt 0; do echo $$ >"$1/cgroup.procs"; shift; n=$((n - 1)); done
		exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child --mount-proc --propagation private \
			/bin/sh "$script" "$@"`, "space"}
	var names []string
	for _, tree := range trees {
		dir := filepath.Join(tree.own, cgroup)
		s.cgroups = append(s.cgroups, dir)
		names = append(names, tree.name)
		if err := makeCgroup(dir); err != nil {
			return s, err
		}
	}
	file := filepath.Join(run, "space.sh")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return s, fmt.Errorf("writing the node's script: %w", err)
	}
	// The process joins the cgroups before it makes a namespace of them, so
	// that the namespace's root is our folder.
	args = append(args, strconv.Itoa(len(s.cgroups)), file)
	args = append(args, s.cgroups...)
	args = append(args, run, name, address)
	if s.holder, err = child.Start(exec.Command("/bin/sh", append(args, names...)...)); err != nil {
		return s, err
	}
	err = s.holder.Until(ctx, func(context.Context) error {
		if !strings.Contains(s.holder.Output(), "made\n") {
			return errors.New("the namespaces are being made")
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	s.init, err = onlyChild(s.holder.PID())
	return s, err
}

// makeCgroup makes one of our cgroups. A cpuset must be given its processors
// and memory before a process may join it.
func makeCgroup(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", ErrCgroups, err)
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), value, 0)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCgroups, err)
		}
	}
	return nil
}

// onlyChild is the process that pid, a single thread, has forked.
func onlyChild(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, fmt.Errorf("looking for the node's first process: %w", err)
	}
	init, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("looking for the node's first process: %w", err)
	}
	return init, nil
}

// close ends every process of the space, and with them its mounts, interfaces
// and rules, then removes its cgroups.
func (s *space) close() error {
	if s.holder != nil {
		s.holder.Stop(0)
	}
	return removeCgroups(s.cgroups)
}

// removeCgroups removes folders of cgroups with all below them. It waits for
// the processes in them, which the kernel is killing.
func removeCgroups(dirs []string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var errs error
	for range 500 {
		errs = nil
		for _, dir := range dirs {
			errs = errors.Join(errs, removeCgroup(dir))
		}
		if errs == nil {
			return nil
		}
		<-tick.C
	}
	return fmt.Errorf("removing the node's cgroups: %w", errs)
}

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroup(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// command is a command inside the space.
func (s *space) command(ctx context.Context, args ...string) *exec.Cmd {
	// It joins the cgroups first: from outside of the namespace's root its own
	// would read as "/..", and its memory would not be the node's.
	join := []string{"-c", `
		n=$1 pid=$2; shift 2
		while test "$n" -gt 0; do echo $$ >"$1/cgroup.procs"; shift; n=$((n - 1)); done
		exec nsenter --target "$pid" --mount --pid --net --uts --ipc --cgroup --wd="$PWD" -- "$@"`,
		"enter", strconv.Itoa(len(s.cgroups)), strconv.Itoa(s.init)}
	return exec.CommandContext(ctx, "/bin/sh", append(append(join, s.cgroups...), args...)...)
}

// dial connects to an IP address as seen from inside.
func (s *space) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil || net.ParseIP(host) == nil {
		return nil, fmt.Errorf("dialling into the node: %q is no IP address and port", address)
	}
	err = s.inside(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// listenPacket listens on a UDP address inside.
func (s *space) listenPacket(ctx context.Context, address string) (conn net.PacketConn, err error) {
	err = s.inside(func() (err error) {
		conn, err = new(net.ListenConfig).ListenPacket(ctx, "udp4", address)
		return err
	})
	return conn, err
}

// inside runs open on a thread that is in the node's network. A socket stays in
// the network in which it was made. What open calls must not go to other
// threads: an IP address is dialled by the calling thread itself.
func (s *space) inside(open func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread has another network and ends with this goroutine.
		runtime.LockOSThread()
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", s.init))
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if err != nil {
			done <- fmt.Errorf("entering the node's network: %w", err)
			return
		}
		done <- open()
	}()
	return <-done
}

// save notes the space in a file, for [loadSpace] in another process.
func (s *space) save(file string) error {
	lines := append([]string{strconv.Itoa(s.init)}, s.cgroups...)
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		return fmt.Errorf("noting the node: %w", err)
	}
	return nil
}

func loadSpace(name string) (*space, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("no node is running: %w", err)
	}
	defer file.Close()
	s := &space{}
	for scan := bufio.NewScanner(file); scan.Scan(); {
		if s.init == 0 {
			if s.init, err = strconv.Atoi(scan.Text()); err != nil {
				return nil, fmt.Errorf("reading %s: %w", name, err)
			}
			continue
		}
		s.cgroups = append(s.cgroups, scan.Text())
	}
	if err := syscall.Kill(s.init, 0); err != nil {
		return nil, fmt.Errorf("no node is running: %w", err)
	}
	return s, nil
}
