package csi

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/istio-auth/istio-auth/test/testreq"
)

// The real kernel: the test runs again in a child with mounts of its own, so that
// none reaches the machine, whatever happens.
const inside = "CSI_TEST_INSIDE"

func apart(t *testing.T) (child bool) {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
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
	return false
}

// newKernelRig is a rig whose kubelet's folder is a shared mount, as on a node, and
// whose mounts are the kernel's.
func newKernelRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	for _, step := range []error{
		unix.Mount(r.KubeletDir, r.KubeletDir, "", unix.MS_BIND, ""),
		unix.Mount("", r.KubeletDir, "", unix.MS_SHARED, ""),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	t.Cleanup(func() { unix.Unmount(r.KubeletDir, unix.MNT_DETACH) })
	r.Driver.Mounter = kernel{base: filepath.Join(r.KubeletDir, "pods")}
	if err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestKernelMount(t *testing.T) {
	if !apart(t) {
		return
	}
	r := newKernelRig(t)
	req := r.request(t, uid1, "identity", jwt1, time.Hour)
	inPod := filepath.Join(req.TargetPath, SocketName)
	for range 3 { // the kubelet's repetition must not stack mounts
		r.put(t, req)
	}
	if got := dial(inPod); got != uid1 {
		t.Fatalf("through the volume the socket says %q", got)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(req.TargetPath, &fs); err != nil {
		t.Fatal(err)
	}
	if want := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC); fs.Flags&want != want {
		t.Errorf("mount flags %#x, want %#x among them", fs.Flags, want)
	}
	// Root itself cannot write there: not make, not replace, not remove (T1.4).
	for what, err := range map[string]error{
		"create": os.WriteFile(filepath.Join(req.TargetPath, "x"), nil, 0o600),
		"remove": os.Remove(inPod),
		"rename": os.Rename(inPod, inPod+"2"),
		"chmod":  os.Chmod(req.TargetPath, 0o777),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v, want a read-only file system", what, err)
		}
	}
	// A container's mount of the volume is a copy; it must reach the successor's socket.
	container := filepath.Join(r.RunDir, "container")
	if err := errors.Join(os.Mkdir(container, 0o755), unix.Mount(req.TargetPath, container, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(container, unix.MNT_DETACH)

	r.agent.die()
	r.agent = &agent{runDir: r.RunDir}
	r.Driver.Workloads = r.agent
	if err := errors.Join(r.prepare(), r.restore(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := dial(filepath.Join(container, SocketName)); got != uid1 {
		t.Errorf("after the agent's restart the container's socket says %q", got)
	}
	if n := mountsOn(t, req.TargetPath); n != 1 {
		t.Errorf("%d mounts on the volume, want 1", n)
	}
	for range 2 {
		r.take(t, req.TargetPath)
	}
	if n := mountsOn(t, req.TargetPath); n != 0 {
		t.Errorf("%d mounts left", n)
	}
	if _, err := os.Lstat(req.TargetPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target is still there: %v", err)
	}
}

// mountsOn counts the mounts at path.
func mountsOn(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte(" "+path+" "))
}

// Nothing below the kubelet's folder of pods may lead elsewhere.
func TestKernelFollowsNoLink(t *testing.T) {
	if !apart(t) {
		return
	}
	r := newKernelRig(t)
	source, outside := filepath.Join(r.RunDir, "source"), filepath.Join(r.RunDir, "outside")
	if err := errors.Join(os.Mkdir(source, 0o755), os.MkdirAll(filepath.Join(outside, "kubernetes.io~csi", "identity", "mount"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, lay := range map[string]func(target string) error{
		"the mount": func(target string) error {
			return errors.Join(os.MkdirAll(filepath.Dir(target), 0o750), os.Symlink(outside, target))
		},
		"the volumes": func(target string) error {
			volumes := filepath.Dir(filepath.Dir(filepath.Dir(target)))
			return errors.Join(os.MkdirAll(filepath.Dir(volumes), 0o750), os.Symlink(outside, volumes))
		},
		"the pod": func(target string) error {
			return os.Symlink(outside, filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(target)))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(r.KubeletDir, "pods", uid1, "volumes", "kubernetes.io~csi", "identity", "mount")
			defer os.RemoveAll(filepath.Join(r.KubeletDir, "pods", uid1))
			if err := lay(target); err != nil {
				t.Fatal(err)
			}
			if err := r.mounter.Mount(source, target); err == nil {
				t.Error("mounted through a link")
			}
			r.mounter.Unmount(target)
			if _, err := os.Lstat(filepath.Join(outside, "kubernetes.io~csi", "identity", "mount")); err != nil {
				t.Errorf("unmounting removed what the link led to: %v", err)
			}
		})
	}
	if err := r.mounter.Mount(source, "/etc"); err == nil {
		t.Error("mounted outside of the kubelet's folder")
	}
	// Without the folder above it there is nothing to unmount.
	if err := r.mounter.Unmount(filepath.Join(r.KubeletDir, "pods", uid2, "volumes", "kubernetes.io~csi", "x", "mount")); err != nil {
		t.Errorf("unmounting what was never there: %v", err)
	}
}

// Mounts on one another, as a predecessor's crash may leave them, all go; what
// lies in a target that is no mount stays, and is told of.
func TestKernelUnmount(t *testing.T) {
	if !apart(t) {
		return
	}
	r := newKernelRig(t)
	req := r.request(t, uid1, "identity", jwt1, time.Hour)
	source := filepath.Join(r.RunDir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := r.mounter.Mount(source, req.TargetPath); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.mounter.Unmount(req.TargetPath); err != nil || mountsOn(t, req.TargetPath) != 0 {
		t.Errorf("%v, %d mounts left", err, mountsOn(t, req.TargetPath))
	}
	if err := errors.Join(os.MkdirAll(req.TargetPath, 0o750), os.WriteFile(filepath.Join(req.TargetPath, "data"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := r.mounter.Unmount(req.TargetPath); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a target with something in it: %v, want ENOTEMPTY", err)
	}
}
