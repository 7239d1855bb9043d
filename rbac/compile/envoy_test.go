package compile_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestEnvoyRefusesStrangers: the guards hold in a real Envoy, also where no
// policy applies and where one allows everybody.
func TestEnvoyRefusesStrangers(t *testing.T) {
	everybody := []rbac.Policy{{Namespace: rbactest.Namespace, Name: "all", Action: rbac.Allow, Rules: []rbac.Rule{{}}}}
	sets := []rbac.Set{rbac.Select(nil, rbactest.Target()), rbac.Select(everybody, rbactest.Target())}
	ca := newAuthority(t)
	w := start(t, ca, sets)
	get := rbactest.Call{Method: "GET", Target: "/", Authority: "shop.test"}
	refused := "rbac_access_denied_matched_policy[no-identity]"
	check := func(t *testing.T, c *client, code int, details string) {
		t.Helper()
		for i := range sets {
			got, err := c.do(i, get)
			if err != nil || got.code != code || got.details != details {
				t.Errorf("set %d: got %+v, %v, want %d %s", i, got, err, code, details)
			}
		}
	}
	good := "spiffe://td.test/ns/a/sa/a"
	check(t, w.client(t, good), 200, "direct_response")
	check(t, w.client(t, "spiffe://td.test/ns/a/sa/a.b-c"), 200, "direct_response")
	for _, id := range rbactest.Strangers() {
		t.Run(id.String(), func(t *testing.T) {
			check(t, w.client(t, id.String()), 403, refused)
			for i, set := range sets {
				if v := eval.Decide(set, rbac.Request{Protocol: rbac.HTTP, Peer: rbac.Peer{ID: id}, Method: "GET", Path: "/"}); v.Allowed || v.Reason != eval.NoIdentity {
					t.Errorf("set %d: eval says %+v", i, v)
				}
			}
		})
	}
	for name, uris := range map[string][]string{
		"two identities":         {good, "spiffe://td.test/ns/b/sa/b"},
		"an identity and a URI":  {good, "https://td.test/"},
		"a URI and an identity":  {"https://td.test/", good},
		"no identity":            nil,
		"another scheme":         {"https://td.test/ns/a/sa/a"},
		"upper-case domain":      {"spiffe://TD.test/ns/a/sa/a"},
		"a port":                 {"spiffe://td.test:1/ns/a/sa/a"},
		"a query":                {good + "?x"},
		"a comma":                {good + ",x"},
		"a dot-dot segment":      {"spiffe://td.test/ns/../sa/a"},
		"percent-encoding":       {"spiffe://td.test/ns/a/sa/%61"},
		"an empty account":       {"spiffe://td.test/ns/a/sa/"},
		"an empty namespace":     {"spiffe://td.test/ns//sa/a"},
		"a double slash":         {"spiffe://td.test//ns/a/sa/a"},
		"a newline at the end":   {good + "%0a"},
		"text before the scheme": {"x" + good},
	} {
		t.Run(name, func(t *testing.T) { check(t, w.client(t, uris...), 403, refused) })
	}
	t.Run("plaintext", func(t *testing.T) {
		c := &client{dial: func() (net.Conn, error) { return net.Dial("tcp", w.insecure.String()) }}
		defer c.close()
		// Without TLS there is nothing that an input could ask: Envoy denies by
		// itself, and names no line.
		check(t, c, 403, "rbac_access_denied_matched_policy[none]")
	})
}

// TestEnvoyRefusesOddPaths: a path that is not to be decided upon is refused
// also where everybody is allowed.
func TestEnvoyRefusesOddPaths(t *testing.T) {
	w := start(t, newAuthority(t), []rbac.Set{rbac.Select(nil, rbactest.Target())})
	c := w.client(t, rbactest.Peers(1)[0].String())
	for target, details := range map[string]string{
		"/":               "direct_response",
		"/a":              "direct_response",
		"/..;/a":          "direct_response", // Envoy resolves it
		"//":              "rbac_access_denied_matched_policy[bad-path]",
		"/./..//":         "rbac_access_denied_matched_policy[bad-path]",
		"/x/%2e%2e;/a":    "rbac_access_denied_matched_policy[bad-path]",
		"/x/%2e;y/a":      "rbac_access_denied_matched_policy[bad-path]",
		"/x/.%2e;y":       "rbac_access_denied_matched_policy[bad-path]",
		"/x/%2f":          "path_normalization_failed",
		"/a#b":            "path_normalization_failed",
		"/a%00":           "path_normalization_failed",
		"http://c0/a":     "direct_response",
		"http://c0/a//.;": "direct_response",
	} {
		got, err := c.do(0, rbactest.Call{Method: "GET", Target: target, Authority: "c0"})
		if err != nil || got.details != details {
			t.Errorf("%s: got %+v, %v, want %s", target, got, err, details)
		}
	}
}

