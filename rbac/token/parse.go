package token

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/istio-auth/istio-auth/rbac"
)

// maxDepth is how deep Envoy reads JSON.
const maxDepth = 100

// A parsed token is not verified.
type parsed struct {
	signed    string // header and payload as they were sent
	signature []byte
	algorithm string
	keyID     string

	issuer            string
	audiences         []string
	notBefore, expiry uint64 // seconds since 1970; 0: not there
	claims            map[string]any
}

// parse reads a compact token (RFC 7515 §7.1).
func parse(compact string) (*parsed, error) {
	parts := strings.Split(compact, ".")
	if !isCompact(compact) {
		return nil, refuse(BadForm, "it is no compact signed token")
	}
	var raw [3][]byte
	for i, part := range parts {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			return nil, refuse(BadForm, "part %d is not base64url", i+1)
		}
	}
	t := &parsed{signed: parts[0] + "." + parts[1], signature: raw[2]}
	if err := t.header(raw[0]); err != nil {
		return nil, err
	}
	return t, t.payload(raw[1])
}

// isCompact tells whether text is three parts of the base64url alphabet.
func isCompact(text string) bool {
	parts := strings.Split(text, ".")
	for _, part := range parts {
		if part == "" || strings.Trim(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(parts) == 3
}

// header takes of the header what says how it was signed. Keys and addresses of
// keys in it are the sender's word, and are not read.
func (t *parsed) header(raw []byte) error {
	header, err := object(raw)
	if err != nil {
		return refuse(BadHeader, "%v", err)
	}
	var ok bool
	if t.algorithm, ok = header["alg"].(string); !ok {
		return refuse(BadHeader, "alg is missing, or no text")
	}
	if schemes[t.algorithm] == nil {
		return refuse(UnknownAlg, "%.20q", t.algorithm)
	}
	if t.keyID, ok = optional[string](header, "kid"); !ok {
		return refuse(BadHeader, "kid is no text")
	}
	if _, ok := header["crit"]; ok { // RFC 7515 §4.1.11
		return refuse(CriticalHeader, "nothing is understood of what it names")
	}
	return nil
}

func (t *parsed) payload(raw []byte) error {
	claims, err := object(raw)
	if err != nil {
		return refuse(BadPayload, "%v", err)
	}
	var ok bool
	for _, name := range []string{"iss", "sub", "jti"} {
		if _, ok = optional[string](claims, name); !ok {
			return refuse(BadPayload, "%s is no text", name)
		}
	}
	t.issuer, _ = optional[string](claims, "iss")
	times := map[string]uint64{}
	for _, name := range []string{"iat", "nbf", "exp"} {
		// Whole seconds, without a sign: the fraction is cut.
		number, ok := optional[float64](claims, name)
		if !ok || number < 0 || number >= math.MaxUint64 {
			return refuse(BadPayload, "%s is no time", name)
		}
		times[name] = uint64(number)
	}
	t.notBefore, t.expiry = times["nbf"], times["exp"]
	switch audience := claims["aud"].(type) {
	case nil:
		if _, there := claims["aud"]; there {
			return refuse(BadPayload, "aud is null")
		}
	case string:
		t.audiences = []string{audience}
	case []any:
		for _, item := range audience {
			text, ok := item.(string)
			if !ok {
				return refuse(BadPayload, "aud has what is no text")
			}
			t.audiences = append(t.audiences, text)
		}
	default:
		return refuse(BadPayload, "aud is neither text nor list")
	}
	rbac.SplitClaims(claims)
	t.claims = claims
	return nil
}

// optional is a member of a kind; ok where it is not there, too.
func optional[T any](object map[string]any, name string) (value T, ok bool) {
	member, there := object[name]
	if !there {
		return value, true
	}
	value, ok = member.(T)
	return value, ok
}

var (
	errNotObject = errors.New("it is no JSON object")
	errTwice     = errors.New("a member is there twice")
	errTooDeep   = errors.New("it is nested too deep")
)

// object reads a JSON object in which no name is there twice, at any depth.
func object(raw []byte) (map[string]any, error) {
	if !utf8.Valid(raw) || halfSurrogate(raw) {
		return nil, errNotObject
	}
	if err := checkNames(json.NewDecoder(bytes.NewReader(raw))); err != nil {
		return nil, err
	}
	var value map[string]any
	if err := json.Unmarshal(raw, &value); err != nil || value == nil {
		return nil, errNotObject
	}
	return value, nil
}

// checkNames reads token by token. Open has for each object that is open the
// names it had so far, and nil for a list.
func checkNames(d *json.Decoder) error {
	var open []map[string]bool
	isName := false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errNotObject
		}
		inObject := len(open) > 0 && open[len(open)-1] != nil
		switch token := token.(type) {
		case json.Delim:
			switch token {
			case '{':
				open = append(open, map[string]bool{})
			case '[':
				open = append(open, nil)
			default:
				open = open[:len(open)-1]
			}
			if len(open) > maxDepth {
				return errTooDeep
			}
			isName = len(open) > 0 && open[len(open)-1] != nil
			continue
		case string:
			if inObject && isName {
				if open[len(open)-1][token] {
					return errTwice
				}
				open[len(open)-1][token] = true
				isName = false
				continue
			}
		}
		isName = inObject
	}
}

// halfSurrogate tells whether an escape is half of a pair (RFC 8259 §8.2), of
// which encoding/json makes another character, and so one text of many.
func halfSurrogate(raw []byte) bool {
	for i := 0; i+5 < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		first, ok := escaped(raw[i:])
		if !ok {
			i++ // what stands behind the backslash begins nothing
			continue
		}
		i += 5
		if !utf16.IsSurrogate(first) {
			continue
		}
		second, ok := escaped(raw[i+1:])
		if !ok || utf16.DecodeRune(first, second) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// escaped is the unit of an escape like \u0041 at the beginning.
func escaped(raw []byte) (rune, bool) {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	return rune(unit), err == nil
}
