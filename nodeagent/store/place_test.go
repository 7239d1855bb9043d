package store

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/test/testreq"
)

const (
	swapHeader = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	swapOn     = swapHeader + "/dev/dm-1                               partition\t8388604\t\t1024\t\t-2\n"
	withNoswap = "36 35 0:40 / /run/istio-auth/state rw,nosuid shared:9 - tmpfs istio-auth rw,size=8192k,mode=700,noswap\n"
	without    = "36 35 0:40 / /run/istio-auth/state rw,nosuid shared:9 - tmpfs istio-auth rw,size=8192k,mode=700\n"
	elsewhere  = "37 35 0:41 / /elsewhere rw - tmpfs tmpfs rw,noswap\n"
)

func TestJudge(t *testing.T) {
	fit := place{mode: unix.S_IFDIR | 0o700, fsType: unix.TMPFS_MAGIC, device: "0:40", mountinfo: []byte(withNoswap), swaps: []byte(swapOn)}
	table := []struct {
		name, reason string
		edit         func(*place)
	}{
		{"noswap, and swap is on", "", func(*place) {}},
		{"no noswap, and no swap", "", func(p *place) { p.mountinfo, p.swaps = []byte(without), []byte(swapHeader) }},
		{"no noswap, and a kernel without swap", "", func(p *place) { p.mountinfo, p.swaps = []byte(without), nil }},
		{"no noswap, and swap of size 0", "", func(p *place) {
			p.mountinfo, p.swaps = []byte(without), []byte(swapHeader+"/swap file\t0\t0\t-2\n")
		}},
		{"noswap among others", "", func(p *place) { p.mountinfo = []byte(elsewhere + "rubbish\n" + withNoswap) }},
		{"no noswap, and swap is on", "can-swap", func(p *place) { p.mountinfo = []byte(without) }},
		{"noswap on another mount", "can-swap", func(p *place) { p.mountinfo = []byte(without + elsewhere) }},
		{"noswap as a mount option", "can-swap", func(p *place) {
			p.mountinfo = []byte("36 35 0:40 / /s rw,noswap - tmpfs x rw\n")
		}},
		{"noswap as a source", "can-swap", func(p *place) {
			p.mountinfo = []byte("36 35 0:40 / /s rw - tmpfs noswap rw\n")
		}},
		{"noswap in a longer word", "can-swap", func(p *place) {
			p.mountinfo = []byte("36 35 0:40 / /s rw - tmpfs x rw,noswapping\n")
		}},
		{"noswap on another file system", "can-swap", func(p *place) {
			p.mountinfo = []byte("36 35 0:40 / /s rw - ramfs x rw,noswap\n")
		}},
		{"a device of a longer number", "can-swap", func(p *place) { p.device = "0:4" }},
		{"no mountinfo", "can-swap", func(p *place) { p.mountinfo = nil }},
		{"mountinfo cut short", "can-swap", func(p *place) { p.mountinfo = []byte("36 35 0:40 / /s rw - tmpfs") }},
		{"swaps unreadable", "can-swap", func(p *place) { p.mountinfo, p.swaps = nil, []byte("?") }},
		{"swaps with a short line", "can-swap", func(p *place) { p.mountinfo, p.swaps = nil, []byte(swapHeader+"/dev/dm-1\n") }},
		{"swaps with a bad size", "can-swap", func(p *place) { p.mountinfo, p.swaps = nil, []byte(swapHeader+"/s file x 0 -2\n") }},
		{"the second area is on", "can-swap", func(p *place) {
			p.mountinfo, p.swaps = nil, []byte(swapHeader+"/a file 0 0 -2\n/b file 4 0 -3\n")
		}},
		{"on ext4", "not-a-tmpfs", func(p *place) { p.fsType = unix.EXT4_SUPER_MAGIC }},
		{"on overlayfs", "not-a-tmpfs", func(p *place) { p.fsType = unix.OVERLAYFS_SUPER_MAGIC }},
		{"on ramfs", "not-a-tmpfs", func(p *place) { p.fsType = unix.RAMFS_MAGIC }},
		{"readable by the group", "open-to-others", func(p *place) { p.mode = unix.S_IFDIR | 0o750 }},
		{"listed by all", "open-to-others", func(p *place) { p.mode = unix.S_IFDIR | 0o711 }},
		{"sticky", "open-to-others", func(p *place) { p.mode = unix.S_IFDIR | 0o1700 }},
		{"not even root's to write", "open-to-others", func(p *place) { p.mode = unix.S_IFDIR | 0o500 }},
		{"of another user", "not-roots", func(p *place) { p.uid = 1000 }},
		{"a symbolic link", "not-a-folder", func(p *place) { p.mode = unix.S_IFLNK | 0o777 }},
		{"a file", "not-a-folder", func(p *place) { p.mode = unix.S_IFREG | 0o700 }},
	}
	if got, want := len(table), 28; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			p := fit
			c.edit(&p)
			err := judge("/run/istio-auth/state", p)
			if got := attest.Reason(err); got != c.reason || (err == nil) != (c.reason == "") {
				t.Errorf("got %v, want reason %q", err, c.reason)
			}
		})
	}
}

// The real thing: a tmpfs in a mount namespace of the test's own, which nobody
// else sees and which ends with it.
func TestMount(t *testing.T) {
	if os.Getenv(inside) == "" {
		apart(t)
		return
	}
	disk, dir := t.TempDir(), filepath.Join(t.TempDir(), "run", "state")
	if err := os.Chmod(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(disk, &fs); err == nil && fs.Type != unix.TMPFS_MAGIC {
		if _, err := Open(disk); attest.Reason(err) != "not-a-tmpfs" {
			t.Errorf("Open on a disk: %v, want not-a-tmpfs", err)
		}
	}
	if err := Mount(dir); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(Unmount(dir), Unmount(dir)); err != nil {
			t.Error(err)
		}
		if mounted, err := mountpoint(dir); mounted || err != nil {
			t.Errorf("still mounted: %v, %v", mounted, err)
		}
	}()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(record(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// The next agent finds the place and what is in it.
	if err := Mount(dir); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := s.Load(); err != nil || len(got) != 1 {
		t.Errorf("%d records, %v; want 1", len(got), err)
	}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(mountinfo, []byte("noswap")) {
		t.Log("this kernel knows no noswap: the place is fit because there is no swap")
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Mount": Mount(dir), "Open": second(Open(dir))} {
		if attest.Reason(err) != "open-to-others" {
			t.Errorf("%s on a folder 0755: %v, want open-to-others", what, err)
		}
	}
}

func second(_ *Store, err error) error { return err }

const inside = "STORE_TEST_INSIDE"

// apart runs the calling test again, in a child with a mount namespace of its own.
func apart(t *testing.T) {
	t.Helper()
	testreq.Root(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	// The runtime makes all mounts private before it starts the child.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		testreq.Missing(t, "the right to make a mount namespace: run as root with CAP_SYS_ADMIN")
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("%v\n%s", err, out)
	}
}
