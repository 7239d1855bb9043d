//go:build linux

package workload_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/attest/workload"
	"github.com/istio-auth/istio-auth/test/testreq"
)

// TestMain makes the test binary also the peer that it inspects, and an
// inspector that can be put into namespaces of its own.
func TestMain(m *testing.M) {
	switch os.Getenv("WORKLOAD_TEST") {
	case "":
		os.Exit(m.Run())
	case "peer":
		conn, err := net.Dial("unix", os.Getenv("WORKLOAD_SOCKET"))
		fmt.Println(err)
		io.Copy(io.Discard, os.Stdin)
		conn.Close()
	case "inspector":
		l, err := net.FileListener(os.NewFile(3, "listener"))
		if err != nil {
			panic(err)
		}
		fmt.Println("ready")
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		_, err = workload.Inspect(conn.(*net.UnixConn))
		fmt.Println(attest.Reason(err), err)
	}
}

// A peer is a child process, and the server's end of its connection.
type peer struct {
	*exec.Cmd
	conn  *net.UnixConn
	stdin io.WriteCloser
}

// start runs a program, the test binary by a default of "", as a peer, and
// returns when it has connected.
func start(t *testing.T, change func(*exec.Cmd)) *peer {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	if len(socket) > 100 {
		t.Fatalf("%s is too long for a socket", socket)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for dir := filepath.Dir(socket); dir != os.TempDir(); dir = filepath.Dir(dir) { // for peers of another user
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	p := &peer{Cmd: exec.Command(self(t))}
	p.Env = append(os.Environ(), "WORKLOAD_TEST=peer", "WORKLOAD_SOCKET="+socket)
	if change != nil {
		change(p.Cmd)
	}
	p.Stderr = os.Stderr
	if p.stdin, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stdin.Close(); p.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "<nil>\n" {
		t.Fatalf("the peer says %q, %v", line, err)
	}
	if p.conn, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.conn.Close() })
	return p
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// copySelf copies the test binary to where anybody may run it.
func copySelf(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "peer")
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func wantReason(t *testing.T, p *peer, want string) {
	t.Helper()
	before := descriptors(t)
	got, err := workload.Inspect(p.conn)
	if attest.Reason(err) != want {
		t.Errorf("got %+v, %v, want reason %q", got, err, want)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before a refusal, %d after", before, after)
	}
}

func TestInspect(t *testing.T) {
	p := start(t, nil)
	before := descriptors(t)
	for range 50 {
		got, err := workload.Inspect(p.conn)
		if err != nil {
			t.Fatal(err)
		}
		want, err := filepath.EvalSymlinks(self(t))
		if err != nil {
			t.Fatal(err)
		}
		if int(got.PID) != p.Process.Pid || int(got.UserID) != os.Geteuid() || got.Executable != want {
			t.Fatalf("got process %d, user %d, %s; want %d, %d, %s", got.PID, got.UserID, got.Executable, p.Process.Pid, os.Geteuid(), want)
		}
		if err := got.Alive(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := got.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if err := (workload.Process{}).Close(); err != nil {
		t.Errorf("closing a zero Process: %v", err)
	}
}

// TestHeldThroughItsEnd: what was inspected is known to be gone when it is,
// before and after its parent has waited for it.
func TestHeldThroughItsEnd(t *testing.T) {
	p := start(t, nil)
	held, err := workload.Inspect(p.conn)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	p.stdin.Close()
	ended(t, p)
	if err := held.Alive(); attest.Reason(err) != "peer-gone" {
		t.Errorf("ended and not waited for: %v", err)
	}
	p.Wait()
	if err := held.Alive(); attest.Reason(err) != "peer-gone" {
		t.Errorf("ended and waited for: %v", err)
	}
}

// ended waits until the process is a zombie, by its end of the connection.
func ended(t *testing.T, p *peer) {
	t.Helper()
	// WNOWAIT leaves it to be waited for.
	if _, _, errno := syscall.Syscall6(syscall.SYS_WAITID, 1 /* P_PID */, uintptr(p.Process.Pid), 0, syscall.WEXITED|syscall.WNOWAIT, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
}

func TestGoneBeforeInspection(t *testing.T) {
	t.Run("a zombie", func(t *testing.T) {
		p := start(t, nil)
		p.stdin.Close()
		ended(t, p)
		wantReason(t, p, "peer-gone")
	})
	t.Run("waited for", func(t *testing.T) {
		p := start(t, nil)
		p.stdin.Close()
		p.Wait()
		wantReason(t, p, "peer-gone")
	})
}

func TestExecutableThatIsGone(t *testing.T) {
	path := copySelf(t)
	if err := os.Link(path, path+" (deleted)"); err != nil { // as the kernel will name it
		t.Fatal(err)
	}
	p := start(t, func(c *exec.Cmd) { c.Path = path })
	got, err := workload.Inspect(p.conn)
	if err != nil || got.Executable != path {
		t.Fatalf("got %s, %v, want %s", got.Executable, err, path)
	}
	got.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantReason(t, p, "peer-executable")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantReason(t, p, "peer-executable") // replaced
}

func TestAnotherUser(t *testing.T) {
	testreq.Root(t)
	path := copySelf(t)
	p := start(t, func(c *exec.Cmd) {
		c.Path, c.Dir = path, "/"
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	})
	got, err := workload.Inspect(p.conn)
	if err != nil || got.UserID != 65534 {
		t.Fatalf("got user %d, %v, want 65534", got.UserID, err)
	}
	got.Close()
}

// TestAnotherMountNamespace: in a namespace of its own a process can run any
// file under an honest one's path.
func TestAnotherMountNamespace(t *testing.T) {
	testreq.Root(t)
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		testreq.Missing(t, "unshare: install util-linux")
	}
	evil, honest := copySelf(t), copySelf(t)
	p := start(t, func(c *exec.Cmd) {
		c.Path = unshare
		c.Args = []string{"unshare", "-m", "sh", "-c", `mount --bind "$1" "$2" && exec "$2"`, "sh", evil, honest}
	})
	if link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.Process.Pid)); err != nil || link != honest {
		t.Fatalf("the attack does not work: %s, %v, want %s", link, err, honest)
	}
	wantReason(t, p, "peer-executable")
}

// TestAnotherPIDNamespace: for an inspector that is in a PID namespace, a peer
// outside has no process id.
func TestAnotherPIDNamespace(t *testing.T) {
	testreq.Root(t)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := exec.Command(self(t))
	c.Env = append(os.Environ(), "WORKLOAD_TEST=inspector")
	c.ExtraFiles = []*os.File{file}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		t.Fatal(line, err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, _ := lines.ReadString('\n'); !strings.HasPrefix(line, "peer-unseen ") {
		t.Errorf("the inspector says %q, want peer-unseen", line)
	}
}

func TestClosedConnection(t *testing.T) {
	p := start(t, nil)
	p.conn.Close()
	if got, err := workload.Inspect(p.conn); err == nil {
		t.Errorf("got %+v of a closed connection", got)
	}
}
