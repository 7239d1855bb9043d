package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/ca/keypolicy"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func keys() map[string]crypto.Signer {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	return map[string]crypto.Signer{
		"P-256":   must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		"P-384":   must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		"Ed25519": must(ed, err),
		"RSA":     must(rsa.GenerateKey(rand.Reader, 2048)),
	}
}

var good = Binding{
	TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.test"),
	TLS:         [32]byte{1, 2, 3},
	Purpose:     Issue,
	Subject:     "uid-of-pod",
}

// TestEveryPartMatters: a proof holds for what it was given for, and for
// nothing that differs in one part, whatever the kind of key.
func TestEveryPartMatters(t *testing.T) {
	others := map[string]func(*Binding){
		"trust domain":   func(b *Binding) { b.TrustDomain = spiffeid.RequireTrustDomainFromString("mesh.tes") },
		"connection":     func(b *Binding) { b.TLS[31] = 1 },
		"purpose":        func(b *Binding) { b.Purpose = Current },
		"other purpose":  func(b *Binding) { b.Purpose = Attest },
		"subject":        func(b *Binding) { b.Subject = "uid-of-poe" },
		"no subject":     func(b *Binding) { b.Subject = "" },
		"longer subject": func(b *Binding) { b.Subject += "\x00" },
	}
	strangers := keys()
	for name, key := range keys() {
		t.Run(name, func(t *testing.T) {
			public := must(keypolicy.Of(key.Public()))
			signature := must(Sign(key, good))
			if err := Verify(public, good, signature); err != nil {
				t.Fatalf("what was signed does not hold: %v", err)
			}
			for part, change := range others {
				b := good
				change(&b)
				if err := Verify(public, b, signature); !errors.Is(err, ErrInvalid) {
					t.Errorf("with another %s: %v, want ErrInvalid", part, err)
				}
			}
			for other, key := range strangers {
				if err := Verify(must(keypolicy.Of(key.Public())), good, signature); !errors.Is(err, ErrInvalid) {
					t.Errorf("by another key (%s): %v, want ErrInvalid", other, err)
				}
			}
			for i := range signature {
				signature[i] ^= 0x10
				if err := Verify(public, good, signature); !errors.Is(err, ErrInvalid) {
					t.Errorf("with byte %d of the signature changed: %v, want ErrInvalid", i, err)
				}
				signature[i] ^= 0x10
			}
		})
	}
}

// TestMessagesDiffer: no two bindings are the same message, also where one's
// subject looks like another's next part.
func TestMessagesDiffer(t *testing.T) {
	seen := map[string]string{}
	note := func(name string, b Binding, spki string) {
		message := string(must(b.message([]byte(spki))))
		if other, twice := seen[message]; twice {
			t.Errorf("%s and %s are one message", name, other)
		}
		seen[message] = name
	}
	for _, subject := range []string{"", "a", "ab", "\x00\x00\x00\x01a", strings.Repeat("a", MaxSubject)} {
		for _, spki := range []string{"", "a", "ba", "key", "\x00\x00\x00\x00key"} {
			b := good
			b.Subject = subject
			note(fmt.Sprintf("%.9q %q", subject, spki), b, spki)
		}
	}
	if got, want := len(seen), 25; got != want {
		t.Errorf("%d messages, want %d", got, want)
	}
}

func TestRefused(t *testing.T) {
	key := keys()["P-256"]
	public := must(keypolicy.Of(key.Public()))
	signature := must(Sign(key, good))
	table := map[string]func(*Binding){
		"no trust domain":   func(b *Binding) { b.TrustDomain = spiffeid.TrustDomain{} },
		"no connection":     func(b *Binding) { b.TLS = [32]byte{} },
		"no purpose":        func(b *Binding) { b.Purpose = "" },
		"unknown purpose":   func(b *Binding) { b.Purpose = "issue " },
		"subject too long":  func(b *Binding) { b.Subject = strings.Repeat("a", MaxSubject+1) },
		"a megabyte of one": func(b *Binding) { b.Subject = strings.Repeat("a", 1<<20) },
	}
	for name, change := range table {
		b := good
		change(&b)
		if _, err := Sign(key, b); err == nil {
			t.Errorf("%s: signed", name)
		}
		if err := Verify(public, b, signature); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	for name, signature := range map[string][]byte{
		"none": nil, "empty": {}, "513 bytes": make([]byte, 513), "a megabyte": make([]byte, 1<<20), "zeros": make([]byte, 70),
	} {
		if err := Verify(public, good, signature); !errors.Is(err, ErrInvalid) {
			t.Errorf("signature %s: %v, want ErrInvalid", name, err)
		}
	}
	if err := Verify(keypolicy.Key{}, good, signature); !errors.Is(err, ErrInvalid) {
		t.Errorf("no key: %v, want ErrInvalid", err)
	}
	if _, err := Sign(must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)), good); err == nil {
		t.Error("signed with a key that may not be certified")
	}
}

func FuzzVerify(f *testing.F) {
	key := keys()["P-256"]
	public := must(keypolicy.Of(key.Public()))
	f.Add(must(Sign(key, good)), "uid-of-poe")
	f.Add([]byte{0x30, 0}, "")
	f.Fuzz(func(t *testing.T, signature []byte, subject string) {
		b := good
		b.Subject = subject
		if subject != good.Subject && Verify(public, b, signature) == nil {
			t.Error("a proof out of nothing")
		}
	})
}
