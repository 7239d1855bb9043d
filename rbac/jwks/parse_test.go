package jwks_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/istio-auth/istio-auth/rbac/jwks"
)

type object map[string]any

// with is o with some members changed. A nil value takes one away.
func (o object) with(pairs ...any) object {
	o = maps.Clone(o)
	for i := 0; i < len(pairs); i += 2 {
		if name := pairs[i].(string); pairs[i+1] == nil {
			delete(o, name)
		} else {
			o[name] = pairs[i+1]
		}
	}
	return o
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

var rsaKeys = sync.OnceValue(func() map[int]*rsa.PrivateKey {
	keys := map[int]*rsa.PrivateKey{}
	for _, bits := range []int{2048, 3072} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		keys[bits] = key
	}
	return keys
})

func rsaJWK(bits int) object {
	key := rsaKeys()[bits]
	return object{"kty": "RSA", "n": b64(key.N.Bytes()), "e": "AQAB"}
}

func ecJWK(c elliptic.Curve) object {
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		panic(err)
	}
	return ecPublic(&key.PublicKey)
}

func ecPublic(key *ecdsa.PublicKey) object {
	point, err := key.Bytes()
	if err != nil {
		panic(err)
	}
	half := len(point) / 2
	return object{"kty": "EC", "crv": key.Curve.Params().Name, "x": b64(point[1 : half+1]), "y": b64(point[half+1:])}
}

func edJWK() object {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return object{"kty": "OKP", "crv": "Ed25519", "x": b64(public)}
}

func document(keys ...any) string {
	text, err := json.Marshal(object{"keys": keys})
	if err != nil {
		panic(err)
	}
	return string(text)
}

type row struct {
	name, document string
	reason         string // empty: accepted
	keys           int    // how many are usable
	algorithm      string // of the only key, where one is given
}

