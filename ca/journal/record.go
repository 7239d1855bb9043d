package journal

import (
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/crypto/cryptobyte"
)

// Limits of what one record holds.
const (
	maxSerial = 20
	maxTBS    = 1 << 20
	maxReason = 64
	maxID     = 2048
)

// Kinds of records. There is no zero, so that a page of zeros is no record.
const (
	kindIntent  = 1
	kindOutcome = 2
)

// A Record is an Intent or an Outcome, as it stands in the file; the other is nil.
type Record struct {
	Intent  *Intent
	Outcome *Outcome
}

func checkSerial(serial *big.Int) error {
	if serial == nil || serial.Sign() <= 0 || (serial.BitLen()+7)/8 > maxSerial {
		return errors.New("journal: a serial that is not positive, or longer than 20 bytes")
	}
	return nil
}

func (in Intent) marshal() ([]byte, error) {
	if err := checkSerial(in.Serial); err != nil {
		return nil, err
	}
	switch {
	case in.ID.IsZero() || len(in.ID.String()) > maxID:
		return nil, errors.New("journal: an intent without an identity, or with one that is too long")
	case len(in.TBS) == 0 || len(in.TBS) > maxTBS:
		return nil, fmt.Errorf("journal: an intent with %d bytes to sign, want 1 to %d", len(in.TBS), maxTBS)
	}
	return build(kindIntent, func(b *cryptobyte.Builder) {
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(in.Serial.Bytes()) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(in.ID.String())) })
		b.AddUint64(uint64(in.Time.UnixNano()))
		b.AddUint64(uint64(in.NotAfter.Unix()))
		b.AddBytes(in.Key[:])
		b.AddBytes(in.Evidence[:])
		b.AddBytes(in.Profile[:])
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(in.TBS) })
	})
}

func (out Outcome) marshal() ([]byte, error) {
	if err := checkSerial(out.Serial); err != nil {
		return nil, err
	}
	if len(out.Refused) > maxReason || (out.Refused == "") == (out.Certificate == [32]byte{}) {
		return nil, errors.New("journal: an outcome is a certificate or a reason")
	}
	return build(kindOutcome, func(b *cryptobyte.Builder) {
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(out.Serial.Bytes()) })
		b.AddUint64(uint64(out.Time.UnixNano()))
		b.AddBytes(out.Certificate[:])
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(out.Refused)) })
	})
}

func build(kind uint8, body cryptobyte.BuilderContinuation) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint8(kind)
	b.AddUint24LengthPrefixed(body)
	return b.Bytes()
}

// parseRecords reads the content of a frame. The digest of the frame was
// checked, so what does not parse was written so, by a bug or a newer version.
func parseRecords(frame []byte) ([]Record, error) {
	var records []Record
	rest := cryptobyte.String(frame)
	for !rest.Empty() {
		var kind uint8
		var body cryptobyte.String
		if !rest.ReadUint8(&kind) || !rest.ReadUint24LengthPrefixed(&body) {
			return nil, fmt.Errorf("%w: a record that ends early", ErrCorrupt)
		}
		record, err := parseRecord(kind, body)
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, nil
}

func parseRecord(kind uint8, body cryptobyte.String) (Record, error) {
	switch kind {
	case kindIntent:
		in, err := parseIntent(body)
		return Record{Intent: in}, err
	case kindOutcome:
		out, err := parseOutcome(body)
		return Record{Outcome: out}, err
	default:
		return Record{}, fmt.Errorf("%w: a record of unknown kind %d", ErrCorrupt, kind)
	}
}

func parseIntent(body cryptobyte.String) (*Intent, error) {
	var serial, id, tbs cryptobyte.String
	var at, notAfter uint64
	var in Intent
	if !body.ReadUint8LengthPrefixed(&serial) || !body.ReadUint16LengthPrefixed(&id) ||
		!body.ReadUint64(&at) || !body.ReadUint64(&notAfter) ||
		!body.CopyBytes(in.Key[:]) || !body.CopyBytes(in.Evidence[:]) || !body.CopyBytes(in.Profile[:]) ||
		!body.ReadUint24LengthPrefixed(&tbs) || !body.Empty() {
		return nil, fmt.Errorf("%w: an intent of another shape", ErrCorrupt)
	}
	parsed, err := spiffeid.FromString(string(id))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	in.Serial, in.ID, in.TBS = new(big.Int).SetBytes(serial), parsed, tbs
	in.Time, in.NotAfter = time.Unix(0, int64(at)).UTC(), time.Unix(int64(notAfter), 0).UTC()
	if err := checkSerial(in.Serial); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return &in, nil
}

func parseOutcome(body cryptobyte.String) (*Outcome, error) {
	var serial, refused cryptobyte.String
	var at uint64
	var out Outcome
	if !body.ReadUint8LengthPrefixed(&serial) || !body.ReadUint64(&at) ||
		!body.CopyBytes(out.Certificate[:]) || !body.ReadUint8LengthPrefixed(&refused) || !body.Empty() {
		return nil, fmt.Errorf("%w: an outcome of another shape", ErrCorrupt)
	}
	out.Serial, out.Time, out.Refused = new(big.Int).SetBytes(serial), time.Unix(0, int64(at)).UTC(), string(refused)
	if err := checkSerial(out.Serial); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return &out, nil
}
