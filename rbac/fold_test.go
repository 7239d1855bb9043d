package rbac_test

import (
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
)

// TestFoldPath: what the most obliging application makes of a path.
func TestFoldPath(t *testing.T) {
	rows := []struct{ path, want string }{
		{"/", "/"}, {"", "/"}, {"a", "/a"}, {"/a", "/a"}, {"/a/", "/a/"}, {"/a/b", "/a/b"}, {"/A/b", "/a/b"}, {"//a//b//", "/a/b/"},
		{"/a.b", "/a.b"}, {"/.a", "/.a"}, {"/a.", "/a"}, {"/a...", "/a"}, {"/a /b", "/a/b"}, {"/a. . ", "/a"}, {"/a./", "/a/"}, {"/...", "/"},
		{"/a/...", "/a/"}, {"/.", "/"}, {"/a/.", "/a/"}, {"/..", "/"}, {"/a/..", "/"}, {"/a/b/..", "/a/"}, {"/../a", "/a"}, {"/a/../b", "/b"},
		{"/a/./b", "/a/b"}, {"/a/../../b", "/b"}, {"/a;x", "/a"}, {"/a;x/b", "/a/b"}, {"/;x", "/"}, {"/;x/a", "/a"}, {"/a/;x", "/a/"}, {"/a/.;x", "/a/"},
		{"/a/..;x/b", "/b"}, {"/a/b;x/..;y", "/a/"}, {"/a;x;y", "/a"}, {"/a;x=/b", "/a/b"}, {"/a;..", "/a"}, {"/a.;x", "/a"}, {"/a%3bx", "/a"}, {"/%61", "/a"},
		{"/%2561", "/a"}, {"/%252561", "/a"}, {"/%25252561", "/a"}, {"/%2525252561", "/%61"}, {"/%41", "/a"}, {"/%2f", "/"}, {"/a%2fb", "/a/b"}, {"/a%252Fb", "/a/b"},
		{"/a%5cb", "/a/b"}, {`/a\b`, "/a/b"}, {`/a\..\b`, "/b"}, {"/x%252f..%252fa", "/a"}, {"/%2e%2e/a", "/a"}, {"/a/%252e%252e/b", "/b"}, {"/a%3fb", "/a"}, {"/a%3Fb/c", "/a"},
		{"/a%23b", "/a"}, {"/a?b", "/a"}, {"/a#b", "/a"}, {"/a%00b", "/a"}, {"/a%2500b", "/a"}, {"/a/%3fb", "/a/"}, {"/%3fb", "/"}, {"/a%20", "/a"},
		{"/a%20/b", "/a/b"}, {"/%20a", "/ a"}, {"/a%2e", "/a"}, {"/a+b", "/a+b"}, {"/%", "/%"}, {"/%2", "/%2"}, {"/%zz", "/%zz"}, {"/%%361", "/a"},
		{"/%c3%a9", "/%c3%a9"}, {"/%C3%89", "/%c3%89"}, {"/a~b", "/a~b"}, {"/a:b", "/a:b"}, {"/a%0a", "/a"}, {"/a%0d%0A%09", "/a"}, {"/a%0bb", "/a\vb"}, {"/a%09b", "/a\tb"}, {"/..a", "/..a"}, {"/a..b", "/a..b"},
	}
	if got, want := len(rows), 82; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, row := range rows {
		if got := rbac.FoldPath(row.path); got != row.want {
			t.Errorf("%q: got %q, want %q", row.path, got, row.want)
		}
	}
}

