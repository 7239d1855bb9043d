package csi

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/istio-auth/istio-auth/attest"
)

// Limits of what a kubelet sends: a bound token is some 1,200 bytes long.
const (
	maxTokens    = 64 << 10
	maxToken     = 16 << 10
	maxAudiences = 16
)

// A boundToken is a pod's token for our audience, and when it ends.
type boundToken struct {
	token   attest.Token
	expires time.Time
}

// parseTokens reads what the kubelet puts under [tokensKey],
// {"<audience>": {"token": "<JWT>", "expirationTimestamp": "<RFC 3339>"}},
// and returns the token for the audience. Other audiences' tokens are read past.
// An unknown field, a name twice, or anything behind is refused. Errors do not
// quote the text.
func parseTokens(text, audience string, now time.Time) (boundToken, error) {
	if len(text) > maxTokens {
		return boundToken{}, attest.Refuse("tokens-too-large", "%d bytes, at most %d", len(text), maxTokens)
	}
	var ours *boundToken
	dec := json.NewDecoder(strings.NewReader(text))
	n := 0
	err := object(dec, func(name string) error {
		if n++; n > maxAudiences {
			return attest.Refuse("too-many-audiences", "more than %d", maxAudiences)
		}
		t, err := parseToken(dec)
		if err == nil && name == audience {
			ours = &t
		}
		return err
	})
	if err != nil {
		return boundToken{}, badTokens(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return boundToken{}, attest.Refuse("bad-tokens", "something follows")
	}
	switch {
	case ours == nil:
		return boundToken{}, attest.Refuse("audience-missing", "no token for %s among %d", audience, n)
	case !now.Before(ours.expires):
		return boundToken{}, attest.Refuse("token-expired", "at %s, now %s", ours.expires.UTC(), now.UTC())
	}
	return *ours, nil
}

// parseToken reads the value of one audience.
func parseToken(dec *json.Decoder) (boundToken, error) {
	var t boundToken
	err := object(dec, func(name string) error {
		value, err := dec.Token()
		if err != nil {
			return err
		}
		text, ok := value.(string)
		if !ok {
			return attest.Refuse("bad-tokens", "a value that is no text")
		}
		switch name {
		case "token":
			if !isJWT(text) {
				return attest.Refuse("bad-token", "not a JWT in compact form, of %d bytes", len(text))
			}
			t.token = attest.NewToken(text)
		case "expirationTimestamp":
			if t.expires, err = time.Parse(time.RFC3339, text); err != nil {
				return attest.Refuse("bad-expiry", "not a time of RFC 3339")
			}
		default:
			return attest.Refuse("bad-tokens", "an unknown field")
		}
		return nil
	})
	if err == nil && (t.token.IsZero() || t.expires.IsZero()) {
		err = attest.Refuse("bad-tokens", "a token or its end is missing")
	}
	return t, err
}

// object reads one JSON object; member is called for each name and reads the value.
func object(dec *json.Decoder, member func(name string) error) error {
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return errors.Join(err, errors.New("not an object"))
	}
	seen := map[string]bool{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		name, ok := key.(string)
		if !ok || seen[name] {
			return attest.Refuse("bad-tokens", "a name twice")
		}
		seen[name] = true
		if err := member(name); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

// badTokens keeps the text of a JSON error, which quotes its input, to itself.
func badTokens(err error) error {
	if attest.Reason(err) != "" {
		return err
	}
	return attest.Refuse("bad-tokens", "not JSON of the form that a kubelet writes")
}

// isJWT tells whether s has the form of a signed JWT: three parts of base64url
// (RFC 7519 §3). What is in it is for the CA, and the API server, to say.
func isJWT(s string) bool {
	if len(s) > maxToken || strings.Count(s, ".") != 2 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" {
			return false
		}
		for i := range len(part) {
			c := part[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}
