package attest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/attest"
)

const secret = "eyJ-the-secret"

// leaks tells whether any form of the secret shows: plain, quoted, hex in
// either case, bytes as decimals, or base64.
func leaks(s string) bool {
	for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprintf("% x", secret), "101 121 74 45", "0x65, 0x79", "ZXlKLXRoZS1zZWNyZXQ"} {
		if strings.Contains(s, form) {
			return true
		}
	}
	return false
}

// TestTokenRedacts prints a token in every verb with every flag, bare and inside
// what may hold one, and through every encoder that reads unprepared values.
func TestTokenRedacts(t *testing.T) {
	token := attest.NewToken(secret)
	type hidden struct{ token attest.Token }
	type shown struct{ Token attest.Token }
	type deep struct{ pointer *attest.Token }
	values := map[string]any{
		"bare": token, "pointer": &token, "slice": []attest.Token{token}, "map": map[string]attest.Token{"a": token},
		"exported field": shown{token}, "unexported field": hidden{token}, "pointer to both": &struct {
			shown
			h hidden
		}{shown{token}, hidden{token}}, "pointer field": deep{&token}, "interface": []any{token, &token}, "error": fmt.Errorf("with %v", token),
		"joined": errors.Join(fmt.Errorf("%s %#v", token, token)),
	}
	verbs, printed := 0, 0
	for c := byte('A'); c <= 'z'; c++ {
		if c > 'Z' && c < 'a' {
			continue
		}
		verbs++
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "20", ".3", "+#", "# 20.5"} {
			for name, v := range values {
				out := fmt.Sprintf("%"+flags+string(c), v)
				if leaks(out) {
					t.Errorf("%%%s%c of %s: %s", flags, c, name, out)
				}
				printed++
			}
			// T and p never print content. w outside Errorf asks no method, and finds
			// a pointer.
			if out := fmt.Sprintf("%"+flags+string(c), token); !strings.ContainsRune("Tpw", rune(c)) && out != "REDACTED" {
				t.Errorf("%%%s%c: got %q, want REDACTED", flags, c, out)
			}
		}
	}
	if verbs != 52 || printed != 52*10*len(values) {
		t.Fatalf("printed %d verbs, %d times", verbs, printed)
	}

	for name, v := range values {
		var text, jsn bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("m", "v", v, slog.Any("any", v), slog.Group("g", "v", v))
		slog.New(slog.NewJSONHandler(&jsn, nil)).Info("m", "v", v, slog.Any("any", v), slog.Group("g", "v", v))
		js, _ := json.Marshal(v)
		xm, _ := xml.Marshal(v)
		var gb bytes.Buffer
		gob.NewEncoder(&gb).Encode(v)
		for how, out := range map[string]string{"slog text": text.String(), "slog JSON": jsn.String(), "JSON": string(js), "XML": string(xm), "gob": gb.String(),
			"Sprint": fmt.Sprint(v), "Sprintln": fmt.Sprintln(v)} {
			if leaks(out) {
				t.Errorf("%s of %s: %s", how, name, out)
			}
		}
	}
	if js, err := json.Marshal(token); string(js) != `"REDACTED"` || err != nil {
		t.Errorf("JSON: got %s, %v", js, err)
	}
	if text, err := token.MarshalText(); string(text) != "REDACTED" || err != nil {
		t.Errorf("text: got %s, %v", text, err)
	}
	if got := token.String() + token.GoString() + token.LogValue().String(); got != "REDACTEDREDACTEDREDACTED" {
		t.Errorf("got %s", got)
	}
}

func TestToken(t *testing.T) {
	token := attest.NewToken(secret)
	if token.Reveal() != secret || token.IsZero() || token.Digest() != sha256.Sum256([]byte(secret)) {
		t.Error("the token lost its secret")
	}
	for _, zero := range []attest.Token{{}, attest.NewToken("")} {
		if zero.Reveal() != "" || !zero.IsZero() || zero.String() != "REDACTED" {
			t.Errorf("an empty token reveals %q, zero %t", zero.Reveal(), zero.IsZero())
		}
	}
}
