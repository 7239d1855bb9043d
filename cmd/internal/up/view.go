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
// called at once.
type view struct {
	out      io.Writer
	terminal bool
	width    int
	start    time.Time

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
)

// colours of the kinds, as SGR parameters.
var colours = map[string]string{
	kindReady: "1", kindIssued: "36", kindRenewed: "36", kindMTLS: "35",
	kindAllowed: "32", kindDenied: "33", kindPolicy: "34", kindFailed: "31", kindNote: "2",
}

// event writes one line. Control characters in its text come out escaped: it
// may hold what a peer sent.
func (v *view) event(kind, format string, args ...any) {
	if v == nil {
		return
	}
	text := printable(fmt.Sprintf(format, args...))
	v.mu.Lock()
	defer v.mu.Unlock()
	label := fmt.Sprintf("%-8s", kind)
	if v.terminal {
		label = "\x1b[" + colours[kind] + "m" + label + "\x1b[0m"
		fmt.Fprint(v.out, "\r\x1b[K")
	}
	fmt.Fprintf(v.out, "%s  %s %s\n", time.Now().Format(time.TimeOnly), label, text)
	if v.terminal {
		fmt.Fprint(v.out, v.last)
	}
}

// counters redraws the counter line. Where the output is no terminal it writes
// a line of it each time that the caller says so.
func (v *view) counters(text string) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.terminal {
		fmt.Fprintf(v.out, "%s  %-8s %s\n", time.Now().Format(time.TimeOnly), "counts", text)
		return
	}
	if r := []rune(text); v.width > 1 && len(r) >= v.width {
		text = string(r[:v.width-1])
	}
	v.last = text
	fmt.Fprint(v.out, "\r\x1b[K"+text)
}

// close leaves the cursor on a line of its own.
func (v *view) close() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.terminal && v.last != "" {
		fmt.Fprintln(v.out)
	}
	v.last = ""
}

// printable escapes what could steer a terminal.
func printable(s string) string {
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
