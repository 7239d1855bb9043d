package nodeagent

import (
	"testing"
	"time"
)

func TestJumped(t *testing.T) {
	for _, c := range []struct {
		name            string
		wall, monotonic time.Duration
		jump            bool
	}{
		{"nothing", 15 * time.Second, 15 * time.Second, false},
		{"a slewed clock", 15*time.Second + 7*time.Millisecond, 15 * time.Second, false},
		{"a busy machine: both late", 40 * time.Second, 40 * time.Second, false},
		{"slept for eight hours", 8 * time.Hour, 15 * time.Second, true},
		{"set back ten minutes", -585 * time.Second, 15 * time.Second, true},
		{"a leap second", 16 * time.Second, 15 * time.Second, false},
		{"three seconds", 18 * time.Second, 15 * time.Second, true},
	} {
		if by, jump := jumped(c.wall, c.monotonic); jump != c.jump || by != c.wall-c.monotonic {
			t.Errorf("%s: got %v by %v, want %v", c.name, jump, by, c.jump)
		}
	}
}
