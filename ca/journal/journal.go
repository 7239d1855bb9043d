// Package journal writes down every certificate before it is signed.
//
// An [Intent] holds the whole to-be-signed bytes, and is on the disk when
// [Journal.Append] returns; an [Outcome] follows it. An intent without an outcome
// counts as issued until its notAfter, since nobody can say that it was not.
//
// The journal is one file that only grows. What waits is written in one frame
// and made durable by one fdatasync, however many callers wait, and each frame
// carries the digest of all before it. After a crash the last frame may be
// torn: nobody was told that it was durable, so it is set aside. Anything else that
// does not read back as it was written keeps the journal shut. So does an error
// of the disk: after a failed write or sync nobody knows what is on it, so the
// journal refuses all further intents until it is opened again.
//
// It is not a database: it answers who holds an unexpired certificate, and
// reads the whole past in order ([Journal.Records]).
package journal

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var (
	// ErrCorrupt reports a journal that does not read back as it was written.
	ErrCorrupt = errors.New("journal: corrupt")
	// ErrBroken reports that a write or sync failed since the journal was opened.
	// Nothing may be issued until it is opened again.
	ErrBroken = errors.New("journal: broken until opened again")
	// ErrLocked reports a journal that another process has open.
	ErrLocked = errors.New("journal: open in another process")
	// ErrDuplicate reports a second intent with a serial, or a second outcome.
	ErrDuplicate = errors.New("journal: written already")
	// ErrUnknown reports an outcome without an unexpired intent.
	ErrUnknown = errors.New("journal: no such intent")
	// ErrKeyTaken reports an intent with a key that is certified for another
	// identity and has not expired: one key, one identity.
	ErrKeyTaken = errors.New("journal: the key is another identity's")
	// ErrClosed reports use after Close.
	ErrClosed = errors.New("journal: closed")
)

// An Intent is a certificate that is about to be signed.
type Intent struct {
	Serial   *big.Int // positive, at most 20 bytes
	ID       spiffeid.ID
	Time     time.Time // the moment of issue
	NotAfter time.Time // in whole seconds
	Key      [32]byte  // SHA-256 of the SubjectPublicKeyInfo
	Evidence [32]byte  // digest of what the identity rests on
	Profile  [32]byte  // digest of the profile
	TBS      []byte    // the whole TBSCertificate, DER
}

// An Outcome says what became of an intent.
type Outcome struct {
	Serial      *big.Int
	Time        time.Time
	Certificate [32]byte // SHA-256 of the certificate; zero where there is none
	Refused     string   // why there is none, in kebab-case; empty where there is one
}

// An Entry is an intent with what is known of it.
type Entry struct {
	Intent  // without TBS, where it comes from the index
	Outcome *Outcome
}

// Issued reports whether a certificate exists, or may exist.
func (e Entry) Issued() bool { return e.Outcome == nil || e.Outcome.Refused == "" }

// A Journal is an open journal. Its methods may be called at once. Close it.
type Journal struct {
	file  file
	chain [sha256.Size]byte // of the last frame; only the holder of turn touches it
	end   int64             // where the next frame goes; same
	turn  chan struct{}     // held while writing
	shut  chan struct{}     // closed when a write or sync has failed

	mu     sync.Mutex // guards the fields below
	queue  []*batch   // what is not written yet, oldest first
	index  index
	broken error
}

// A batch is what goes to the disk in one frame.
type batch struct {
	records []byte
	done    chan struct{} // closed when err is final
	err     error
}

// Append makes an intent durable. When it returns nil, and only then, the
// certificate may be signed. Where ctx ends first, the intent may be written
// none the less: it stays without an outcome.
func (j *Journal) Append(ctx context.Context, in Intent) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	record, err := in.marshal()
	if err != nil {
		return err
	}
	j.mu.Lock()
	if j.broken != nil {
		defer j.mu.Unlock()
		return j.broken
	}
	if err := j.index.intent(in); err != nil {
		j.mu.Unlock()
		return err
	}
	b := j.enqueue(record)
	j.mu.Unlock()
	return j.commit(ctx, b)
}

