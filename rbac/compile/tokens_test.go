package compile_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/token"
)

// TestEnvoyTakesTokens is JW-01: a real Envoy with the compiled filter and
// rbac/token are asked about each row, and both must say what the row says. Where
// a token is accepted both must have the same claims.
func TestEnvoyTakesTokens(t *testing.T) {
	sets := tokenSets()
	w := startTokens(t, sets)
	clients, verifiers := map[string]*tokenClient{}, map[string]*token.Verifier{}
	for name, rules := range sets {
		clients[name], verifiers[name] = w.client(t, name), token.New(rules)
	}
	now := time.Now()
	rows := tokenRows(now)
	if got, want := len(rows), 572; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	names, lax, accepted := map[string]bool{}, 0, 0
	for _, r := range rows {
		if names[r.name] {
			t.Errorf("two rows are named %q", r.name)
		}
		names[r.name] = true
		if r.lax != "" {
			lax++
		}
		got, err := verifiers[r.set].Authenticate(r.request.lower(), strings.TrimPrefix(r.request.query, "?"), now)
		if reason := reasonOf(got, err); reason != r.reason {
			t.Errorf("%s: rbac/token says %q (%v), want %q", r.name, reason, err, r.reason)
		}
		answer, err := clients[r.set].do(r.request)
		if err != nil || answer.code != r.code() || answer.code == 200 && (answer.payload == nil) != (r.reason == none) {
			t.Errorf("%s: Envoy answers %d %s with the payload %v, %v, want %d", r.name, answer.code, answer.details, answer.payload, err, r.code())
		}
		if got != nil {
			accepted++
			// Not by cmp.Diff, whose time is exponential in the depth.
			if !reflect.DeepEqual(answer.payload, got.Claims) {
				t.Errorf("%s: Envoy has the claims %v, rbac/token %v", r.name, answer.payload, got.Claims)
			}
		}
	}
	t.Logf("%d rows, of which %d are accepted; Envoy is laxer in %d", len(rows), accepted, lax)
	if want := 17; lax != want {
		t.Errorf("Envoy is laxer in %d rows, want %d", lax, want)
	}
}

func reasonOf(got *rbac.Token, err error) string {
	var refusal *token.Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal.Reason
	case err != nil:
		return err.Error()
	case got == nil:
		return none
	}
	return ""
}
