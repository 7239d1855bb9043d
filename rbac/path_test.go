package rbac_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
)

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
