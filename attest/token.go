package attest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "REDACTED"

// A Token is a bearer secret: whoever reads it may use it. It prints as
// REDACTED everywhere; only [Token.Reveal] gives it away. The zero Token holds
// nothing. Tokens are not comparable by ==; compare a [Token.Digest].
type Token struct {
	_ [0]func() // not comparable: two pointers to one secret would differ

	// A pointer, since fmt does not call the methods of a value in an unexported
	// field but prints its content. Of a pointer it prints the address.
	secret *string
}

// NewToken returns a Token that holds s.
func NewToken(s string) Token {
	if s == "" {
		return Token{}
	}
	return Token{secret: &s}
}

// Reveal returns the secret, to be sent to whom it is meant for.
func (t Token) Reveal() string {
	if t.secret == nil {
		return ""
	}
	return *t.secret
}

// Digest returns the SHA-256 of the secret: fit for a journal or as a key of a
// cache. For a token that a human chose, it is not fit for publication.
func (t Token) Digest() [32]byte { return sha256.Sum256([]byte(t.Reveal())) }

// IsZero reports whether t holds nothing.
func (t Token) IsZero() bool { return t.secret == nil }

// String returns REDACTED.
func (t Token) String() string { return redacted }

// GoString returns REDACTED.
func (t Token) GoString() string { return redacted }

// Format writes REDACTED, whatever the verb and its flags.
func (t Token) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText returns REDACTED.
func (t Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns "REDACTED".
func (t Token) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue returns REDACTED.
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }
