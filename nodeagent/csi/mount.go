package csi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Mounter shows a folder at another path. Targets are those of pods' volumes.
type Mounter interface {
	// Mount shows source at target, read-only. It makes target; the folder above it exists.
	Mount(source, target string) error
	// Unmount takes away what Mount made, target included. Nothing there is no error.
	Unmount(target string) error
	// Mounted tells whether target shows source as it is now: not another folder
	// that was at that path before.
	Mounted(source, target string) (bool, error)
}

// A kernel is the real Mounter. Below base, the kubelet's folder of pods, it
// follows no symbolic link.
type kernel struct{ base string }

var _ Mounter = kernel{}

// Mount makes the copy of the mount tree read-only before anybody can see it, by
// the mount calls of Linux 5.12: a bind that is remounted read-only afterwards
// would be writable for a moment. There is no older way to fall back to.
func (k kernel) Mount(source, target string) error {
	above, name, err := k.above(target)
	if err != nil {
		return err
	}
	defer unix.Close(above)
	if err := unix.Mkdirat(above, name, 0o750); err != nil && !errors.Is(err, unix.EEXIST) {
		return &fs.PathError{Op: "mkdir", Path: target, Err: err}
	}
	at, err := unix.Openat(above, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: target, Err: err}
	}
	defer unix.Close(at)
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return &fs.PathError{Op: "open_tree", Path: source, Err: err}
	}
	defer unix.Close(tree)
	attr := &unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return &fs.PathError{Op: "mount_setattr", Path: source, Err: err}
	}
	if err := unix.MoveMount(tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// maxStacked bounds how many mounts on one another Unmount takes away.
const maxStacked = 16

func (k kernel) Unmount(target string) error {
	above, name, err := k.above(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(above)
	for range maxStacked {
		// Detached, since a container that hangs may hold it; not through a link.
		err := unix.Unmount("/proc/self/fd/"+strconv.Itoa(above)+"/"+name, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not, or no longer, a mount
		}
		if err != nil {
			return &fs.PathError{Op: "umount", Path: target, Err: err}
		}
	}
	// Not recursive: were it still a mount, this would empty what is mounted.
	if err := unix.Unlinkat(above, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: target, Err: err}
	}
	return nil
}

func (k kernel) Mounted(source, target string) (bool, error) {
	is, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	want, err := os.Lstat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// A bind mount shows the folder itself: the same device and inode.
	return is.IsDir() && os.SameFile(is, want), nil
}

// above opens the folder that target is in.
func (k kernel) above(target string) (fd int, name string, err error) {
	rest, ok := strings.CutPrefix(target, k.base+"/")
	if !ok {
		return -1, "", fmt.Errorf("csi: %s is not below %s", target, k.base)
	}
	base, err := unix.Open(k.base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", &fs.PathError{Op: "open", Path: k.base, Err: err}
	}
	defer unix.Close(base)
	fd, err = unix.Openat2(base, filepath.Dir(rest), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, "", &fs.PathError{Op: "openat2", Path: filepath.Dir(target), Err: err}
	}
	return fd, filepath.Base(rest), nil
}
