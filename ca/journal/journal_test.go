package journal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	start = time.Date(2030, 1, 2, 3, 4, 5, 600, time.UTC)
	cart  = spiffeid.RequireFromString("spiffe://mesh.test/ns/shop/sa/cart")
	other = spiffeid.RequireFromString("spiffe://mesh.test/ns/shop/sa/other")
)

// intent is the n-th of a test: a serial and a key of its own, valid for an hour.
func intent(n int) Intent {
	return Intent{
		Serial: big.NewInt(int64(n) + 1<<40), ID: cart, Time: start,
		NotAfter: start.Truncate(time.Second).Add(time.Hour - time.Second),
		Key:      [32]byte{byte(n), byte(n >> 8), 1}, Evidence: [32]byte{2}, Profile: [32]byte{3},
		TBS: bytes.Repeat([]byte{byte(n)}, 100+n%7),
	}
}

// memory is a disk that counts, fails and forgets what was not synced.
type memory struct {
	mu      sync.Mutex
	data    []byte
	durable int // bytes that a crash leaves
	syncs   int
	full    int               // as many bytes fit; 0: any
	sync    func(n int) error // called for each sync, may block
}

func (m *memory) ReadAt(p []byte, at int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at >= int64(len(m.data)) {
		return 0, io.EOF
	}
	n := copy(p, m.data[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

var errFull = errors.New("no space left on device")

func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fits := len(p)
	if m.full > 0 {
		fits = min(fits, max(0, m.full-int(at)))
	}
	if grow := int(at) + fits - len(m.data); grow > 0 {
		m.data = append(m.data, make([]byte, grow)...)
	}
	copy(m.data[at:], p[:fits])
	if fits < len(p) {
		return fits, errFull
	}
	return fits, nil
}

func (m *memory) Sync() error {
	m.mu.Lock()
	m.syncs++
	n, hook, size := m.syncs, m.sync, len(m.data)
	m.mu.Unlock()
	if hook != nil {
		if err := hook(n); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.durable = size
	m.mu.Unlock()
	return nil
}

func (m *memory) Truncate(size int64) error { m.data = m.data[:size]; return nil }
func (m *memory) Size() (int64, error)      { return int64(len(m.data)), nil }
func (m *memory) Close() error              { return nil }

func openMemory(t *testing.T, m *memory) *Journal {
	t.Helper()
	j, err := open(m, start, func([]byte, int64) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func serials(t *testing.T, j *Journal) (intents, outcomes []int64) {
	t.Helper()
	for r, err := range j.Records() {
		if err != nil {
			t.Fatal(err)
		}
		if r.Intent != nil {
			intents = append(intents, r.Intent.Serial.Int64()-1<<40)
		} else {
			outcomes = append(outcomes, r.Outcome.Serial.Int64()-1<<40)
		}
	}
	return intents, outcomes
}

// TestReadsBack: what was written is read, the whole of it, by the process that
// wrote it and by the next one.
func TestReadsBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j, err := Open(dir, start)
	if err != nil {
		t.Fatal(err)
	}
	issued := Outcome{Serial: intent(1).Serial, Time: start, Certificate: [32]byte{9}}
	refused := Outcome{Serial: intent(2).Serial, Time: start, Refused: "sign-failed"}
	for n := range 4 {
		if err := j.Append(t.Context(), intent(n)); err != nil {
			t.Fatal(err)
		}
	}
	for _, out := range []Outcome{issued, refused} {
		if err := j.Outcome(out); err != nil {
			t.Fatal(err)
		}
	}
	check := func(j *Journal) {
		t.Helper()
		if got, want := len(j.Live(cart, start)), 3; got != want { // 0 and 3 have no outcome, 2 was refused
			t.Errorf("%d live certificates, want %d", got, want)
		}
		e, ok := j.Lookup(intent(1).Serial, start)
		if !ok || e.Outcome == nil || e.Outcome.Certificate != issued.Certificate || !e.Issued() {
			t.Errorf("the issued one is %+v", e)
		}
		if e, _ := j.Lookup(intent(2).Serial, start); e.Issued() {
			t.Error("the refused one counts as issued")
		}
	}
	check(j)
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if j, err = Open(dir, start); err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	check(j)
	var got []Record
	for r, err := range j.Records() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	var want []Record
	for n := range 4 {
		in := intent(n)
		want = append(want, Record{Intent: &in})
	}
	want = append(want, Record{Outcome: &issued}, Record{Outcome: &refused})
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b *big.Int) bool { return a.Cmp(b) == 0 }), cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestLiveUntilNotAfter: an intent without an outcome counts as issued, until
// the last second of its validity and not a second longer.
func TestLiveUntilNotAfter(t *testing.T) {
	j := openMemory(t, &memory{})
	if err := j.Append(t.Context(), intent(0)); err != nil {
		t.Fatal(err)
	}
	last := intent(0).NotAfter.Add(999 * time.Millisecond)
	if len(j.Live(cart, last)) != 1 {
		t.Error("expired within its last second")
	}
	if len(j.Live(cart, last.Add(time.Millisecond))) != 0 {
		t.Error("lives after its last second")
	}
}

// TestDurableBefore: when Append returns, the intent survives a crash (I1).
func TestDurableBefore(t *testing.T) {
	m := &memory{}
	j := openMemory(t, m)
	for n := range 20 {
		if err := j.Append(t.Context(), intent(n)); err != nil {
			t.Fatal(err)
		}
		crashed := openMemory(t, &memory{data: bytes.Clone(m.data[:m.durable])})
		if _, ok := crashed.Lookup(intent(n).Serial, start); !ok {
			t.Fatalf("intent %d is not there after a crash", n)
		}
	}
}

// TestGroupCommit: while one sync runs, all who come share the next one.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		j := openMemory(t, m)
		before := m.syncs
		release := make(chan struct{})
		m.sync = func(int) error { <-release; return nil }
		const callers = 500
		results := make(chan error, callers)
		for n := range callers {
			go func() { results <- j.Append(t.Context(), intent(n)) }()
		}
		synctest.Wait() // one writes, the others wait
		if got := len(results); got != 0 {
			t.Errorf("%d appends returned before the sync did", got)
		}
		close(release)
		for range callers {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if got, most := m.syncs-before, 2; got > most {
			t.Errorf("%d syncs for %d intents, want at most %d", got, callers, most)
		}
		if intents, _ := serials(t, j); len(intents) != callers {
			t.Errorf("%d intents in the file, want %d", len(intents), callers)
		}
	})
}

// TestCallerLeaves: a caller whose time is up leaves, and the intent is written
// with the next one.
func TestCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		j := openMemory(t, m)
		release := make(chan struct{})
		m.sync = func(int) error { <-release; return nil }
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- j.Append(t.Context(), intent(0)) }()
		synctest.Wait()
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		go func() { second <- j.Append(ctx, intent(1)) }()
		if err := <-second; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the deadline", err)
		}
		close(release)
		if err := <-first; err != nil {
			t.Error(err)
		}
		if err := j.Append(t.Context(), intent(2)); err != nil {
			t.Error(err)
		}
		if got, _ := serials(t, j); !cmp.Equal(got, []int64{0, 1, 2}) {
			t.Errorf("intents %v in the file", got)
		}
	})
}