func parseRows() []row {
	r, e, p384, p521, ed := rsaJWK(2048), ecJWK(elliptic.P256()), ecJWK(elliptic.P384()), ecJWK(elliptic.P521()), edJWK()
	kinds := []struct {
		name string
		key  object
		alg  string
		all  []string
	}{
		{"RSA", r, "RS256", []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}},
		{"P-256", e, "ES256", []string{"ES256"}},
		{"P-384", p384, "ES384", []string{"ES384"}},
		{"P-521", p521, "ES512", []string{"ES512"}},
		{"Ed25519", ed, "EdDSA", []string{"EdDSA"}},
	}
	var rows []row
	add := func(name, document, reason string, keys int, algorithm string) {
		rows = append(rows, row{name, document, reason, keys, algorithm})
	}
	accept := func(name string, key object, algorithm string) { add(name, document(key), "", 1, algorithm) }
	refuse := func(name string, key object, reason string) { add(name, document(key), reason, 0, "") }
	for _, k := range kinds {
		accept(k.name+" bare", k.key, k.alg)
		accept(k.name+" for signatures", k.key.with("use", "sig", "kid", "a"), k.alg)
		accept(k.name+" that verifies", k.key.with("key_ops", []string{"verify"}), k.alg)
		accept(k.name+" with a certificate and an address, which are left out", k.key.with("x5c", []string{"AA=="}, "x5u", "http://x.test/", "x5t", "AA"), k.alg)
		for _, alg := range k.all {
			accept(k.name+" with "+alg, k.key.with("alg", alg), alg)
		}
		refuse(k.name+" for encryption", k.key.with("use", "enc"), jwks.NoUsableKey)
		refuse(k.name+" for encryption by its operations", k.key.with("key_ops", []string{"encrypt"}), jwks.NoUsableKey)
		refuse(k.name+" that may sign", k.key.with("key_ops", []string{"sign", "verify"}), jwks.PrivateKey)
		for _, alg := range []string{"none", "HS256", "RSA-OAEP", "ES256K", "rs256", "RS256 "} {
			refuse(k.name+" with "+alg, k.key.with("alg", alg), jwks.NoUsableKey)
		}
		refuse(k.name+" with a private half", k.key.with("d", "AA"), jwks.PrivateKey)
		refuse(k.name+" for encryption, with a private half", k.key.with("d", "AA", "use", "enc"), jwks.PrivateKey)
		refuse(k.name+" with a number for its kid", k.key.with("kid", 1), jwks.BadMember)
		refuse(k.name+" with a list for its alg", k.key.with("alg", []string{k.alg}), jwks.BadMember)
		refuse(k.name+" with operations that are no list", k.key.with("key_ops", "verify"), jwks.BadMember)
		add(k.name+" twice", document(k.key, k.key), "", 1, k.alg)
		add(k.name+" with an enc key beside it", document(k.key, k.key.with("use", "enc", "alg", "RSA-OAEP")), "", 1, k.alg)
	}
	for _, name := range []string{"p", "q", "dp", "dq", "qi", "oth", "k"} {
		refuse("a private member "+name, r.with(name, "AA"), jwks.PrivateKey)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		panic(err)
	}
	n := rsaKeys()[2048].N
	raw := n.Bytes()
	for name, m := range map[string][]any{
		"no n":                   {jwks.BadMember, "n", nil},
		"no e":                   {jwks.BadMember, "e", nil},
		"a numeric e":            {jwks.BadMember, "e", 65537},
		"n with a zero in front": {jwks.BadMember, "n", b64(slices.Concat([]byte{0}, raw))},
		"e with a zero in front": {jwks.BadMember, "e", b64([]byte{0, 1, 0, 1})},
		"n in padded base64":     {jwks.BadMember, "n", base64.URLEncoding.EncodeToString(raw)},
		"n in standard base64":   {jwks.BadMember, "n", "++" + r["n"].(string)[2:]},
		"n with a newline":       {jwks.BadMember, "n", r["n"].(string) + "\n"},
		"n with a space":         {jwks.BadMember, "n", r["n"].(string) + " "},
		"an n that is too long":  {jwks.BadMember, "n", strings.Repeat("A", 5000)},
		"1024 bits":              {jwks.WeakKey, "n", b64(small.N.Bytes())},
		"2047 bits":              {jwks.WeakKey, "n", b64(new(big.Int).Rsh(n, 1).SetBit(new(big.Int).Rsh(n, 1), 0, 1).Bytes())},
		"9000 bits":              {jwks.BadKey, "n", b64(new(big.Int).SetBit(big.NewInt(1), 9000, 1).Bytes())},
		"an even modulus":        {jwks.BadKey, "n", b64(new(big.Int).Lsh(n, 1).Bytes())},
		"an even exponent":       {jwks.BadKey, "e", b64([]byte{1, 0, 0})},
		"the exponent 1":         {jwks.WeakKey, "e", "AQ"},
		"the exponent 3":         {jwks.WeakKey, "e", "Aw"},
		"a huge exponent":        {jwks.BadKey, "e", b64([]byte{1, 0, 0, 0, 1})},
	} {
		refuse("RSA: "+name, r.with(m[1:]...), m[0].(string))
	}
	accept("RSA of 3072 bits", rsaJWK(3072), "RS256")
	order := elliptic.P256().Params().P
	for name, m := range map[string][]any{
		"no curve":               {jwks.NoUsableKey, "crv", nil},
		"secp256k1":              {jwks.NoUsableKey, "crv", "secp256k1"},
		"P-224":                  {jwks.NoUsableKey, "crv", "P-224"},
		"p-256":                  {jwks.NoUsableKey, "crv", "p-256"},
		"Ed25519 as EC":          {jwks.NoUsableKey, "crv", "Ed25519"},
		"a numeric curve":        {jwks.BadMember, "crv", 256},
		"coordinates of P-256":   {jwks.BadMember, "crv", "P-384"},
		"no x":                   {jwks.BadMember, "x", nil},
		"no y":                   {jwks.BadMember, "y", nil},
		"x with a zero in front": {jwks.BadMember, "x", b64(slices.Concat([]byte{0}, make([]byte, 32)))},
		"a short x":              {jwks.BadMember, "x", b64(make([]byte, 31))},
		"beside the curve":       {jwks.BadKey, "x", b64(make([]byte, 32)), "y", b64(make([]byte, 32))},
		"x not below the field":  {jwks.BadKey, "x", b64(order.Bytes())},
		"x and y changed round":  {jwks.BadKey, "x", e["y"], "y", e["x"]},
		"alg of another curve":   {jwks.NoUsableKey, "alg", "ES384"},
	} {
		refuse("EC: "+name, e.with(m[1:]...), m[0].(string))
	}
	for name, m := range map[string][]any{
		"X25519":                  {jwks.NoUsableKey, "crv", "X25519"},
		"Ed448":                   {jwks.NoUsableKey, "crv", "Ed448"},
		"P-256 as OKP":            {jwks.NoUsableKey, "crv", "P-256"},
		"no x":                    {jwks.BadMember, "x", nil},
		"a short x":               {jwks.BadMember, "x", b64(make([]byte, 31))},
		"the identity":            {jwks.WeakKey, "x", b64(append([]byte{1}, make([]byte, 31)...))},
		"a point of order four":   {jwks.WeakKey, "x", b64(make([]byte, 32))},
		"y not below the field":   {jwks.BadKey, "x", b64(append(append([]byte{0xee}, slices.Repeat([]byte{0xff}, 30)...), 0x7f))},
		"a y that no point has":   {jwks.BadKey, "x", b64(append([]byte{2}, make([]byte, 31)...))},
		"Ed25519 as the alg":      {jwks.NoUsableKey, "alg", "Ed25519"},
		"the identity, with sign": {jwks.BadKey, "x", b64(append(append([]byte{1}, make([]byte, 30)...), 0x80))},
	} {
		refuse("OKP: "+name, ed.with(m[1:]...), m[0].(string))
	}
	for name, m := range map[string][]any{
		"no kty":                  {jwks.NoUsableKey, "kty", nil},
		"a kty that nobody knows": {jwks.NoUsableKey, "kty", "PQC"},
		"a kty like a curve":      {jwks.NoUsableKey, "kty", "P-256"},
		"a kty like Ed25519":      {jwks.NoUsableKey, "kty", "Ed25519"},
		"rsa in small letters":    {jwks.NoUsableKey, "kty", "rsa"},
		"a kty that is a number":  {jwks.BadMember, "kty", 1},
		"an empty kty":            {jwks.BadMember, "kty", ""},
		"an empty kid":            {jwks.BadMember, "kid", ""},
		"a long kid":              {jwks.BadMember, "kid", strings.Repeat("k", 257)},
		"a kid with a newline":    {jwks.BadMember, "kid", "a\nb"},
		"a kid with DEL":          {jwks.BadMember, "kid", "a\x7f"},
		"another use":             {jwks.NoUsableKey, "use", "tls"},
		"a numeric use":           {jwks.BadMember, "use", 1},
		"no operations":           {jwks.NoUsableKey, "key_ops", []string{}},
		"a numeric operation":     {jwks.BadMember, "key_ops", []any{"verify", 1}},
		"verify, but for enc":     {jwks.NoUsableKey, "use", "enc", "key_ops", []string{"verify"}},
	} {
		refuse(name, r.with(m[1:]...), m[0].(string))
	}
	accept("a kid that is a path", r.with("kid", "../../etc/passwd"), "RS256")
	accept("a kid of 256 bytes", r.with("kid", strings.Repeat("k", 256)), "RS256")
	accept("a kid beyond ASCII", r.with("kid", "schlüssel \"<"), "RS256")
	refuse("a symmetric key", object{"kty": "oct", "k": "AAAA"}, jwks.SymmetricKey)
	refuse("a symmetric key without its key", object{"kty": "oct"}, jwks.SymmetricKey)
	add("a symmetric key beside a good one", document(r, object{"kty": "oct", "k": "AAAA"}), jwks.SymmetricKey, 0, "")
	add("an unknown key beside a good one", document(object{"kty": "PQC", "pub": "AAAA"}, r), "", 1, "RS256")
	add("a weak key beside a good one", document(e, r.with("n", b64(small.N.Bytes()))), jwks.WeakKey, 0, "")
	add("all five kinds", document(r, e, p384, p521, ed), "", 5, "")
	add("two keys of one kid", document(r.with("kid", "a"), e.with("kid", "a")), jwks.SameID, 0, "")
	add("two keys of one kid, one for encryption", document(r.with("kid", "a"), e.with("kid", "a", "use", "enc")), "", 1, "RS256")
	add("one key with two algorithms", document(r.with("alg", "RS256", "kid", "a"), r.with("alg", "PS256", "kid", "b")), "", 2, "")
	many := make([]any, 17)
	for i := range many {
		many[i] = r.with("kid", fmt.Sprint(i))
	}
	add("16 keys", document(many[:16]...), "", 16, "")
	add("17 keys", document(many...), jwks.TooLarge, 0, "")
	add("17 keys, most of no use", document(slices.Concat([]any{r}, slices.Repeat([]any{object{"kty": "PQC"}}, 16))...), jwks.TooLarge, 0, "")
	good := document(r)
	for name, m := range map[string][2]string{
		"nothing":                           {"", jwks.NotJSON},
		"blanks":                            {" \n", jwks.NotJSON},
		"null":                              {"null", jwks.NotAKeySet},
		"a list":                            {"[" + good + "]", jwks.NotAKeySet},
		"a text":                            {`"keys"`, jwks.NotAKeySet},
		"a key without a set":               {strings.TrimSuffix(strings.TrimPrefix(good, `{"keys":[`), `]}`), jwks.NotAKeySet},
		"no keys":                           {`{}`, jwks.NotAKeySet},
		"keys in capitals":                  {strings.Replace(good, "keys", "KEYS", 1), jwks.NotAKeySet},
		"keys that are null":                {`{"keys":null}`, jwks.NotAKeySet},
		"keys that are an object":           {`{"keys":{}}`, jwks.NotAKeySet},
		"keys that are texts":               {`{"keys":["a"]}`, jwks.NotAKeySet},
		"an empty list":                     {`{"keys":[]}`, jwks.NoUsableKey},
		"keys twice":                        {strings.Replace(good, `{"keys"`, `{"keys":[],"keys"`, 1), jwks.DuplicateKey},
		"n twice":                           {strings.Replace(good, `"n"`, `"n":"AA","n"`, 1), jwks.DuplicateKey},
		"n twice, once escaped":             {strings.Replace(good, `"n"`, `"\u006e":"AA","n"`, 1), jwks.DuplicateKey},
		"a member twice where nobody looks": {strings.Replace(good, `{"keys"`, `{"a":{"b":1,"b":2},"keys"`, 1), jwks.DuplicateKey},
		"text behind it":                    {good + "x", jwks.NotJSON},
		"two documents":                     {good + good, jwks.NotJSON},
		"a bracket behind it":               {good + "}", jwks.NotJSON},
		"cut off":                           {good[:len(good)-2], jwks.NotJSON},
		"a comma too many":                  {strings.Replace(good, "]}", ",]}", 1), jwks.NotJSON},
		"a comment":                         {"/* */" + good, jwks.NotJSON},
		"single quotes":                     {strings.ReplaceAll(good, `"`, `'`), jwks.NotJSON},
		"a byte order mark":                 {"\ufeff" + good, jwks.NotJSON},
		"UTF-16":                            {"\x00{", jwks.NotJSON},
		"no UTF-8":                          {strings.Replace(good, `{"keys"`, "{\"a\":\"\xff\",\"keys\"", 1), jwks.NotJSON},
		"HTML":                              {"<!DOCTYPE html><html></html>", jwks.NotJSON},
		"PEM":                               {"-----BEGIN PUBLIC KEY-----", jwks.NotJSON},
		"gzip":                              {"\x1f\x8b\x08\x00", jwks.NotJSON},
		"too deep":                          {`{"a":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + "," + good[1:], jwks.TooLarge},
		"100,000 brackets":                  {strings.Repeat("[", 100_000), jwks.TooLarge},
		"more than 1 MiB":                   {good + strings.Repeat(" ", jwks.MaxBytes), jwks.TooLarge},
	} {
		add(name, m[0], m[1], 0, "")
	}
	add("31 deep", `{"a":`+strings.Repeat("[", 31)+strings.Repeat("]", 31)+","+good[1:], "", 1, "RS256")
	add("1 MiB", good+strings.Repeat(" ", jwks.MaxBytes-len(good)), "", 1, "RS256")
	add("more members", `{"x":1,"keys":`+good[len(`{"keys":`):len(good)-1]+`,"spiffe_sequence":1}`, "", 1, "RS256")
	return rows
}

func TestParse(t *testing.T) {
	rows := parseRows()
	if got, want := len(rows), 228; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	names := map[string]bool{}
	for _, r := range rows {
		if names[r.name] {
			t.Errorf("two rows are named %q", r.name)
		}
		names[r.name] = true
		t.Run(r.name, func(t *testing.T) {
			set, err := jwks.Parse([]byte(r.document))
			if r.reason != "" {
				var refusal *jwks.Refusal
				if !errors.As(err, &refusal) || refusal.Reason != r.reason || !set.IsZero() || set.JSON() != "" {
					t.Errorf("got %v with %d keys, want %s", err, len(set.Keys()), r.reason)
				}
				return
			}
			if err != nil || len(set.Keys()) != r.keys || r.algorithm != "" && set.Keys()[0].Algorithm != r.algorithm {
				t.Fatalf("got %+v, %v", set.Keys(), err)
			}
			checkCanonical(t, set)
		})
	}
}

// checkCanonical: what JSON gives is read back as the same set, has the
// algorithm of each key, and nothing of a private one.
func checkCanonical(t *testing.T, set jwks.Set) {
	t.Helper()
	for _, read := range []func(string) (jwks.Set, error){jwks.Load, func(s string) (jwks.Set, error) { return jwks.Parse([]byte(s)) }} {
		again, err := read(set.JSON())
		if err != nil || again.JSON() != set.JSON() {
			t.Fatalf("%s\nis read as %s, %v", set.JSON(), again.JSON(), err)
		}
	}
	var document struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal([]byte(set.JSON()), &document); err != nil {
		t.Fatal(err)
	}
	known := []string{"alg", "crv", "e", "kid", "kty", "n", "use", "x", "y"}
	for i, key := range document.Keys {
		if key["alg"] != set.Keys()[i].Algorithm || key["use"] != "sig" {
			t.Errorf("key %d: got %v", i, key)
		}
		for name := range key {
			if !slices.Contains(known, name) {
				t.Errorf("the member %q", name)
			}
		}
	}
}

func TestParseOrder(t *testing.T) {
	a, b := rsaJWK(2048).with("kid", "a"), edJWK().with("kid", "b")
	one, err := jwks.Parse([]byte(document(a, b)))
	if err != nil {
		t.Fatal(err)
	}
	other, err := jwks.Parse([]byte(document(b.with("x5c", []string{"x"}), a)))
	if err != nil || one.JSON() != other.JSON() {
		t.Errorf("got %s, %v, want %s", other.JSON(), err, one.JSON())
	}
}

func TestLoad(t *testing.T) {
	keys := make([]any, 33)
	for i := range keys {
		keys[i] = rsaJWK(2048).with("kid", fmt.Sprint(i))
	}
	if set, err := jwks.Load(document(keys[:32]...)); err != nil || len(set.Keys()) != 32 {
		t.Errorf("got %d keys, %v", len(set.Keys()), err)
	}
	if set, err := jwks.Load(document(keys...)); err == nil || !set.IsZero() {
		t.Errorf("33 keys are read")
	}
	if set, err := jwks.Load(document(rsaJWK(2048).with("kid", "a"), rsaJWK(3072).with("kid", "a"))); err != nil || len(set.Keys()) != 2 {
		t.Errorf("got %d keys, %v, want two of one kid", len(set.Keys()), err)
	}
	for _, text := range []string{"", "{}", "null", document(object{"kty": "oct"}), strings.Repeat(" ", 3*jwks.MaxBytes)} {
		if set, err := jwks.Load(text); err == nil || !set.IsZero() {
			t.Errorf("%.20q is read", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, r := range parseRows() {
		if len(r.document) < 4096 {
			f.Add([]byte(r.document))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := jwks.Parse(data)
		var refusal *jwks.Refusal
		if err != nil {
			if !errors.As(err, &refusal) || !set.IsZero() {
				t.Fatalf("got %v", err)
			}
			return
		}
		checkCanonical(t, set)
	})
}
