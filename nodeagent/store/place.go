package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/istio-auth/istio-auth/attest"
)

// size bounds the tmpfs: 250 pods, the most that Kubernetes supports on a node by
// default twice over, at a page or two each.
const size = 8 << 20

// Mount makes dir a place that [Open] accepts: a folder 0700 of root's, with a
// tmpfs that cannot swap on it (the option noswap, Linux 6.4), which holds nothing
// but our files. Where dir is such a place already, nothing is done, so that the
// state of an agent that died or was rolled is found again. It needs the right to
// mount; on a kernel without noswap it mounts a plain tmpfs where no swap is active,
// and refuses otherwise.
//
// The tmpfs outlives the process. In a container it outlives that too, and reaches
// the next one, only where dir is below a volume with Bidirectional propagation.
func Mount(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the state folder: %w", err)
	}
	mounted, err := mountpoint(dir)
	if err != nil {
		return err
	}
	if mounted {
		return examine(dir)
	}
	data := fmt.Sprintf("mode=0700,uid=0,gid=0,size=%d", size)
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	err = unix.Mount("istio-auth", dir, "tmpfs", flags, data+",noswap")
	if errors.Is(err, unix.EINVAL) {
		// The kernel does not know noswap. examine decides whether that matters.
		err = unix.Mount("istio-auth", dir, "tmpfs", flags, data)
	}
	if err != nil {
		return fmt.Errorf("mounting a tmpfs on %s: %w", dir, err)
	}
	if err := examine(dir); err != nil {
		return errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	}
	return nil
}

// Unmount takes the tmpfs, and with it all tokens, away. Where none is mounted on
// dir it does nothing.
func Unmount(dir string) error {
	mounted, err := mountpoint(dir)
	if err != nil || !mounted {
		return err
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	return nil
}

// mountpoint tells whether something is mounted on dir itself.
func mountpoint(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Lstat(dir, &here); err != nil {
		return false, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Stat(filepath.Dir(filepath.Clean(dir)), &above); err != nil {
		return false, &os.PathError{Op: "stat", Path: filepath.Dir(dir), Err: err}
	}
	return here.Dev != above.Dev, nil
}

// examine refuses a place that is not fit for secrets.
func examine(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without swap has no such file
		return err
	}
	return judge(dir, place{
		mode: st.Mode, uid: st.Uid, fsType: int64(fs.Type),
		device:    fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)),
		mountinfo: mountinfo, swaps: swaps,
	})
}

// A place is all that is judged of a folder.
type place struct {
	mode, uid        uint32
	fsType           int64
	device           string // major:minor, as mountinfo writes it
	mountinfo, swaps []byte
}

// judge is the rule: a folder, root's alone, on a tmpfs that cannot swap.
func judge(dir string, p place) error {
	switch {
	case p.mode&unix.S_IFMT != unix.S_IFDIR:
		return attest.Refuse("not-a-folder", "%s", dir)
	case p.uid != 0:
		return attest.Refuse("not-roots", "%s is of uid %d", dir, p.uid)
	case p.mode&0o7777 != 0o700:
		return attest.Refuse("open-to-others", "%s has mode %04o, want 0700", dir, p.mode&0o7777)
	case p.fsType != unix.TMPFS_MAGIC:
		return attest.Refuse("not-a-tmpfs", "%s is on a file system of type %#x: tokens are not written to a disk", dir, p.fsType)
	case !noswap(p.mountinfo, p.device) && swapping(p.swaps):
		return attest.Refuse("can-swap", "%s is on a tmpfs without noswap, and swap is active: tokens could reach a disk", dir)
	}
	return nil
}

// noswap tells whether mountinfo (proc_pid_mountinfo(5)) lists the device as a
// tmpfs with the option noswap, which is one of the super block and so after " - ".
func noswap(mountinfo []byte, device string) bool {
	lines := bufio.NewScanner(bytes.NewReader(mountinfo))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		front, back, ok := strings.Cut(lines.Text(), " - ")
		fields, super := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 6 || len(super) < 3 || fields[2] != device || super[0] != "tmpfs" {
			continue
		}
		if slices.Contains(strings.Split(super[len(super)-1], ","), "noswap") {
			return true
		}
	}
	return false
}

// swapping tells whether /proc/swaps lists an area. What cannot be read counts as
// one; an area of size 0 does not.
func swapping(swaps []byte) bool {
	text := strings.TrimSpace(string(swaps))
	header, areas, more := strings.Cut(text, "\n")
	if text == "" || !more && strings.HasPrefix(header, "Filename") {
		return false
	}
	if !strings.HasPrefix(header, "Filename") {
		return true
	}
	for line := range strings.Lines(areas) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			return true
		}
		if size, err := strconv.ParseUint(fields[2], 10, 64); err != nil || size > 0 {
			return true
		}
	}
	return false
}
