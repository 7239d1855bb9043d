package store

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/attest"
)

func good(t testing.TB) string {
	t.Helper()
	data, err := encode(record(1))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestDecodeRefuses(t *testing.T) {
	doc := good(t)
	swap := func(old, new string) string {
		if !strings.Contains(doc, old) {
			t.Fatalf("the record has no %s", old)
		}
		return strings.Replace(doc, old, new, 1)
	}
	long := func(n int) string { return strings.Repeat("a", n) }
	var many []string
	for i := range maxTargets + 1 {
		many = append(many, fmt.Sprintf(`"/t/%02d"`, i))
	}
	target := record(1).Targets[0]
	table := []struct{ name, data, reason string }{
		{"good", doc, ""},
		{"nothing", "", "not-a-record"},
		{"null", "null", "other-version"},
		{"a list", "[]", "not-a-record"},
		{"a string", `"x"`, "not-a-record"},
		{"an empty object", "{}", "other-version"},
		{"cut short", doc[:len(doc)-1], "not-a-record"},
		{"two values", doc + doc, "not-a-record"},
		{"rubbish behind", doc + "x", "not-a-record"},
		{"white space behind", doc + "\n", "not-canonical"},
		{"white space before", " " + doc, "not-canonical"},
		{"white space inside", swap(`":"`, `": "`), "not-canonical"},
		{"not UTF-8", swap("cart", "\xff\xfe"), "bad-pod-name"},
		{"a zero byte", swap("cart", "\x00"), "not-a-record"},
		{"too large", doc + strings.Repeat(" ", maxRecord), "too-large"},
		{"nested deeply", strings.Repeat("[", 10001), "not-a-record"},
		{"an unknown field", swap(`{"version"`, `{"key":"k","version"`), "not-a-record"},
		{"a private key", swap(`"targets"`, `"privateKey":"MIG","targets"`), "not-a-record"},
		{"a name twice", swap(`{"version":1`, `{"version":2,"version":1`), "not-canonical"},
		{"a token twice", swap(`"token"`, `"token":"a","token"`), "not-canonical"},
		{"a name in capitals", swap(`"namespace"`, `"Namespace"`), "not-canonical"},
		{"another order", swap(`"version":1,"namespace":"shop"`, `"namespace":"shop","version":1`), "not-canonical"},
		{"an escape", swap("shop", `sh\u006fp`), "not-canonical"},
		{"version 0", swap(`"version":1`, `"version":0`), "other-version"},
		{"version 2", swap(`"version":1`, `"version":2`), "other-version"},
		{"version as text", swap(`"version":1`, `"version":"1"`), "not-a-record"},
		{"version 1.0", swap(`"version":1`, `"version":1.0`), "not-a-record"},
		{"no namespace", swap(`"namespace":"shop"`, `"namespace":""`), "bad-namespace"},
		{"a namespace with a slash", swap("shop", "shop/sa/admin"), "bad-namespace"},
		{"a namespace with a dot", swap("shop", "sh.op"), "bad-namespace"},
		{"a long namespace", swap("shop", long(64)), "bad-namespace"},
		{"no name", swap(`"name":"cart"`, `"name":""`), "bad-pod-name"},
		{"a name in capitals", swap(`"name":"cart"`, `"name":"Cart"`), "bad-pod-name"},
		{"a long name", swap(`"name":"cart"`, `"name":"`+long(254)+`"`), "bad-pod-name"},
		{"no UID", swap(`"uid":"5f3c0000-0000-4000-8000-000000000001"`, `"uid":""`), "bad-pod-uid"},
		{"a UID that climbs", swap(`"uid":"5f3c0000-0000-4000-8000-000000000001"`, `"uid":"../../etc"`), "bad-pod-uid"},
		{"a UID in capitals", swap(`"uid":"5f3c`, `"uid":"5F3C`), "bad-pod-uid"},
		{"a long UID", swap(`"uid":"5f3c`, `"uid":"`+long(60)), "bad-pod-uid"},
		{"no service account", swap(`"serviceAccount":"cart"`, `"serviceAccount":""`), "bad-service-account"},
		{"a service account with a space", swap(`"serviceAccount":"cart"`, `"serviceAccount":"ca rt"`), "bad-service-account"},
		{"a token without its end", swap(`,"expires":"2026-11-24T12:00:00Z"`, ""), "bad-expiry"},
		{"an end without a token", swap(`"token":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln",`, ""), "bad-expiry"},
		{"a token with a line break", swap("eyJ", `ey\nJ`), "bad-token"},
		{"a token with a space", swap("eyJ", "ey J"), "bad-token"},
		{"a token beyond ASCII", swap("eyJ", "eyé"), "bad-token"},
		{"a long token", swap("eyJ", long(maxToken)), "bad-token"},
		{"a token that is a number", swap(`"eyJhbGciOiJSUzI1NiJ9.e30.c2ln"`, "7"), "not-a-record"},
		{"an end that is no time", swap("2026-11-24T12:00:00Z", "tomorrow"), "not-a-record"},
		{"an end in another zone", swap("2026-11-24T12:00:00Z", "2026-11-24T13:00:00+01:00"), "not-canonical"},
		{"an end in the year 10000", swap("2026-11-24T12:00:00Z", "10000-01-01T00:00:00Z"), "not-a-record"},
		{"no targets", swap(`["`+target+`"]`, "[]"), "bad-targets"},
		{"null targets", swap(`["`+target+`"]`, "null"), "bad-targets"},
		{"too many targets", swap(`["`+target+`"]`, "["+strings.Join(many, ",")+"]"), "bad-targets"},
		{"a target twice", swap(`["`+target+`"]`, `["/a","/a"]`), "bad-targets"},
		{"targets not sorted", swap(`["`+target+`"]`, `["/b","/a"]`), "bad-targets"},
		{"a relative target", swap(target, "var/lib"), "bad-target"},
		{"a target that climbs", swap(target, "/var/../etc"), "bad-target"},
		{"a target with a slash behind", swap(target, target+"/"), "bad-target"},
		{"the root as a target", swap(target, "/"), "bad-target"},
		{"an empty target", swap(target, ""), "bad-target"},
		{"a target with a zero byte", swap(target, `/a\u0000b`), "bad-target"},
		{"a long target", swap(target, "/"+long(maxTarget)), "bad-target"},
	}
	if got, want := len(table), 62; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			_, err := decode([]byte(c.data))
			if got := attest.Reason(err); got != c.reason || (err == nil) != (c.reason == "") {
				t.Errorf("got %v, want reason %q", err, c.reason)
			}
			if err != nil && (strings.Contains(err.Error(), "eyJ") || strings.Contains(err.Error(), "c2ln")) {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
}

// What cannot be loaded must not be put.
func TestPutRefuses(t *testing.T) {
	s, _ := anywhere(t)
	for reason, edit := range map[string]func(*Record){
		"bad-pod-uid": func(r *Record) { r.Workload.Pod.UID = "../../../etc/cron.d/x" },
		"bad-targets": func(r *Record) { r.Targets = nil },
		"bad-expiry":  func(r *Record) { r.Expires = time.Time{} },
		"bad-token":   func(r *Record) { r.Workload.Token = attest.NewToken("a b") },
		"too-large": func(r *Record) {
			r.Targets = nil
			for i := range maxTargets {
				r.Targets = append(r.Targets, fmt.Sprintf("/%02d%s", i, strings.Repeat("x", 3000)))
			}
		},
	} {
		r := record(1)
		edit(&r)
		if err := s.Put(r); attest.Reason(err) != reason {
			t.Errorf("got %v, want %s", err, reason)
		}
	}
	if got, err := s.Load(); err != nil || len(got) != 0 {
		t.Errorf("%d records, %v", len(got), err)
	}
}

// FuzzLoad: what decodes is ours byte for byte, and what does not tells no token.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(good(f)))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decode(data)
		if err != nil {
			if attest.Reason(err) == "" {
				t.Errorf("no reason: %v", err)
			}
			return
		}
		again, err := encode(r)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q came back as %q, %v", data, again, err)
		}
	})
}
