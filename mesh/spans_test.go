package mesh

import (
	"testing"
	"time"
)

// TestSpans: accept, drain and stream together are half a life, and a client's
// connection ends before the server's would.
func TestSpans(t *testing.T) {
	for _, life := range []time.Duration{minLife, 10 * time.Second, time.Minute, time.Hour, 6 * time.Hour, maxLife} {
		s := spansOf(life)
		if got := s.accept + s.drain + s.stream; got != life/2 {
			t.Errorf("%v: %v in all, want %v", life, got, life/2)
		}
		if s.dial >= s.accept {
			t.Errorf("%v: client %v, server %v", life, s.dial, s.accept)
		}
		for _, d := range []time.Duration{s.accept, s.drain, s.stream, s.dial} {
			if d < 200*time.Millisecond {
				t.Errorf("%v: a span of %v", life, d)
			}
		}
	}
}
