package server

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/attest"
)

// TestLogIsBounded: whoever is refused ten thousand times is told of a hundred
// times, and the next line, whoever it is about, says how many were left out.
func TestLogIsBounded(t *testing.T) {
	var text bytes.Buffer
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	g := &gate{log: slog.New(slog.NewTextHandler(&text, nil)), now: func() time.Time { return now }}
	g.complete()
	for range 10_000 {
		g.refuse("method", caller{}, attest.Refuse(ReasonNoCertificate, "the caller showed none"))
	}
	if got, want := strings.Count(text.String(), "\n"), 100; got != want {
		t.Errorf("%d lines of one stranger, want %d", got, want)
	}
	text.Reset()
	g.refuse("method", caller{id: webID}, attest.Refuse(ReasonNoRule, ""))
	if !strings.Contains(text.String(), webID.String()) || !strings.Contains(text.String(), "left_out=9900") {
		t.Errorf("a member's line, or how many lines were left out, is lost: %s", text.String())
	}
	text.Reset()
	now = now.Add(time.Minute)
	g.refuse("method", caller{}, attest.Refuse(ReasonNoCertificate, ""))
	if !strings.Contains(text.String(), "left_out=0") {
		t.Errorf("a minute later: %s", text.String())
	}
}
