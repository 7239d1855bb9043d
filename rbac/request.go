package rbac

import (
	"net/netip"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A Peer is who sent a request: the SPIFFE ID of the certificate that was
// verified on its connection. The zero Peer is nobody.
type Peer struct{ ID spiffeid.ID }

// Workload returns the peer's namespace and service account, where it is a
// workload of td: its whole ID is spiffe://td/ns/<namespace>/sa/<account>, with
// a namespace of lower-case letters, digits and inner hyphens, and an account
// that may also have inner dots.
func (p Peer) Workload(td spiffeid.TrustDomain) (namespace, account string, ok bool) {
	if td.IsZero() || !p.ID.MemberOf(td) {
		return "", "", false
	}
	rest, underNS := strings.CutPrefix(p.ID.Path(), "/ns/")
	namespace, account, hasAccount := strings.Cut(rest, "/sa/")
	if !underNS || !hasAccount || !isName(namespace, "-") || !isName(account, "-.") {
		return "", "", false
	}
	return namespace, account, true
}

// Protocol is how a workload is asked. The zero value is none, and refused.
type Protocol int

const (
	HTTP Protocol = iota + 1
	// TCP is a connection of whose bytes nobody knows the meaning.
	TCP
)

// A Request is what a workload is asked: an HTTP request, or a TCP connection,
// which has of it the peer, the addresses and the server name.
type Request struct {
	Protocol Protocol
	Peer     Peer // zero: plaintext, without a certificate

	Source      netip.Addr     // the other end of the connection
	Remote      netip.Addr     // the client as trusted proxies tell it; mostly Source
	Destination netip.AddrPort // our end of the connection
	ServerName  string         // empty: none

	Method  string
	Host    string              // the authority, as it was sent
	Path    string              // canonical, without query: see [CanonicalPath]
	Headers map[string][]string // by lower-case name, each line apart
	// Token is the end user's, verified. Nil: there is none.
	Token *Token
}

// A Token is the payload of an end user's JSON web token, whose signature,
// issuer, audience and times were verified. Claims are values as of
// encoding/json; "scope" and "permission" are split at blanks.
type Token struct{ Claims map[string]any }

// SpaceDelimited are the claims whose text is a list, with blanks between
// (RFC 8693 §4.2), in order.
func SpaceDelimited() []string { return []string{"permission", "scope"} }

// SplitClaims makes lists of those that are texts, in place. A text without
// anything but blanks stays as it is.
func SplitClaims(claims map[string]any) {
	for _, name := range SpaceDelimited() {
		text, _ := claims[name].(string)
		var list []any
		for field := range strings.SplitSeq(text, " ") {
			if field != "" {
				list = append(list, field)
			}
		}
		if len(list) > 0 {
			claims[name] = list
		}
	}
}

// Texts are the values of a claim that is a string, or a list with strings in
// it, of which what is no string is left out. A claim of any other kind is
// none.
func (t *Token) Texts(path ...string) []string {
	if t == nil || len(path) == 0 {
		return nil
	}
	var value any = t.Claims
	for _, key := range path {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[key]
	}
	switch value := value.(type) {
	case string:
		return []string{value}
	case []any:
		var texts []string
		for _, item := range value {
			if text, ok := item.(string); ok {
				texts = append(texts, text)
			}
		}
		return texts
	}
	return nil
}

// PlainMethod tells whether a method can be decided upon: it is of capital
// letters and inner hyphens. HTTP/2 carries any word, "delete" too, which no rule
// for DELETE matches, and which some servers take for it.
func PlainMethod(method string) bool {
	return method != "" && method[0] != '-' && all(method, func(b byte) bool { return 'A' <= b && b <= 'Z' || b == '-' })
}

// isName tells whether s has only lower-case letters and digits, and, neither
// first nor last, the bytes of inner.
func isName(s, inner string) bool {
	if s == "" || strings.IndexByte(inner, s[0]) >= 0 || strings.IndexByte(inner, s[len(s)-1]) >= 0 {
		return false
	}
	return all(s, func(b byte) bool {
		return 'a' <= b && b <= 'z' || '0' <= b && b <= '9' || strings.IndexByte(inner, b) >= 0
	})
}

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}
