package grpcauthz_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/mtls"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/grpcauthz"
)

// get sends what is written, as it is, over a connection of its own, and returns
// status and body.
func get(t testing.TB, address string, config *tls.Config, request string) (int, string) {
	t.Helper()
	var conn net.Conn
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if config != nil {
		conn = tls.Client(conn, config)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestHTTP: over mutual TLS, one policy and one request a row.
func TestHTTP(t *testing.T) {
	a := rbac.Attr
	rows := []struct {
		name    string
		set     rbac.Set
		id      spiffeid.ID
		request string // the method and target, then lines of headers
		want    int
	}{
		{"nothing applies", policies(), webID, "GET /", 200},
		{"unknown", rbac.Set{}, webID, "GET /", 403},
		{"no workload", policies(), callID, "GET /", 403},
		{"the principal", policies(policy(rbac.Allow, in(a(rbac.Principal), "td.test/ns/front/sa/web"))), webID, "GET /", 200},
		{"another", policies(policy(rbac.Allow, in(a(rbac.Principal), "td.test/ns/front/sa/web"))), apiID, "GET /", 403},
		{"the method", policies(policy(rbac.Allow, in(a(rbac.Method), "GET"))), webID, "POST /", 403},
		{"the path without query", policies(policy(rbac.Allow, in(a(rbac.Path), "/a"))), webID, "GET /a?b=/c", 200},
		{"a path below", policies(policy(rbac.Allow, in(a(rbac.Path), "/a"))), webID, "GET /a/", 403},
		{"a path that may be the one", policies(policy(rbac.Deny, in(a(rbac.Path), "/admin"))), webID, "GET /ADMIN", 403},
		{"a path with a blank", policies(policy(rbac.Deny, in(a(rbac.Path), "/admin"))), webID, "GET /admin%20", 403},
		{"a path that is another", policies(policy(rbac.Deny, in(a(rbac.Path), "/admin"))), webID, "GET /adminx", 200},
		{"the host", policies(policy(rbac.Allow, in(a(rbac.Host), "shop.test"))), webID, "GET /|Host: Shop.Test:8443", 200},
		{"the host of the target", policies(policy(rbac.Allow, in(a(rbac.Host), "shop.test"))), webID, "GET http://shop.test/|Host: other.test", 200},
		{"another host", policies(policy(rbac.Allow, in(a(rbac.Host), "shop.test"))), webID, "GET /|Host: other.test", 403},
		{"a header", policies(policy(rbac.Allow, in(header("x-a"), "v"))), webID, "GET /|Host: a|X-A: v", 200},
		{"two lines", policies(policy(rbac.Allow, in(header("x-a"), "v"))), webID, "GET /|Host: a|X-A: v|x-a: v", 403},
		{"a comma", policies(policy(rbac.Deny, in(header("x-a"), "w"))), webID, "GET /|Host: a|X-A: v,w", 403},
		{"no header", policies(policy(rbac.Deny, notIn(header("x-a"), "v"))), webID, "GET /", 403},
		{"the address", policies(policy(rbac.Allow, in(a(rbac.SourceIP), "127.0.0.1"), in(a(rbac.DestinationIP), "127.0.0.1"))), webID, "GET /", 200},
		{"a forwarded address", policies(policy(rbac.Allow, in(a(rbac.RemoteIP), "192.0.2.1"))), webID, "GET /|Host: a|X-Forwarded-For: 192.0.2.1", 403},
		{"the server name", policies(policy(rbac.Allow, in(a(rbac.ServerName), "shop.test"))), webID, "GET /", 200},
		{"a provider", policies(policy(rbac.Custom)), webID, "GET /", 200},
		{"a method of another kind", policies(), webID, "get /", 403},
	}
	if got, want := len(rows), 23; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	ca, held := newAuthority(t), new(grpcauthz.Current)
	address := serveHTTP(t, &grpcauthz.Authorizer{Policies: held.Index, PeerID: mtls.PeerID, Ask: allowAll}, ca.server(false))
	for _, row := range rows {
		held.Store(row.set)
		client := ca.client(row.id)
		client.ServerName = "shop.test"
		first, rest, _ := strings.Cut(row.request, "|")
		if rest == "" {
			rest = "Host: a"
		}
		got, _ := get(t, address, client, first+" HTTP/1.1\r\n"+strings.ReplaceAll(rest, "|", "\r\n")+"\r\nConnection: close\r\n\r\n")
		if got != row.want {
			t.Errorf("%s: got %d, want %d", row.name, got, row.want)
		}
	}
}

// TestTargets: a path that is not written as policy sees it is no request, and
// one that is reaches the handler as it was.
func TestTargets(t *testing.T) {
	open := target()
	open.Plaintext = true
	a := &grpcauthz.Authorizer{Policies: current(rbac.Select(nil, open)).Index}
	address := serveHTTP(t, a, nil)
	n := 0
	try := func(target string, want int, seen string) {
		n++
		status, body := get(t, address, nil, "GET "+target+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if status != want || want == 200 && body != seen {
			t.Errorf("%s: got %d %q, want %d %q", target, status, body, want, seen)
		}
	}
	for target, seen := range map[string]string{
		"/": "/", "/a": "/a", "/a/": "/a/", "/a?b": "/a", "/a?/../b": "/a", "/a;b": "/a;b", "/a%20b": "/a b", "/a%3Fb": "/a?b", "/a%3fb": "/a?b", "/%C3%A9": "/é", "/A.b~c-d_e": "/A.b~c-d_e",
		"http://x/a": "/a", "http://x/": "/", "http://x/a?b": "/a", "/a%25b": "/a%b", "/a:b@c": "/a:b@c",
	} {
		try(target, 200, seen)
	}
	for _, target := range []string{
		"//", "//a", "/a//b", "/a/./b", "/a/../b", "/..", "/.", "/a/..", "/%2e%2e/a", "/%2E/a", "/a/%2e%2e", "/%61", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/a%00", "/a\\b", "/a#b",
		"/a|b", "/a\"b", "/a<b", "/a^b", "/a`b", "/a{b}", "/a/..;x/b", "/a/.;/b", "http://x//a", "http://x/a/../b", "http://x/%61", "/%7Ea", "*", "a", "/a/%2e%2e;/b",
	} {
		status, _ := get(t, address, nil, "GET "+target+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if n++; status != 400 && status != 403 {
			t.Errorf("%s: got %d", target, status)
		}
	}
	if got, want := n, 50; got != want {
		t.Errorf("%d targets, want %d", got, want)
	}
	status, _ := get(t, address, nil, "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if status != 400 {
		t.Errorf("CONNECT: got %d", status)
	}
}

// TestHTTP2: the same over HTTP/2, whose words are others.
func TestHTTP2(t *testing.T) {
	ca := newAuthority(t)
	server := ca.server(false)
	server.NextProtos = []string{"h2"}
	a := &grpcauthz.Authorizer{PeerID: mtls.PeerID, Policies: current(policies(policy(rbac.Allow, in(rbac.Attr(rbac.Host), "shop.test"), in(rbac.Attr(rbac.Path), "/a"), in(header("x-a"), "v")))).Index}
	address := serveHTTP(t, a, server)
	client := ca.client(webID)
	client.NextProtos = []string{"h2"}
	transport := &http.Transport{TLSClientConfig: client, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	for path, want := range map[string]int{"/a": 200, "/b": 403, "//a": 400, "/%61": 400} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "Shop.Test"
		req.Header.Set("X-A", "v")
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want || resp.ProtoMajor != 2 {
			t.Errorf("%s: got %d over %s, want %d", path, resp.StatusCode, resp.Proto, want)
		}
	}
}

// TestChange: while requests are decided, policy changes, and each is decided by
// the one or the other.
func TestChange(t *testing.T) {
	open := target()
	open.Plaintext = true
	held := new(grpcauthz.Current)
	held.Store(rbac.Select(nil, open))
	address := serveHTTP(t, &grpcauthz.Authorizer{Policies: held.Index}, nil)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			if i%2 == 0 {
				held.Store(rbac.Select([]rbac.Policy{policy(rbac.Deny)}, open))
			} else {
				held.Store(rbac.Select(nil, open))
			}
		}
	}()
	seen := map[int]int{}
	for i := 0; i < 2000 && (seen[200] == 0 || seen[403] == 0); i++ {
		status, _ := get(t, address, nil, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		seen[status]++
	}
	stop()
	<-done
	if seen[200] == 0 || seen[403] == 0 || len(seen) != 2 {
		t.Errorf("got %s", fmt.Sprint(seen))
	}
	held.Store(rbac.Select([]rbac.Policy{policy(rbac.Deny)}, open))
	if status, _ := get(t, address, nil, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); status != 403 {
		t.Errorf("after the last change: got %d", status)
	}
}
