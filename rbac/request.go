package rbac

import (
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

// A Request is what a workload is asked. Method is an HTTP method. Path is the
// path that the application gets: canonical, without query (see
// [CanonicalPath]).
type Request struct {
	Peer   Peer
	Method string
	Path   string
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
