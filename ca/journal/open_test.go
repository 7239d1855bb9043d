package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// written is a journal of n frames of one intent each, and where each begins.
func written(t testing.TB, n int) (data []byte, begins []int) {
	t.Helper()
	m := &memory{}
	j, err := open(m, start, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		begins = append(begins, len(m.data))
		if err := j.Append(t.Context(), intent(i)); err != nil {
			t.Fatal(err)
		}
	}
	return m.data, begins
}

// reopen opens changed bytes and returns how many intents are left, and what was cut.
func reopen(data []byte) (intents int, torn []byte, err error) {
	m := &memory{data: bytes.Clone(data)}
	j, err := open(m, start, func(cut []byte, _ int64) error { torn = cut; return nil })
	if err != nil {
		return 0, nil, err
	}
	for r, err := range j.Records() {
		if err != nil {
			return 0, torn, err
		}
		if r.Intent != nil {
			intents++
		}
	}
	return intents, torn, nil
}

// TestCrashAtEveryByte: whatever part of the last frame reached the disk, with
// zeros behind it or nothing, all earlier intents are there, the last is there
// whole or not at all, and the journal goes on.
func TestCrashAtEveryByte(t *testing.T) {
	data, begins := written(t, 3)
	last := begins[2]
	for end := last; end <= len(data); end++ {
		for name, after := range map[string]int{"cut": 0, "a zero": 1, "zeros": len(data) - end, "a page of zeros": 4096} {
			if name == "zeros" && after == 0 {
				continue
			}
			crashed := append(bytes.Clone(data[:end]), make([]byte, after)...)
			want := 2
			if end == len(data) || bytes.Equal(crashed, data) {
				want = 3
			}
			got, torn, err := reopen(crashed)
			if name == "a page of zeros" && end >= last+headSize && end < len(data) || name == "a zero" && end == len(data)-1 {
				// The frame's length is known and more follows than belongs to it, or the
				// last byte happens to be missing: the first is not how files grow.
				continue
			}
			if err != nil || got != want {
				t.Errorf("%d of %d bytes of the frame, %s: %d intents, want %d; %v", end-last, len(data)-last, name, got, want, err)
			}
			if lost := crashed[last:]; want == 2 && !bytes.Equal(torn, lost) {
				t.Errorf("%d bytes, %s: %d bytes set aside, want %d", end-last, name, len(torn), len(lost))
			}
		}
	}
}

// TestCorrupt: a change of any bit before the last frame keeps the journal shut.
func TestCorrupt(t *testing.T) {
	data, begins := written(t, 3)
	for at := range begins[2] {
		for _, bit := range []byte{1, 0x80} {
			changed := bytes.Clone(data)
			changed[at] ^= bit
			if n, _, err := reopen(changed); !errors.Is(err, ErrCorrupt) {
				t.Errorf("byte %d changed: opened with %d intents, %v", at, n, err)
			}
		}
	}
	for name, changed := range map[string][]byte{
		"a frame removed":     append(bytes.Clone(data[:begins[1]]), data[begins[2]:]...),
		"a frame twice":       append(bytes.Clone(data), data[begins[2]:]...),
		"two frames swapped":  bytes.Join([][]byte{data[:begins[0]], data[begins[1]:begins[2]], data[begins[0]:begins[1]], data[begins[2]:]}, nil),
		"zeros in the middle": bytes.Join([][]byte{data[:begins[1]], make([]byte, begins[2]-begins[1]), data[begins[2]:]}, nil),
		"another file":        []byte("SQLite format 3\x00 and so on, for longer than the magic"),
		"a short other file":  []byte("hello"),
		"a later version":     bytes.Replace(data, []byte("journal 1"), []byte("journal 2"), 1),
	} {
		// A frame that is put at the end reads as a torn one: its digest does not fit, and nothing follows.
		n, torn, err := reopen(changed)
		if name == "a frame removed" || name == "a frame twice" {
			if want := map[string]int{"a frame removed": 1, "a frame twice": 3}[name]; err != nil || n != want || len(torn) == 0 {
				t.Errorf("%s: %d intents, want %d, %d bytes set aside, %v", name, n, want, len(torn), err)
			}
			continue
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: opened with %d intents, %v", name, n, err)
		}
	}
}

// TestSealed: a journal that was closed loses no intent to a bad last byte.
func TestSealed(t *testing.T) {
	m := &memory{}
	j := openMemory(t, m)
	if err := j.Append(t.Context(), intent(0)); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	m.data[len(m.data)-1] ^= 1
	if n, torn, err := reopen(m.data); n != 1 || len(torn) == 0 || err != nil {
		t.Errorf("%d intents, %d bytes set aside, %v", n, len(torn), err)
	}
}

