package rbac_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// TestValues: each value is taken as written, or refused for its reason.
func TestValues(t *testing.T) {
	account := func(s string) (rbac.Pattern, error) {
		_, err := rbac.ParseServiceAccount(s, "own")
		return rbac.Pattern{}, err
	}
	long := func(n int) string { return strings.Repeat("a", n) }
	rows := []struct {
		parse       func(string) (rbac.Pattern, error)
		good        []string
		reason, bad string // bad values, separated by blanks
	}{
		{rbac.ParsePrincipal, []string{"*", "td/ns/a/sa/b", "td/ns/a/sa/b.c", "td.x-y_z/ns/a/sa/b", "td*", "td/*", "td/n*", "td/ns*", "td/ns/a/s*", "td/ns/a/sa/b*", "*b", "*/b", "*/sa/b", "*a/b", "*/ns/a/sa/b", "*s/a/sa/b", "*td/ns/a/sa/b"},
			"bad-principal", "spiffe://td/ns/a/sa/b td td/ns/a td/ns/a/sa/ td/ns//sa/b td/ns/a/sb/b td/na/a/sa/b td/ns/a/sa/b/c TD/ns/a/sa/b td/ns/A/sa/b td/ns/a/sa/B td/ns/a.b/sa/b td/ns/a/sa/b. td:1/ns/a/sa/b td/ns/a/sa/b?x td/ns/a/sa/b,c td/ns/a/sa/%62 td/sa/* td/nsx* td/ns/a/x* td/ns/a/sax* td/ns/a/sa/b/* */b/ */sx/b */td/ns/a/sa/b *//b *x/ns/a/sb/b td/ns/a/sa/b\x00 td/ns/a/sa/é"},
		{rbac.ParsePrincipal, nil, "bad-star", "td/*/sa/b ** *a* td/ns/a/sa/** ***"},
		{rbac.ParsePrincipal, nil, "too-long", long(2049)},
		{rbac.ParseNamespace, []string{"*", "a", "a-b", "a*", "a-*", "*-a", "*b", "0", long(63)},
			"bad-namespace", "-a a- A a.b a/b a_b *a- -* a,b é " + long(64)},
		{rbac.ParseNamespace, nil, "bad-star", "a*b ** *a*"},
		{rbac.ParseNamespace, nil, "too-long", long(65)},
		{rbac.ParseMethod, []string{"*", "GET", "POST", "P*", "*T", "PATCH", "PURGE", "*ETE"},
			"bad-method", "get Get GETT GTE GET, X* *x G.T POSTS"},
		{rbac.ParsePath, []string{"*", "/", "/*", "/a", "/a*", "/a/*", "*/a", "*a", "*.png", "*/", "/a.b", "/.a", "/a.", "/a/..b", "/..a", "/a;b", "/;a", "/a=b&c,d!$'()+@:~_-", "/.*", "/..*", "*..", "*.", "/A"},
			"bad-path", "a a* /a?b ?* /a#b //a /a//b /./a /a/. /a/.. /a/../b /a/./b /.;a /a/..;x /a/.; *//a *//  */.. */. */../a /a\\b /a\" /a<b /a|b /a^b /a`b /é /a\x7f //* /a/.;* \\* " + "/a/../*"},
		{rbac.ParsePath, nil, "bad-star", "/a/*/b ** *a* /** */* /a*b"},
		{rbac.ParsePath, nil, "not-supported", "/a/{*} /{**} {*} /a{ /a} /a%20b /%61* *%2f"},
		{rbac.ParsePath, nil, "too-long", "/" + long(8192)},
		{account, []string{"a", "a.b", "a-b", "ns/a", "ns/a.b", long(253)},
			"bad-service-account", "* a* */a a/* a/b/c /a a/ A ns.x/a a_b a. .a -a ns/A é " + long(64) + "/a " + long(254)},
		{account, nil, "too-long", long(321)},
	}
	n := 0
	for i, row := range rows {
		for _, s := range row.good {
			n++
			p, err := row.parse(s)
			if err != nil {
				t.Errorf("row %d: %.80q: %v", i, s, err)
			} else if p != (rbac.Pattern{}) && p.String() != s {
				t.Errorf("row %d: %.80q reads %q", i, s, p)
			}
		}
		for s := range strings.FieldsSeq(row.bad) {
			n++
			p, err := row.parse(s)
			var refusal *rbac.Refusal
			if !errors.As(err, &refusal) || refusal.Reason != row.reason {
				t.Errorf("row %d: %.80q: got %v, %v; want %s", i, s, p, err, row.reason)
			}
		}
		if _, err := row.parse(""); err == nil {
			t.Errorf("row %d: the empty string is taken", i)
		}
	}
	if got, want := n, 187; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
}

