package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time of everything in an image: a build's own time would change
// its digest.
var epoch = time.Unix(0, 0).UTC()

// A file is one regular file of an image: its absolute name, and the file of
// this machine that it is.
type file struct{ name, from string }

// passwd lets programs find the name of the user they run as.
const passwd = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"

// layerTar is the one layer of an image: its files and folders, all of root, and
// a /tmp. Sorted, so that equal content gives equal bytes.
func layerTar(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	header := tar.Header{ModTime: epoch, Format: tar.FormatPAX}
	folders := map[string]int64{"/etc": 0o755, "/tmp": 0o1777}
	for _, f := range files {
		for dir := path.Dir(f.name); dir != "/"; dir = path.Dir(dir) {
			folders[dir] = 0o755
		}
	}
	var names []string
	for name := range folders {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		h := header
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, name[1:]+"/", folders[name]
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
	}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	for _, f := range files {
		data, err := os.ReadFile(f.from)
		if err != nil {
			return nil, err
		}
		if err := put(w, header, f.name[1:], 0o755, data); err != nil {
			return nil, err
		}
	}
	if err := put(w, header, "etc/passwd", 0o644, []byte(passwd)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func put(w *tar.Writer, h tar.Header, name string, mode int64, data []byte) error {
	h.Typeflag, h.Name, h.Mode, h.Size = tar.TypeReg, name, mode, int64(len(data))
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// assemble makes an image of one layer.
func assemble(o options, i image, files []file) (v1.Image, error) {
	raw, err := layerTar(files)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	made := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if made, err = mutate.ConfigFile(made, o.config(i)); err != nil {
		return nil, err
	}
	if made, err = mutate.Append(made, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "deploy/images"},
	}); err != nil {
		return nil, err
	}
	return mutate.Annotations(made, o.annotations(i)).(v1.Image), nil
}

// archive writes an image as an OCI layout in a tar file, whole or not at all,
// and returns its digest.
func archive(made v1.Image, reference, to string) (v1.Hash, error) {
	dir, err := os.MkdirTemp(filepath.Dir(to), ".image-")
	if err != nil {
		return v1.Hash{}, fmt.Errorf("writing %s: %w", to, err)
	}
	defer os.RemoveAll(dir)
	index, err := layout.Write(dir, empty.Index)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("writing %s: %w", to, err)
	}
	_, tag, _ := strings.Cut(path.Base(reference), ":")
	names := map[string]string{
		"io.containerd.image.name":          reference,
		"org.opencontainers.image.ref.name": tag,
	}
	if err := index.AppendImage(made, layout.WithAnnotations(names)); err != nil {
		return v1.Hash{}, fmt.Errorf("writing %s: %w", to, err)
	}
	var b bytes.Buffer
	if err := tarFolder(&b, dir); err != nil {
		return v1.Hash{}, fmt.Errorf("writing %s: %w", to, err)
	}
	temp := dir + ".tar"
	defer os.Remove(temp)
	if err := os.WriteFile(temp, b.Bytes(), 0o644); err != nil {
		return v1.Hash{}, fmt.Errorf("writing %s: %w", to, err)
	}
	if err := os.Rename(temp, to); err != nil {
		return v1.Hash{}, fmt.Errorf("writing %s: %w", to, err)
	}
	return made.Digest()
}

// tarFolder writes the regular files below dir in the order of their names.
func tarFolder(to io.Writer, dir string) error {
	w := tar.NewWriter(to)
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		return put(w, tar.Header{ModTime: epoch}, filepath.ToSlash(rel), 0o644, data)
	})
	if err != nil {
		return err
	}
	return w.Close()
}

// withLibraries is a program and the shared libraries that it loads, which ldd
// lists, at the names where it looks for them.
func withLibraries(ctx context.Context, program, as string) ([]file, error) {
	out, err := exec.CommandContext(ctx, "ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("asking ldd about %s: %w", program, err)
	}
	files := []file{{name: as, from: program}}
	for word := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(word, "/") && !slices.ContainsFunc(files, func(f file) bool { return f.name == word }) {
			files = append(files, file{name: word, from: word}) // a symbolic link is followed
		}
	}
	if len(files) < 2 {
		return nil, fmt.Errorf("ldd names no libraries of %s:\n%s", program, out)
	}
	return files, nil
}