// TestBadRecords: a frame whose digest is right and whose records are not was
// written so. It is not torn, wherever it stands.
func TestBadRecords(t *testing.T) {
	good, err := intent(0).marshal()
	if err != nil {
		t.Fatal(err)
	}
	outcome, err := Outcome{Serial: intent(0).Serial, Certificate: [32]byte{1}}.marshal()
	if err != nil {
		t.Fatal(err)
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	badID := bytes.Replace(good, []byte("spiffe://"), []byte("https:///"), 1)
	var table []struct {
		name    string
		records []byte
	}
	add := func(name string, records []byte) {
		table = append(table, struct {
			name    string
			records []byte
		}{name, records})
	}
	add("an unknown kind", join([]byte{9}, good[1:]))
	add("kind 0", join([]byte{0}, good[1:]))
	add("an intent as an outcome", join([]byte{kindOutcome}, good[1:]))
	add("an outcome as an intent", join([]byte{kindIntent}, outcome[1:]))
	add("an identity that is none", badID)
	add("a good one and a byte", join(good, []byte{1}))
	add("a good one twice", join(good, good))
	add("two outcomes", join(good, outcome, outcome))
	add("an empty intent", []byte{kindIntent, 0, 0, 0})
	add("an empty outcome", []byte{kindOutcome, 0, 0, 0})
	add("a byte more inside", join([]byte{kindIntent}, length(len(good)-4+1), good[4:], []byte{0}))
	for n := 1; n < len(good); n += 9 {
		add(fmt.Sprintf("the first %d bytes", n), good[:n])
		if n > 4 {
			add(fmt.Sprintf("cut to %d bytes", n), join([]byte{kindIntent}, length(n-4), good[4:n]))
		}
	}
	if got, want := len(table), 68; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	for _, r := range table {
		frame, _ := seal(firstChain(), r.records)
		if n, _, err := reopen(join([]byte(magic), frame)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: opened with %d intents, %v", r.name, n, err)
		}
	}
}

func length(n int) []byte { return []byte{byte(n >> 16), byte(n >> 8), byte(n)} }

// TestHugeLength: a length that nobody writes is not believed, even with a
// checksum of its own.
func TestHugeLength(t *testing.T) {
	head := binary.BigEndian.AppendUint32(nil, maxFrame+1)
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	data := append([]byte(magic), head...)
	if _, _, err := reopen(append(data, 1)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, want ErrCorrupt", err)
	}
}

// TestTornIsKept: what is cut off lies beside the journal, and what could not be
// set aside is not cut off.
func TestTornIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	data, begins := written(t, 2)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, FileName)
	torn := data[:len(data)-5]
	if err := os.WriteFile(path, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := Open(dir, start)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := serials(t, j); !cmp.Equal(got, []int64{0}) {
		t.Errorf("intents %v", got)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(fmt.Sprintf("%s.torn-%d", path, begins[1]))
	if err != nil || !bytes.Equal(kept, torn[begins[1]:]) {
		t.Errorf("kept %d bytes, want %d; %v", len(kept), len(torn)-begins[1], err)
	}

	m := &memory{data: bytes.Clone(torn)}
	if _, err := open(m, start, func([]byte, int64) error { return errFull }); !errors.Is(err, errFull) {
		t.Errorf("opened without setting the torn end aside: %v", err)
	}
	if !bytes.Equal(m.data, torn) {
		t.Error("cut off what could not be set aside")
	}
}

// FuzzOpen: whatever a file holds, opening it ends, and what opens goes on and
// reads back.
func FuzzOpen(f *testing.F) {
	data, begins := written(f, 3)
	f.Add(data)
	f.Add(data[:begins[2]+20])
	f.Add(append(bytes.Clone(data[:begins[1]]), make([]byte, 100)...))
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		n, _, err := reopen(data)
		if err != nil {
			return
		}
		m := &memory{data: bytes.Clone(data)}
		j, err := open(m, start, func([]byte, int64) error { return nil })
		if err != nil {
			t.Fatalf("opens once: %v", err)
		}
		in := intent(1 << 20)
		if err := j.Append(t.Context(), in); err != nil {
			t.Fatalf("does not go on: %v", err)
		}
		if again, _, err := reopen(m.data); err != nil || again != n+1 {
			t.Errorf("%d intents, want %d: %v", again, n+1, err)
		}
	})
}