func TestPeerWorkload(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("td.test")
	for _, row := range []struct{ id, namespace, account string }{
		{"spiffe://td.test/ns/a/sa/b", "a", "b"},
		{"spiffe://td.test/ns/a-1/sa/b.c-2", "a-1", "b.c-2"},
		{"spiffe://td.test/ns/sa/sa/sa", "sa", "sa"},
		{"spiffe://td.test/ns/ns/sa/ns", "ns", "ns"},
		{"spiffe://td.test.x/ns/a/sa/b", "", ""},
		{"spiffe://tdxtest/ns/a/sa/b", "", ""},
		{"spiffe://td.test", "", ""},
		{"spiffe://td.test/ns/a", "", ""},
		{"spiffe://td.test/ns/a/sa/b/c", "", ""},
		{"spiffe://td.test/ns/a/b/sa/c", "", ""},
		{"spiffe://td.test/x/ns/a/sa/b", "", ""},
		{"spiffe://td.test/ns/A/sa/b", "", ""},
		{"spiffe://td.test/ns/a/sa/b_c", "", ""},
		{"spiffe://td.test/ns/a/sa/.b", "", ""},
		{"spiffe://td.test/ns/a.b/sa/c", "", ""},
		{"spiffe://td.test/istio-auth/manager", "", ""},
	} {
		namespace, account, ok := rbac.Peer{ID: spiffeid.RequireFromString(row.id)}.Workload(td)
		if namespace != row.namespace || account != row.account || ok != (row.namespace != "") {
			t.Errorf("%s: got %q, %q, %v", row.id, namespace, account, ok)
		}
	}
	if _, _, ok := (rbac.Peer{}).Workload(td); ok {
		t.Error("nobody is a workload")
	}
	if _, _, ok := (rbac.Peer{}).Workload(spiffeid.TrustDomain{}); ok {
		t.Error("nobody is a workload of no trust domain")
	}
}

// TestCanonicalPath holds the surprises; rbac/compile holds the function to a
// real Envoy.
func TestCanonicalPath(t *testing.T) {
	const refused = "refused"
	for target, want := range map[string]string{
		"/": "/", "/a": "/a", "/a?b": "/a", "/a/?b/../c": "/a/", "/a//b": "/a/b", "//": "//", "///": "//", "/a/..//": "//",
		"/a/./b": "/a/b", "/a/../b": "/b", "/..": "/", "/a/..": "/", "/a/.": "/a/", "/%2e%2E/a": "/a", "/a\\..\\b": "/b",
		"/%41%2d%7E": "/A-~", "/%20%c3%A9": "/%20%c3%A9", "/a|b\"c": "/a%7Cb%22c", "/a/..;x=1/b": "/b", "/a/.;/b": "/a/b",
		"/a/%2e%2e;/b": "/a/..;/b", "/a;x/../b": "/b", "/%": "/%", "/%2": "/%2", "/%zz": "/%zz", "/%2%41": "/%252A", "/%%34%31": "/%2541",
		"http://h/a": "/a", "HTTPS://h:1/a?b": "/a", "http://h": "/", "/..;%00": "/",
		"": refused, "a": refused, "*": refused, "?": refused, "/a#b": refused, "/a b": refused, "/a\x00": refused, "/\x7f": refused, "/\xff": refused,
		"/%2f": refused, "/%5C": refused, "/%00": refused, "ftp://h/a": refused, "http://": refused, "http://h?x": refused, "http:///a": refused, "/a?\x01": refused,
	} {
		got, err := rbac.CanonicalPath(target)
		if err != nil {
			got = refused
		}
		if got != want || err != nil && !errors.Is(err, rbac.ErrNotCanonical) {
			t.Errorf("%q: got %q, %v, want %q", target, got, err, want)
		}
	}
}

