package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// FileName is the journal's name in its folder.
const FileName = "journal"

// A file is the disk as the journal needs it. Sync returns when all that was
// written is durable, the file's length included.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
}

// Open opens the journal in a folder, or begins one. The folder is made with
// mode 0700 where it is missing, and refused where others may enter it; so is a
// file that others may read. What expired before now is not kept in memory. A
// torn end is moved to a file beside the journal, "journal.torn-<byte>".
func Open(dir string, now time.Time) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the journal's folder: %w", err)
	}
	if err := private(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, FileName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	j, err := openLocked(f, path, now)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return j, nil
}

func openLocked(f *os.File, path string, now time.Time) (*Journal, error) {
	if err := private(path, 0o600); err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	}
	j, err := open(disk{f}, now, func(torn []byte, at int64) error {
		return keep(fmt.Sprintf("%s.torn-%d", path, at), torn)
	})
	if err != nil {
		return nil, err
	}
	return j, syncDir(filepath.Dir(path))
}

// private refuses a file or folder with more rights than most.
func private(path string, most fs.FileMode) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&^most != 0 {
		return fmt.Errorf("%s has mode %#o, want at most %#o: chmod %#o %s", path, mode, most, most, path)
	}
	return nil
}

// keep writes what is cut off to a file of its own: it may be all that a fault leaves to look at.
func keep(path string, torn []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(torn)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// open reads a journal whole and leaves it ready to be appended to. What cut
// is given is cut off when it returns.
func open(f file, now time.Time, cut func(torn []byte, at int64) error) (*Journal, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size < int64(len(magic)) {
		if size, err = begin(f, size); err != nil {
			return nil, err
		}
	}
	j := &Journal{file: f, turn: make(chan struct{}, 1), shut: make(chan struct{}), index: newIndex()}
	r, err := newReader(f, size)
	if err != nil {
		return nil, err
	}
	for {
		records, err := r.next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, errTorn) {
			if err := trim(f, r, cut); err != nil {
				return nil, err
			}
			break
		}
		if err != nil {
			return nil, err
		}
		if err := j.index.replay(records, now); err != nil {
			return nil, err
		}
	}
	j.end, j.chain = r.at, r.chain
	return j, nil
}

// begin writes the first bytes of a file that is empty, or was torn within them.
func begin(f file, size int64) (int64, error) {
	start := make([]byte, size)
	if err := readAt(f, start, 0); err != nil {
		return 0, err
	}
	if string(start) != magic[:size] && len(start) != countZeros(start) {
		return 0, fmt.Errorf("%w: not a journal", ErrCorrupt)
	}
	if _, err := f.WriteAt([]byte(magic), 0); err != nil {
		return 0, fmt.Errorf("beginning the journal: %w", err)
	}
	return int64(len(magic)), f.Sync()
}

func countZeros(p []byte) (n int) {
	for _, b := range p {
		if b == 0 {
			n++
		}
	}
	return n
}

func newReader(f io.ReaderAt, size int64) (*reader, error) {
	start := make([]byte, len(magic))
	if err := readAt(f, start, 0); err != nil {
		return nil, err
	}
	if string(start) != magic {
		return nil, fmt.Errorf("%w: not a journal, or of another version", ErrCorrupt)
	}
	return &reader{file: f, size: size, at: int64(len(magic)), chain: firstChain()}, nil
}

// trim cuts the torn frame off with which a file ends.
func trim(f file, r *reader, cut func(torn []byte, at int64) error) error {
	torn := make([]byte, min(r.size-r.at, headSize+maxFrame+chainSize))
	if err := readAt(f, torn, r.at); err != nil {
		return err
	}
	if err := cut(torn, r.at); err != nil {
		return fmt.Errorf("setting the torn end of the journal aside: %w", err)
	}
	if err := f.Truncate(r.at); err != nil {
		return fmt.Errorf("cutting the torn end of the journal off: %w", err)
	}
	return f.Sync()
}

// replay takes up a frame as it was written.
func (x *index) replay(frame []byte, now time.Time) error {
	records, err := parseRecords(frame)
	if err != nil {
		return err
	}
	for _, r := range records {
		switch {
		case r.Intent != nil && (&Entry{Intent: *r.Intent}).expired(now):
			// Expired: it can still be read, by Records.
		case r.Intent != nil:
			err = x.add(*r.Intent)
		case x.serials[string(r.Outcome.Serial.Bytes())] != nil:
			err = x.outcome(*r.Outcome)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return nil
}

// Records reads the whole journal in the order in which it was written, up to
// what was durable when it was called. It reads the file, not the index, and checks
// the digests again. It ends at the first error.
func (j *Journal) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		j.turn <- struct{}{}
		end := j.end
		<-j.turn
		r, err := newReader(j.file, end)
		if err != nil {
			yield(Record{}, err)
			return
		}
		for {
			frame, err := r.next()
			if err == io.EOF {
				return
			}
			if errors.Is(err, errTorn) {
				err = fmt.Errorf("%w: the frame at byte %d was whole before", ErrCorrupt, r.at)
			}
			var records []Record
			if err == nil {
				records, err = parseRecords(frame)
			}
			if err != nil {
				yield(Record{}, err)
				return
			}
			for _, record := range records {
				if !yield(record, nil) {
					return
				}
			}
		}
	}
}

// disk is the real file.
type disk struct{ *os.File }

// Sync is fdatasync: it waits for the content and for the length, which is what
// reading it back takes, and not for times.
func (d disk) Sync() error {
	for {
		err := syscall.Fdatasync(int(d.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}

func (d disk) Size() (int64, error) {
	info, err := d.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
