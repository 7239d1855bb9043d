// Package files reads policies, and all other objects that say what policy is,
// from a directory, and again when it changes.
//
// It is for machines without Kubernetes. A change is seen within half a second.
// What is being written is not read: a directory counts when two looks at it in
// a row show the same. A file that is refused keeps its last good objects, so
// that a slip of the pen opens nothing; a file that is gone takes its objects
// along. What a refused file without a good past was to say nobody knows: until
// it is read or gone, the set stays whole as it was. Start at [Watch].
package files

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// Interval is the time between two looks at the directory.
const Interval = 150 * time.Millisecond

// racy is how long after a file's last change its size and times may still be
// those of another content: file systems' clocks are coarse.
const racy = 2 * time.Second

// Watch calls emit with all objects of the files in dir (*.yaml, *.yml, *.json;
// none that begins with a dot; not those in folders) at once, and again after
// each change, until ctx ends. It calls emit with the whole set, sorted, never
// twice at once, and with an error that joins what is wrong with which files,
// [parse.Error]s among others: what such a file last said stays in the set. A
// object that two files have is taken from the first by name. While a file is
// refused that was never good, the set is the one before it came. Watch returns
// nil when ctx ends, and an error where dir, or one of its files, cannot be read
// or is refused at the beginning; when dir cannot be read later, all objects
// stay.
func Watch(ctx context.Context, dir string, emit func(access.Objects, error)) error {
	w := &watcher{dir: dir, emit: emit}
	seen, err := w.look(nil)
	if err != nil {
		return fmt.Errorf("reading the policies: %w", err)
	}
	if err := w.load(seen); err != nil {
		return fmt.Errorf("reading the policies: %w", err)
	}
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		last := seen
		if seen, err = w.look(last); err != nil {
			seen = last
			w.tell(fmt.Errorf("reading the policies: %w", err))
			continue
		}
		if same(seen, last) && (w.broken || !same(seen, w.loaded)) {
			if err := w.load(seen); err != nil {
				w.emit(w.all, err)
			}
		}
	}
}

// A watcher is one call of Watch.
type watcher struct {
	dir  string
	emit func(access.Objects, error)

	loaded map[string]file           // what was last emitted
	good   map[string]access.Objects // by file, the last that was not refused
	all    access.Objects            // what was last emitted
	broken bool                      // the directory could not be read when last told
}

// A file is what one look saw of it.
type file struct {
	info os.FileInfo
	data []byte
	sum  [sha256.Size]byte
	err  error
}

// look reads the directory. A file that looks as it did in last is not read
// again.
func (w *watcher) look(last map[string]file) (map[string]file, error) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return nil, err
	}
	seen := map[string]file{}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			continue
		}
		path := filepath.Join(w.dir, name)
		info, err := os.Stat(path) // of what a link points to
		switch old, ok := last[name]; {
		case errors.Is(err, os.ErrNotExist) && entry.Type()&os.ModeSymlink == 0:
			continue // gone meanwhile; a link that leads nowhere is no such thing
		case err != nil:
			seen[name] = failed(err)
		case info.IsDir():
			continue
		case ok && old.unchanged(info):
			seen[name] = old
		default:
			seen[name] = read(path, info)
		}
	}
	return seen, nil
}

func (f file) unchanged(now os.FileInfo) bool {
	return f.err == nil && os.SameFile(f.info, now) && f.info.Size() == now.Size() &&
		f.info.ModTime().Equal(now.ModTime()) && time.Since(now.ModTime()) > racy
}

func read(path string, info os.FileInfo) file {
	if !info.Mode().IsRegular() {
		return failed(fmt.Errorf("%s is no regular file", path))
	}
	f, err := os.Open(path)
	if err != nil {
		return failed(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, parse.MaxFile+1))
	if err != nil {
		return failed(err)
	}
	return file{info: info, data: data, sum: sha256.Sum256(data)}
}

func failed(err error) file { return file{err: err, sum: sha256.Sum256([]byte(err.Error()))} }

func same(a, b map[string]file) bool {
	if len(a) != len(b) {
		return false
	}
	for name, f := range a {
		if g, ok := b[name]; !ok || f.sum != g.sum || (f.err == nil) != (g.err == nil) {
			return false
		}
	}
	return true
}

// load parses what changed and emits the whole. It returns an error, and emits
// nothing, where a file is refused that was never good: its objects are not
// known, and a file of another name may have had them.
func (w *watcher) load(seen map[string]file) error {
	good := map[string]access.Objects{}
	var problems []error
	unknown := false
	owner := map[string]string{} // of an object, the file
	var all access.Objects
	for _, name := range sortedNames(seen) {
		objects, err := w.objects(name, seen[name])
		if err != nil {
			problems = append(problems, err)
			unknown = unknown || len(objects.Keys()) == 0 // a good file has one at least
		}
		good[name] = objects
		all.Add(objects.Without(func(key string) bool {
			first, taken := owner[key]
			if taken {
				problems = append(problems, &parse.Error{Name: filepath.Join(w.dir, name), Reason: "duplicate-policy", Detail: fmt.Sprintf("%s is in %s too, and is taken from there", key, first)})
				return true
			}
			owner[key] = name
			return false
		}))
	}
	w.loaded, w.broken = seen, false
	if unknown {
		return errors.Join(problems...)
	}
	all.Sort()
	w.good, w.all = good, all
	w.emit(all, errors.Join(problems...))
	return nil
}

// objects are the file's, or the last good ones and an error.
func (w *watcher) objects(name string, f file) (access.Objects, error) {
	if f.err != nil {
		return w.good[name], f.err
	}
	objects, err := access.Read(filepath.Join(w.dir, name), f.data)
	if err != nil {
		return w.good[name], err
	}
	return objects, nil
}

// tell emits, once, that the directory cannot be read.
func (w *watcher) tell(err error) {
	if !w.broken {
		w.broken = true
		w.emit(w.all, err)
	}
}

func sortedNames(files map[string]file) []string {
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
