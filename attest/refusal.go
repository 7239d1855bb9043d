package attest

import (
	"errors"
	"fmt"
)

var (
	// ErrRefused marks a permanent answer: the same evidence will be refused
	// again. Every [*Refusal] is one.
	ErrRefused = errors.New("attest: refused")

	// ErrUnavailable marks that nothing was decided, since a party that has to
	// be asked did not answer. The same evidence may be accepted later.
	ErrUnavailable = errors.New("attest: unavailable, try again")
)

// A Refusal says why evidence or a name was not accepted. Find it with
// errors.As and a *Refusal; errors.Is(err, ErrRefused) holds for every one.
type Refusal struct {
	// Reason is a stable kebab-case code, for the log, the journal and tests.
	// It is not for the stranger who was refused.
	Reason string

	// Err tells more, and may be nil. It holds no secret.
	Err error
}

// Refuse returns a *Refusal with a message made as by fmt.Errorf.
func Refuse(reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// Reason returns the reason code of the first Refusal in err's tree, or "".
func Reason(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Reason
	}
	return ""
}

// Error returns the reason code and what is known beyond it.
func (r *Refusal) Error() string {
	if r.Err == nil {
		return "refused: " + r.Reason
	}
	return "refused: " + r.Reason + ": " + r.Err.Error()
}

// Unwrap returns r.Err.
func (r *Refusal) Unwrap() error { return r.Err }

// Is reports that every Refusal is an [ErrRefused].
func (r *Refusal) Is(target error) bool { return target == ErrRefused }
