package csi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// maxSocket is the longest path of a Unix socket (unix(7)).
const maxSocket = 107

// ownDir makes a folder, or takes one that is ours and that nobody else can write
// to: whoever can put a socket where an Envoy looks for ours is our impostor.
func ownDir(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("csi: %s is not a folder of ours", path)
	}
	if info.Mode().Perm()&^mode != 0 {
		return fmt.Errorf("csi: %s has mode %04o, want %04o at the most", path, info.Mode().Perm(), mode)
	}
	return nil
}

// listen makes a socket of ours alone, in the place of one that a predecessor left.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("csi: %s is in the way: it is no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Go would take away whatever has the name by then: in a rolling update, our
	// successor's.
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &ownSocket{UnixListener: l, path: path, made: info}, nil
}

// An ownSocket takes its own name away when it closes, and no other's. For the
// kubelet, a registration socket that goes is a driver that goes.
type ownSocket struct {
	*net.UnixListener
	path string
	made os.FileInfo
}

func (l *ownSocket) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}
