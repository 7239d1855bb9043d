package attest

import (
	"errors"
	"fmt"
)

// Lengths in bytes. SPIFFE-ID §2.1 and §2.3; RFC 1123 §2.1 with RFC 1035
// §2.3.4, as Kubernetes reads them; a UID has 36, and a static pod's has 32.
const (
	maxTrustDomain = 255
	maxID          = 2048
	maxLabel       = 63
	maxSubdomain   = 253
	maxUID         = 64
)

// A part of an identity: the reason code where it is bad, and its grammar.
type part struct {
	reason, value string
	valid         func(string) error
}

// check returns a Refusal for the first part that is bad.
func check(parts ...part) error {
	for _, p := range parts {
		if err := p.valid(p.value); err != nil {
			return &Refusal{Reason: p.reason, Err: err}
		}
	}
	return nil
}

var errEmpty = errors.New("empty")

// trustDomain checks the length alone: a spiffeid.TrustDomain has only good
// bytes, but of any number.
func trustDomain(s string) error { return within(s, maxTrustDomain) }

// label checks an RFC 1123 label: lower-case letters, digits and inner hyphens.
func label(s string) error {
	if err := within(s, maxLabel); err != nil {
		return err
	}
	return word(s)
}

// uid checks what may stand as a UID: Kubernetes writes lower-case UUIDs, and a
// static pod's UID is a hash. It has a label's letters, so that it can neither
// end a path segment nor differ from another by case alone.
func uid(s string) error {
	if err := within(s, maxUID); err != nil {
		return err
	}
	return word(s)
}

// subdomain checks an RFC 1123 subdomain: labels with dots between them, of any
// length each, as Kubernetes has it.
func subdomain(s string) error {
	if err := within(s, maxSubdomain); err != nil {
		return err
	}
	start := 0
	for i := range len(s) {
		if s[i] == '.' {
			if err := word(s[start:i]); err != nil {
				return err
			}
			start = i + 1
		}
	}
	return word(s[start:])
}

func within(s string, most int) error {
	if s == "" {
		return errEmpty
	}
	if len(s) > most {
		return fmt.Errorf("%d bytes, at most %d", len(s), most)
	}
	return nil
}

// word checks lower-case letters, digits, and hyphens that are neither first
// nor last.
func word(s string) error {
	if s == "" {
		return errEmpty
	}
	for i := range len(s) {
		alnum := 'a' <= s[i] && s[i] <= 'z' || '0' <= s[i] && s[i] <= '9'
		inner := 0 < i && i < len(s)-1
		if !alnum && !(s[i] == '-' && inner) {
			return fmt.Errorf("byte %#02x at %d of %.80q", s[i], i, s)
		}
	}
	return nil
}

// CheckHint checks the namespace, name and UID with which a caller says which
// pod it means, before anybody is asked about it. It returns a [*Refusal] where
// one is malformed. The service account is not looked at: no caller says it.
func CheckHint(pod Pod) error {
	return check(
		part{"bad-namespace", pod.Namespace, label},
		part{"bad-pod-name", pod.Name, subdomain},
		part{"bad-pod-uid", pod.UID, uid},
	)
}
