package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A journal file is
//
//	magic | frame | frame | ...
//
// and a frame, which is written at once and made durable before the next, is
//
//	length of records, 4 bytes | CRC-32C of those, 4 bytes | records | chain, 32 bytes
//
// chain(n) = SHA-256(chain(n-1) | length | records), and chain(0) = SHA-256(magic).
// A frame so vouches for all frames before it. The length has a checksum of its
// own, since it decides where a frame ends and so whether it is the last.
const magic = "istio-auth journal 1\n"

const (
	headSize  = 8
	chainSize = sha256.Size

	// maxFrame bounds the records of one frame, and what an Open holds in memory.
	maxFrame = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func firstChain() [chainSize]byte { return sha256.Sum256([]byte(magic)) }

// seal returns the frame that follows the one with digest chain, and its digest.
func seal(chain [chainSize]byte, records []byte) (frame []byte, next [chainSize]byte) {
	frame = make([]byte, 0, headSize+len(records)+chainSize)
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(records)))
	frame = binary.BigEndian.AppendUint32(frame, crc32.Checksum(frame[:4], castagnoli))
	frame = append(frame, records...)
	next = link(chain, frame[:4], records)
	return append(frame, next[:]...), next
}

func link(chain [chainSize]byte, length, records []byte) [chainSize]byte {
	h := sha256.New()
	h.Write(chain[:])
	h.Write(length)
	h.Write(records)
	return [chainSize]byte(h.Sum(nil))
}

// errTorn reports that the last frame was not written whole.
var errTorn = errors.New("torn")

// A reader reads frames in order.
type reader struct {
	file  io.ReaderAt
	size  int64
	at    int64 // of the next frame
	chain [chainSize]byte
}

// next returns the records of the next frame; io.EOF at the end; errTorn where
// the file ends in a frame that was not written whole, which begins at r.at; an
// error wrapping [ErrCorrupt] where anything else does not read back.
func (r *reader) next() ([]byte, error) {
	left := r.size - r.at
	if left == 0 {
		return nil, io.EOF
	}
	if left < headSize {
		return nil, errTorn
	}
	var head [headSize]byte
	if err := readAt(r.file, head[:], r.at); err != nil {
		return nil, err
	}
	length := int64(binary.BigEndian.Uint32(head[:]))
	if crc32.Checksum(head[:4], castagnoli) != binary.BigEndian.Uint32(head[4:]) || length > maxFrame {
		return nil, r.badHead()
	}
	whole := headSize + length + chainSize
	if left < whole {
		return nil, errTorn
	}
	body := make([]byte, length+chainSize)
	if err := readAt(r.file, body, r.at+headSize); err != nil {
		return nil, err
	}
	records := body[:length]
	chain := link(r.chain, head[:4], records)
	if !bytes.Equal(chain[:], body[length:]) {
		if left == whole {
			return nil, errTorn // the file was grown, not all of its pages were written
		}
		return nil, fmt.Errorf("%w: the frame at byte %d is not what was written", ErrCorrupt, r.at)
	}
	r.at += whole
	r.chain = chain
	return records, nil
}

// badHead tells a file that was grown and not written from one that was changed:
// behind the former's head there are zeros only.
func (r *reader) badHead() error {
	rest := io.NewSectionReader(r.file, r.at+headSize, r.size-r.at-headSize)
	block := make([]byte, 64<<10)
	for {
		n, err := rest.Read(block)
		if len(bytes.Trim(block[:n], "\x00")) > 0 {
			return fmt.Errorf("%w: no frame begins at byte %d, and more follows", ErrCorrupt, r.at)
		}
		if err == io.EOF {
			return errTorn
		}
		if err != nil {
			return fmt.Errorf("reading the journal: %w", err)
		}
	}
}

func readAt(f io.ReaderAt, p []byte, at int64) error {
	if n, err := f.ReadAt(p, at); n < len(p) {
		return fmt.Errorf("reading the journal at byte %d: %w", at, err)
	}
	return nil
}
