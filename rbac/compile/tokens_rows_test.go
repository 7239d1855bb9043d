package compile_test

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/istio-auth/istio-auth/rbac/token"
)

// A tokenRow is a request to a workload with the rules of a set. Reason is what
// rbac/token must say; empty means that the token is accepted, and none that the
// request has no token.
type tokenRow struct {
	name, set string
	request   tokenRequest
	reason    string
	// lax is why Envoy accepts all the same; its answer is then 200.
	lax string
}

const none = "none"

// code is what Envoy must answer.
func (r tokenRow) code() int {
	switch {
	case r.reason == "" || r.reason == none || r.lax != "":
		return 200
	case r.reason == token.WrongAudience:
		return 403
	}
	return 401
}

// Why Envoy accepts what rbac/token refuses. All of these an issuer's key has
// signed, and policy sees what Envoy sees.
const (
	laxJSON      = "Envoy's parser takes what RFC 8259 does not know"
	laxCrit      = "Envoy does not look at crit"
	laxLife      = "Envoy takes an exp of 2^63 and more for one before 1970 when it looks at the lifetime"
	laxSignature = "Envoy takes halves with zeroes in front, and leaves out an odd byte"
	laxLines     = "Envoy verifies two lines, both valid"
	laxCookies   = "Envoy looks at the first cookie; the sidecar's first filter joins the lines"
)

// tokenRows is JW-01.
func tokenRows(now time.Time) []tokenRow {
	return slices.Concat(formRows(now), headerRows(now), keyRows(now), claimRows(now), timeRows(now), audienceRows(now), jsonRows(now), placeRows(now))
}

type rowList []tokenRow

func (l *rowList) add(name, compact, reason string) {
	*l = append(*l, tokenRow{name: name, set: "one", request: bearer(compact), reason: reason})
}

func (l *rowList) in(set, name, compact, reason string) {
	*l = append(*l, tokenRow{name: set + ": " + name, set: set, request: bearer(compact), reason: reason})
}

func (l *rowList) lax(name, compact, reason, lax string) {
	*l = append(*l, tokenRow{name: name, set: "one", request: bearer(compact), reason: reason, lax: lax})
}

// formRows: what is no compact token, or nearly one.
func formRows(now time.Time) []tokenRow {
	var l rowList
	good := keyring()["e256"].token(goodClaims(now))
	parts := strings.Split(good, ".")
	for name, compact := range map[string]string{
		"one part":                     parts[0],
		"two parts":                    parts[0] + "." + parts[1],
		"four parts":                   good + ".AAAA",
		"five parts, as if encrypted":  good + ".AAAA.AAAA",
		"a dot in front":               "." + good,
		"a dot behind":                 good + ".",
		"two dots":                     strings.Replace(good, ".", "..", 1),
		"no header":                    "." + parts[1] + "." + parts[2],
		"no payload":                   parts[0] + ".." + parts[2],
		"no signature":                 cut(good),
		"dots":                         "..",
		"padding behind":               good + "==",
		"padding in the header":        parts[0] + "=." + parts[1] + "." + parts[2],
		"standard base64":              good[:len(good)-2] + "+/",
		"a comma behind":               good + ",",
		"a second one behind a comma":  good + "," + good,
		"a blank and garbage behind":   good + " x",
		"garbage behind":               good + "!",
		"a quote around":               `"` + good + `"`,
		"percent-encoded dots":         strings.ReplaceAll(good, ".", "%2E"),
		"a letter of another alphabet": good[:len(good)-1] + "é",
		"a bearer before it":           "Bearer " + good,
		"a blank before it":            " " + good,
		"a length that base64 has not": parts[0] + "." + parts[1] + ".AAAAA",
		"JSON in its place":            `{"alg":"none"}`,
		"words":                        "not a token",
	} {
		l.add(name, compact, token.BadForm)
	}
	l.add("the last bits of the signature flipped, which mean nothing", otherBits(good), "")
	l.add("a payload of that length", parts[0]+"."+parts[1]+"A."+parts[2], badLength(parts[1]+"A"))
	l.add("as it should be", good, "")
	return l
}

// badLength is the reason for a part with one letter more.
func badLength(part string) string {
	if len(part)%4 == 1 {
		return token.BadForm
	}
	return token.BadPayload
}

// otherBits flips a bit of the last letter that no byte of 64 has.
func otherBits(compact string) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(letters, compact[len(compact)-1])
	return compact[:len(compact)-1] + string(letters[i^1])
}

