package compile_test

import "strings"

// backends are how applications resolve the path that a sidecar hands them:
// small imitations of what servers and frameworks document or were seen to do.
// Each returns the resource, or "" where it refuses.
var backends = map[string]func(path string) string{
	// ngx_http_parse_complex_uri: decodes once, merges slashes, resolves dots.
	"nginx": func(p string) string { return resolve(unquote(p)) },
	// ap_normalize_path with AllowEncodedSlashes NoDecode.
	"apache": func(p string) string { return resolve(unquote(p)) },
	// mod_speling and case-insensitive file systems.
	"apache on a Mac": func(p string) string { return strings.ToLower(resolve(unquote(p))) },
	// CoyoteAdapter: parameters are cut before anything is decoded.
	"tomcat": func(p string) string { return resolve(unquote(parameters(p))) },
	// UrlPathHelper: parameters are cut, then decoded; a slash at the end is nothing.
	"spring": func(p string) string { return strings.TrimSuffix(resolve(unquote(parameters(p))), "/") },
	// Jetty and others that decoded first, and cut what was a parameter then.
	"jetty": func(p string) string { return resolve(parameters(unquote(p))) },
	// http.sys and Windows' file names: backslashes, case, dots and blanks at an end.
	"iis": func(p string) string {
		segments := strings.Split(strings.ReplaceAll(unquote(p), `\`, "/"), "/")
		for i, s := range segments {
			if s != "." && s != ".." {
				segments[i] = strings.TrimRight(s, ". ")
			}
		}
		return strings.ToLower(resolve(strings.Join(segments, "/")))
	},
	// A router of Express: case and a slash at the end make no difference.
	"express": func(p string) string { return strings.ToLower(strings.TrimSuffix(unquote(p), "/")) },
	// Node's legacy url.parse, and path.posix.normalize behind it.
	"node": func(p string) string { return resolve(unquote(strings.ReplaceAll(p, `\`, "/"))) },
	// WSGI: PATH_INFO is decoded once; werkzeug merges slashes.
	"wsgi": func(p string) string { return strings.Join(strings.FieldsFunc(unquote(p), isSlash), "/") },
	// C programs end a text at NUL.
	"cgi": func(p string) string {
		name, _, _ := strings.Cut(unquote(p), "\x00")
		return resolve(name)
	},
	// An application that parses the decoded text as a URL again.
	"parsed again": func(p string) string {
		p = unquote(p)
		if end := strings.IndexAny(p, "?#"); end >= 0 {
			p = p[:end]
		}
		return resolve(unquote(p))
	},
	// A proxy that decodes in front of one that does.
	"decoded twice":   func(p string) string { return resolve(unquote(unquote(p))) },
	"decoded thrice":  func(p string) string { return resolve(unquote(unquote(unquote(p)))) },
	"twice, tomcat":   func(p string) string { return resolve(unquote(parameters(unquote(p)))) },
	"trims its input": func(p string) string { return resolve(strings.TrimSpace(unquote(p))) },
}

func isSlash(r rune) bool { return r == '/' }

// unquote decodes percent-encodings once, whatever they stand for.
func unquote(s string) string {
	const digits = "0123456789abcdef"
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			lower := strings.ToLower(s[i+1 : i+3])
			high, low := strings.IndexByte(digits, lower[0]), strings.IndexByte(digits, lower[1])
			if high >= 0 && low >= 0 {
				out.WriteByte(byte(high<<4 | low))
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// parameters cuts ";a=b" off every segment.
func parameters(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

// resolve merges slashes and resolves dot segments.
func resolve(p string) string {
	var kept []string
	segments := strings.Split(p, "/")
	for _, s := range segments {
		switch {
		case s == ".." && len(kept) > 0:
			kept = kept[:len(kept)-1]
		case s != "" && s != "." && s != "..":
			kept = append(kept, s)
		}
	}
	out := "/" + strings.Join(kept, "/")
	if last := segments[len(segments)-1]; len(kept) > 0 && (last == "" || last == "." || last == "..") {
		out += "/"
	}
	return out
}
