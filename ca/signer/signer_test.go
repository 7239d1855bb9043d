package signer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCreateAndOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "root.key")
	made, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	public := made.Public().(*ecdsa.PublicKey)
	if !public.Equal(opened.Public()) {
		t.Error("another key came back")
	}
	digest := sha256.Sum256([]byte("x"))
	signature, err := opened.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(public, digest[:], signature) {
		t.Errorf("the signature does not verify, %v", err)
	}
	for name, want := range map[string]fs.FileMode{filepath.Dir(path): 0o700, path: 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %#o, want %#o", name, info.Mode().Perm(), want)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("%d files in the folder, want the key alone", len(left))
	}
}

// TestCreateOverwritesNothing: a key that is there stays.
func TestCreateOverwritesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "root.key")
	if _, err := Create(path); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v, want fs.ErrExist", err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key has changed, %v", err)
	}
}

// KC-01: a key that others could have read, or put there, is refused, and the
// message names the file.
func TestExposed(t *testing.T) {
	type row struct {
		name string
		do   func(path string) error
		want error
	}
	chmod := func(mode fs.FileMode) func(string) error {
		return func(path string) error { return os.Chmod(path, mode) }
	}
	inFolder := func(do func(string) error) func(string) error {
		return func(path string) error { return do(filepath.Dir(path)) }
	}
	write := func(content string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(content), 0o600) }
	}
	replace := func(do func(old, path string) error) func(string) error {
		return func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), do(path+".old", path))
		}
	}
	var table []row
	for _, mode := range []fs.FileMode{0o604, 0o640, 0o644, 0o660, 0o666, 0o602, 0o620, 0o601, 0o610, 0o700, 0o777} {
		table = append(table, row{fmt.Sprintf("file %#o", mode), chmod(mode), ErrExposed})
	}
	for _, mode := range []fs.FileMode{0o701, 0o705, 0o710, 0o750, 0o755, 0o770, 0o777, 0o707} {
		table = append(table, row{fmt.Sprintf("folder %#o", mode), inFolder(chmod(mode)), ErrExposed})
	}
	for _, mode := range []fs.FileMode{0o400, 0o600} {
		table = append(table, row{fmt.Sprintf("file %#o", mode), chmod(mode), nil})
	}
	key := func(kind string) string { return "-----BEGIN " + kind + "-----\nAAAA\n-----END " + kind + "-----\n" }
	table = append(table,
		row{"folder 0500", inFolder(chmod(0o500)), nil},
		row{"a symbolic link", replace(os.Symlink), ErrExposed},
		row{"a second name", func(path string) error { return os.Link(path, path+".copy") }, ErrExposed},
		row{"a pipe", replace(func(_, path string) error { return syscall.Mkfifo(path, 0o600) }), ErrExposed},
		row{"a folder", replace(func(_, path string) error { return os.Mkdir(path, 0o600) }), ErrExposed},
		row{"nothing", os.Remove, fs.ErrNotExist},
		row{"no folder", func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, fs.ErrNotExist},
		row{"empty", write(""), ErrNotKey},
		row{"text", write("hello"), ErrNotKey},
		row{"17 KB", write(strings.Repeat("a", 17<<10)), ErrNotKey},
		row{"broken PEM", write("-----BEGIN PRIVATE KEY-----\nMIG"), ErrNotKey},
		row{"no key in the PEM", write(key("PRIVATE KEY")), ErrNotKey},
		row{"a certificate", write(key("CERTIFICATE")), ErrNotKey},
		row{"a public key", write(key("PUBLIC KEY")), ErrNotKey},
		row{"an older form", write(key("EC PRIVATE KEY")), ErrNotKey},
		row{"an encrypted key", write(key("ENCRYPTED PRIVATE KEY")), ErrNotKey},
		row{"two keys", func(path string) error {
			data, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path, append(data, data...), 0o600))
		}, ErrNotKey},
		row{"a key and a word", func(path string) error {
			data, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path, append(data, "more"...), 0o600))
		}, ErrNotKey},
	)
	if os.Geteuid() == 0 {
		table = append(table,
			row{"someone else's file", func(path string) error { return os.Chown(path, 65534, 0) }, ErrExposed},
			row{"someone else's folder", inFolder(func(dir string) error { return os.Chown(dir, 65534, 0) }), ErrExposed})
	}
	want := 41
	if os.Geteuid() != 0 {
		want -= 2 // only root can give a file away
	}
	if got := len(table); got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	for _, r := range table {
		t.Run(r.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys", "root.key")
			if _, err := Create(path); err != nil {
				t.Fatal(err)
			}
			if err := r.do(path); err != nil {
				t.Fatal(err)
			}
			_, err := Open(path)
			if !errors.Is(err, r.want) || (err == nil) != (r.want == nil) {
				t.Fatalf("%v, want %v", err, r.want)
			}
			if err != nil && !strings.Contains(err.Error(), filepath.Dir(path)) {
				t.Errorf("the message does not say where: %v", err)
			}
		})
	}
}

// TestRedacted: a key does not show itself, however it is asked (I16).
func TestRedacted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "root.key")
	key, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key, "in", map[string]any{"key": key})
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", key, "in", struct{ Key Key }{key})
	asJSON, err := json.Marshal(map[string]any{"key": key})
	if err != nil {
		t.Fatal(err)
	}
	d := key.signer.(*ecdsa.PrivateKey).D.String()
	for _, shown := range []string{
		fmt.Sprint(key), fmt.Sprintf("%v %+v %#v %s %q %x %d", key, key, key, key, key, key, key),
		fmt.Sprintf("%+v", struct{ Key Key }{key}), string(asJSON), log.String(),
	} {
		if strings.Contains(shown, d) || !strings.Contains(shown, redacted) {
			t.Errorf("shown: %s", shown)
		}
	}
}

func FuzzParse(f *testing.F) {
	path := filepath.Join(f.TempDir(), "keys", "root.key")
	if _, err := Create(path); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := parse("x", bytes.NewReader(data))
		if (err == nil) != (key.signer != nil) {
			t.Errorf("a key: %v, %v", key.signer != nil, err)
		}
		if err != nil && !errors.Is(err, ErrNotKey) {
			t.Error(err)
		}
	})
}