// headerRows: algorithms that are none, and what a header may ask for.
func headerRows(now time.Time) []tokenRow {
	var l rowList
	k, g := keyring(), goodClaims(now)
	e := k["e256"]
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "HS256", "HS384", "HS512", "ES256K", "RS1", "es256", "ES256 ", "", "EdDSA\u0000", "RSA-OAEP", "dir", "A128KW", "RS256,ES256"} {
		reason := token.UnknownAlg
		if strings.HasPrefix(alg, "HS") {
			reason = token.UnknownAlg // Envoy knows it, and has no key for it
		}
		l.add(fmt.Sprintf("alg %q", alg), e.raw("ES256", claims{"alg": alg}.String(), g.String()), reason)
	}
	for name, value := range map[string]any{"a number": 256, "a list": []string{"ES256"}, "an object": claims{}, "true": true} {
		l.add("alg is "+name, e.raw("ES256", claims{"alg": value}.String(), g.String()), token.BadHeader)
		l.add("kid is "+name, e.raw("ES256", claims{"alg": "ES256", "kid": value}.String(), g.String()), token.BadHeader)
	}
	l.add("no alg", e.raw("ES256", `{"typ":"JWT"}`, g.String()), token.BadHeader)
	l.add("alg is null", e.raw("ES256", `{"alg":null}`, g.String()), token.BadHeader)
	l.add("kid is null", e.raw("ES256", `{"alg":"ES256","kid":null}`, g.String()), token.BadHeader)
	l.add("Alg in capitals", e.raw("ES256", `{"Alg":"ES256"}`, g.String()), token.BadHeader)
	l.add("alg twice", e.raw("ES256", `{"alg":"none","alg":"ES256"}`, g.String()), token.BadHeader)
	l.add("kid twice", e.raw("ES256", `{"alg":"ES256","kid":"x","kid":"e256"}`, g.String()), token.BadHeader)
	l.add("alg none, no signature, but a dot's worth", b64([]byte(`{"alg":"none"}`))+"."+b64([]byte(g.String()))+".AA", token.UnknownAlg)
	// The classic: an HMAC whose secret is the public key.
	public := must(x509.MarshalPKIXPublicKey(k["r256"].private.Public()))
	for name, secret := range map[string]string{
		"PEM":              string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"DER":              string(public),
		"the JWK":          k["r256"].jwk().String(),
		"the key set":      keySet(k["r256"]),
		"an empty secret":  "",
		"the modulus":      k["r256"].jwk()["n"].(string),
		"the issuer's uri": issuerA,
	} {
		l.add("HS256 with "+name, hmacToken(secret, `{"alg":"HS256","kid":"r256"}`, g.String()), token.UnknownAlg)
		l.add("RS256 that is an HMAC with "+name, hmacToken(secret, `{"alg":"RS256","kid":"r256"}`, g.String()), token.WrongSignature)
	}
	for name, kid := range map[string]string{
		"a path":           "../../../../dev/null",
		"an absolute path": "/etc/passwd",
		"SQL":              "x' UNION SELECT 'AAAA",
		"a URL":            "https://evil.test/keys",
		"a command":        "|/usr/bin/uname",
		"NUL":              "e256\x00",
		"a blank":          "e256 ",
		"capitals":         "E256",
		"another key's":    "r256",
		"a stranger's":     "stranger",
		"a long one":       strings.Repeat("k", 2000),
	} {
		l.add("kid is "+name, e.headed(claims{"kid": kid}, g), token.NoSuchKey)
	}
	l.add("no kid", e.headed(claims{"kid": nil}, g), "")
	l.add("an empty kid", e.headed(claims{"kid": ""}, g), "")
	// What the sender says about keys is not read: signed by the right key it is
	// as good as without, by another it is worth nothing.
	stranger := k["stranger"]
	for name, header := range map[string]claims{
		"jku":            {"jku": "https://evil.test/jwks.json"},
		"x5u":            {"x5u": "https://evil.test/cert.pem"},
		"jwk":            {"jwk": stranger.jwk()},
		"x5c":            {"x5c": []string{base64.StdEncoding.EncodeToString(public)}},
		"x5t":            {"x5t": "AAAA"},
		"typ":            {"typ": "at+jwt"},
		"typ, a number":  {"typ": 1},
		"cty":            {"cty": "JWT"},
		"zip":            {"zip": "DEF"},
		"enc":            {"enc": "A128GCM"},
		"b64, not crit":  {"b64": false},
		"url":            {"url": "file:///etc/passwd"},
		"iss":            {"iss": issuerB},
		"an odd one":     {"\u202e": "x"},
		"a jwk, no key":  {"jwk": 5},
		"an empty jwk":   {"jwk": claims{}},
		"p2c, a billion": {"p2c": 1_000_000_000},
	} {
		l.add(name+" beside a good key", e.headed(header, g), "")
		l.add(name+" beside a stranger's", stranger.headed(header.with("kid", "r256"), g), token.WrongSignature)
	}
	for name, crit := range map[string]any{"exp": []string{"exp"}, "b64": []string{"b64"}, "nothing": []string{}, "a text": "exp"} {
		l.lax("crit is "+name, e.headed(claims{"crit": crit, "b64": false, "exp": 1}, g), token.CriticalHeader, laxCrit)
	}
	return l
}

