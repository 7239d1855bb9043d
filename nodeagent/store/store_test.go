package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/nodeagent"
)

var ends = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func record(i int) Record {
	uid := fmt.Sprintf("5f3c0000-0000-4000-8000-%012d", i)
	return Record{
		Workload: nodeagent.Workload{
			Pod:   attest.Pod{Namespace: "shop", Name: "cart", UID: uid, ServiceAccount: "cart"},
			Token: attest.NewToken("eyJhbGciOiJSUzI1NiJ9.e30.c2ln"),
		},
		Expires: ends,
		Targets: []string{"/var/lib/kubelet/pods/" + uid + "/volumes/kubernetes.io~csi/identity/mount"},
	}
}

// anywhere is a Store on a folder that Open would refuse: for all but the place.
func anywhere(t *testing.T) (*Store, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{root: root}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

// plain is a record with its token told, for comparison.
type plain struct {
	Pod     attest.Pod
	Token   string
	Expires time.Time
	Targets []string
}

func told(records ...Record) []plain {
	var list []plain
	for _, r := range records {
		list = append(list, plain{r.Workload.Pod, r.Workload.Token.Reveal(), r.Expires, r.Targets})
	}
	return list
}

func TestPutLoadDelete(t *testing.T) {
	s, dir := anywhere(t)
	a, b, c := record(1), record(2), record(3)
	b.Workload.Token, b.Expires = attest.Token{}, time.Time{}
	c.Targets = []string{"/a/mount", "/b/mount"}
	for _, r := range []Record{c, b, a, a} {
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(told(a, b, c), told(got...)); diff != "" {
		t.Error(diff)
	}
	a.Workload.Token = attest.NewToken("newer")
	if err := errors.Join(s.Put(a), s.Delete(b.Workload.Pod.UID), s.Delete(b.Workload.Pod.UID)); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Load(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(told(a, c), told(got...)); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(filepath.Join(dir, a.Workload.Pod.UID+suffix))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestPutAtOnce(t *testing.T) {
	s, dir := anywhere(t)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if err := s.Put(record(i % 10)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := s.Load(); err != nil || len(got) != 10 {
		t.Errorf("%d records, %v; want 10", len(got), err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(names) != 0 {
		t.Errorf("left over: %v", names)
	}
}

// What is not a record of ours is removed, told of, and keeps nobody else away.
func TestLoadAmongRubble(t *testing.T) {
	s, dir := anywhere(t)
	good, other := record(1), record(2)
	if err := s.Put(good); err != nil {
		t.Fatal(err)
	}
	data, err := encode(other)
	if err != nil {
		t.Fatal(err)
	}
	uid := other.Workload.Pod.UID
	rubble := map[string]func(path string) error{
		uid + ".new":                      func(p string) error { return os.WriteFile(p, data, 0o600) },
		"cut" + suffix:                    func(p string) error { return os.WriteFile(p, data[:40], 0o600) },
		"empty" + suffix:                  func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"of-another-name" + suffix:        func(p string) error { return os.WriteFile(p, data, 0o600) },
		"large" + suffix:                  func(p string) error { return os.WriteFile(p, make([]byte, maxRecord+1), 0o600) },
		"folder" + suffix:                 func(p string) error { return os.Mkdir(p, 0o700) },
		uid + suffix:                      func(p string) error { return os.Symlink(good.Workload.Pod.UID+suffix, p) },
		"pipe" + suffix:                   func(p string) error { return unix.Mkfifo(p, 0o600) },
		"out" + suffix:                    func(p string) error { return os.Symlink("/etc/passwd", p) },
		"no-suffix":                       func(p string) error { return os.WriteFile(p, data, 0o600) },
		strings.Repeat("x", 200) + suffix: func(p string) error { return os.WriteFile(p, []byte("{}"), 0o600) },
	}
	for name, leave := range rubble {
		if err := leave(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Load()
	if diff := cmp.Diff(told(good), told(got...)); diff != "" {
		t.Error(diff)
	}
	if err == nil || strings.Count(err.Error(), "record ") < len(rubble) {
		t.Errorf("the error does not tell of all %d: %v", len(rubble), err)
	}
	if strings.Contains(fmt.Sprint(err), "eyJ") {
		t.Errorf("the error quotes a token: %v", err)
	}
	if got, err = s.Load(); err != nil || len(got) != 1 {
		t.Errorf("the second time: %d records, %v", len(got), err)
	}
}

// A full tmpfs leaves the old record whole.
func TestPutFails(t *testing.T) {
	s, dir := anywhere(t)
	if err := s.Put(record(1)); err != nil {
		t.Fatal(err)
	}
	// A folder in the way of the temporary file stands for a disk that is full.
	if err := os.Mkdir(filepath.Join(dir, record(1).Workload.Pod.UID+".new"), 0o700); err != nil {
		t.Fatal(err)
	}
	newer := record(1)
	newer.Targets = []string{"/newer"}
	if err := s.Put(newer); err == nil {
		t.Fatal("no error")
	}
	got, err := s.Load()
	if diff := cmp.Diff(told(record(1)), told(got...)); diff != "" {
		t.Error(diff, err)
	}
}