// TestFullDisk and TestFailedSync: after the first error nothing is accepted any
// more, not even when the disk is well again; a new opening finds what was durable.
func TestFullDisk(t *testing.T) {
	m := &memory{}
	j := openMemory(t, m)
	if err := j.Append(t.Context(), intent(0)); err != nil {
		t.Fatal(err)
	}
	m.full = len(m.data) + 50
	if err := j.Append(t.Context(), intent(1)); !errors.Is(err, ErrBroken) || !errors.Is(err, errFull) {
		t.Fatalf("on a full disk: %v", err)
	}
	m.full = 0
	checkBroken(t, j, m)
}

func TestFailedSync(t *testing.T) {
	m := &memory{}
	j := openMemory(t, m)
	if err := j.Append(t.Context(), intent(0)); err != nil {
		t.Fatal(err)
	}
	failure := errors.New("EIO")
	m.sync = func(int) error { return failure }
	if err := j.Append(t.Context(), intent(1)); !errors.Is(err, ErrBroken) || !errors.Is(err, failure) {
		t.Fatalf("with a failing sync: %v", err)
	}
	m.sync = nil // the kernel forgets an error that it has told (fsyncgate)
	m.data = m.data[:m.durable]
	checkBroken(t, j, m)
}

// TestFailureReachesAll: who waited for the next sync while one failed is told
// no, and the next sync is not tried.
func TestFailureReachesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		j := openMemory(t, m)
		before := m.syncs
		release, failure := make(chan struct{}), errors.New("EIO")
		m.sync = func(n int) error {
			<-release
			if n == before+1 {
				return failure
			}
			return nil
		}
		results := make(chan error, 10)
		for n := range 10 {
			go func() { results <- j.Append(t.Context(), intent(n)) }()
		}
		synctest.Wait()
		close(release)
		for range 10 {
			if err := <-results; !errors.Is(err, ErrBroken) {
				t.Errorf("%v, want ErrBroken", err)
			}
		}
		if got, want := m.syncs-before, 1; got != want {
			t.Errorf("%d syncs, want %d", got, want)
		}
	})
}