// keyRows: each algorithm with its own key, and with each of the others.
func keyRows(now time.Time) []tokenRow {
	var l rowList
	k, g := keyring(), goodClaims(now)
	ids := []string{"r256", "r384", "r512", "s256", "s384", "s512", "e256", "e384", "e512", "ed"}
	for _, id := range ids {
		key := k[id]
		l.add(key.alg, key.token(g), "")
		l.add(key.alg+" without kid", key.headed(claims{"kid": nil}, g), "")
		changed := key.token(g)
		l.add(key.alg+" with another payload", strings.Replace(changed, "."+b64([]byte(g.String()))+".", "."+b64([]byte(g.with("sub", "mallory").String()))+".", 1), token.WrongSignature)
		signature := key.sign(key.alg, strings.TrimSuffix(cut(changed), "."))
		for name, s := range map[string][]byte{
			"zeroes":       make([]byte, len(signature)),
			"ones":         slices.Repeat([]byte{0xff}, len(signature)),
			"one byte":     {1},
			"cut short":    signature[:len(signature)-1],
			"a byte more":  append(slices.Clone(signature), 0),
			"twice":        slices.Concat(signature, signature),
			"other halves": slices.Concat(signature[len(signature)/2:], signature[:len(signature)/2]),
		} {
			if name == "a byte more" && key.alg[:2] == "ES" {
				l.lax(key.alg+" with a byte more", cut(changed)+b64(s), token.WrongSignature, laxSignature)
				continue
			}
			l.add(key.alg+" with a signature of "+name, cut(changed)+b64(s), token.WrongSignature)
		}
	}
	for pair, alg := range map[string]string{"r256": "PS256", "s256": "RS256", "r512": "RS256", "s384": "PS512", "r384": "PS384"} {
		l.add(pair+" signs "+alg, k[pair].raw(alg, claims{"alg": alg, "kid": pair}.String(), g.String()), token.NoSuchKey)
		l.in("nameless", pair+" signs "+alg, k[pair].raw(alg, claims{"alg": alg}.String(), g.String()),
			map[bool]string{true: token.WrongSignature, false: token.NoSuchKey}[alg == "RS256"])
	}
	l.add("PS256 that says RS256", k["r256"].raw("PS256", `{"alg":"RS256","kid":"r256"}`, g.String()), token.WrongSignature)
	l.add("SHA-512 that says RS256", k["r256"].raw("RS512", `{"alg":"RS256","kid":"r256"}`, g.String()), token.WrongSignature)
	l.add("P-384 that says ES256", k["e384"].raw("ES256", `{"alg":"ES256","kid":"e384"}`, g.String()), token.NoSuchKey)
	l.add("Ed25519 that says ES256", k["ed"].raw("EdDSA", `{"alg":"ES256","kid":"e256"}`, g.String()), token.WrongSignature)
	l.add("ECDSA in DER", der(k["e256"], g), token.WrongSignature)
	l.lax("ECDSA with a zero before both numbers", longHalves(k["e256"], g), token.WrongSignature, laxSignature)
	l.add("PSS with a salt of 20 bytes", pssSalt(k["s256"], g, 20), token.WrongSignature)
	l.add("PSS with a salt of 1 byte", pssSalt(k["s256"], g, 0), token.WrongSignature)
	l.add("PSS with the longest salt", pssSalt(k["s256"], g, -1), token.WrongSignature)
	l.add("a stranger's key", k["stranger"].token(g), token.NoSuchKey)
	l.add("a stranger's key, a known kid", k["stranger"].headed(claims{"kid": "r256"}, g), token.WrongSignature)
	l.in("nameless", "RS256", k["r256"].token(g), "")
	l.in("nameless", "ES256", k["e256"].token(g), "")
	l.in("nameless", "EdDSA", k["ed"].token(g), "")
	l.in("nameless", "a stranger's key", k["stranger"].token(g), token.WrongSignature)
	l.in("lost", "an issuer without keys", k["e256"].token(g), token.IssuerKeyless)
	l.in("lost", "its EdDSA", k["ed"].headed(claims{"kid": nil}, g), token.IssuerKeyless)
	l.in("lost", "the issuer beside it", k["b256"].token(g.with("iss", issuerB)), "")
	l.in("rotten", "an issuer whose keys are none", k["e256"].token(g), token.IssuerKeyless)
	l.in("rotten", "HS256 with them", hmacToken("\x00\x00\x00", `{"alg":"HS256"}`, g.String()), token.UnknownAlg)
	l.in("none", "any token", k["stranger"].token(g), none)
	return l
}

