// Package signer holds the private keys of the CA: today as files.
//
// A key file is PKCS#8 in PEM, readable by its owner alone, in a folder that
// its owner alone may enter. Anything looser is refused: a key that others could
// have read is no key to start with. The keys come from and go through
// go.step.sm/crypto, whose KMS drivers are where keys in hardware will come from.
package signer

import (
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"go.step.sm/crypto/keyutil"
	"go.step.sm/crypto/pemutil"
)

var (
	// ErrExposed reports a key that others than its owner may read, replace or
	// have read. The text says which file, and what to do.
	ErrExposed = errors.New("signer: the key is exposed")
	// ErrNotKey reports a file that is not one private key in PEM.
	ErrNotKey = errors.New("signer: not a private key")
)

// maxFile bounds a key file: an RSA key of 4,096 bits takes 3.3 KB.
const maxFile = 16 << 10

const redacted = "REDACTED"

// A Key is a private key that does not show itself: it signs, and however it is
// printed, logged or marshalled it comes out as REDACTED.
type Key struct{ signer crypto.Signer }

var _ crypto.Signer = Key{}

// Public returns the public half.
func (k Key) Public() crypto.PublicKey { return k.signer.Public() }

// Sign signs a digest, as crypto.Signer has it.
func (k Key) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.signer.Sign(random, digest, opts)
}

// Format implements fmt.Formatter for every verb.
func (Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the key out of JSON, YAML and the like.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Create makes a new P-256 key and writes it to a file that is not there yet;
// where it is, the error wraps fs.ErrExist. The folder is made with mode 0700 where
// it is missing. When Create returns, the key is on the disk.
func Create(path string) (Key, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Key{}, fmt.Errorf("making the folder of a key: %w", err)
	}
	if err := checkFolder(dir); err != nil {
		return Key{}, err
	}
	key, err := keyutil.GenerateSigner("EC", "P-256", 0)
	if err != nil {
		return Key{}, fmt.Errorf("making a key: %w", err)
	}
	block, err := pemutil.Serialize(key, pemutil.WithPKCS8(true))
	if err != nil {
		return Key{}, fmt.Errorf("encoding a key: %w", err)
	}
	if err := writeOnce(path, pem.EncodeToMemory(block)); err != nil {
		return Key{}, fmt.Errorf("writing a key: %w", err)
	}
	return Key{key}, nil
}

// writeOnce writes a file whole or not at all, and never over another.
func writeOnce(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-key-") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike a rename, it fails where path exists
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Open reads the key in a file. A key that is exposed is refused with
// [ErrExposed]; where there is no file the error wraps fs.ErrNotExist.
func Open(path string) (Key, error) {
	if err := checkFolder(filepath.Dir(path)); err != nil {
		return Key{}, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return Key{}, fmt.Errorf("%w: %s is a link: put the key itself there", ErrExposed, path)
	}
	if err != nil {
		return Key{}, fmt.Errorf("opening a key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened, not of what has the name now
	if err != nil {
		return Key{}, fmt.Errorf("opening a key: %w", err)
	}
	if err := checkFile(path, info); err != nil {
		return Key{}, err
	}
	return parse(path, f)
}

func parse(path string, r io.Reader) (Key, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return Key{}, fmt.Errorf("reading a key: %w", err)
	}
	if len(data) > maxFile {
		return Key{}, fmt.Errorf("%w: %s is longer than %d bytes", ErrNotKey, path, maxFile)
	}
	// The parser's own errors are not passed on: none may quote what it read.
	block, rest := pem.Decode(data)
	if block == nil || len(rest) > 0 {
		return Key{}, fmt.Errorf("%w: %s is not one PEM block", ErrNotKey, path)
	}
	if block.Type != "PRIVATE KEY" {
		return Key{}, fmt.Errorf("%w: %s holds %q, want an unencrypted PKCS#8 \"PRIVATE KEY\"", ErrNotKey, path, block.Type)
	}
	parsed, err := pemutil.ParseKey(data)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %s does not parse", ErrNotKey, path)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return Key{}, fmt.Errorf("%w: %s holds a key that cannot sign", ErrNotKey, path)
	}
	return Key{key}, nil
}

func checkFolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("opening the folder of a key: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%w: %s is not a folder", ErrExposed, dir)
	}
	return checkOwner(dir, info, 0o700)
}

func checkFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is not a plain file", ErrExposed, path)
	}
	if links := info.Sys().(*syscall.Stat_t).Nlink; links != 1 {
		return fmt.Errorf("%w: %s has %d names: remove the others", ErrExposed, path, links)
	}
	return checkOwner(path, info, 0o600)
}

// checkOwner refuses what belongs to someone else, or is open to anyone else.
func checkOwner(path string, info fs.FileInfo, most fs.FileMode) error {
	if owner, own := info.Sys().(*syscall.Stat_t).Uid, os.Geteuid(); int(owner) != own {
		return fmt.Errorf("%w: %s belongs to uid %d, and this is uid %d", ErrExposed, path, owner, own)
	}
	if mode := info.Mode().Perm(); mode&^most != 0 {
		return fmt.Errorf("%w: %s has mode %#o, want at most %#o: chmod %#o %s, and think of who has read it",
			ErrExposed, path, mode, most, most, path)
	}
	return nil
}
