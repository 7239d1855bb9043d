package renew

import (
	"time"
)

// Renewal falls between these parts of a certificate's life: early enough that
// more than half of it is left to ride out an outage, late enough that the CA
// signs no more than four certificates a life.
const (
	Earliest = 0.25
	Latest   = 0.40
)

// At is when a certificate that was issued at issued and ends at notAfter is to
// be renewed. Of its life, 25 to 40 % have passed by then: draw, uniform in
// [0, 1), says where between. Draw it once for each certificate: drawn anew at
// every look, the smallest of many draws wins, and a fleet bunches.
//
// issued is the moment of issue by the caller's clock and not the certificate's
// notBefore, since backdating is life that nobody had. A draw outside [0, 1] is
// taken for the nearer end. A certificate without life is due at issued.
func At(issued, notAfter time.Time, draw float64) time.Time {
	life := notAfter.Sub(issued)
	if life <= 0 {
		return issued
	}
	part := Earliest + (Latest-Earliest)*unit(draw)
	return issued.Add(time.Duration(part * float64(life)))
}

// unit clips draw to [0, 1]. NaN becomes 0: the earlier end is the safer one.
func unit(draw float64) float64 {
	if !(draw > 0) {
		return 0
	}
	return min(draw, 1)
}

// Waits after a failure. The window doubles with each failure in a row.
const (
	// floor keeps a draw of nothing from becoming a busy loop.
	floor = 50 * time.Millisecond
	// firstWindow is short, since most failures are a connection that was just lost.
	firstWindow = 250 * time.Millisecond
	// darkCap holds where no certificate is left to serve with.
	darkCap = 15 * time.Second
	// calmCap holds where there is: long enough for a thousand nodes not to trample
	// the CA that just came back, short beside any outage that somebody would notice.
	calmCap = 2 * time.Minute
	// refusedWindow and refusedCap: the CA has decided, and changes its mind only
	// when the cluster changes.
	refusedWindow = 15 * time.Second
	refusedCap    = 5 * time.Minute
	// tries is how many windows fit into the life that is left, at the least.
	tries = 8
	// refusedTries is the same after a refusal.
	refusedTries = 4
)

// A Failure is all that the wait before the next try depends on.
type Failure struct {
	// Count is how many tries failed in a row, 1 or more.
	Count int
	// Refused says that the CA decided, rather than not being there.
	Refused bool
	// Left is what remains of the certificate that is served; 0 or less: none is.
	Left time.Duration
	// Asked is the wait that the CA wished for, and 0 where it did not.
	Asked time.Duration
}

// Wait is how long to wait before the next try: exponential with full jitter,
// draw being uniform in [0, 1). While a certificate is served, no wait is longer
// than an eighth of what is left of it (a quarter after a refusal), so that
// several more tries fit whatever happens. The CA's own wish is honoured with a
// quarter's jitter on top, up to half of what is left.
func (f Failure) Wait(draw float64) time.Duration {
	draw = unit(draw)
	window, most := firstWindow, calmCap
	switch {
	case f.Refused && f.Left > 0:
		window, most = refusedWindow, min(refusedCap, f.Left/refusedTries)
	case f.Refused:
		window, most = refusedWindow, refusedCap
	case f.Left > 0:
		most = min(calmCap, f.Left/tries)
	default:
		most = darkCap
	}
	most = max(most, floor)
	for range min(f.Count-1, 32) {
		if window >= most {
			break
		}
		window *= 2
	}
	window = min(window, most)
	wait := max(floor, time.Duration(draw*float64(window)))
	if f.Asked > 0 {
		asked := min(f.Asked, refusedCap)
		asked += time.Duration(draw * float64(asked) / 4)
		if f.Left > 0 {
			asked = min(asked, f.Left/2)
		}
		wait = max(wait, asked)
	}
	return wait
}

// Bounds on one try.
const (
	shortestTry = 2 * time.Second
	longestTry  = 30 * time.Second
)

// Patience is how long one try may take when left remains of the certificate
// that is served (0 or less: none is): a third of it, within 2 s and 30 s, and
// never past its end, so that whoever waits for an answer still sees it end.
func Patience(left time.Duration) time.Duration {
	if left <= 0 {
		return longestTry
	}
	return min(left, max(shortestTry, min(longestTry, left/3)))
}
