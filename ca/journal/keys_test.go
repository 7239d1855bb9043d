package journal

import (
	"bytes"
	"errors"
	"math/big"
	"testing"
	"testing/synctest"
	"time"
)

// until is the n-th intent with the key of the first, for another time.
func until(n int, at, life time.Duration) Intent {
	in := intent(n)
	in.Key = intent(0).Key
	in.Time = start.Add(at)
	in.NotAfter = in.Time.Truncate(time.Second).Add(life - time.Second)
	return in
}

// TestKeyIsTakenUntilTheLast: a key is another's until the last of its
// certificates ends, whatever was issued for it since and whatever came to nothing.
func TestKeyIsTakenUntilTheLast(t *testing.T) {
	theirs := until(2, 10*time.Minute, time.Hour)
	theirs.ID = other
	for name, second := range map[string]struct {
		Intent
		refused string
	}{
		"a shorter one":                {until(1, time.Minute, time.Minute), ""},
		"a longer one that failed":     {until(1, time.Minute, 2*time.Hour), "sign-failed"},
		"as long a one that failed":    {until(1, 0, time.Hour), "sign-failed"},
		"a shorter one, which failed":  {until(1, time.Minute, time.Minute), "sign-failed"},
		"one of the same second again": {until(1, 0, time.Hour), ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{}
			j := openMemory(t, m)
			if err := errors.Join(j.Append(t.Context(), until(0, 0, time.Hour)), j.Append(t.Context(), second.Intent)); err != nil {
				t.Fatal(err)
			}
			out := Outcome{Serial: second.Serial, Time: start, Certificate: [32]byte{1}}
			if second.refused != "" {
				out.Certificate, out.Refused = [32]byte{}, second.refused
			}
			if err := j.Outcome(out); err != nil {
				t.Fatal(err)
			}
			if err := j.Append(t.Context(), theirs); !errors.Is(err, ErrKeyTaken) {
				t.Errorf("another's intent: %v, want ErrKeyTaken", err)
			}
			later := theirs
			later.Serial = intent(3).Serial
			later.Time, later.NotAfter = start.Add(2*time.Hour), start.Add(3*time.Hour).Truncate(time.Second)
			if second.refused == "" {
				if err := j.Append(t.Context(), later); err != nil {
					t.Errorf("after the last one ended: %v", err)
				}
			}
		})
	}
}

// TestOpensWithOneKeyOfTwo: what a clock that jumped let in is history. It is
// read, and does not keep the CA from starting.
func TestOpensWithOneKeyOfTwo(t *testing.T) {
	theirs := until(1, 10*time.Minute, time.Hour)
	theirs.ID = other
	records := func(all ...Intent) (text []byte) {
		for _, in := range all {
			record, err := in.marshal()
			if err != nil {
				t.Fatal(err)
			}
			text = append(text, record...)
		}
		return text
	}
	frame, _ := seal(firstChain(), records(until(0, 0, time.Hour), theirs))
	m := &memory{data: append([]byte(magic), frame...)}
	j, err := open(m, start.Add(20*time.Minute), func([]byte, int64) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []Intent{until(0, 0, time.Hour), theirs} {
		if live := j.Live(in.ID, start.Add(20*time.Minute)); len(live) != 1 {
			t.Errorf("%s: %d live, want 1", in.ID, len(live))
		}
	}
	third := until(2, 20*time.Minute, time.Hour)
	if err := j.Append(t.Context(), third); !errors.Is(err, ErrKeyTaken) {
		t.Errorf("who lost the key: %v, want ErrKeyTaken", err)
	}
}

// TestSyncWaits: what is being written when Sync is called is durable when it
// returns.
func TestSyncWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		j := openMemory(t, m)
		release := make(chan struct{})
		m.sync = func(int) error { <-release; return nil }
		appended, synced := make(chan error, 1), make(chan error, 1)
		go func() { appended <- j.Append(t.Context(), intent(1)) }()
		synctest.Wait() // it is being written
		go func() { synced <- j.Sync(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-synced:
			t.Errorf("Sync returned %v, and nothing is durable yet", err)
			synced <- nil
		default:
		}
		close(release)
		if err := errors.Join(<-appended, <-synced); err != nil {
			t.Error(err)
		}
	})
}

// TestHostileKey: the recipe that kept a CA shut for good. A short certificate
// hid a long one of the same key; a stranger's came between; the CA restarted.
func TestHostileKey(t *testing.T) {
	m := &memory{}
	j := openMemory(t, m)
	theirs := until(2, 2*time.Minute, time.Hour)
	theirs.ID, theirs.Serial = other, big.NewInt(77)
	for _, in := range []Intent{until(0, 0, time.Hour), until(1, time.Minute, 5*time.Second), theirs} {
		if err := j.Append(t.Context(), in); err != nil && !errors.Is(err, ErrKeyTaken) {
			t.Fatal(err)
		}
	}
	again := &memory{data: bytes.Clone(m.data)}
	if _, err := open(again, start.Add(3*time.Minute), func([]byte, int64) error { return nil }); err != nil {
		t.Errorf("the next start: %v", err)
	}
}
