package server

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/capb"
)

// Bundle sends the bundle, at once and whenever it changes, and notes who has it.
func (s *Server) Bundle(stream grpc.BidiStreamingServer[capb.BundleAck, capb.BundleUpdate]) error {
	c, err := callerOf(stream.Context())
	if err != nil {
		return err
	}
	reader := s.acks.open(c.id, c.notAfter)
	defer s.acks.close(reader)
	ended := time.NewTimer(c.notAfter.Sub(s.now()))
	defer ended.Stop()
	acks, failed := receive(stream.Context(), stream.Recv)
	var sent uint64
	for {
		current, replaced := s.authority.Bundle().Current()
		if current.Sequence > sent {
			if err := stream.Send(s.update(current)); err != nil {
				return err
			}
			sent = current.Sequence
		}
		select {
		case <-replaced:
		case ack := <-acks:
			if err := known(ack); err != nil {
				return s.refuse(capb.CertificateAuthority_Bundle_FullMethodName, c, err)
			}
			if n := ack.GetSequence(); n == 0 || n > sent {
				err := attest.Refuse(ReasonAck, "%d, sent %d", n, sent)
				return s.refuse(capb.CertificateAuthority_Bundle_FullMethodName, c, err)
			}
			s.acks.note(reader, ack.GetSequence())
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-ended.C:
			return expired()
		}
	}
}

func (s *Server) update(v bundle.Versioned) *capb.BundleUpdate {
	return &capb.BundleUpdate{
		Sequence:    v.Sequence,
		Authorities: chainDER(v.Bundle.X509Authorities()),
		ServerTime:  timestamppb.New(s.now()),
	}
}

// A reader is one stream of bundles.
type reader struct {
	id       spiffeid.ID
	until    time.Time // when its certificate ends
	sequence uint64    // acknowledged
	open     bool
}

// acknowledgements is what the readers hold. A service has a reader for each
// of its replicas, and holds what the last of them holds.
type acknowledgements struct {
	mu      sync.Mutex // guards the field below, and what the readers in it hold
	readers map[spiffeid.ID][]*reader
}

func newAcknowledgements() *acknowledgements {
	return &acknowledgements{readers: map[spiffeid.ID][]*reader{}}
}

// open starts at nothing: a client that comes back may have lost what it had.
func (a *acknowledgements) open(id spiffeid.ID, until time.Time) *reader {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &reader{id: id, until: until, open: true}
	var kept []*reader
	for _, old := range a.readers[id] {
		if old.open {
			kept = append(kept, old)
		}
	}
	a.readers[id] = append(kept, r)
	return r
}

func (a *acknowledgements) note(r *reader, sequence uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.sequence = max(r.sequence, sequence)
}

func (a *acknowledgements) close(r *reader) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.open = false
	var kept []*reader
	for _, other := range a.readers[r.id] {
		if other.open {
			kept = append(kept, other)
		}
	}
	// The last one stands for the client until its certificate ends.
	if len(kept) == 0 {
		kept = []*reader{r}
	}
	a.readers[r.id] = kept
}

// read returns the least that any reader of each live client holds, and
// forgets the clients that are no longer live.
func (a *acknowledgements) read(now time.Time) map[spiffeid.ID]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	least := map[spiffeid.ID]uint64{}
	for id, readers := range a.readers {
		live := false
		for _, r := range readers {
			if !r.open && now.After(r.until) {
				continue
			}
			if n, ok := least[id]; !ok || r.sequence < n {
				least[id] = r.sequence
			}
			live = true
		}
		if !live {
			delete(a.readers, id)
		}
	}
	return least
}
