package rbac

import (
	"strings"
	"unicode/utf8"
)

// FoldPath is a path as the most obliging application might resolve it:
// percent-encodings decoded, however often they were encoded, backslashes for
// slashes, path parameters cut, dots and blanks at the end of a segment
// dropped, dot segments resolved, what follows a decoded ?, # or NUL cut, all in
// lower case. Bytes beyond ASCII stay encoded: a folded path is ASCII, as the
// patterns are that it is compared with. Applications differ, so a path that policy cannot read in one way
// only is compared in both: see rbac/eval.
//
// Folding is for comparing. What the application gets is the path.
func FoldPath(path string) string {
	if isFolded(path) {
		return path
	}
	for range maxDecodings {
		decoded := decodePercent(path)
		if decoded == path {
			break
		}
		path = decoded
	}
	path = strings.ReplaceAll(path, `\`, "/")
	if end := strings.IndexAny(path, "?#\x00"); end >= 0 {
		path = path[:end]
	}
	segments := strings.Split(path, "/")
	var kept []string
	for _, s := range segments {
		s, _, _ = strings.Cut(s, ";")
		if s == ".." && len(kept) > 0 {
			kept = kept[:len(kept)-1]
		}
		if s = strings.TrimRight(s, blanks); s != "" {
			kept = append(kept, s)
		}
	}
	folded := "/" + strings.Join(kept, "/")
	if last, _, _ := strings.Cut(segments[len(segments)-1], ";"); len(kept) > 0 && strings.TrimRight(last, blanks) == "" {
		folded += "/"
	}
	return lower(folded)
}

// isFolded tells of most paths, without a copy, that folding changes nothing.
func isFolded(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	before := byte('/')
	for i := 1; i < len(path); i++ {
		b := path[i]
		if b, encoded := escaped(path[i:]); encoded && b < utf8.RuneSelf {
			return false
		}
		if 'A' <= b && b <= 'Z' || strings.IndexByte("\\;?#\x00", b) >= 0 || b == '/' && strings.IndexByte("/"+blanks, before) >= 0 {
			return false
		}
		before = b
	}
	return strings.IndexByte(blanks, before) < 0
}

// blanks are what applications drop at the end of a segment: a dot, a blank, and
// what else is white space once it is decoded.
const blanks = ". \t\n\v\f\r"

// maxDecodings is how often a path is decoded at most.
const maxDecodings = 4

func decodePercent(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		if b, ok := escaped(s[i:]); ok && b < utf8.RuneSelf {
			out.WriteByte(b)
			i += 3
			continue
		}
		out.WriteByte(s[i])
		i++
	}
	return out.String()
}

// lower is ASCII's, byte by byte.
func lower(s string) string {
	if all(s, func(b byte) bool { return b < 'A' || 'Z' < b }) {
		return s
	}
	out := []byte(s)
	for i, b := range out {
		if 'A' <= b && b <= 'Z' {
			out[i] = b + 'a' - 'A'
		}
	}
	return string(out)
}

// FoldHost is the host of a request for policy: an authority without port, and
// without the dot at its end, in lower case. It is empty where the host is not
// of letters, digits, hyphens, underscores and dots, or an IP address: such a
// host cannot be decided upon.
func FoldHost(authority string) string {
	host := lower(authority)
	if inner, ok := strings.CutPrefix(host, "["); ok {
		address, port, closed := strings.Cut(inner, "]")
		if !closed || !isPortSuffix(port) || !all(address, func(b byte) bool {
			return '0' <= b && b <= '9' || 'a' <= b && b <= 'f' || b == ':' || b == '.'
		}) || address == "" {
			return ""
		}
		return host[:len("[]")+len(address)]
	}
	name, port, hasPort := strings.Cut(host, ":")
	if hasPort && !isPortSuffix(":"+port) {
		return ""
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") ||
		!all(name, func(b byte) bool {
			return 'a' <= b && b <= 'z' || '0' <= b && b <= '9' || strings.IndexByte("-._", b) >= 0
		}) {
		return ""
	}
	return name
}

func isPortSuffix(s string) bool {
	return s == "" || len(s) <= 6 && s[0] == ':' && all(s[1:], func(b byte) bool { return '0' <= b && b <= '9' })
}
