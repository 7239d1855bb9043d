package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// unpack extracts an archive's files into a folder.
func unpack(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.FromSlash(h.Name))
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestArchive writes the demo image twice: the bytes are equal, and a reader of
// OCI layouts finds the program, its user, and nothing else.
func TestArchive(t *testing.T) {
	var archives [][]byte
	var path string
	for range 2 {
		out := t.TempDir()
		if err := run(t.Context(), []string{"-only", "demo", "-out", out, "-version", "v1.2.3", "-revision", "abc"}, io.Discard); err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(out, "demo.tar")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, data)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two builds of the same source differ")
	}
	index, err := layout.ImageIndexFromPath(unpack(t, path))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := manifest.Manifests[0].Annotations["io.containerd.image.name"], registry+"demo:v1.2.3"; got != want {
		t.Errorf("named %q, want %q", got, want)
	}
	made, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := made.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Config; got.User != nonroot || got.Entrypoint[0] != "/demo" || got.Labels["org.opencontainers.image.revision"] != "abc" {
		t.Errorf("configured %+v", got)
	}
	rc := mutate.Extract(made)
	defer rc.Close()
	var names []string
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(epoch) {
			t.Errorf("%s belongs to %d:%d, of %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		names = append(names, h.Name)
	}
	if got, want := strings.Join(names, " "), "etc tmp demo etc/passwd"; got != want {
		t.Errorf("holds %s, want %s", got, want)
	}
}

func TestRefuses(t *testing.T) {
	for name, args := range map[string]string{
		"unknown image":            "-only nobody",
		"envoy without its binary": "-only envoy",
		"envoy for another":        "-only envoy -envoy /bin/ls -arch s390x",
		"unknown flag":             "-nope",
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			if err := run(context.Background(), append(strings.Fields(args), "-out", out), io.Discard); err == nil {
				t.Error("no error")
			}
			if left, err := os.ReadDir(out); err != nil || len(left) != 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

func TestLibraries(t *testing.T) {
	files, err := withLibraries(t.Context(), "/bin/sh", "/sh")
	if err != nil {
		t.Fatal(err)
	}
	if files[0] != (file{"/sh", "/bin/sh"}) || len(files) < 3 {
		t.Errorf("got %v", files)
	}
	if _, err := withLibraries(t.Context(), "/dev/null", "/x"); err == nil {
		t.Error("no error for a file that is no program")
	}
}