// TestAmbiguous (THREATS 0.3): the forms that pass every normalization and that
// some application takes for /admin. None of them is the path /admin, and each
// may be it.
func TestAmbiguous(t *testing.T) {
	exact, prefix := pattern(t, rbac.Attr(rbac.Path), "/admin"), pattern(t, rbac.Attr(rbac.Path), "/admin/*")
	end, template := pattern(t, rbac.Attr(rbac.Path), "*/admin"), pattern(t, rbac.Attr(rbac.Path), "/admin/{*}")
	n := 0
	// The forms of the second list cut what comes after them.
	for i, forms := range [][]string{
		{"%s/", "%s;a=b", "/;%s", "%s%%20", "%s.", "%s..", "%s%%2520", "%s;", "/;x%s", "/.%%2520%s", "%s%%253b", "%s/%%252e", "%s/;x", "/x/%%252e%%252e%s", "%s\\", "%s"},
		{"%s%%3fx", "%s%%00", "%s%%2500x", "%s%%23", "%s%%253F"},
	} {
		for _, form := range forms {
			for _, name := range []string{"/admin", "/ADMIN", "/Admin", "/%2561dmin", "/%61dmin", "/a%2564min", "/%25%36%31dmin", "/adm%69n"} {
				path := strings.ReplaceAll(strings.Replace(form, "%s", name, 1), "%%", "%")
				if path == "/admin" {
					continue
				}
				n++
				folded := rbac.FoldPath(path)
				if exact.Match(path) || !exact.MatchFolded(folded) || !end.MatchFolded(folded) {
					t.Errorf("%q, folded %q: is /admin %v, may be it %v, may end so %v", path, folded, exact.Match(path), exact.MatchFolded(folded), end.MatchFolded(folded))
				}
				for _, below := range []string{"/x", "//x", "/;/x", "/X", "/x.", "/%2578", "/./x", "/y/%252e%252e/x"} {
					if folded := rbac.FoldPath(path + below); i == 0 && (!prefix.MatchFolded(folded) || !template.MatchFolded(folded)) {
						t.Errorf("%q, folded %q: is not below /admin", path+below, folded)
					}
				}
			}
		}
	}
	if got, want := n, 167; got != want {
		t.Errorf("%d paths, want %d", got, want)
	}
	for _, path := range []string{"/", "/admi", "/admin2", "/x/admin", "/admin/x", "/adminxd", "/ad/min", "/admin%2561", "/.admin", "/a dmin", "/admin,", "/admin-", "/%20admin"} {
		if exact.MatchFolded(rbac.FoldPath(path)) {
			t.Errorf("%q may be /admin", path)
		}
	}
}

// TestMatchFolded: patterns, and paths that fold into them or do not.
func TestMatchFolded(t *testing.T) {
	rows := []struct {
		pattern, path string
		want          bool
	}{
		{"/", "/", true}, {"/", "/;x", true}, {"/", "/...", true}, {"/", "/a", false}, {"/*", "/", true}, {"/*", "/A", true},
		{"*", "/", true}, {"*", "/x", true}, {"/A", "/a", true}, {"/A", "/a/", true}, {"/a/", "/a", true}, {"/a/", "/A/", true},
		{"/a.b", "/axb", false}, {"/a.b", "/A.B", true}, {"/a;b", "/a", true}, {"/a;b", "/a;c", true}, {"/a;b", "/ab", false}, {"/a.", "/a", true},
		{"/a*", "/AB", true}, {"/a*", "/b", false}, {"/A*", "/ab", true}, {"/a/*", "/a", false}, {"/a/*", "/A/", true}, {"/a/*", "/a;x/", true},
		{"/a/*", "/;/a/;y", true}, {"/a/*", "/ab", false}, {"/.*", "/.git", true}, {"/.*", "/%252egit", true}, {"/.*", "/git", false}, {"/.*", "/", false},
		{"/admin.*", "/admin.d", true}, {"/admin.*", "/ADMIN.D", true}, {"/admin.*", "/adminxd", false}, {"/admin.*", "/administrator", false}, {"/a;b*", "/A", true}, {"/..*", "/..A", true},
		{"*.png", "/x.PNG", true}, {"*.png", "/x.png/", true}, {"*.png", "/x.png;v=1", true}, {"*.png", "/x.png.", true}, {"*.png", "/xpng", false}, {"*/b", "/a/B", true},
		{"*/b", "/ab", false}, {"*b/", "/ab", true}, {"*a/b", "/xa//b", true}, {"*.b", "/a.b%3f", true}, {"*B", "/ab", true}, {"*.a./b", "/x.a/b", true},
		{"/{*}", "/A", true}, {"/{*}", "/a/", true}, {"/{*}", "/", false}, {"/{*}", "/a/b", false}, {"/A/{*}", "/a/x", true}, {"/a/{*}", "/a;x/y;z", true},
		{"/a/{*}/b", "/a/x/b", true}, {"/a/{*}/b", "/a/x/B/", true}, {"/a/{*}/b", "/a/;x/y/b", true}, {"/a/{*}/b", "/a/b", false}, {"/a/{*}/b", "/a/..%252fa/x/b", true}, {"/a/{*}/", "/a/x", true},
		{"/a/{**}", "/A/x/y", true}, {"/a/{**}", "/a/", true}, {"/a/{**}", "/a", false}, {"/a/{**}", "/b/x", false}, {"/{**}", "/", true}, {"/{*}/{**}", "/a", false},
		{"/{*}/{**}", "/a/", true}, {"/{*}/{**}", "/a/b/c", true},
	}
	if got, want := len(rows), 68; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, row := range rows {
		if got := pattern(t, rbac.Attr(rbac.Path), row.pattern).MatchFolded(rbac.FoldPath(row.path)); got != row.want {
			t.Errorf("%s of %q, folded %q: got %v", row.pattern, row.path, rbac.FoldPath(row.path), got)
		}
	}
	if (rbac.Pattern{}).MatchFolded("/") || pattern(t, rbac.Attr(rbac.DestinationPort), "80").MatchFolded("80x") {
		t.Error("a pattern that is none matches")
	}
}

