package up

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"
)

// A view shows what happens, a line an event, above one line of counters that
// is redrawn in place where the output is a terminal. Its methods may be
// called at once. A nil view shows nothing.
type view struct {
	out io.Writer
	// columns is how wide the terminal is just now: it may be resized. It is
	// nil where the output is none.
	columns func() int
	colour  bool

	mu   sync.Mutex // guards out and last
	last string     // the counter line now on the screen
}

// kinds of event, padded so that the text lines up.
const (
	kindReady   = "ready"
	kindIssued  = "issued"
	kindRenewed = "renewed"
	kindMTLS    = "mtls"
	kindAllowed = "allowed"
	kindDenied  = "denied"
	kindPolicy  = "policy"
	kindFailed  = "FAILED"
	kindNote    = "note"
	kindCounts  = "counts"
)

// colours of the kinds, as SGR parameters.
var colours = map[string]string{
	kindReady: "1", kindIssued: "36", kindRenewed: "36", kindMTLS: "35",
	kindAllowed: "32", kindDenied: "33", kindPolicy: "34", kindFailed: "31", kindNote: "2", kindCounts: "1",
}

// indent stands in front of an event's second line, below its text.
const indent = len("15:04:05  ") + len("allowed  ")

// clear puts the cursor at the start of an empty line.
const clear = "\r\x1b[K"

// event writes one event. Control characters in its text come out escaped: it
// may hold what a peer sent. Its second line is set in, so that it cannot be
// taken for another event.
func (v *view) event(kind, format string, args ...any) {
	if v == nil {
		return
	}
	var lines []string
	for line := range strings.SplitSeq(strings.Trim(fmt.Sprintf(format, args...), " \n"), "\n") {
		lines = append(lines, printable(strings.ReplaceAll(line, "\t", "  ")))
	}
	text := strings.Join(lines, "\n"+strings.Repeat(" ", indent))
	v.mu.Lock()
	defer v.mu.Unlock()
	v.line(kind, text)
	if v.last != "" {
		fmt.Fprint(v.out, v.last)
	}
}

// line writes a whole line; v.mu is held.
func (v *view) line(kind, text string) {
	label := fmt.Sprintf("%-8s", kind)
	if v.colour {
		label = "\x1b[" + colours[kind] + "m" + label + "\x1b[0m"
	}
	if v.last != "" {
		fmt.Fprint(v.out, clear)
	}
	fmt.Fprintf(v.out, "%s  %s %s\n", time.Now().Format(time.TimeOnly), label, text)
}

// counters redraws the counter line, in the longest of the forms that fits.
// Where the output is no terminal it writes a line of the first form each time
// that the caller says so.
func (v *view) counters(forms ...string) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.columns == nil {
		v.line(kindCounts, forms[0])
		return
	}
	// A line that fills the last column would wrap, and be drawn anew below.
	most := v.columns() - 1
	text := forms[len(forms)-1]
	for _, form := range forms {
		if len(form) <= most {
			text = form
			break
		}
	}
	if most > 0 && len(text) > most {
		text = text[:most]
	}
	fmt.Fprint(v.out, clear+text)
	v.last = text
}

// close leaves the cursor on a line of its own. A second close does nothing.
func (v *view) close() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last != "" {
		fmt.Fprint(v.out, clear)
	}
	v.last = ""
}

// printable escapes what could steer a terminal, or hide in one.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd") // a bare 0x9b is a control sequence to some
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\u%04x", r)
		}
	}
	return b.String()
}
