package rbac

import (
	"bytes"
	"errors"
	"slices"
	"strings"
)

// ErrNotCanonical reports a request target that is refused with 400 before any
// policy is asked.
var ErrNotCanonical = errors.New("rbac: the request target has no canonical path")

// CanonicalPath returns the path that policy and application see for a request
// target, or an error that is [ErrNotCanonical].
//
// It is what Envoy 1.40 makes of the target where its connection manager has
// normalize_path, merge_slashes and path_with_escaped_slashes_action
// REJECT_REQUEST, as our bootstrap has: percent-encoded unreserved characters
// are decoded (RFC 3986 §6.2.2.2), backslashes become slashes, dot segments are
// resolved (§5.2.4), also those with path parameters, other unusual bytes are
// encoded, slashes are merged, and the query is cut off. A test holds it to a
// real Envoy.
func CanonicalPath(target string) (string, error) {
	path, ok := origin(target)
	if !ok || !all(path, func(b byte) bool { return 0x20 < b && b < 0x7f && b != '#' }) {
		return "", ErrNotCanonical
	}
	path, _, _ = strings.Cut(path, "?")
	if hasEscaped(path, '/') || hasEscaped(path, '\\') {
		return "", ErrNotCanonical
	}
	if path = cutDotParameters(path); hasEscaped(path, 0) {
		return "", ErrNotCanonical
	}
	return mergeSlashes(resolveDots(path)), nil
}

// PlainPath tells whether a canonical path can be decided upon. It begins with
// one slash, and has no dot segment with path parameters: those "/..;x/" that
// came encoded survive Envoy's normalization, and some servers take them for
// "/../". Whatever is not plain is refused before any rule is looked at.
func PlainPath(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") &&
		!strings.Contains(path, "/.;") && !strings.Contains(path, "/..;")
}

// origin turns an absolute-form target (RFC 9112 §3.2.2) into origin form.
func origin(target string) (string, bool) {
	if strings.HasPrefix(target, "/") {
		return target, true
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if scheme = strings.ToLower(scheme); !ok || scheme != "http" && scheme != "https" {
		return "", false
	}
	host, _, rooted := strings.Cut(rest, "/")
	if host == "" || !all(host, func(b byte) bool { return isUnreserved(b) || b == ':' || b == '[' || b == ']' }) {
		return "", false
	}
	if !rooted {
		return "/", true
	}
	return rest[len(host):], true
}

// cutDotParameters cuts the path parameters off literal dot segments: "/..;a/b"
// becomes "/../b".
func cutDotParameters(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if dots, _, ok := strings.Cut(s, ";"); ok && (dots == "." || dots == "..") {
			segments[i] = dots
		}
	}
	return strings.Join(segments, "/")
}

// resolveDots decodes, encodes and resolves dot segments in one pass, as
// googleurl does: a dot may be encoded, a slash may be a backslash.
func resolveDots(path string) string {
	out := make([]byte, 0, len(path))
	stray := -1 // where out has its last % that encodes nothing
	for i := 0; i < len(path); {
		if n := dot(path[i:]); n > 0 && len(out) > 0 && out[len(out)-1] == '/' {
			after := path[i+n:]
			if end, width := segmentEnd(after); end { // "."
				i += n + width
				continue
			}
			if m := dot(after); m > 0 {
				if end, width := segmentEnd(after[m:]); end { // ".."
					if out = parent(out); stray >= len(out) {
						stray = -1
					}
					i += n + m + width
					continue
				}
			}
		}
		b, isEscape := escaped(path[i:])
		switch {
		case isEscape && isUnreserved(b):
			out = append(out, b)
			i += 3
			out = keepStray(out, stray, path[i:])
		case isEscape:
			out = append(out, path[i:i+3]...)
			i += 3
		case path[i] == '\\':
			out = append(out, '/')
			i++
		case strings.IndexByte("\"<>^`{|}", path[i]) >= 0:
			const digits = "0123456789ABCDEF"
			out = append(out, '%', digits[path[i]>>4], digits[path[i]&15])
			i++
		default:
			if path[i] == '%' {
				stray = len(out)
			}
			out = append(out, path[i])
			i++
		}
	}
	return string(out)
}

// keepStray encodes a stray % where the character that was just decoded would
// make an escape of it, with what comes next or what stands between: "%2%41" is
// not "%2A".
func keepStray(out []byte, stray int, next string) []byte {
	if stray < 0 || stray < len(out)-3 {
		return out
	}
	seen := string(out[stray:])
	if len(seen) == 2 && next != "" {
		seen += next[:1]
	}
	if _, ok := escaped(seen); !ok {
		return out
	}
	return slices.Insert(out, stray+1, '2', '5')
}

// dot is the width of the dot that s begins with, encoded or not, or 0.
func dot(s string) int {
	if strings.HasPrefix(s, ".") {
		return 1
	}
	if b, ok := escaped(s); ok && b == '.' {
		return 3
	}
	return 0
}

// segmentEnd tells whether a segment ends where s begins, and how wide the
// slash is that ends it.
func segmentEnd(s string) (ends bool, width int) {
	if s == "" {
		return true, 0
	}
	if s[0] == '/' || s[0] == '\\' {
		return true, 1
	}
	return false, 0
}

// parent cuts the last segment off a path that ends with a slash.
func parent(out []byte) []byte {
	if len(out) == 1 {
		return out
	}
	return out[:bytes.LastIndexByte(out[:len(out)-1], '/')+1]
}

// mergeSlashes makes one slash of several. Of a path that is nothing but
// slashes Envoy makes two; [PlainPath] refuses that one.
func mergeSlashes(path string) string {
	if !strings.Contains(path, "//") {
		return path
	}
	words := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	merged := "/" + strings.Join(words, "/")
	if strings.HasSuffix(path, "/") {
		merged += "/"
	}
	return merged
}

func hasEscaped(path string, want byte) bool {
	for i := range len(path) {
		if b, ok := escaped(path[i:]); ok && b == want {
			return true
		}
	}
	return false
}

// escaped decodes the percent-encoding that s begins with.
func escaped(s string) (byte, bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	high, ok1 := hexDigit(s[1])
	low, ok2 := hexDigit(s[2])
	return high<<4 | low, ok1 && ok2
}

func hexDigit(b byte) (byte, bool) {
	switch {
	case '0' <= b && b <= '9':
		return b - '0', true
	case 'a' <= b && b <= 'f':
		return b - 'a' + 10, true
	case 'A' <= b && b <= 'F':
		return b - 'A' + 10, true
	}
	return 0, false
}

// isUnreserved is RFC 3986 §2.3.
func isUnreserved(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("-._~", b) >= 0
}
