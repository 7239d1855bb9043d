package journal

import (
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// An index holds what has not expired, without the to-be-signed bytes.
type index struct {
	serials map[string]*Entry // by the serial's bytes
	ids     map[spiffeid.ID][]*Entry
	keys    map[[32]byte]*Entry // of each key the one that ends last
	sweepAt int                 // how many entries there are when the expired ones are dropped next
}

func newIndex() index {
	return index{serials: map[string]*Entry{}, ids: map[spiffeid.ID][]*Entry{}, keys: map[[32]byte]*Entry{}, sweepAt: 1024}
}

// intent takes up a new intent, if its key is no other identity's.
func (x *index) intent(in Intent) error {
	if e := x.keys[in.Key]; e != nil && e.ID != in.ID && !e.expired(in.Time) && e.Issued() {
		return fmt.Errorf("%w: %s", ErrKeyTaken, e.ID)
	}
	return x.add(in)
}

// add takes up an intent that is or will be written. Whose the key was is not
// asked: what stands in the file is history, and none keeps a CA from starting.
func (x *index) add(in Intent) error {
	key := string(in.Serial.Bytes())
	if x.serials[key] != nil {
		return fmt.Errorf("%w: intent %x", ErrDuplicate, in.Serial)
	}
	if len(x.serials) >= x.sweepAt {
		x.sweep(in.Time)
		x.sweepAt = max(1024, 2*len(x.serials)) // so that a sweep costs each entry a constant
	}
	in.TBS = nil
	e := &Entry{Intent: in}
	x.serials[key] = e
	x.ids[in.ID] = append(x.ids[in.ID], e)
	x.holdKey(e)
	return nil
}

// holdKey notes whose a key is: of two certificates the one that ends later says,
// so that a short one does not hide it.
func (x *index) holdKey(e *Entry) {
	if held := x.keys[e.Key]; held == nil || !held.Issued() || !held.NotAfter.After(e.NotAfter) {
		x.keys[e.Key] = e
	}
}

func (x *index) outcome(out Outcome) error {
	e := x.serials[string(out.Serial.Bytes())]
	switch {
	case e == nil:
		return fmt.Errorf("%w: outcome of %x", ErrUnknown, out.Serial)
	case e.Outcome != nil:
		return fmt.Errorf("%w: outcome of %x", ErrDuplicate, out.Serial)
	}
	e.Outcome = &out
	if !e.Issued() && x.keys[e.Key] == e {
		// It came to nothing, and may have stood before one that did not.
		for _, earlier := range x.ids[e.ID] {
			if earlier.Key == e.Key && earlier.Issued() {
				x.holdKey(earlier)
			}
		}
	}
	return nil
}

// expired counts in whole seconds: notAfter's own is the last.
func (e *Entry) expired(now time.Time) bool { return e.NotAfter.Before(now.Truncate(time.Second)) }

// sweep drops what has expired.
func (x *index) sweep(now time.Time) {
	for id, entries := range x.ids {
		var live []*Entry
		for _, e := range entries {
			if !e.expired(now) {
				live = append(live, e)
				continue
			}
			delete(x.serials, string(e.Serial.Bytes()))
			if x.keys[e.Key] == e {
				delete(x.keys, e.Key)
			}
		}
		if len(live) == 0 {
			delete(x.ids, id)
		} else {
			x.ids[id] = live
		}
	}
}