// claimRows: the kinds of claims.
func claimRows(now time.Time) []tokenRow {
	var l rowList
	k, g := keyring(), goodClaims(now)
	e := k["e256"]
	raw := func(name, value string) string {
		return e.raw("ES256", `{"alg":"ES256"}`, `{"`+name+`":`+value+`,`+g.with(name, nil).String()[1:])
	}
	for _, name := range []string{"iss", "sub", "jti"} {
		for _, value := range []string{"null", "1", "true", "[]", `["` + issuerA + `"]`, "{}"} {
			l.add(name+" is "+value, raw(name, value), token.BadPayload)
		}
	}
	for _, name := range []string{"iat", "nbf", "exp"} {
		for _, value := range []string{"null", `"1"`, `"` + fmt.Sprint(now.Add(time.Hour).Unix()) + `"`, "true", "[]", "[1]", "{}", "-1", "18446744073709551615", "1e30", "1e400", "-1e400"} {
			l.add(name+" is "+value, raw(name, value), token.BadPayload)
		}
	}
	for _, value := range []string{"null", "1", "true", "{}", "[1]", `["a",null]`, `[["a"]]`, `["a",{}]`} {
		l.add("aud is "+value, raw("aud", value), token.BadPayload)
	}
	for name, issuer := range map[string]string{
		"another's": issuerB, "nobody's": "https://evil.test", "empty": "", "with a slash": issuerA + "/", "in capitals": strings.ToUpper(issuerA),
		"without a scheme": "a.test", "with a blank": issuerA + " ", "with NUL": issuerA + "\x00", "longer": issuerA + ".evil.test", "the guards'": "istio-auth:none",
		"full-width": "https://ａ.test", "percent-encoded": "https://%61.test",
	} {
		l.add("iss is "+name, e.token(g.with("iss", issuer)), token.UnknownIssuer)
	}
	l.add("no iss", e.token(g.with("iss", nil)), token.UnknownIssuer)
	l.add("iss in the header only", e.headed(claims{"iss": issuerA}, g.with("iss", nil)), token.UnknownIssuer)
	l.add("no sub", e.token(g.with("sub", nil)), "")
	l.add("an empty sub", e.token(g.with("sub", "")), "")
	l.add("sub is -", e.token(g.with("sub", "-")), "")
	l.add("no iat", e.token(g.with("iat", nil)), "")
	l.add("jti", e.token(g.with("jti", "x")), "")
	l.add("scope and permission", e.token(g.with("scope", " a  b ", "permission", "p")), "")
	l.add("an empty scope", e.token(g.with("scope", "")), "")
	l.add("a scope of blanks", e.token(g.with("scope", "   ")), "")
	l.add("a scope with a tab", e.token(g.with("scope", "a\tb")), "")
	l.add("a scope that is a list", e.token(g.with("scope", []string{"a b", "c"})), "")
	l.add("a scope that is a number", e.token(g.with("scope", 1)), "")
	l.add("a nested scope", e.token(g.with("a", claims{"scope": "a b"})), "")
	l.add("lists in lists", e.token(g.with("a", []any{1, "x", []any{"y"}, claims{"z": nil}, nil, true})), "")
	l.add("dotted names", e.token(g.with("a.b", "x", "a", claims{"b": "y", "c.d": claims{"e": "z"}})), "")
	l.in("two", "issuer A", e.token(g), "")
	l.in("two", "issuer B", k["b256"].token(g.with("iss", issuerB)), "")
	l.in("two", "A signed by B's key", k["b256"].token(g), token.NoSuchKey)
	l.in("two", "A signed by B's key, A's kid", k["b256"].headed(claims{"kid": "e256"}, g), token.WrongSignature)
	l.in("two", "B signed by A's key", e.token(g.with("iss", issuerB)), token.NoSuchKey)
	l.in("two", "nobody's", e.token(g.with("iss", issuerC)), token.UnknownIssuer)
	l.in("same", "the first rule", k["c256"].token(g.with("iss", issuerC, "aud", "one")), "")
	l.in("same", "the second rule", k["b256"].token(g.with("iss", issuerC, "aud", "two")), "")
	l.in("same", "the first key, the second audience", k["c256"].token(g.with("iss", issuerC, "aud", "two")), token.NoSuchKey)
	l.in("same", "both audiences", k["c256"].token(g.with("iss", issuerC, "aud", []string{"two", "one"})), "")
	l.in("same", "the issuer beside them", k["b256"].token(g.with("iss", issuerB)), "")
	l.in("same", "nobody's", e.token(g), token.UnknownIssuer)
	return l
}