// TestEnvoyRefusesOddMethods: HTTP/2 carries any word for a method. One that a
// rule could not name, and a server might take for one that it could, is refused
// also where everybody is allowed.
func TestEnvoyRefusesOddMethods(t *testing.T) {
	set := rbac.Select(nil, rbactest.Target())
	w := start(t, newAuthority(t), []rbac.Set{set})
	peer := rbactest.Peers(1)[0]
	c := &client2{dial: w.client(t, peer.String()).dial}
	defer c.close()
	for method, allowed := range map[string]bool{
		"GET": true, "DELETE": true, "PURGE": true, "M-SEARCH": true, "ANYWORD": true,
		"delete": false, "Delete": false, "DELETe": false, "GET1": false, "GET_": false, "*": false, "G.T": false, "-GET": false,
	} {
		got, err := c.do(0, rbactest.Call{HTTP2: true, Method: method, Target: "/", Authority: "shop.test"})
		if err != nil || (got.code == 200) != allowed || !allowed && got.details != "rbac_access_denied_matched_policy[no-method]" {
			t.Errorf("%s: got %+v, %v, want allowed: %t", method, got, err, allowed)
		}
		if v := eval.Decide(set, rbac.Request{Protocol: rbac.HTTP, Peer: rbac.Peer{ID: peer}, Method: method, Path: "/"}); v.Allowed != allowed {
			t.Errorf("%s: eval says %+v", method, v)
		}
	}
}

// TestEnvoyRefusesWithoutPath: where nobody has set the path's state, everything
// is refused, also where everybody is allowed or nothing applies.
func TestEnvoyRefusesWithoutPath(t *testing.T) {
	everybody := []rbac.Policy{{Namespace: rbactest.Namespace, Name: "all", Action: rbac.Allow, Rules: []rbac.Rule{{}}}}
	w := start(t, newAuthority(t), []rbac.Set{rbac.Select(nil, rbactest.Target()), rbac.Select(everybody, rbactest.Target())})
	c := w.clientOf(t, w.pathless, rbactest.Peers(1)[0].String())
	for set := range 2 {
		got, err := c.do(set, rbactest.Call{Method: "GET", Target: "/", Authority: "shop.test"})
		if err != nil || got.code != 403 || got.path != "" {
			t.Errorf("%d: got %+v, %v, want 403", set, got, err)
		}
	}
}

// TestCanonicalPathIsEnvoys: rbac.CanonicalPath makes of 20,000 hostile targets
// what a real Envoy makes of them, and refuses those that Envoy refuses.
func TestCanonicalPathIsEnvoys(t *testing.T) {
	const n = 20000
	w := start(t, newAuthority(t), []rbac.Set{rbac.Select(nil, rbactest.Target())})
	targets := hostileTargets(n)
	var refused atomic.Int64
	var wait sync.WaitGroup
	const workers = 8
	for i := range workers {
		c := w.client(t, rbactest.Peers(1)[0].String())
		wait.Go(func() {
			for j := i; j < n; j += workers {
				got, err := c.do(0, rbactest.Call{Method: "GET", Target: targets[j], Authority: "c0"})
				if err != nil {
					t.Errorf("%q: %v", targets[j], err)
					return
				}
				path, err := rbac.CanonicalPath(targets[j])
				if err != nil {
					refused.Add(1)
				}
				if (err != nil) != (got.code == 400) || err == nil && path != got.path {
					t.Errorf("%q: got %q, %v, Envoy says %+v", targets[j], path, err, got)
				}
			}
		})
	}
	wait.Wait()
	t.Logf("%d targets, %d refused", n, refused.Load())
	if r := refused.Load(); r < n/10 || r > n/2 {
		t.Errorf("%d of %d targets were refused: the mixture shows little", r, n)
	}
}

// hostileTargets are random joins of what has a meaning in a path, each byte
// encoded and not encoded first.
func hostileTargets(n int) []string {
	parts := []string{"/", "/", "/", "//", ".", "..", ";", "\\", "%2e", "%2E", "%2e%2e", "a", "b", "%", "%2", "%41", "%3b", "?", "..;",
		"/..;x", "/.;", "/../", "/./", "|", "%7c", "%zz", "%c3", "%2f", "%5C", "%00", "~", "%7e", "^", "*", ",", "=", "\"", "#", "%25", "%%", "\x7f", "\xc3"}
	r := rand.New(rand.NewPCG(7, 7))
	var targets []string
	for b := range 256 {
		targets = append(targets, fmt.Sprintf("/a%%%02xb", b), fmt.Sprintf("/a%%%02Xb", b))
		if b > ' ' { // below is the end of a target
			targets = append(targets, "/a"+string([]byte{byte(b)})+"b")
		}
	}
	for len(targets) < n {
		var s strings.Builder
		s.WriteString([]string{"/", "/", "/", "/", "/", "/", "/", "http://c0/", "HTTPS://c0/", "http://c0"}[r.IntN(10)])
		for range r.IntN(8) {
			s.WriteString(parts[r.IntN(len(parts))])
		}
		if strings.HasPrefix(s.String(), "http://c0") && !strings.HasPrefix(s.String(), "http://c0/") && s.Len() > len("http://c0") {
			continue // another host
		}
		targets = append(targets, s.String())
	}
	return targets
}

// TestUnknownSet: what is not known is not compiled.
func TestUnknownSet(t *testing.T) {
	if got, err := compile.HTTP(rbac.Set{}); err != compile.ErrUnknownSet {
		t.Errorf("got %v, %v, want ErrUnknownSet", got, err)
	}
}
