package renew_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/nodeagent/renew"
)

var born = time.Date(2026, 3, 29, 1, 30, 0, 0, time.UTC)

func TestAt(t *testing.T) {
	cases := []struct {
		name string
		life time.Duration
		draw float64
		want time.Duration // after born
	}{
		{"earliest", 6 * time.Hour, 0, 90 * time.Minute},
		{"middle", 6 * time.Hour, 0.5, 117 * time.Minute},
		{"latest", 6 * time.Hour, 1, 144 * time.Minute},
		{"ten seconds, earliest", 10 * time.Second, 0, 2500 * time.Millisecond},
		{"ten seconds, latest", 10 * time.Second, 1, 4 * time.Second},
		{"a year", 8760 * time.Hour, 0, 2190 * time.Hour},
		{"draw below", 6 * time.Hour, -3, 90 * time.Minute},
		{"draw above", 6 * time.Hour, 7, 144 * time.Minute},
		{"draw is not a number", 6 * time.Hour, math.NaN(), 90 * time.Minute},
		{"draw is infinite", 6 * time.Hour, math.Inf(1), 144 * time.Minute},
		{"no life", 0, 0.5, 0},
		{"ended before it began", -time.Hour, 0.5, 0},
		{"one nanosecond", 1, 1, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := renew.At(born, born.Add(c.life), c.draw).Sub(born); got != c.want {
				t.Errorf("got %v after the issue, want %v", got, c.want)
			}
		})
	}
}

// Whatever was drawn, more than half of the life is left for an outage.
func TestAtLeavesTheWorstWorkload60Percent(t *testing.T) {
	for i := range 1001 {
		at := renew.At(born, born.Add(6*time.Hour), float64(i)/1000)
		if left := born.Add(6 * time.Hour).Sub(at); left < 216*time.Minute {
			t.Fatalf("draw %d/1000 leaves %v, want 3.6 h at least", i, left)
		}
	}
}

func TestWait(t *testing.T) {
	const hour, s, ms = time.Hour, time.Second, time.Millisecond
	cases := []struct {
		f    renew.Failure
		draw float64
		want time.Duration
	}{
		// Unavailable, and something to serve: 250 ms doubling to two minutes.
		{renew.Failure{Count: 1, Left: hour}, 0, 50 * ms},
		{renew.Failure{Count: 1, Left: hour}, 1, 250 * ms},
		{renew.Failure{Count: 2, Left: hour}, 1, 500 * ms},
		{renew.Failure{Count: 2, Left: hour}, 0.5, 250 * ms},
		{renew.Failure{Count: 9, Left: hour}, 1, 64 * s},
		{renew.Failure{Count: 10, Left: hour}, 1, 120 * s},
		{renew.Failure{Count: math.MaxInt, Left: hour}, 1, 120 * s},
		// An eighth of what is left is the longest window.
		{renew.Failure{Count: 99, Left: 8 * s}, 1, s},
		{renew.Failure{Count: 99, Left: 80 * ms}, 1, 50 * ms},
		// Dark: 15 s at most.
		{renew.Failure{Count: 99, Left: 0}, 1, 15 * s},
		{renew.Failure{Count: 99, Left: -hour}, 1, 15 * s},
		// Refused: slower.
		{renew.Failure{Count: 1, Refused: true}, 1, 15 * s},
		{renew.Failure{Count: 3, Refused: true}, 1, 60 * s},
		{renew.Failure{Count: 99, Refused: true}, 1, 300 * s},
		{renew.Failure{Count: 99, Refused: true, Left: hour}, 1, 300 * s},
		{renew.Failure{Count: 1, Refused: true, Left: 6 * s}, 1, 1500 * ms},
		// The CA's wish, and its bounds.
		{renew.Failure{Count: 1, Left: hour, Asked: 40 * s}, 0, 40 * s},
		{renew.Failure{Count: 1, Left: hour, Asked: 40 * s}, 1, 50 * s},
		{renew.Failure{Count: 1, Left: 60 * s, Asked: 40 * s}, 0, 30 * s},
		{renew.Failure{Count: 1, Asked: 99 * hour}, 0, 300 * s},
		{renew.Failure{Count: 10, Left: hour, Asked: ms}, 1, 120 * s},
		{renew.Failure{Count: 1, Left: hour, Asked: -hour}, 1, 250 * ms},
		// No such count.
		{renew.Failure{Count: 0, Left: hour}, 1, 250 * ms},
		{renew.Failure{Count: -5, Left: hour}, 1, 250 * ms},
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%+v draw %v", c.f, c.draw), func(t *testing.T) {
			if got := c.f.Wait(c.draw); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// However unlucky the draws, several tries fit into what is left.
func TestTriesFit(t *testing.T) {
	for _, life := range []time.Duration{10 * time.Second, time.Minute, 6 * time.Hour, 24 * time.Hour} {
		for refused, floor := range map[bool]int{false: 8, true: 4} {
			left, tries := life*6/10, 0
			for left > 0 {
				tries++
				left -= renew.Failure{Count: tries, Refused: refused, Left: left}.Wait(1)
			}
			if tries < floor {
				t.Errorf("life %v, refused %v: %d tries, want %d", life, refused, tries, floor)
			}
		}
	}
}

func TestPatience(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{
		-time.Hour:              30 * time.Second,
		0:                       30 * time.Second,
		time.Hour:               30 * time.Second,
		30 * time.Second:        10 * time.Second,
		6 * time.Second:         2 * time.Second,
		3 * time.Second:         2 * time.Second,
		500 * time.Millisecond:  500 * time.Millisecond,
		7500 * time.Millisecond: 2500 * time.Millisecond,
	} {
		if got := renew.Patience(left); got != want {
			t.Errorf("with %v left: got %v, want %v", left, got, want)
		}
	}
}