// timeRows: the clock's edges, with three seconds for the test to run in.
func timeRows(now time.Time) []tokenRow {
	var l rowList
	e, g, s := keyring()["e256"], goodClaims(now), now.Unix()
	for _, r := range []struct {
		name, reason string
		change       []any
	}{
		{"exp a minute ago, nearly", "", []any{"exp", s - 50}},
		{"exp a minute ago", token.Expired, []any{"exp", s - 61}},
		{"exp long ago", token.Expired, []any{"exp", 1}},
		{"exp now", "", []any{"exp", s}},
		{"exp with a fraction", "", []any{"exp", float64(s) + 100.5}},
		{"exp that is a fraction", token.NoExpiry, []any{"exp", 0.5}},
		{"exp 0", token.NoExpiry, []any{"exp", 0}},
		{"no exp", token.NoExpiry, []any{"exp", nil}},
		{"exp in milliseconds", token.TooLong, []any{"exp", s * 1000}},
		{"exp in a year", token.TooLong, []any{"exp", s + 365*86400}},
		{"exp in a day", "", []any{"exp", s + 86400}},
		{"exp in a day and a minute, nearly", "", []any{"exp", s + 86400 + 50}},
		{"exp in a day and more", token.TooLong, []any{"exp", s + 86400 + 75}},
		{"exp in the year 285 million", token.TooLong, []any{"exp", int64(9e15)}},
		{"exp 2^53+1", token.TooLong, []any{"exp", int64(1<<53 + 1)}},
		{"nbf in a minute, nearly", "", []any{"nbf", s + 50}},
		{"nbf in a minute and more", token.NotYet, []any{"nbf", s + 75}},
		{"nbf in a year", token.NotYet, []any{"nbf", s + 365*86400}},
		{"nbf 0", "", []any{"nbf", 0}},
		{"nbf now", "", []any{"nbf", s}},
		{"nbf after exp", token.NotYet, []any{"nbf", s + 7200}},
		{"nbf with a fraction", "", []any{"nbf", float64(s) + 0.9}},
		{"nbf 2^63", token.NotYet, []any{"nbf", uint64(1 << 63)}},
		{"iat in a year, which means nothing", "", []any{"iat", s + 365*86400}},
		{"iat 0", "", []any{"iat", 0}},
	} {
		l.add(r.name, e.token(g.with(r.change...)), r.reason)
	}
	l.lax("exp 2^63", e.token(g.with("exp", uint64(1<<63))), token.TooLong, laxLife)
	return l
}