// TestFoldingFollows: a path that is an Exact pattern's is it when both are
// folded, so that ALLOW of a path is the comparison of the path alone.
func TestFoldingFollows(t *testing.T) {
	n := 0
	for _, row := range values() {
		if row.kinds[0] != rbac.Path {
			continue
		}
		for s := range strings.FieldsSeq(row.good) {
			if p := pattern(t, rbac.Attr(rbac.Path), s); p.Kind() == rbac.Exact {
				if n++; !p.Match(s) || !p.MatchFolded(rbac.FoldPath(s)) {
					t.Errorf("%s does not match itself", s)
				}
			}
		}
	}
	if n != 14 {
		t.Errorf("%d patterns", n)
	}
}

func FuzzFoldPath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b;c?d", "/%252e%252e/%41", `//a\b`, "/%%34%31", "/a. ./%00", "/a/;x", "/%2525252541"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		folded := rbac.FoldPath(path)
		if !strings.HasPrefix(folded, "/") || strings.ContainsAny(folded, "\\;?#\x00ABCXYZ") || strings.Contains(folded, "//") || strings.Contains(folded+"/", "./") || strings.Contains(folded+"/", " /") {
			t.Errorf("%q folds to %q", path, folded)
		}
		// What four decodings have not reached goes on being encoded.
		if !strings.Contains(folded, "%") && rbac.FoldPath(folded) != folded {
			t.Errorf("%q folds to %q, and that to %q", path, folded, rbac.FoldPath(folded))
		}
		if again := rbac.FoldPath("//" + path); strings.HasPrefix(path, "/") && again != folded {
			t.Errorf("%q folds to %q, and after a slash more to %q", path, folded, again) // the shortcut for most paths
		}
		if len(folded) > len(path)+1 {
			t.Errorf("%q grows to %q", path, folded)
		}
	})
}

func TestFoldHost(t *testing.T) {
	rows := []struct{ authority, want string }{
		{"a", "a"}, {"A", "a"}, {"a.example", "a.example"}, {"Secret.COM", "secret.com"}, {"secret.com.", "secret.com"}, {"secret.com:80", "secret.com"},
		{"secret.com.:80", "secret.com"}, {"SECRET.com.:", "secret.com"}, {"a:65535", "a"}, {"a:99999", "a"}, {"a_b-c.d", "a_b-c.d"}, {"10.0.0.1", "10.0.0.1"},
		{"10.0.0.1:80", "10.0.0.1"}, {"[::1]", "[::1]"}, {"[::1]:80", "[::1]"}, {"[FE80::A]:1", "[fe80::a]"}, {"[::ffff:10.0.0.1]", "[::ffff:10.0.0.1]"}, {"xn--a", "xn--a"},
		{"", ""}, {".", ""}, {":80", ""}, {"..", ""}, {"a..", ""}, {".a", ""}, {"a..b", ""}, {"a:b", ""},
		{"a:80:80", ""}, {"a:123456", ""}, {"a:-1", ""}, {"::1", ""}, {"fe80::1", ""}, {"[", ""}, {"[]", ""}, {"[::1", ""},
		{"[::1]x", ""}, {"[::1]:x", ""}, {"[::1].", ""}, {"[fe80::1%25eth0]", ""}, {"[x]", ""}, {"a b", ""}, {" a", ""}, {"a ", ""},
		{"a/b", ""}, {"a%2e", ""}, {"u@a", ""}, {"u:p@a", ""}, {"a,b", ""}, {"é", ""}, {"\u212a", ""}, {"a\x00", ""},
		{"a\t", ""}, {"a#b", ""}, {"a?b", ""}, {"a\\b", ""}, {"*", ""}, {"*.a", ""}, {"http://a", ""}, {"a.:80.", ""},
	}
	if got, want := len(rows), 58; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, row := range rows {
		if got := rbac.FoldHost(row.authority); got != row.want {
			t.Errorf("%q: got %q, want %q", row.authority, got, row.want)
		}
	}
}

func FuzzFoldHost(f *testing.F) {
	for _, s := range []string{"a.example:80", "[::1]:80", "A.", "a..b", "u@a", "[x]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, authority string) {
		host := rbac.FoldHost(authority)
		if rbac.FoldHost(host) != host || strings.ContainsAny(host, " /@ABCXYZ%,") {
			t.Errorf("%q is host %q", authority, host)
		}
	})
}
