package rbactest

import (
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// A Call is what a client sends: a method and a request target, as it goes over
// the wire. The target may have any path, canonical or not, and a query.
type Call struct{ Method, Target string }

// Request is the call as policy sees it, from peer. The error is
// [rbac.ErrNotCanonical] where it is refused before any policy is asked.
func (c Call) Request(peer rbac.Peer) (rbac.Request, error) {
	path, err := rbac.CanonicalPath(c.Target)
	return rbac.Request{Protocol: rbac.HTTP, Peer: peer, Method: c.Method, Path: path}, err
}

// Call makes a call that is near to what the policies say.
func (g *Generator) Call(policies []rbac.Policy) Call {
	methods, paths := literals(policies)
	c := Call{Method: pick(g, verbs), Target: g.path()}
	if len(methods) > 0 && g.chance(70) {
		c.Method = g.complete(pick(g, methods), pick(g, verbs))
	}
	if _, err := rbac.ParseValue(rbac.Attr(rbac.Method), c.Method, Namespace); err != nil {
		c.Method = pick(g, verbs) // Envoy's parser takes no other
	}
	if len(paths) > 0 && g.chance(85) {
		c.Target = g.complete(pick(g, paths), g.path())
	}
	for range g.r.IntN(3) {
		c.Target = g.mutate(c.Target)
	}
	if !strings.HasPrefix(c.Target, "/") {
		c.Target = "/" + c.Target
	}
	if g.chance(15) {
		c.Target += pick(g, []string{"?", "?x=1", "?/admin", "?a=/../b", "?%2f", "?x//y"})
	}
	return c
}

func literals(policies []rbac.Policy) (methods, paths []rbac.Pattern) {
	for _, p := range policies {
		for _, rule := range p.Rules {
			for _, clause := range rule.To {
				for _, test := range clause {
					switch test.Attribute.Kind() {
					case rbac.Method:
						methods = append(append(methods, test.In...), test.NotIn...)
					case rbac.Path:
						paths = append(append(paths, test.In...), test.NotIn...)
					}
				}
			}
		}
	}
	return methods, paths
}

// complete makes a string that matches p, with some of filler where the star is.
func (g *Generator) complete(p rbac.Pattern, filler string) string {
	filler = filler[:g.r.IntN(len(filler)+1)]
	switch p.Kind() {
	case rbac.Prefix:
		return p.Text() + filler
	case rbac.Suffix:
		return filler + p.Text()
	case rbac.Present:
		return filler
	}
	return p.Text()
}

// mutate changes a target a little: one byte more, less or other, another case,
// a dot for a byte and a byte for a dot, and the forms that normalization knows.
func (g *Generator) mutate(s string) string {
	at := g.r.IntN(len(s) + 1)
	head, tail := s[:at], s[at:]
	switch g.r.IntN(12) {
	case 0: // one byte less at the end
		return s[:max(len(s)-1, 0)]
	case 1: // one byte more at the end
		return s + pick(g, []string{"x", "/", ".", ";", "/x", "%20", ".."})
	case 2: // another case
		if len(tail) > 0 {
			return head + swapCase(tail[:1]) + tail[1:]
		}
		return s
	case 3: // any byte becomes a dot
		if len(tail) > 0 {
			return head + "." + tail[1:]
		}
		return s
	case 4: // a dot becomes another byte
		return strings.Replace(s, ".", "x", 1)
	case 5, 6: // an insertion that normalization removes, or refuses
		return head + pick(g, []string{"/", "//", "/./", "/../", "/x/../", "\\", "/.;/", "/..;x/", "/%2e/", "/%2e%2e/", "/%2E./", "/%2e%2e;/"}) + tail
	case 7: // an insertion that stays
		return head + pick(g, []string{";", ";x=y", "%20", "%3b", "%3B", "%25", "%c3%a9", "%", "%2", "...", "~", "\"", "|", "^"}) + tail
	case 8: // what is refused
		return head + pick(g, []string{"%2f", "%2F", "%5c", "%00", "#"}) + tail
	case 9: // one byte encoded
		if len(tail) > 0 {
			const hex = "0123456789abcdef"
			return head + "%" + string(hex[tail[0]>>4]) + string(hex[tail[0]&15]) + tail[1:]
		}
		return s
	case 10: // one byte gone
		if len(tail) > 0 {
			return head + tail[1:]
		}
		return s
	}
	return s
}

func swapCase(s string) string {
	if up := strings.ToUpper(s); up != s {
		return up
	}
	return strings.ToLower(s)
}