// Outcome notes what became of an intent. It becomes durable with the next
// intent, or with [Journal.Sync]: until then a crash leaves the intent without an
// outcome, which errs on the safe side.
func (j *Journal) Outcome(out Outcome) error {
	record, err := out.marshal()
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	if err := j.index.outcome(out); err != nil {
		return err
	}
	j.enqueue(record)
	return nil
}

// Sync makes everything durable that was appended.
func (j *Journal) Sync(ctx context.Context) error {
	j.mu.Lock()
	var last *batch
	if n := len(j.queue); n > 0 {
		last = j.queue[n-1]
	}
	j.mu.Unlock()
	if last != nil {
		return j.commit(ctx, last)
	}
	// What was taken from the queue is durable when its writer gives the turn back.
	select {
	case j.turn <- struct{}{}:
		<-j.turn
	case <-ctx.Done():
		return ctx.Err()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broken
}

// enqueue adds a record to the batch that is filled. The caller holds mu.
func (j *Journal) enqueue(record []byte) *batch {
	if n := len(j.queue); n > 0 && len(j.queue[n-1].records)+len(record) <= maxFrame {
		j.queue[n-1].records = append(j.queue[n-1].records, record...)
		return j.queue[n-1]
	}
	b := &batch{records: record, done: make(chan struct{})}
	j.queue = append(j.queue, b)
	return b
}

// commit waits until a batch is durable. Of all who wait one has the turn and
// writes for the others; who comes meanwhile fills the next batch.
func (j *Journal) commit(ctx context.Context, b *batch) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	case j.turn <- struct{}{}:
	}
	defer func() { <-j.turn }()
	for {
		select {
		case <-b.done:
			return b.err
		default:
			j.writeOne()
		}
	}
}

// writeOne writes the oldest batch. The caller has the turn.
func (j *Journal) writeOne() {
	j.mu.Lock()
	b, err := j.queue[0], j.broken
	j.queue = j.queue[1:]
	j.mu.Unlock()
	if err == nil {
		err = j.write(b.records)
	}
	if err != nil {
		err = j.breaks(err)
	}
	b.err = err
	close(b.done)
}

// write writes one frame and makes it durable.
func (j *Journal) write(records []byte) error {
	frame, chain := seal(j.chain, records)
	if _, err := j.file.WriteAt(frame, j.end); err != nil {
		return fmt.Errorf("writing to the journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("syncing the journal: %w", err)
	}
	j.end += int64(len(frame))
	j.chain = chain
	return nil
}

// breaks shuts the journal for good: after a failed fsync the kernel may drop
// the pages and report success the next time.
func (j *Journal) breaks(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken == nil {
		j.broken = fmt.Errorf("%w: %w", ErrBroken, err)
		close(j.shut)
	}
	return j.broken
}

// Broken is closed when a write or sync has failed: from then on every intent is
// refused with [ErrBroken].
func (j *Journal) Broken() <-chan struct{} { return j.shut }

// Close writes what waits, ends the file with an empty frame, so that a bad last
// byte costs no intent, and gives the file free.
func (j *Journal) Close() error {
	j.turn <- struct{}{}
	defer func() { <-j.turn }()
	for j.pending() {
		j.writeOne()
	}
	j.mu.Lock()
	broken := j.broken
	j.broken = ErrClosed
	j.mu.Unlock()
	if errors.Is(broken, ErrClosed) {
		return nil
	}
	if broken == nil {
		broken = j.write(nil)
	}
	return errors.Join(broken, j.file.Close())
}

func (j *Journal) pending() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.queue) > 0
}

// Lookup returns the unexpired entry with a serial.
func (j *Journal) Lookup(serial *big.Int, now time.Time) (Entry, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.index.serials[string(serial.Bytes())]
	if !ok || e.expired(now) {
		return Entry{}, false
	}
	return *e, true
}

// Live returns the certificates of an ID that exist, or may exist, and have not
// expired, in the order in which they were written.
func (j *Journal) Live(id spiffeid.ID, now time.Time) []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	var live []Entry
	for _, e := range j.index.ids[id] {
		if !e.expired(now) && e.Issued() {
			live = append(live, *e)
		}
	}
	return live
}