// audienceRows: Envoy compares without scheme and without a slash at the end.
func audienceRows(now time.Time) []tokenRow {
	var l rowList
	e, g := keyring()["e256"], goodClaims(now)
	for _, r := range []struct {
		audience any
		reason   string
	}{
		{"shop", ""}, {"shop/", ""}, {"https://shop", ""}, {"http://shop/", ""}, {"https://api.test", ""}, {"http://api.test/", ""}, {"api.test", ""},
		{[]string{"shop"}, ""}, {[]string{"x", "shop", "y"}, ""}, {[]string{"x", "api.test/"}, ""},
		{nil, token.WrongAudience}, {"", token.WrongAudience}, {"x", token.WrongAudience}, {[]string{}, token.WrongAudience}, {[]string{"x", "y"}, token.WrongAudience},
		{"Shop", token.WrongAudience}, {"shop ", token.WrongAudience}, {" shop", token.WrongAudience}, {"shop,x", token.WrongAudience}, {"x shop", token.WrongAudience},
		{"shop//", token.WrongAudience}, {"/shop", token.WrongAudience}, {"HTTPS://api.test", token.WrongAudience}, {"https://http://api.test", token.WrongAudience},
		{"ftp://shop", token.WrongAudience}, {"shop\x00", token.WrongAudience}, {"*", token.WrongAudience}, {"api.test/x", token.WrongAudience}, {"api.test.evil.test", token.WrongAudience},
		{1, token.BadPayload}, {[]any{"shop", 1}, token.BadPayload}, {claims{"shop": true}, token.BadPayload},
	} {
		l.in("aud", fmt.Sprintf("%#v", r.audience), e.token(g.with("aud", r.audience)), r.reason)
	}
	l.in("aud", "expired, and another's", e.token(g.with("aud", "x", "exp", 1)), token.Expired)
	l.in("aud", "another's, by a stranger", keyring()["stranger"].token(g.with("aud", "x")), token.WrongAudience)
	l.add("any audience where the rule names none", e.token(g.with("aud", "x")), "")
	l.add("no audience at all in a list", e.token(g.with("aud", []string{})), "")
	return l
}

