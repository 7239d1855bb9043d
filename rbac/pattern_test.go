package rbac_test

import (
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
)

// TestMatch: one value, and texts that it matches or does not.
func TestMatch(t *testing.T) {
	path, ip, audience, host := rbac.Attr(rbac.Path), rbac.Attr(rbac.SourceIP), rbac.Attr(rbac.Audience), rbac.Attr(rbac.Host)
	rows := []struct {
		a       rbac.Attribute
		pattern string
		text    string
		want    bool
	}{
		{path, "/a", "/a", true}, {path, "/a", "/a/", false}, {path, "/a", "/A", false}, {path, "/a.b", "/axb", false},
		{path, "/a*", "/a", true}, {path, "/a*", "/ab", true}, {path, "/a*", "/b/a", false}, {path, "*a", "/a", true}, {path, "*/a", "/b/a", true}, {path, "*/a", "/b/a/", false},
		{path, "*", "/", true}, {path, "*", "", false}, {audience, "*", "", false}, {audience, "*", "x", true}, {audience, "a", "", false},
		{path, "/{*}", "/a", true}, {path, "/{*}", "/", false}, {path, "/{*}", "/a/", false}, {path, "/{*}", "/a/b", false}, {path, "/{*}", "", false}, {path, "/{*}", "a", false},
		{path, "/{*}/", "/a/", true}, {path, "/{*}/", "/a", false}, {path, "/{*}/", "/a//", false}, {path, "/a/{*}/b", "/a/x/b", true}, {path, "/a/{*}/b", "/a//b", false}, {path, "/a/{*}/b", "/a/x/y/b", false},
		{path, "/a/{*}/b", "/a/x/bb", false}, {path, "/a/{*}/b", "/a/x/b/", false}, {path, "/a/{*}/b", "/ab/x/b", false}, {path, "/a.b/{*}", "/axb/x", false}, {path, "/{*}/{*}", "/a/b", true}, {path, "/{*}/{*}", "/a/", false},
		{path, "/{**}", "/", true}, {path, "/{**}", "/a/b/", true}, {path, "/{**}", "", false}, {path, "/a/{**}", "/a/", true}, {path, "/a/{**}", "/a/b/c", true}, {path, "/a/{**}", "/a", false}, {path, "/a/{**}", "/ab/c", false},
		{path, "/{*}/{**}", "/a/", true}, {path, "/{*}/{**}", "//", false}, {path, "/{*}/{**}", "/a", false}, {path, "/a/{*}", "/a/{*}", true},
		{ip, "10.0.0.0/8", "10.1.2.3", true}, {ip, "10.0.0.0/8", "11.0.0.1", false}, {ip, "10.0.0.0/8", "::ffff:10.1.2.3", true}, {ip, "10.0.0.0/8", "", false}, {ip, "10.0.0.0/8", "x", false}, {ip, "10.0.0.1", "10.0.0.1", true}, {ip, "10.0.0.1", "10.0.0.2", false},
		{ip, "0.0.0.0/0", "1.2.3.4", true}, {ip, "0.0.0.0/0", "::1", false}, {ip, "::/0", "::1", true}, {ip, "::/0", "1.2.3.4", false}, {ip, "fe80::/10", "fe80::1%eth0", true}, {ip, "2001:db8::/32", "2001:db8:1::", true}, {ip, "2001:db8::/32", "2001:db9::", false},
		{host, "*.a.example", "x.a.example", true}, {host, "*.a.example", "a.example", false}, {host, "*.a.example", "xa.example", false}, {host, "A.example", "a.example", true},
	}
	if got, want := len(rows), 62; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, row := range rows {
		if got := pattern(t, row.a, row.pattern).Match(row.text); got != row.want {
			t.Errorf("%s %s of %q: got %v", row.a, row.pattern, row.text, got)
		}
	}
	if (rbac.Pattern{}).Match("") || (rbac.Pattern{}).Match("x") || (rbac.Pattern{}).MatchPair("", "") {
		t.Error("the zero pattern matches")
	}
}

// TestMatchPair: two texts, which are never read as one.
func TestMatchPair(t *testing.T) {
	token, account := rbac.Attr(rbac.RequestPrincipal), rbac.Attr(rbac.ServiceAccount)
	rows := []struct {
		a             rbac.Attribute
		pattern       string
		first, second string
		want          bool
	}{
		{token, "*", "i", "s", true}, {token, "*", "", "s", false}, {token, "*", "i", "", false}, {token, "i/s", "i", "s", true}, {token, "i/s", "i", "ss", false}, {token, "i/s", "ii", "s", false},
		{token, "https://i/s", "https://i", "s", true}, {token, "https://i/s", "https:/", "i/s", false}, {token, "https://i/x/s", "https://i/x", "s", true}, {token, "https://i/x/s", "https://i", "x/s", false},
		{token, "i/*", "i", "s", true}, {token, "i/*", "ij", "s", false}, {token, "i/s*", "i", "st", true}, {token, "i/s*", "i", "t", false}, {token, "*/s", "i", "s", true}, {token, "*/s", "i", "ss", false},
		{token, "*x/s", "ix", "s", true}, {token, "*x/s", "x", "s", true}, {token, "*x/s", "i", "s", false}, {token, "i*", "ij", "s", true}, {token, "i*", "j", "i", false}, {token, "*@a", "i", "u@a", true}, {token, "*@a", "u@a", "i", false},
		{account, "a", "own", "a", true}, {account, "a", "other", "a", false}, {account, "n/a", "n", "a", true}, {account, "n/a", "n", "ab", false}, {account, "n/a", "n/a", "", false},
	}
	if got, want := len(rows), 28; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, row := range rows {
		p := pattern(t, row.a, row.pattern)
		if got := p.MatchPair(row.first, row.second); got != row.want {
			t.Errorf("%s of %q and %q: got %v", row.pattern, row.first, row.second, got)
		}
		if p.Match(row.first) || p.Match(row.first+"/"+row.second) {
			t.Errorf("%s matches one text", row.pattern)
		}
	}
	if one, two := pattern(t, rbac.Attr(rbac.Path), "/a").Halves(); one != (rbac.Pattern{}) || two != (rbac.Pattern{}) {
		t.Error("a path has halves")
	}
}
