package token

import (
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// find returns the one token of a request and where it stands. A request with
// two, in two places or in one, is refused: which of them the application would
// look at, nobody knows. The location is zero where there is none.
func (v *Verifier) find(headers map[string][]string, query string) (compact string, at rbac.TokenLocation, err error) {
	params, err := parameters(query)
	for _, l := range v.places {
		var texts []string
		switch {
		case l.Header != "":
			lines := headers[l.Header]
			if l.Header == "authorization" && len(lines) > 1 { // one line to Envoy
				lines = []string{strings.Join(lines, ",")}
			}
			texts = inHeader(lines, l.Prefix)
		case l.Cookie != "":
			texts = inCookies(headers["cookie"], l.Cookie)
		case err != nil:
			return "", at, err
		default:
			texts = params[l.Param]
		}
		if len(texts) == 0 {
			continue
		}
		if len(texts) > 1 || at != (rbac.TokenLocation{}) {
			return "", at, refuse(SeveralTokens, "a request has one token at most")
		}
		if !isCompact(texts[0]) {
			return "", at, refuse(BadForm, "it is no compact signed token")
		}
		compact, at = texts[0], l
	}
	return compact, at, nil
}

// inHeader is what stands behind the prefix. A line that has the prefix
// somewhere else, or in other letters, has a token all the same, and a bad one.
func inHeader(lines []string, prefix string) (texts []string) {
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			texts = append(texts, rest)
		} else if strings.Contains(strings.ToLower(line), strings.ToLower(prefix)) {
			texts = append(texts, "")
		}
	}
	return texts
}

func inCookies(lines []string, name string) (texts []string) {
	for _, line := range lines {
		for cookie := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ';' || r == ',' }) {
			if key, value, ok := strings.Cut(strings.TrimLeft(cookie, " "), "="); ok && key == name {
				texts = append(texts, value)
			}
		}
	}
	return texts
}

// parameters are those of a query, by name, not decoded: no name that a rule may
// have needs it, and no token.
func parameters(query string) (map[string][]string, error) {
	params := map[string][]string{}
	for param := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(param, "=")
		if hides(name) {
			return nil, refuse(OddName, "an unreserved character is percent-encoded (RFC 3986 §2.3)")
		}
		params[name] = append(params[name], value)
	}
	return params, nil
}

// hides tells whether a name has an unreserved character in percent-encoding.
func hides(name string) bool {
	for i := strings.IndexByte(name, '%'); i >= 0 && i+2 < len(name); {
		high, low := fromHex(name[i+1]), fromHex(name[i+2])
		if b := byte(high<<4 | low); high >= 0 && low >= 0 &&
			strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~", b) >= 0 {
			return true
		}
		next := strings.IndexByte(name[i+1:], '%')
		if next < 0 {
			return false
		}
		i += 1 + next
	}
	return false
}

// fromHex is the value of a hexadecimal digit, or -1.
func fromHex(b byte) int { return strings.Index("0123456789abcdef", strings.ToLower(string(rune(b)))) }
