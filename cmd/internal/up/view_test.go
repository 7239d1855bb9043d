package up

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

// clocks are replaced before output is compared.
var clocks = regexp.MustCompile(`\d\d:\d\d:\d\d`)

func TestViewOnATerminal(t *testing.T) {
	var out bytes.Buffer
	width := 80
	v := &view{out: &out, columns: func() int { return width }, colour: true}
	v.event(kindReady, "up")
	v.counters("five one", "5 1")
	v.event(kindDenied, "GET %s", "/x")
	width = 9
	v.counters("five two", "5 2") // fills all but the last column
	width = 8
	v.counters("five 3", "5 3")
	v.counters("five four", "5 4")
	width = 3
	v.counters("five five", "5 5")
	v.close()
	v.close()
	v.event(kindNote, "bye")
	want := strings.Join([]string{
		"T  \x1b[1mready   \x1b[0m up\n",
		"\r\x1b[Kfive one",
		"\r\x1b[KT  \x1b[33mdenied  \x1b[0m GET /x\n", "five one", // the counters are back, below
		"\r\x1b[Kfive two",
		"\r\x1b[Kfive 3",
		"\r\x1b[K5 4",
		"\r\x1b[K5 ", // even the last form is too long
		"\r\x1b[K",
		"T  \x1b[2mnote    \x1b[0m bye\n",
	}, "")
	if got := clocks.ReplaceAllString(out.String(), "T"); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestViewWithoutATerminal: no control character, and lines only.
func TestViewWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	v := &view{out: &out}
	v.event(kindIssued, "a")
	v.counters("five one", "5 1")
	v.event(kindFailed, "b")
	v.close()
	const want = "T  issued   a\nT  counts   five one\nT  FAILED   b\n"
	if got := clocks.ReplaceAllString(out.String(), "T"); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestViewWithoutColour is a terminal whose user set NO_COLOR.
func TestViewWithoutColour(t *testing.T) {
	var out bytes.Buffer
	v := &view{out: &out, columns: func() int { return 80 }}
	v.event(kindFailed, "a")
	v.counters("c")
	v.event(kindMTLS, "b")
	if got, want := clocks.ReplaceAllString(out.String(), "T"), "T  FAILED   a\n\r\x1b[Kc\r\x1b[KT  mtls     b\nc"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestViewEscapes: a peer cannot move the cursor, clear the screen, set a
// title, turn text around, or write a line that looks like one of ours.
func TestViewEscapes(t *testing.T) {
	for in, want := range map[string]string{
		"\x1b[2J":                        `\u001b[2J`,
		"\x1b]0;title\a":                 `\u001b]0;title\u0007`,
		"a\rb":                           `a\u000db`,
		"a\bb":                           `a\u0008b`,
		"\u009b2J":                       `\u009b2J`,
		"\u202egnp.exe":                  `\u202egnp.exe`,
		"\u2028x":                        `\u2028x`,
		"bell\a":                         `bell\u0007`,
		"a\x00b":                         `a\u0000b`,
		"tab\there":                      "tab  here",
		"größe 日本 \U0001f600":            "größe 日本 \U0001f600",
		"bad \xff utf-8":                 "bad \ufffd utf-8",
		"a\n12:00:00  allowed  GET /all": "a\n                   12:00:00  allowed  GET /all",
		"  \n trimmed \n":                "trimmed",
	} {
		var out bytes.Buffer
		(&view{out: &out}).event(kindNote, "%s", in)
		_, got, _ := strings.Cut(strings.TrimSuffix(out.String(), "\n"), "note     ")
		if got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

func TestEveryKindHasAColour(t *testing.T) {
	for _, kind := range []string{kindReady, kindIssued, kindRenewed, kindMTLS, kindAllowed, kindDenied, kindPolicy, kindFailed, kindNote, kindCounts} {
		if colours[kind] == "" {
			t.Errorf("%s has none", kind)
		}
		if len(kind) > 8 {
			t.Errorf("%s does not fit its column", kind)
		}
	}
}

func TestNilViewShowsNothing(*testing.T) {
	var v *view
	v.event(kindNote, "x")
	v.counters("x")
	v.close()
}