func TestPlainPath(t *testing.T) {
	for path, want := range map[string]bool{
		"/": true, "/a": true, "/a;b": true, "/;": true, "/..a;b": true, "/a..;b": true, "/a.;": true,
		"": false, "a": false, "*": false, "//": false, "//a": false, "/.;": false, "/..;": false, "/a/..;x/b": false, "/a/.;": false,
	} {
		if got := rbac.PlainPath(path); got != want {
			t.Errorf("%q: got %v, want %v", path, got, want)
		}
	}
}

func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b;c?d", "/%2e%2e/%41", "//a\\b", "http://h/a", "/%2%41", "/a/..;x/%2f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, err := rbac.CanonicalPath(target)
		if err != nil {
			return
		}
		if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "\\?# ") || strings.Contains(path, "/../") || strings.Contains(path, "/./") {
			t.Errorf("%q becomes %q", target, path)
		}
		if strings.Contains(path[1:], "//") {
			t.Errorf("%q becomes %q", target, path)
		}
	})
}

func TestSelect(t *testing.T) {
	policy := func(namespace, name string, action rbac.Action, labels ...string) rbac.Policy {
		p := rbac.Policy{Namespace: namespace, Name: name, Action: action}
		for i := 0; i < len(labels); i += 2 {
			if p.Selector == nil {
				p.Selector = map[string]string{}
			}
			p.Selector[labels[i]] = labels[i+1]
		}
		return p
	}
	policies := []rbac.Policy{
		policy("shop", "z", rbac.Allow),
		policy("shop", "a", rbac.Allow, "app", "web"),
		policy("shop", "other", rbac.Allow, "app", "api"),
		policy("shop", "more", rbac.Allow, "app", "web", "version", "2"),
		policy("shop", "missing", rbac.Deny, "zone", ""),
		policy("root", "mesh", rbac.Deny),
		policy("root", "some", rbac.Deny, "app", "web"),
		policy("root", "none", rbac.Deny, "app", "api"),
		policy("else", "where", rbac.Deny),
		policy("shop", "nothing", 0),
	}
	target := rbac.Target{Namespace: "shop", Labels: map[string]string{"app": "web", "version": "1"}, RootNamespace: "root", TrustDomain: spiffeid.RequireTrustDomainFromString("td.test")}
	set := rbac.Select(policies, target)
	keys := func(policies []rbac.Policy) (list []string) {
		for _, p := range policies {
			list = append(list, p.Key())
		}
		return list
	}
	if got, want := fmt.Sprint(keys(set.Deny()), keys(set.Allow())), "[root/mesh root/some] [shop/a shop/z]"; got != want {
		t.Errorf("selected %s, want %s", got, want)
	}
	if set.IsZero() || set.None() {
		t.Error("the set says that it is unknown, or none")
	}
	none := rbac.Select(nil, target)
	if none.IsZero() || !none.None() {
		t.Error("no policies are known to be none")
	}
	target.RootNamespace = ""
	if got := rbac.Select(policies, target); len(got.Deny()) != 0 {
		t.Errorf("without a root namespace, got %v", keys(got.Deny()))
	}
	for _, bad := range []rbac.Target{{}, {Namespace: "shop"}, {TrustDomain: target.TrustDomain}} {
		if got := rbac.Select(policies, bad); !got.IsZero() || got.None() {
			t.Errorf("%+v selects a known set", bad)
		}
	}
	digests := map[[32]byte]bool{set.Digest(): true, none.Digest(): true, (rbac.Set{}).Digest(): true}
	if len(digests) != 3 {
		t.Error("a set, none and unknown have one digest")
	}
}
