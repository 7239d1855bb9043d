package store

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxRecords bounds what Load reads: well past what a kubelet runs.
const maxRecords = 4096

// suffix of a record's file; what a crash left half written ends otherwise.
const suffix = ".json"

// A Store is a folder with one file a pod, named by its UID. Make it with [Open].
// Its methods may be called at once; only one process may use the folder.
type Store struct {
	root *os.Root

	mu sync.Mutex // orders writes: two of one pod share a temporary name
}

// Open opens the folder dir. It returns an [*attest.Refusal] where that is not
// root's alone (mode 0700), on a tmpfs, which cannot swap: either it is mounted
// with noswap, or the machine has no swap. Close the Store when done.
func Open(dir string) (*Store, error) {
	if err := examine(dir); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the state folder: %w", err)
	}
	return &Store{root: root}, nil
}

// Close gives the folder back. The files stay.
func (s *Store) Close() error { return s.root.Close() }

// Put writes a pod's record: whole, or not at all. It replaces an older one of
// the same UID, and returns an [*attest.Refusal] for one that Load would not read.
func (s *Store) Put(r Record) error {
	data, err := encode(r)
	if err != nil {
		return err
	}
	uid := r.Workload.Pod.UID
	s.mu.Lock()
	defer s.mu.Unlock()
	temporary := uid + ".new"
	if err := s.root.WriteFile(temporary, data, 0o600); err != nil {
		return errors.Join(fmt.Errorf("writing the record of pod %s: %w", uid, err), s.remove(temporary))
	}
	// No fsync: a tmpfs does not outlive the kernel that orders the two.
	if err := s.root.Rename(temporary, uid+suffix); err != nil {
		return errors.Join(fmt.Errorf("writing the record of pod %s: %w", uid, err), s.remove(temporary))
	}
	return nil
}

// Delete forgets a pod. One that is not there is no error.
func (s *Store) Delete(podUID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(podUID + suffix)
}

func (s *Store) remove(name string) error {
	if err := s.root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing a record: %w", err)
	}
	return nil
}

// Load returns all records, by UID. What cannot be read, or is not a record of
// ours, is removed and told of in the error, and keeps nobody else from coming
// back: the records are good even where there is an error. The kubelet tells of
// such a pod again within two minutes.
func (s *Store) Load() ([]Record, error) {
	dir, err := s.root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("reading the state folder: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxRecords + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the state folder: %w", err)
	}
	if len(names) > maxRecords {
		return nil, fmt.Errorf("reading the state folder: more than %d files", maxRecords)
	}
	slices.Sort(names)
	var records []Record
	var bad error
	for _, name := range names {
		r, err := s.load(name)
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("record %.100q: %w", name, err), s.remove(name))
			continue
		}
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b Record) int { return cmp.Compare(a.Workload.Pod.UID, b.Workload.Pod.UID) })
	return records, bad
}

var errName = errors.New("not named as its pod")

func (s *Store) load(name string) (Record, error) {
	uid, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return Record{}, errName
	}
	// Not through a link, and not waiting for the other end of a pipe.
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Record{}, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return Record{}, errors.Join(err, errors.New("not a regular file"))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return Record{}, err
	}
	r, err := decode(data)
	if err == nil && r.Workload.Pod.UID != uid {
		err = errName
	}
	return r, err
}