func checkBroken(t *testing.T, j *Journal, m *memory) {
	t.Helper()
	select {
	case <-j.Broken():
	default:
		t.Error("nobody is told that the journal is broken")
	}
	if err := j.Append(t.Context(), intent(2)); !errors.Is(err, ErrBroken) {
		t.Errorf("the next intent: %v, want ErrBroken", err)
	}
	if err := j.Outcome(Outcome{Serial: intent(0).Serial, Time: start, Certificate: [32]byte{1}}); !errors.Is(err, ErrBroken) {
		t.Errorf("the next outcome: %v, want ErrBroken", err)
	}
	if err := j.Close(); !errors.Is(err, ErrBroken) {
		t.Errorf("closing: %v, want ErrBroken", err)
	}
	again := openMemory(t, m)
	if got, _ := serials(t, again); !cmp.Equal(got, []int64{0}) {
		t.Errorf("opened again it has %v, want the first alone", got)
	}
	if err := again.Append(t.Context(), intent(3)); err != nil {
		t.Errorf("opened again: %v", err)
	}
}

func TestRefused(t *testing.T) {
	j := openMemory(t, &memory{})
	if err := j.Append(t.Context(), intent(0)); err != nil {
		t.Fatal(err)
	}
	sameKey := intent(1)
	sameKey.Key, sameKey.ID = intent(0).Key, other
	table := []struct {
		name   string
		change func(*Intent)
		want   error // nil: any
	}{
		{"the same serial", func(in *Intent) { in.Serial = intent(0).Serial }, ErrDuplicate},
		{"another's key", func(in *Intent) { *in = sameKey }, ErrKeyTaken},
		{"no serial", func(in *Intent) { in.Serial = nil }, nil},
		{"serial 0", func(in *Intent) { in.Serial = new(big.Int) }, nil},
		{"a negative serial", func(in *Intent) { in.Serial = big.NewInt(-1) }, nil},
		{"a serial of 21 bytes", func(in *Intent) { in.Serial = new(big.Int).Lsh(big.NewInt(1), 160) }, nil},
		{"no identity", func(in *Intent) { in.ID = spiffeid.ID{} }, nil},
		{"nothing to sign", func(in *Intent) { in.TBS = nil }, nil},
		{"a megabyte to sign", func(in *Intent) { in.TBS = make([]byte, maxTBS+1) }, nil},
	}
	for _, r := range table {
		in := intent(1)
		r.change(&in)
		if err := j.Append(t.Context(), in); err == nil || !errors.Is(err, r.want) && r.want != nil {
			t.Errorf("%s: %v, want %v", r.name, err, r.want)
		}
	}
	if err := j.Outcome(Outcome{Serial: intent(5).Serial, Certificate: [32]byte{1}}); !errors.Is(err, ErrUnknown) {
		t.Errorf("an outcome without an intent: %v", err)
	}
	if err := j.Outcome(Outcome{Serial: intent(0).Serial}); err == nil {
		t.Error("an outcome that says nothing")
	}
	done := Outcome{Serial: intent(0).Serial, Certificate: [32]byte{1}}
	if err := j.Outcome(done); err != nil {
		t.Error(err)
	}
	if err := j.Outcome(done); !errors.Is(err, ErrDuplicate) {
		t.Errorf("a second outcome: %v", err)
	}
	expired := sameKey
	expired.Time, expired.NotAfter = start.Add(time.Hour), start.Add(2*time.Hour)
	if err := j.Append(t.Context(), expired); err != nil {
		t.Errorf("a key whose certificate has expired: %v", err)
	}
	if got, _ := serials(t, j); !cmp.Equal(got, []int64{0, 1}) {
		t.Errorf("in the file: %v", got)
	}
}

