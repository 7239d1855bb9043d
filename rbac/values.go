package rbac

import (
	"slices"
	"strings"
)

// Lengths in bytes: a SPIFFE ID has at most 2048 (SPIFFE-ID §2.3), a label 63
// and a subdomain 253 (RFC 1123 §2.1, as Kubernetes reads it), a service account
// in a rule 320 (istio.io/api), and Envoy takes no longer request header than 60 KiB.
const (
	maxPrincipal   = 2048
	maxLabel       = 63
	maxSubdomain   = 253
	maxAccount     = 320
	maxPath        = 8192
	maxHost        = 253
	maxTrustDomain = 255

	maxHeaderName  = 256
	maxHeaderValue = 4096
	maxClaimKey    = 256
	maxClaimDepth  = 8
	maxClaimValue  = 2048
	maxSegments    = 64 // of a path template
)

// methods are those that Envoy's HTTP/1 parser knows: RFC 9110 §9, PATCH,
// WebDAV and a few others. A closed list, so that a slip of the pen is refused.
var methods = []string{
	"ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "MERGE", "MKACTIVITY",
	"MKCALENDAR", "MKCOL", "MOVE", "MSEARCH", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH",
	"PURGE", "PUT", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK",
	"UNSUBSCRIBE",
}

// ParseValue reads one value of an attribute, in a policy of the namespace own.
// Errors are [Refusal]s.
func ParseValue(a Attribute, s, own string) (Pattern, error) {
	switch a.kind {
	case Principal:
		return parsePrincipal(s)
	case Namespace, AnyNamespace:
		return parseNamespace(s)
	case ServiceAccount, AnyServiceAccount:
		return parseServiceAccount(s, own)
	case TrustDomain:
		return parseTrustDomain(s)
	case SourceIP, RemoteIP, DestinationIP:
		return parseNetwork(s)
	case DestinationPort:
		return parsePort(s)
	case ServerName:
		return parseHostname("bad-sni", s)
	case Method:
		return parseMethod(s)
	case Host:
		return parseHostname("bad-host", s)
	case Path:
		return parsePath(s)
	case Header:
		return parseHeaderValue(s)
	case RequestPrincipal:
		return parseRequestPrincipal(s)
	case Claim:
		return parseClaimValue(a.name, s)
	case Audience, Presenter:
		return parsePattern(s, maxClaimValue)
	}
	return Pattern{}, refuse("bad-attribute", "no value of it can match")
}

// parsePrincipal reads a value of principals: a SPIFFE ID without its scheme, or
// its beginning or end with a star. Errors are [Refusal]s.
func parsePrincipal(s string) (Pattern, error) {
	p, err := parsePattern(s, maxPrincipal)
	if err != nil {
		return Pattern{}, err
	}
	if strings.Contains(p.text, "://") {
		return Pattern{}, refuse("bad-principal", "%.80q: a principal is written without the scheme spiffe://", s)
	}
	if !all(p.text, func(b byte) bool {
		return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("-._/", b) >= 0
	}) {
		return Pattern{}, refuse("bad-principal", "%.80q: a SPIFFE ID has letters, digits, and - . _ / only", s)
	}
	if strings.Contains(p.text, "//") {
		return Pattern{}, refuse("bad-principal", "%.80q: a SPIFFE ID has no empty segment", s)
	}
	if p.kind == Exact && !isWorkload(p.text) || p.kind == Prefix && !beginsWorkload(p.text) || p.kind == Suffix && !endsWorkload(p.text) {
		return Pattern{}, refuse("bad-principal", "%.80q: no workload's ID is that: want <trust domain>/ns/<namespace>/sa/<service account>", s)
	}
	return p, nil
}

// isWorkload tells whether s is a workload's SPIFFE ID without its scheme.
func isWorkload(s string) bool {
	td, path, ok := strings.Cut(s, "/")
	path, underNS := strings.CutPrefix(path, "ns/")
	namespace, account, hasAccount := strings.Cut(path, "/sa/")
	return ok && underNS && hasAccount && td != "" && isName(namespace, "-") && isName(account, "-.") &&
		strings.ToLower(td) == td
}

// beginsWorkload tells whether a workload's ID can begin with s, as far as its
// two fixed words say.
func beginsWorkload(s string) bool {
	segments := strings.Split(s, "/")
	for i, word := range []string{1: "ns", 3: "sa"} {
		if word == "" || i >= len(segments) {
			continue
		}
		last := i == len(segments)-1
		if segments[i] != word && !(last && strings.HasPrefix(word, segments[i])) {
			return false
		}
	}
	return len(segments) <= 5
}

// endsWorkload tells whether a workload's ID can end with s, likewise. It holds
// no slash before the trust domain, where a URI has the end of its scheme.
func endsWorkload(s string) bool {
	segments := strings.Split(s, "/")
	slices.Reverse(segments)
	for i, word := range []string{1: "sa", 3: "ns"} {
		if word == "" || i >= len(segments) {
			continue
		}
		first := i == len(segments)-1
		if segments[i] != word && !(first && strings.HasSuffix(word, segments[i])) {
			return false
		}
	}
	return len(segments) <= 5 && !strings.HasSuffix(s, "/")
}

