package csi

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/attest"
)

func TestTokens(t *testing.T) {
	const later, past = `"expirationTimestamp":"2026-11-24T13:00:00Z"`, `"expirationTimestamp":"2026-11-24T11:59:59Z"`
	ours := func(inner string) string { return `{"` + audID + `":{` + inner + `}}` }
	token := `"token":"` + jwt1 + `"`
	good := ours(token + "," + later)
	var many []string
	for i := range maxAudiences + 1 {
		many = append(many, fmt.Sprintf(`"a%d":{%s,%s}`, i, token, later))
	}
	table := []struct{ name, text, reason string }{
		{"ours", good, ""},
		{"in the other order", ours(later + "," + token), ""},
		{"with white space", " { " + strings.ReplaceAll(good[1:], ":{", " : { ") + "\n", ""},
		{"among others", `{"a":{` + token + "," + past + `},` + good[1:len(good)-1] + `,"b":{` + token + "," + later + `}}`, ""},
		{"a fraction of a second", ours(token + `,"expirationTimestamp":"2026-11-24T12:00:00.5Z"`), ""},
		{"another zone", ours(token + `,"expirationTimestamp":"2026-11-24T14:00:00+01:30"`), ""},
		{"nothing", "", "bad-tokens"},
		{"null", "null", "bad-tokens"},
		{"a list", "[]", "bad-tokens"},
		{"a string", `"` + jwt1 + `"`, "bad-tokens"},
		{"a bare token", jwt1, "bad-tokens"},
		{"an empty object", "{}", "audience-missing"},
		{"cut short", good[:len(good)-1], "bad-tokens"},
		{"cut in the token", good[:len(good)/2], "bad-tokens"},
		{"two objects", good + good, "bad-tokens"},
		{"rubbish behind", good + "x", "bad-tokens"},
		{"a comma too many", good[:len(good)-1] + ",}", "bad-tokens"},
		{"a comment", "/**/" + good, "bad-tokens"},
		{"a byte order mark", "\ufeff" + good, "bad-tokens"},
		{"not UTF-8 as a name", `{"` + "\xff" + `":{` + token + `,` + later + `}}`, "audience-missing"},
		{"nested deeply", strings.Repeat(`{"a":`, 10002), "bad-tokens"},
		{"the audience twice", good[:len(good)-1] + "," + good[1:], "bad-tokens"},
		{"the audience twice by an escape", good[:len(good)-1] + "," + strings.Replace(good[1:], "workload", `w\u006frkload`, 1), "bad-tokens"},
		{"the token twice", ours(token + "," + token + "," + later), "bad-tokens"},
		{"the end twice", ours(token + "," + later + "," + later), "bad-tokens"},
		{"an unknown field", ours(token + "," + later + `,"x":"y"`), "bad-tokens"},
		{"a field in capitals", ours(`"Token":"` + jwt1 + `",` + later), "bad-tokens"},
		{"an object as a field", ours(token + "," + later + `,"x":{}`), "bad-tokens"},
		{"no token", ours(later), "bad-tokens"},
		{"no end", ours(token), "bad-tokens"},
		{"an empty value", ours(""), "bad-tokens"},
		{"a value that is null", `{"` + audID + `":null}`, "bad-tokens"},
		{"a value that is a text", `{"` + audID + `":"` + jwt1 + `"}`, "bad-tokens"},
		{"a value that is a list", `{"` + audID + `":[]}`, "bad-tokens"},
		{"a token that is a number", ours(`"token":7,` + later), "bad-tokens"},
		{"a token that is null", ours(`"token":null,` + later), "bad-tokens"},
		{"a token that is empty", ours(`"token":"",` + later), "bad-token"},
		{"a token of two parts", ours(`"token":"aa.bb",` + later), "bad-token"},
		{"a token of four parts", ours(`"token":"aa.bb.cc.dd",` + later), "bad-token"},
		{"a token of five parts", ours(`"token":"a.b.c.d.e",` + later), "bad-token"},
		{"a token without signature", ours(`"token":"aa.bb.",` + later), "bad-token"},
		{"a token with a space", ours(`"token":"aa.b b.cc",` + later), "bad-token"},
		{"a token with a line break", ours(`"token":"aa.bb.cc\n",` + later), "bad-token"},
		{"a token with padding", ours(`"token":"aa.bb.cc==",` + later), "bad-token"},
		{"a token of the other base64", ours(`"token":"aa.b+/.cc",` + later), "bad-token"},
		{"a token beyond ASCII", ours(`"token":"aa.bé.cc",` + later), "bad-token"},
		{"a token with Bearer", ours(`"token":"Bearer ` + jwt1 + `",` + later), "bad-token"},
		{"a long token", ours(`"token":"a.b.` + strings.Repeat("c", maxToken) + `",` + later), "bad-token"},
		{"an end that is a number", ours(token + `,"expirationTimestamp":1795514400`), "bad-tokens"},
		{"an end that is empty", ours(token + `,"expirationTimestamp":""`), "bad-expiry"},
		{"an end that is a date", ours(token + `,"expirationTimestamp":"2026-11-24"`), "bad-expiry"},
		{"an end without a zone", ours(token + `,"expirationTimestamp":"2026-11-24T13:00:00"`), "bad-expiry"},
		{"an end of long ago", ours(token + `,"expirationTimestamp":"0001-01-01T00:00:00Z"`), "bad-tokens"},
		{"an end in the past", ours(token + "," + past), "token-expired"},
		{"an end that is now", ours(token + `,"expirationTimestamp":"2026-11-24T12:00:00Z"`), "token-expired"},
		{"another audience", strings.Replace(good, "workload", "agent", 1), "audience-missing"},
		{"the audience in capitals", strings.Replace(good, "workload", "Workload", 1), "audience-missing"},
		{"a longer audience", strings.Replace(good, audID, audID+".", 1), "audience-missing"},
		{"an empty audience", strings.Replace(good, audID, "", 1), "audience-missing"},
		{"a bad one beside ours", good[:len(good)-1] + `,"b":{}}`, "bad-tokens"},
		{"too many audiences", "{" + strings.Join(many, ",") + "}", "too-many-audiences"},
		{"too large", good + strings.Repeat(" ", maxTokens), "tokens-too-large"},
	}
	if got, want := len(table), 62; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseTokens(c.text, audID, now)
			if reason := attest.Reason(err); reason != c.reason || (err == nil) != (c.reason == "") {
				t.Errorf("got %v, want reason %q", err, c.reason)
			}
			if err == nil && (got.token.Reveal() != jwt1 || !got.expires.After(now)) {
				t.Errorf("got %+v", got)
			}
			if err != nil && (strings.Contains(err.Error(), "eyJ") || strings.Contains(err.Error(), "c2ln")) {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
}

// FuzzTokens: what is taken is a token that a lenient JSON reader finds at the same
// place too; what is not has a reason, and quotes nothing.
func FuzzTokens(f *testing.F) {
	f.Add(tokens(audID, jwt1, now.Add(time.Hour)))
	f.Add(`{"a":{"token":"a.b.c"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseTokens(text, audID, now)
		if err != nil {
			if attest.Reason(err) == "" || !got.token.IsZero() {
				t.Errorf("refused with %v and %v", err, got)
			}
			return
		}
		var lenient map[string]struct {
			Token               string
			ExpirationTimestamp time.Time
		}
		if err := json.Unmarshal([]byte(text), &lenient); err != nil {
			t.Fatalf("taken, and not JSON: %v", err)
		}
		if l := lenient[audID]; l.Token != got.token.Reveal() || !l.ExpirationTimestamp.Equal(got.expires) {
			t.Errorf("read differently")
		}
		if !isJWT(got.token.Reveal()) || !got.expires.After(now) {
			t.Errorf("taken: %d bytes until %v", len(got.token.Reveal()), got.expires)
		}
	})
}
