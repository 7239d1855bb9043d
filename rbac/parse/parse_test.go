package parse_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

var byValue = cmp.AllowUnexported(rbac.Pattern{}, rbac.ServiceAccount{})

// valid reads the policies of testdata/valid, by file.
func valid(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/valid/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(paths), 20; got < want {
		t.Fatalf("%d valid policies, want %d at least", got, want)
	}
	files := map[string][]byte{}
	for _, path := range paths {
		if files[filepath.Base(path)], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// TestValid: what is valid is read, and its canonical form says the same.
func TestValid(t *testing.T) {
	for name, data := range valid(t) {
		policies, err := parse.Policies(name, data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, p := range policies {
			roundTrip(t, p)
		}
	}
}

// roundTrip checks that the canonical form is read back as the same policy.
func roundTrip(t testing.TB, p rbac.Policy) {
	t.Helper()
	data := parse.JSON(p)
	again, err := parse.Policies("again", data)
	if err != nil || len(again) != 1 {
		t.Fatalf("%s: read back %d policies, %v", data, len(again), err)
	}
	if diff := cmp.Diff(p, again[0], byValue); diff != "" {
		t.Errorf("%s: read back differently:\n%s", data, diff)
	}
	if got := parse.JSON(again[0]); string(got) != string(data) {
		t.Errorf("canonical forms differ: %s and %s", data, got)
	}
}

func TestGeneratedRoundTrip(t *testing.T) {
	g := rbactest.New(3)
	for range 60 {
		for _, p := range g.Policies() {
			roundTrip(t, p)
		}
	}
	for _, p := range rbactest.Policies(50, 1) {
		roundTrip(t, p)
	}
}

func TestEveryField(t *testing.T) {
	policies, err := parse.Policies("all", []byte(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all.fields, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {app.kubernetes.io/name: web, empty: ""}}
  rules:
  - from:
    - source: {principals: ["td.test/ns/a/sa/b", "td.test/ns/*"], notPrincipals: ["*/sa/b"], namespaces: [a, b*], notNamespaces: ["*c", "*"]}
    - source: {serviceAccounts: [own, other/sa.x], notServiceAccounts: [a/b]}
    to:
    - operation: {methods: [GET, "P*"], notMethods: ["*T"], paths: ["/a*", "*/b", "/c", "*"], notPaths: [/d]}
  - {}
`))
	if err != nil {
		t.Fatal(err)
	}
	pattern := func(read func(string) (rbac.Pattern, error), texts ...string) (list []rbac.Pattern) {
		for _, text := range texts {
			p, err := read(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, p)
		}
		return list
	}
	account := func(text string) rbac.ServiceAccount {
		a, err := rbac.ParseServiceAccount(text, "shop")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	want := []rbac.Policy{{
		Namespace: "shop", Name: "all.fields", Action: rbac.Deny,
		Selector: map[string]string{"app.kubernetes.io/name": "web", "empty": ""},
		Rules: []rbac.Rule{{
			From: []rbac.Source{{
				Principals:    pattern(rbac.ParsePrincipal, "td.test/ns/a/sa/b", "td.test/ns/*"),
				NotPrincipals: pattern(rbac.ParsePrincipal, "*/sa/b"),
				Namespaces:    pattern(rbac.ParseNamespace, "a", "b*"),
				NotNamespaces: pattern(rbac.ParseNamespace, "*c", "*"),
			}, {
				ServiceAccounts:    []rbac.ServiceAccount{account("shop/own"), account("other/sa.x")},
				NotServiceAccounts: []rbac.ServiceAccount{account("a/b")},
			}},
			To: []rbac.Operation{{
				Methods:    pattern(rbac.ParseMethod, "GET", "P*"),
				NotMethods: pattern(rbac.ParseMethod, "*T"),
				Paths:      pattern(rbac.ParsePath, "/a*", "*/b", "/c", "*"),
				NotPaths:   pattern(rbac.ParsePath, "/d"),
			}},
		}, {}},
	}}
	if diff := cmp.Diff(want, policies, byValue); diff != "" {
		t.Error(diff)
	}
}

// typos makes a slip of the pen at each place of a word.
func typos(word string) []string {
	var list []string
	for i := range word {
		list = append(list, word[:i]+word[i+1:])               // one letter gone
		list = append(list, word[:i]+word[i:i+1]+word[i:])     // one doubled
		list = append(list, word[:i]+"_"+word[i+1:])           // another key hit
		list = append(list, word[:i]+flip(word[i])+word[i+1:]) // the other case
		if i > 0 && word[i] != word[i-1] {
			list = append(list, word[:i-1]+string([]byte{word[i], word[i-1]})+word[i+1:]) // two swapped
		}
	}
	return append(list, word+"s", "not"+word, word+" ", "x-"+word)
}

func flip(b byte) string {
	if s := strings.ToUpper(string(b)); s != string(b) {
		return s
	}
	return strings.ToLower(string(b))
}

// TestTypos is THREATS AD-04: each slip in each key and each enumerated value of
// each valid policy is refused, and with a position.
func TestTypos(t *testing.T) {
	keys := []string{"apiVersion", "kind", "metadata", "name", "namespace", "spec", "selector", "matchLabels", "action", "rules", "from",
		"source", "principals", "notPrincipals", "namespaces", "notNamespaces", "serviceAccounts", "notServiceAccounts", "to",
		"operation", "methods", "notMethods", "paths", "notPaths"}
	words := []string{"security.istio.io/v1", "AuthorizationPolicy", "ALLOW", "DENY", "GET", "POST", "PUT", "DELETE", "PATCH"}
	mutants, survived := 0, 0
	try := func(file string, data []byte, at int, old, typo string) {
		mutants++
		mutant := slices.Concat(data[:at], []byte(typo), data[at+len(old):])
		policies, err := parse.Policies(file, mutant)
		var e *parse.Error
		if !errors.As(err, &e) || e.Line < 1 || policies != nil {
			survived++
			t.Errorf("%s: %q for %q: read %d policies, %v", file, typo, old, len(policies), err)
		}
	}
	for file, data := range valid(t) {
		for _, key := range keys {
			for _, at := range places(data, key+":") {
				for _, typo := range typos(key) {
					if !slices.Contains(keys, strings.TrimSpace(typo)) {
						try(file, data, at, key, typo)
					}
				}
			}
		}
		for _, word := range words {
			for _, at := range places(data, word) {
				for _, typo := range typos(word) {
					if _, err := rbac.ParseMethod(typo); err != nil && strings.TrimSpace(typo) != word {
						try(file, data, at, word, typo)
					}
				}
			}
		}
	}
	t.Logf("%d mutants of valid policies", mutants)
	if want := 500; mutants < want {
		t.Errorf("%d mutants, want %d at least", mutants, want)
	}
}

// places are the offsets of a word in data, where it stands alone.
func places(data []byte, word string) []int {
	var list []int
	text := string(data)
	for from := 0; ; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return list
		}
		at, end := from+i, from+i+len(word)
		if (at == 0 || strings.IndexByte(" {[\"\n,", text[at-1]) >= 0) && (end == len(text) || strings.IndexByte(" }]\"\n,", text[end]) >= 0) {
			list = append(list, at)
		}
		from = end
	}
}

func FuzzPolicies(f *testing.F) {
	for _, data := range valid(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		policies, err := parse.Policies("fuzz", data)
		if err != nil {
			if policies != nil {
				t.Errorf("%d policies and an error: %v", len(policies), err)
			}
			var e *parse.Error
			if !errors.As(err, &e) || e.Reason == "" || !errors.Is(err, parse.ErrRefused) {
				t.Errorf("no refusal: %v", err)
			}
			return
		}
		for _, p := range policies {
			roundTrip(t, p)
		}
	})
}

// header begins an object of one policy.
func header(name string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: shop}\n", name)
}