// parseNamespace reads a value of namespaces: a namespace, or its beginning or
// end with a star. Errors are [Refusal]s.
func parseNamespace(s string) (Pattern, error) {
	p, err := parsePattern(s, maxLabel+1)
	if err != nil {
		return Pattern{}, err
	}
	whole := p.text // with what the star stands for, a namespace
	switch p.kind {
	case Prefix:
		whole += "x"
	case Suffix, Present:
		whole = "x" + whole
	}
	if !isName(whole, "-") || len(whole) > maxLabel {
		return Pattern{}, refuse("bad-namespace", "%.80q: a namespace has at most %d lower-case letters, digits and inner hyphens", s, maxLabel)
	}
	return p, nil
}

// parseMethod reads a value of methods: an HTTP method, or its beginning or end
// with a star. Errors are [Refusal]s.
func parseMethod(s string) (Pattern, error) {
	p, err := parsePattern(s, maxLabel)
	if err != nil {
		return Pattern{}, err
	}
	if !slices.ContainsFunc(methods, p.Match) {
		return Pattern{}, refuse("bad-method", "%.80q: no HTTP method is that; methods are upper-case", s)
	}
	return p, nil
}

// parsePath reads a value of paths: a path, or its beginning or end with a star.
// One that no canonical path could match is refused. Errors are [Refusal]s.
func parsePath(s string) (Pattern, error) {
	if strings.ContainsAny(s, "{}") {
		return parseTemplate(s)
	}
	p, err := parsePattern(s, maxPath)
	if err != nil {
		return Pattern{}, err
	}
	switch {
	case strings.ContainsAny(p.text, "?#"):
		return Pattern{}, refuse("bad-path", "%.80q: a path is matched without its query", s)
	case strings.Contains(p.text, "%"):
		return Pattern{}, refuse("encoded-path", "%.80q: a path is written without percent-encodings, of which one text has many", s)
	case (p.kind == Exact || p.kind == Prefix) && p.text[0] != '/':
		return Pattern{}, refuse("bad-path", "%.80q: a path begins with a slash", s)
	}
	// What the star stands for is taken so that it ends, or begins, a segment
	// that is no dot segment.
	whole := p.text
	switch p.kind {
	case Prefix:
		whole += "x"
	case Suffix:
		whole = "/x" + whole
	case Present:
		return p, nil
	}
	if p.kind == Suffix && (strings.Contains(p.text, ";") || strings.Trim(p.foldedText(), "/") == "") {
		return Pattern{}, refuse("bad-path", "%.80q: no end of a path is that, the way that all applications read paths", s)
	}
	if canonical, err := CanonicalPath(whole); err != nil || canonical != whole || !PlainPath(whole) {
		return Pattern{}, refuse("bad-path", "%.80q: no request has this path: dot segments, double slashes, backslashes and other unusual bytes are normalized before policy sees it", s)
	}
	return p, nil
}

// parseServiceAccount reads a value of serviceAccounts: "account" in the
// policy's namespace own, or "namespace/account". There are no stars.
func parseServiceAccount(s, own string) (Pattern, error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		namespace, name = own, s
	}
	switch {
	case s == "":
		return Pattern{}, refuse("empty-value", "empty: leave the field out, or give a value")
	case len(s) > maxAccount:
		return Pattern{}, refuse("too-long", "%d bytes, at most %d", len(s), maxAccount)
	case strings.Contains(s, "*"):
		return Pattern{}, refuse("bad-service-account", "%.80q: a service account is written whole, without stars", s)
	case !IsNamespace(namespace) || !isName(name, "-.") || len(name) > maxSubdomain:
		return Pattern{}, refuse("bad-service-account", "%.80q: want <service account> or <namespace>/<service account>", s)
	}
	return pair(Pattern{kind: Exact, text: namespace}, Pattern{kind: Exact, text: name}), nil
}

// IsNamespace tells whether s can be a namespace: an RFC 1123 label.
func IsNamespace(s string) bool { return len(s) <= maxLabel && isName(s, "-") }

// IsPolicyName tells whether s can be a policy's name: an RFC 1123 subdomain.
func IsPolicyName(s string) bool {
	if len(s) > maxSubdomain {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isName(label, "-") {
			return false
		}
	}
	return true
}

// parsePattern reads the stars. One that is neither first nor last is refused:
// it would be a literal, which its author hardly means, and which no path,
// identity or method has.
func parsePattern(s string, most int) (Pattern, error) {
	switch {
	case s == "":
		return Pattern{}, refuse("empty-value", "empty: leave the field out, or give a value")
	case len(s) > most:
		return Pattern{}, refuse("too-long", "%d bytes, at most %d", len(s), most)
	case s == "*":
		return Pattern{kind: Present}, nil
	}
	p := Pattern{kind: Exact, text: s}
	if text, ok := strings.CutPrefix(s, "*"); ok {
		p = Pattern{kind: Suffix, text: text}
	} else if text, ok := strings.CutSuffix(s, "*"); ok {
		p = Pattern{kind: Prefix, text: text}
	}
	if strings.Contains(p.text, "*") {
		return Pattern{}, refuse("bad-star", "%.80q: a star is a wildcard only as the first or the last character, and not both", s)
	}
	return p, nil
}