// TestForgetsExpired: memory holds what has not expired, the file everything.
func TestForgetsExpired(t *testing.T) {
	m := &memory{}
	j := openMemory(t, m)
	const total = 5000
	for n := range total {
		in := intent(n)
		in.Time = start.Add(time.Duration(n) * time.Second)
		in.NotAfter = in.Time.Add(time.Minute).Truncate(time.Second)
		in.TBS = in.TBS[:10]
		if err := j.Append(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	if got, most := len(j.index.serials), 1100; got > most || got != len(j.index.keys) {
		t.Errorf("%d certificates and %d keys in memory, want at most %d", got, len(j.index.keys), most)
	}
	if got, _ := serials(t, j); len(got) != total {
		t.Errorf("%d intents in the file, want %d", len(got), total)
	}
	if got, want := len(j.Live(cart, start.Add(total*time.Second))), 60; got != want {
		t.Errorf("%d live, want %d", got, want)
	}
}

// TestClosed: nothing goes in after Close, and a second Close is harmless.
func TestClosed(t *testing.T) {
	j := openMemory(t, &memory{})
	for range 2 {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := j.Append(t.Context(), intent(0)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j, err := Open(dir, start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, start); !errors.Is(err, ErrLocked) {
		t.Errorf("open twice: %v, want ErrLocked", err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, FileName): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode().Perm(), err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, exposed := range []struct {
		path string
		mode os.FileMode
	}{{dir, 0o750}, {dir, 0o701}, {filepath.Join(dir, FileName), 0o640}, {filepath.Join(dir, FileName), 0o604}} {
		info, err := os.Stat(exposed.path)
		if err != nil {
			t.Fatal(err)
		}
		os.Chmod(exposed.path, exposed.mode)
		if j, err := Open(dir, start); err == nil {
			j.Close()
			t.Errorf("%s with mode %#o: opened", exposed.path, exposed.mode)
		}
		os.Chmod(exposed.path, info.Mode().Perm())
	}
	if err := os.Rename(filepath.Join(dir, FileName), filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	os.Symlink("moved", filepath.Join(dir, FileName))
	if _, err := Open(dir, start); err == nil {
		t.Error("a link: opened")
	}
}

func BenchmarkAppend(b *testing.B) {
	j, err := Open(filepath.Join(b.TempDir(), "journal"), start)
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	var mu sync.Mutex
	n := 0
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			n++
			in := intent(n)
			mu.Unlock()
			in.Key = [32]byte{byte(n), byte(n >> 8), byte(n >> 16), 7}
			if err := j.Append(context.Background(), in); err != nil {
				b.Error(err)
			}
		}
	})
}
