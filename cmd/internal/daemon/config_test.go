package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	table := []struct {
		json string
		want time.Duration
		ok   bool
	}{
		{`"90s"`, 90 * time.Second, true},
		{`"1h30m"`, 90 * time.Minute, true},
		{`"1.5h"`, 90 * time.Minute, true},
		{`"0"`, 0, true}, // the one number that needs no unit
		{`"-5s"`, -5 * time.Second, true},
		{`"1ns"`, 1, true},
		{`"90"`, 0, false},
		{`90`, 0, false},
		{`0`, 0, false},
		{`1.5`, 0, false},
		{`true`, 0, false},
		{`null`, 0, false},
		{`["90s"]`, 0, false},
		{`{"s":90}`, 0, false},
		{`""`, 0, false},
		{`" 90s"`, 0, false},
		{`"90s "`, 0, false},
		{`"90 s"`, 0, false},
		{`"1d"`, 0, false},
		{`"P1D"`, 0, false},
		{`"∞"`, 0, false},
		{`"2562048h"`, 0, false}, // past 2^63 ns
		{`"1e3s"`, 0, false},
		{``, 0, false},
	}
	if got, want := len(table), 24; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, row := range table {
		const before = Duration(7)
		got := before
		err := got.UnmarshalJSON([]byte(row.json))
		if !row.ok {
			if _, wrong := errors.AsType[*json.UnmarshalTypeError](err); !wrong || got != before {
				t.Errorf("%s: got %v, %v; want it refused, and the value as it was", row.json, got.Std(), err)
			}
			continue
		}
		if err != nil || got.Std() != row.want {
			t.Errorf("%s: got %v, %v; want %v", row.json, got.Std(), err, row.want)
		}
		var again Duration
		if text, err := json.Marshal(got); err != nil || json.Unmarshal(text, &again) != nil || again != got {
			t.Errorf("%s: marshals as %s, and that is %v (%v)", row.json, text, again.Std(), err)
		}
	}
}

func TestDial(t *testing.T) {
	for address, want := range map[string]string{
		"localhost:1": "", "a.b.c:65535": "", "a.b.c.:1": "", "a_b:1": "", "10.0.0.1:80": "", "[::1]:80": "", "[fe80::1%eth0]:80": "",
		"":                               "f: is required, as host:port",
		":1":                             `f: ":1" names no host`,
		"localhost:0":                    "f: port 0 cannot be reached",
		"localhost":                      "f: is host:port: address localhost: missing port in address",
		"a:b:1":                          "f: is host:port: address a:b:1: too many colons in address",
		"a:1 ":                           `f: port "1 " is not a number from 0 to 65535`,
		"a :1":                           `f: "a " is neither an IP address nor a name in DNS`,
		"a-:1":                           `f: "a-" is neither an IP address nor a name in DNS`,
		".:1":                            `f: "." is neither an IP address nor a name in DNS`,
		"ä:1":                            `f: "ä" is neither an IP address nor a name in DNS`,
		strings.Repeat("a", 64) + ":1":   `f: "` + strings.Repeat("a", 64) + `" is neither an IP address nor a name in DNS`,
		strings.Repeat("a.", 127) + ":1": "f: \"" + strings.Repeat("a.", 127) + "\" is neither an IP address nor a name in DNS",
	} {
		var p Problems
		p.Dial("f", address)
		got := ""
		if err := p.Err(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", address, got, want)
		}
	}
}

func TestLogger(t *testing.T) {
	for level, lines := range map[string]int{"debug": 4, "info": 3, "WARN": 2, "error": 1} {
		var out bytes.Buffer
		log, err := Logger(&out, level)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("a")
		log.Info("a")
		log.Warn("a")
		log.Error("a")
		if got := bytes.Count(out.Bytes(), []byte("\n")); got != lines {
			t.Errorf("%s: %d lines, want %d", level, got, lines)
		}
	}
	for _, level := range []string{"", "loud", "0", "info "} {
		if _, err := Logger(&bytes.Buffer{}, level); err == nil {
			t.Errorf("level %q is accepted", level)
		}
	}
}

func TestExitCode(t *testing.T) {
	inner := errors.New("inner")
	err := fmt.Errorf("outer: %w", ExitCode{Code: 7, Err: inner})
	coded, ok := errors.AsType[ExitCode](err)
	if !ok || coded.Code != 7 || !errors.Is(err, inner) {
		t.Errorf("got %v, %v", coded, ok)
	}
}
