package token_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/jwks"
	"github.com/istio-auth/istio-auth/rbac/token"
)

// The table of hostile tokens is TestEnvoyTakesTokens of rbac/compile, where a
// real Envoy judges the same. Here is what needs a clock of its own.

var key = ed25519.NewKeyFromSeed(make([]byte, 32))

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func rules() []rbac.TokenRule {
	return []rbac.TokenRule{{Issuer: "i", Keys: fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":%q}]}`, b64(key.Public().(ed25519.PublicKey)))}}
}

func sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := b64([]byte(`{"alg":"EdDSA"}`)) + "." + b64(payload)
	return text + "." + b64(ed25519.Sign(key, []byte(text)))
}

// TestEdges: the seconds at which a token begins and ends to be good.
func TestEdges(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	day := int64(jwks.TokenLife / time.Second)
	v := token.New(rules())
	for _, r := range []struct {
		nbf, exp int64 // from now
		reason   string
	}{
		{0, 1, ""}, {0, 0, ""}, {0, -60, ""}, {0, -61, token.Expired},
		{60, 61, ""}, {61, 62, token.NotYet},
		{0, day, ""}, {0, day + 60, ""}, {0, day + 61, token.TooLong},
	} {
		got, err := v.Verify(sign(t, map[string]any{"iss": "i", "nbf": now.Unix() + r.nbf, "exp": now.Unix() + r.exp}), now)
		var refusal *token.Refusal
		if r.reason == "" && (err != nil || got == nil) || r.reason != "" && (!errors.As(err, &refusal) || refusal.Reason != r.reason || got != nil) {
			t.Errorf("nbf %+d, exp %+d: got %v, want %q", r.nbf, r.exp, err, r.reason)
		}
	}
}

func TestNoRules(t *testing.T) {
	compact := sign(t, map[string]any{"iss": "i", "exp": 1})
	if got, err := token.New(nil).Authenticate(map[string][]string{"authorization": {"Bearer " + compact}}, "", time.Unix(0, 0)); got != nil || err != nil {
		t.Errorf("got %v, %v: without rules nobody looks for tokens", got, err)
	}
	var refusal *token.Refusal
	if got, err := token.New(nil).Verify(compact, time.Unix(0, 0)); got != nil || !errors.As(err, &refusal) || refusal.Reason != token.UnknownIssuer {
		t.Errorf("got %v, %v", got, err)
	}
}

func FuzzVerify(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	f.Add(sign(f, map[string]any{"iss": "i", "exp": now.Unix() + 9}))
	f.Add(sign(f, map[string]any{"iss": "i", "exp": now.Unix() + 9, "aud": []string{"a"}, "scope": "a b", "x": map[string]any{"y": "\U0001f600"}}))
	f.Add("e30.e30.AA")
	f.Add("..")
	v := token.New(rules())
	f.Fuzz(func(t *testing.T, compact string) {
		got, err := v.Authenticate(map[string][]string{"authorization": {"Bearer " + compact}}, "access_tokem=%61&"+compact, now)
		var refusal *token.Refusal
		if err != nil && (!errors.As(err, &refusal) || got != nil) {
			t.Fatalf("got %v, %v", got, err)
		}
		if got != nil && got.Claims["iss"] != "i" {
			t.Fatalf("got %v", got.Claims)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	now := time.Unix(1_800_000_000, 0)
	compact, v := sign(b, map[string]any{"iss": "i", "sub": "alice", "exp": now.Unix() + 9}), token.New(rules())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(compact, now); err != nil {
			b.Fatal(err)
		}
	}
}