// jsonRows: what is JSON.
func jsonRows(now time.Time) []tokenRow {
	var l rowList
	e, g := keyring()["e256"], goodClaims(now)
	payload := func(text string) string { return e.raw("ES256", `{"alg":"ES256"}`, text) }
	more := func(text string) string { return payload("{" + text + "," + g.String()[1:]) }
	for name, text := range map[string]string{
		"null": "null", "a list": "[" + g.String() + "]", "a text": `"x"`, "a number": "1", "nothing": " ", "half": g.String()[:20],
		"two objects": g.String() + g.String(), "garbage behind": g.String() + "x", "a comment": "/**/" + g.String(), "a BOM": "\ufeff" + g.String(), "NUL behind": g.String() + "\x00",
	} {
		l.add("the payload is "+name, payload(text), token.BadPayload)
		if name != "half" {
			l.add("the header is "+name, e.raw("ES256", strings.ReplaceAll(text, g.String(), `{"alg":"ES256"}`), g.String()), token.BadHeader)
		}
	}
	for name, text := range map[string]string{
		"a claim twice": `"x":1,"x":1`, "sub twice": `"sub":"root"`, "exp twice": `"exp":1`, "iss twice": `"iss":"x"`, "a claim twice, once escaped": `"x":1,"\u0078":1`,
		"sub twice, once escaped": `"\u0073ub":"root"`, "a nested claim twice": `"x":{"a":1,"a":2}`, "a claim twice in a list": `"x":[{"a":1,"a":2}]`,
		"no UTF-8": "\"x\":\"\xff\"", "no UTF-8 in a name": "\"\xff\":1", "overlong UTF-8": "\"x\":\"\xc0\xaf\"", "a surrogate in UTF-8": "\"x\":\"\xed\xa0\x80\"",
		"half a pair": `"x":"\ud800"`, "the second half": `"x":"\udc00"`, "halves the wrong way": `"x":"\udc00\ud800"`, "half a pair and a letter": `"x":"\ud800\u0041"`,
		"a bad escape": `"x":"\x41"`, "a short escape": `"x":"\u41"`, "a leading zero": `"x":01`, "a plus": `"x":+1`, "a number that ends with a dot": `"x":1.`, "a number that begins with one": `"x":.5`,
		"NaN": `"x":NaN`, "Infinity": `"x":Infinity`, "hex": `"x":0x1`, "True": `"x":True`, "1e400": `"x":1e400`, "101 lists": `"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100),
		"101 objects": `"x":` + strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), "10,000 lists": `"x":` + strings.Repeat("[", 10_000),
	} {
		l.add(name, more(text), token.BadPayload)
	}
	for name, text := range map[string]string{
		"single quotes": `'x':1`, "no quotes": `x:1`, "a newline in a text": "\"x\":\"a\nb\"", "a control character": "\"x\":\"a\x01b\"", "an escaped single quote": `"x":"\'"`,
	} {
		l.lax(name, more(text), token.BadPayload, laxJSON)
	}
	l.lax("a comma too many", e.raw("ES256", `{"alg":"ES256",}`, g.String()), token.BadHeader, laxJSON)
	for name, text := range map[string]string{
		"a pair": `"x":"\ud83d\ude00"`, "NUL": `"x":"a\u0000b"`, "a backslash and a u": `"x":"\\ud800"`, "-0": `"x":-0`, "1E+2": `"x":1E+2`, "1e-400": `"x":1e-400`, "NaN in quotes": `"x":"NaN"`,
		"100 lists": `"x":` + strings.Repeat("[", 99) + strings.Repeat("]", 99), "100 objects": `"x":` + strings.Repeat(`{"a":`, 99) + "1" + strings.Repeat("}", 99),
		"an integer of 30 digits": `"x":123456789012345678901234567890`, "an empty name": `"":1`, "Sub beside sub": `"Sub":"root"`, "__proto__": `"__proto__":{"sub":"root"}`,
	} {
		l.add(name, more(text), "")
	}
	l.add("blanks around", e.raw("ES256", " {\"alg\":\"ES256\"}\r\n\t ", "\n"+g.String()+" "), "")
	l.add("a token in a token", e.token(g.with("x", e.token(g))), "")
	l.add("a token for a payload", payload(e.token(g)), token.BadPayload)
	l.add("16 KiB", e.token(g.with("x", strings.Repeat("x", 16<<10))), "")
	return l
}

// placeRows: where tokens stand.
func placeRows(now time.Time) []tokenRow {
	var l rowList
	k, g := keyring(), goodClaims(now)
	a, b := k["e256"].token(g), k["b256"].token(g.with("iss", issuerB))
	bad := k["stranger"].token(g)
	row := func(set, name, reason, lax, query string, headers ...string) {
		l = append(l, tokenRow{name: set + ": " + name, set: set, request: tokenRequest{headers: headers, query: query}, reason: reason, lax: lax})
	}
	auth := func(t string) string { return "Authorization: Bearer " + t }
	row("one", "no token", none, "", "")
	row("one", "a parameter", "", "", "?access_token="+a)
	row("one", "a parameter between others", "", "", "?x=1&access_token="+a+"&y")
	row("one", "another parameter", none, "", "?xaccess_token="+bad)
	row("one", "a parameter in capitals", none, "", "?Access_Token="+bad)
	row("one", "an empty parameter", token.BadForm, "", "?access_token=")
	row("one", "a parameter without value", token.BadForm, "", "?access_token")
	row("one", "a bad parameter", token.NoSuchKey, "", "?access_token="+bad)
	row("one", "a percent-encoded dot", token.BadForm, "", "?access_token="+strings.Replace(a, ".", "%2e", 1))
	row("one", "a percent-encoded name", token.OddName, "", "?access%5ftoken="+bad)
	row("one", "a percent-encoded name of another", token.OddName, "", "?%61=b")
	row("one", "a percent-encoded value of another", none, "", "?a=%61&b%20c=%5f")
	row("one", "two parameters", token.SeveralTokens, "", "?access_token="+a+"&access_token="+a)
	row("one", "two parameters, the second bad", token.SeveralTokens, "", "?access_token="+a+"&x&access_token="+bad)
	row("one", "two parameters, the first bad", token.SeveralTokens, "", "?access_token="+bad+"&access_token="+a)
	row("one", "two parameters, one hidden", token.OddName, "", "?access_token="+a+"&access%5Ftoken="+bad)
	row("one", "header and parameter", token.SeveralTokens, "", "?access_token="+a, auth(a))
	row("one", "header and a bad parameter", token.SeveralTokens, "", "?access_token="+bad, auth(a))
	row("one", "a bad header and a parameter", token.SeveralTokens, "", "?access_token="+a, auth(bad))
	row("one", "header and a hidden parameter", token.OddName, "", "?%61ccess_token="+bad, auth(a))
	row("one", "two headers", token.BadForm, "", "", auth(a), auth(a))
	row("one", "two headers, one bad", token.BadForm, "", "", auth(a), auth(bad))
	row("one", "Basic behind Bearer", token.BadForm, "", "", auth(a), "Authorization: Basic YTpi")
	row("one", "Basic before Bearer", token.BadForm, "", "", "Authorization: Basic YTpi", auth(a))
	row("one", "bearer in small letters", token.BadForm, "", "", "Authorization: bearer "+a)
	row("one", "BEARER", token.BadForm, "", "", "Authorization: BEARER "+bad)
	row("one", "Basic", none, "", "", "Authorization: Basic YTpi")
	row("one", "no scheme", none, "", "", "Authorization: "+a)
	row("one", "a scheme and nothing", none, "", "", "Authorization: Bearer")
	row("one", "a scheme before the scheme", token.BadForm, "", "", "Authorization: Basic Bearer "+a)
	row("one", "a cookie that no rule names", none, "", "", "Cookie: access_token="+bad)
	l = append(l, tokenRow{name: "one: a preflight", set: "one", reason: none, request: tokenRequest{method: "OPTIONS", headers: []string{"Origin: http://x.test", "Access-Control-Request-Method: GET"}}},
		tokenRow{name: "one: a preflight with a bad token", set: "one", reason: token.NoSuchKey, request: tokenRequest{method: "OPTIONS", headers: []string{"Origin: http://x.test", "Access-Control-Request-Method: GET", auth(bad)}}})
	row("two", "A and B", token.SeveralTokens, "", "?access_token="+b, auth(a))
	row("places", "A's header", "", "", "", "X-Jwt: "+a)
	row("places", "A's header with a prefix", "", "", "", "X-Auth: Token="+a)
	row("places", "A's header without it", none, "", "", "X-Auth: "+bad)
	row("places", "A's header with text before the prefix", token.BadForm, "", "", "X-Auth: xToken="+a)
	row("places", "A's parameter", "", "", "?t="+a)
	row("places", "A's cookie", "", "", "", "Cookie: session="+a)
	row("places", "A's cookie between others", "", "", "", "Cookie: a=b; session="+a+"; c=d")
	row("places", "A's cookie in quotes", token.BadForm, "", "", `Cookie: session="`+a+`"`)
	row("places", "two cookies", token.SeveralTokens, "", "", "Cookie: session="+a+"; session="+bad)
	row("places", "two lines of cookies, the second bad", token.SeveralTokens, laxCookies, "", "Cookie: session="+a, "Cookie: session="+bad)
	row("places", "two lines of cookies, the first bad", token.SeveralTokens, "", "", "Cookie: session="+bad, "Cookie: session="+a)
	row("places", "B's place", "", "", "", auth(b))
	row("places", "A in B's place", token.UnknownIssuer, "", "", auth(a))
	row("places", "B in A's place", token.UnknownIssuer, "", "", "X-Jwt: "+b)
	row("places", "B in A's parameter", token.UnknownIssuer, "", "?t="+b)
	row("places", "A where nobody looks", none, "", "?access_token="+bad)
	for _, second := range []string{"X-Auth: Token=", "Cookie: session=", "Authorization: Bearer "} {
		for name, t := range map[string]string{"A": a, "B": b, "a bad one": bad} {
			row("places", "A's header, and "+name+" in "+second, token.SeveralTokens, "", "", "X-Jwt: "+a, second+t)
			row("places", "A's parameter, and "+name+" in "+second, token.SeveralTokens, "", "?t="+a, second+t)
		}
	}
	row("places", "two parameters", token.SeveralTokens, "", "?t="+a+"&b_t="+b)
	row("places", "two lines, the second bad", token.SeveralTokens, "", "", "X-Jwt: "+a, "X-Jwt: "+bad)
	row("places", "two lines, the first bad", token.SeveralTokens, "", "", "X-Jwt: "+bad, "X-Jwt: "+a)
	row("places", "two lines, the second no token", token.SeveralTokens, "", "", "X-Jwt: "+a, "X-Jwt: x")
	row("places", "two lines, both good", token.SeveralTokens, laxLines, "", "X-Jwt: "+a, "X-Jwt: "+a)
	row("places", "two lines, the second without prefix", "", "", "", "X-Auth: Token="+a, "X-Auth: x")
	row("forward", "good", "", "", "", auth(a))
	row("forward", "two parameters", token.SeveralTokens, "", "?access_token="+a+"&access_token="+bad)
	row("forward", "none", none, "", cmp.Or("", "?x"))
	return l
}
