package mesh_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkinputsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/mesh"
)

// One live sidecar for all that does not change it.
func TestInbound(t *testing.T) {
	w := newLiveWorld(t)
	good := w.tls(w.ca.SVID(t, clientID, time.Hour))

	t.Run("TestPeers", func(t *testing.T) { testPeers(t, w) })
	t.Run("TestTLS12", func(t *testing.T) {
		c := w.tls(w.ca.SVID(t, clientID, time.Hour))
		c.MaxVersion = tls.VersionTLS12
		if _, err := tls.Dial("tcp", w.sidecar.Inbound.Listen, c); err == nil || !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("TLS 1.2: got %v, want an alert about the protocol version", err)
		}
	})
	t.Run("TestCurve", func(t *testing.T) {
		conn, err := tls.Dial("tcp", w.sidecar.Inbound.Listen, good)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.ConnectionState().CurveID; got != tls.X25519MLKEM768 {
			t.Errorf("agreed on %v, want X25519MLKEM768", got)
		}
	})
	t.Run("TestNoTickets", func(t *testing.T) { testNoTickets(t, w) })
	t.Run("TestFirstBytes", func(t *testing.T) { testFirstBytes(t, w) })
	t.Run("TestRequests", func(t *testing.T) { testRequests(t, w, good) })
	t.Run("TestHeadersSeenByTheApplication", func(t *testing.T) { testHeaders(t, w, good) })
	t.Run("TestAccessLog", func(t *testing.T) {
		if code := w.raw(t, good, "GET /hello?secret=1 HTTP/1.1\r\nHost: cart\r\n\r\n"); code != 200 {
			t.Fatal(code)
		}
		line := w.logged(t, func(l map[string]any) bool { return l["path"] == "/hello" })
		want := map[string]any{"direction": "inbound", "peer": clientID.String(), "code": 200.0, "tls": "TLSv1.3", "method": "GET", "host": "cart", "details": "via_upstream"}
		for key, value := range want {
			if line[key] != value {
				t.Errorf("%s: got %v, want %v", key, line[key], value)
			}
		}
		if strings.Contains(fmt.Sprint(line), "secret") {
			t.Errorf("the query is in the log: %v", line)
		}
	})
}

// testPeers: who is let in, by certificate. The reason is Envoy's own word, in
// the line that the refusal leaves in the log.
func testPeers(t *testing.T, w *world) {
	stranger := catest.New(t, domain)
	foreign := catest.New(t, spiffeid.RequireTrustDomainFromString("other.test"))
	ids := func(s string) spiffeid.ID { return spiffeid.RequireFromString(s) }
	table := []struct {
		name   string
		client *tls.Config
		code   int // 0: refused in the handshake
		reason string
	}{
		{"a workload", w.tls(w.ca.SVID(t, clientID, time.Hour)), 200, ""},
		{"itself", w.tls(w.ca.SVID(t, serverID, time.Hour)), 200, ""},
		{"no certificate", w.tls(), 0, "PEER_DID_NOT_RETURN_A_CERTIFICATE"},
		{"expired", w.tls(w.ca.SVID(t, clientID, -time.Minute)), 0, "CERTIFICATE_VERIFY_FAILED"},
		{"another CA, same trust domain", w.tls(stranger.SVID(t, clientID, time.Hour)), 0, "CERTIFICATE_VERIFY_FAILED"},
		{"another CA, its own trust domain", w.tls(foreign.SVID(t, ids("spiffe://other.test/ns/shop/sa/web"), time.Hour)), 0, "CERTIFICATE_VERIFY_FAILED"},
		{"another trust domain, our CA", w.tls(w.ca.SVID(t, ids("spiffe://other.test/ns/shop/sa/web"), time.Hour)), 0, "CERTIFICATE_VERIFY_FAILED"},
		{"an agent", w.tls(w.ca.SVID(t, ids("spiffe://td.test/istio-auth/node/n/u"), time.Hour)), 0, "CERTIFICATE_VERIFY_FAILED"},
		{"a service of ours", w.tls(w.ca.SVID(t, ids("spiffe://td.test/istio-auth/manager"), time.Hour)), 0, "CERTIFICATE_VERIFY_FAILED"},
		{"a prefix of ns", w.tls(w.ca.SVID(t, ids("spiffe://td.test/nsx/shop/sa/web"), time.Hour)), 0, "CERTIFICATE_VERIFY_FAILED"},
		{"DNS name only", w.tls(odd(t, w.ca, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"web.shop"} })), 0, "CERTIFICATE_VERIFY_FAILED"},
		{"self-signed", w.tls(selfSigned(t)), 0, "CERTIFICATE_VERIFY_FAILED"},
		// Envoy's SPIFFE validator looks neither at key usages nor at how many
		// URIs there are: these are the CA's to refuse (ca/lint).
		{"server authentication only", w.tls(odd(t, w.ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), 200, ""},
		{"two URIs", w.tls(odd(t, w.ca, func(c *x509.Certificate) { c.URIs = append(c.URIs, serverID.URL()) })), 200, ""},
	}
	if got, want := len(table), 14; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			before := len(w.Stdout())
			if got := w.raw(t, row.client, "GET / HTTP/1.1\r\nHost: cart\r\n\r\n"); got != row.code {
				t.Fatalf("got %d, want %d", got, row.code)
			}
			if row.reason == "" {
				return
			}
			within(t, 5*time.Second, "the refusal is in the log with its reason", func() bool {
				for line := range strings.Lines(w.Stdout()[before:]) {
					if strings.Contains(line, `"direction":"refused"`) && strings.Contains(line, row.reason) {
						return true
					}
				}
				return false
			})
		})
	}
}

// odd is a certificate that our CA would never sign.
func odd(t *testing.T, ca *catest.CA, change func(*x509.Certificate)) *x509svid.SVID {
	t.Helper()
	s := ca.SVID(t, clientID, time.Hour)
	leaf := *s.Certificates[0]
	leaf.PublicKey = s.PrivateKey.Public()
	leaf.RawSubject, leaf.ExtraExtensions, leaf.Extensions = nil, nil, nil
	change(&leaf)
	s.Certificates[0] = ca.Sign(t, &leaf)
	return s
}

func selfSigned(t *testing.T) *x509svid.SVID {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{clientID.URL()}, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &x509svid.SVID{ID: clientID, Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

// testNoTickets: without a ticket no client comes back on the strength of a
// certificate that has expired since. Go's client stores each ticket it gets.
func testNoTickets(t *testing.T, w *world) {
	cache := &tickets{}
	c := w.tls(w.ca.SVID(t, clientID, time.Hour))
	c.ClientSessionCache = cache
	for range 2 {
		if code := w.raw(t, c, "GET / HTTP/1.1\r\nHost: cart\r\n\r\n"); code != 200 {
			t.Fatal(code)
		}
	}
	if cache.put != 0 {
		t.Errorf("the sidecar gave %d tickets, want none", cache.put)
	}
	if n, _ := w.Stat(t, "listener.inbound.ssl.session_reused"); n != 0 {
		t.Errorf("%d sessions were resumed, want none", n)
	}
}

type tickets struct{ put int }

func (*tickets) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *tickets) Put(_ string, state *tls.ClientSessionState) {
	c.put += map[bool]int{true: 1}[state != nil]
}

// testFirstBytes: nothing but TLS gets an answer from the port (PM-02).
func testFirstBytes(t *testing.T, w *world) {
	table := map[string]string{
		"HTTP/1.1":         "GET / HTTP/1.1\r\nHost: cart\r\n\r\n",
		"HTTP/1.0":         "GET / HTTP/1.0\r\n\r\n",
		"HTTP/2 preface":   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"PROXY v1":         "PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\nHost: cart\r\n\r\n",
		"PROXY v2":         "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x01\x00\x02GET / HTTP/1.1\r\n\r\n",
		"SSH":              "SSH-2.0-OpenSSH_9.9\r\n",
		"MySQL":            "\x20\x00\x00\x01\x85\xa6\xff\x01",
		"PostgreSQL":       "\x00\x00\x00\x08\x04\xd2\x16\x2f",
		"SSLv2 hello":      "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
		"TLS alert":        "\x15\x03\x03\x00\x02\x01\x00",
		"TLS data":         "\x17\x03\x03\x00\x05hello",
		"nothing, half":    "\x16\x03\x01",
		"zeros":            strings.Repeat("\x00", 64),
		"CONNECT":          "CONNECT cart:80 HTTP/1.1\r\nHost: cart:80\r\n\r\n",
		"h2c upgrade":      "GET / HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
		"STARTTLS":         "EHLO cart\r\nSTARTTLS\r\n",
		"a line of spaces": strings.Repeat(" ", 512) + "\r\n\r\n",
	}
	if got, want := len(table), 17; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	w.app.take()
	for name, bytes := range table {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", w.sidecar.Inbound.Listen)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			io.WriteString(conn, bytes)
			conn.(*net.TCPConn).CloseWrite()
			answer, _ := io.ReadAll(conn)
			// A TLS alert is all that a stranger may get.
			if len(answer) > 0 && answer[0] != 0x15 {
				t.Errorf("the sidecar answered %q", answer)
			}
		})
	}
	if got := w.app.take(); len(got) != 0 {
		t.Errorf("%d requests reached the application, want none", len(got))
	}
}

// testRequests: with every peer and policy in favour, these are refused still.
func testRequests(t *testing.T, w *world, good *tls.Config) {
	head := " HTTP/1.1\r\nHost: cart\r\n"
	table := []struct {
		name, request string
		code          int
	}{
		{"plain", "GET /a" + head + "\r\n", 200},
		{"escaped slash", "GET /a%2fb" + head + "\r\n", 400},
		{"escaped slash, upper case", "GET /a%2Fb" + head + "\r\n", 400},
		{"escaped backslash", "GET /a%5cb" + head + "\r\n", 400},
		{"NUL", "GET /a%00" + head + "\r\n", 400},
		{"underscore in a header", "GET /a" + head + "x_role: admin\r\n\r\n", 400},
		{"HTTP/1.0", "GET /a HTTP/1.0\r\nHost: cart\r\n\r\n", 426},
		{"no host", "GET /a HTTP/1.1\r\n\r\n", 400},
		{"two lengths", "POST /a" + head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400},
		{"length and chunked", "POST /a" + head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"websocket", "GET /a" + head + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 403},
		{"h2c, ignored", "GET /a" + head + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", 200},
		{"CONNECT", "CONNECT cart:80 HTTP/1.1\r\nHost: cart:80\r\n\r\n", 404},
		{"lower-case method", "get /a" + head + "\r\n", 400},
		{"made-up method", "BREW /a" + head + "\r\n", 400},
		{"a cookie", "GET /a" + head + "Cookie: a=b; c=d\r\n\r\n", 200},
		{"a cookie with a comma", "GET /a" + head + "Cookie: a=b,c\r\n\r\n", 200},
		{"two lines of cookies", "GET /a" + head + "Cookie: a=b\r\nCookie: a=c\r\n\r\n", 400},
		{"many headers", "GET /a" + head + strings.Repeat("x: y\r\n", 101) + "\r\n", 431},
	}
	if got, want := len(table), 19; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			w.app.take()
			if got := w.raw(t, good, row.request); got != row.code {
				t.Errorf("got %d, want %d", got, row.code)
			}
			got := w.app.take()
			if (len(got) == 1) != (row.code == 200) {
				t.Errorf("%d requests reached the application", len(got))
			}
			for _, r := range got {
				if r.Header.Get("Upgrade") != "" || r.ProtoMajor != 1 {
					t.Errorf("the application sees %s with Upgrade %q", r.Proto, r.Header.Get("Upgrade"))
				}
			}
		})
	}
}

// testHeaders: what the application is told of its peer is the sidecar's word.
func testHeaders(t *testing.T, w *world, good *tls.Config) {
	const names = "X-Http-Method-Override X-Http-Method X-Method-Override X-Original-Url X-Rewrite-Url X-Envoy-Original-Path " +
		"X-Envoy-Original-Host X-Envoy-Internal X-Envoy-Retry-On X-Envoy-Max-Retries X-Envoy-Upstream-Rq-Timeout-Ms"
	var forged strings.Builder
	for name := range strings.FieldsSeq(names) {
		forged.WriteString(name + ": 1\r\n")
	}
	// Envoy holds a peer for internal by its address, if no other comes with it.
	for _, forwarded := range []string{"", "X-Forwarded-For: 10.1.2.3\r\n"} {
		w.app.take()
		code := w.raw(t, good, "GET //a/./b/../c?q=/x/.. HTTP/1.1\r\nHost: Cart.:8080\r\n"+
			"X-Forwarded-Client-Cert: URI=spiffe://td.test/ns/root/sa/admin\r\n"+forwarded+forged.String()+"\r\n")
		got := w.app.take()
		if code != 200 || len(got) != 1 {
			t.Fatalf("code %d, %d requests", code, len(got))
		}
		r := got[0]
		if r.RequestURI != "/a/c?q=/x/.." {
			t.Errorf("path %q, want it normalised", r.RequestURI)
		}
		if r.Host != "Cart" {
			t.Errorf("host %q, want no port and no trailing dot", r.Host)
		}
		xfcc := r.Header.Get("X-Forwarded-Client-Cert")
		if !strings.Contains(xfcc, "URI="+clientID.String()) || strings.Contains(xfcc, "admin") {
			t.Errorf("x-forwarded-client-cert: %q", xfcc)
		}
		for name := range strings.FieldsSeq(names) {
			if v := r.Header.Get(name); v != "" {
				t.Errorf("%s: %q reached the application", name, v)
			}
		}
		if xff := r.Header.Get("X-Forwarded-For"); forwarded != "" && !strings.HasPrefix(xff, "10.1.2.3,") {
			t.Errorf("x-forwarded-for %q, want the connection's address behind it", xff)
		}
	}
}

// onPath allows exactly one path, by the filter state that the bootstrap sets.
func onPath(t *testing.T, path string) *rbacv3.RBAC {
	t.Helper()
	pack := func(name string, m proto.Message) *xdscorev3.TypedExtensionConfig {
		body, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: body}
	}
	action := func(name string, a rbacconfigv3.RBAC_Action) *xdsmatcherv3.Matcher_OnMatch {
		return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
			Action: pack("envoy.filters.rbac.action", &rbacconfigv3.Action{Name: name, Action: a}),
		}}
	}
	return &rbacv3.RBAC{Matcher: &xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
			Input: pack("envoy.matching.inputs.filter_state", &networkinputsv3.FilterStateInput{Key: mesh.PathState}),
			TreeType: &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{
				Map: map[string]*xdsmatcherv3.Matcher_OnMatch{path: action("shop/allow/0", rbacconfigv3.RBAC_ALLOW)},
			}},
		}},
		OnNoMatch: action("shop/deny/1", rbacconfigv3.RBAC_DENY),
	}}
}

// TestPolicyPathIsTheApplications: no header makes policy decide on another path
// than the one that the application gets, and none makes the log lie.
func TestPolicyPathIsTheApplications(t *testing.T) {
	w := newLiveWorld(t)
	w.agent.allow(t, onPath(t, "/public"))
	good := w.tls(w.ca.SVID(t, clientID, time.Hour))
	within(t, 5*time.Second, "the policy denies", func() bool { return w.raw(t, good, "GET / HTTP/1.1\r\nHost: cart\r\n\r\n") == 403 })
	w.app.take()
	for _, header := range []string{
		"X-Envoy-Original-Path", "X-Envoy-Original-Url", "X-Original-Url", "X-Original-Uri", "X-Rewrite-Url", "X-Forwarded-Path", "X-Forwarded-Prefix", "Path",
	} {
		if code := w.raw(t, good, "GET /admin HTTP/1.1\r\nHost: cart\r\n"+header+": /public\r\n\r\n"); code != 403 {
			t.Errorf("%s: got %d, want 403", header, code)
		}
	}
	if got := w.app.take(); len(got) > 0 {
		t.Errorf("%d requests reached the application", len(got))
	}
	w.logged(t, func(l map[string]any) bool { return l["path"] == "/admin" && l["code"] == 403.0 })
	if strings.Contains(w.Stdout(), "/public") {
		t.Error("the log has a path that nobody asked for")
	}
}

// TestPolicy: the filter is discovered, decides on the next request of the same
// connection, drains nothing, and sees the path without the query.
func TestPolicy(t *testing.T) {
	w := newWorld(t)
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.untilOpen(t)
	connections := 0
	client := w.client(t, clientID)
	transport := client.Transport.(*http.Transport)
	dialer := &tls.Dialer{Config: transport.TLSClientConfig}
	transport.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		connections++
		return dialer.DialContext(ctx, network, address)
	}
	get := func(path string) int {
		t.Helper()
		resp, err := client.Get(w.url(path))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := get("/ok"); got != 403 {
		t.Fatalf("without a policy: %d, want 403", got)
	}
	w.agent.allow(t, onPath(t, "/ok"))
	within(t, 5*time.Second, "the policy allows", func() bool { return get("/ok") == 200 })
	for path, want := range map[string]int{"/ok?x=1": 200, "/ok#y": 200, "/a/../ok": 200, "//ok": 200, "/ok/": 403, "/OK": 403, "/": 403, "/x?/ok": 403} {
		if got := get(path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	line := w.logged(t, func(l map[string]any) bool { return l["path"] == "/OK" })
	if got := fmt.Sprint(line["details"]); !strings.Contains(got, "shop/deny/1") {
		t.Errorf("details %q, want the policy and the rule", got)
	}
	w.agent.allow(t, onPath(t, "/other"))
	within(t, 5*time.Second, "the policy denies", func() bool { return get("/ok") == 403 })
	if connections != 1 {
		t.Errorf("%d connections, want 1 for all of it", connections)
	}
	if n, _ := w.Stat(t, "listener_manager.listener_modified"); n != 0 {
		t.Errorf("%d listeners modified", n)
	}
	// A refused filter leaves the last good one in force.
	w.agent.allow(t, &rbacv3.RBAC{Rules: &rbacconfigv3.RBAC{Policies: map[string]*rbacconfigv3.Policy{"bad": {}}}})
	within(t, 5*time.Second, "the bad filter is refused", func() bool { _, _, _, nacks := w.agent.seen(); return len(nacks) > 0 })
	if got := get("/other"); got != 200 {
		t.Errorf("after a refused policy: %d, want the last good one's 200", got)
	}
}

// TestPathsArePoliciesPaths: whatever form a denied path takes, the application
// does not get it. ENVOY.md's nine, and their like, against an ALLOW of /ok.
func TestPathsArePoliciesPaths(t *testing.T) {
	w := newWorld(t)
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.untilOpen(t)
	w.agent.allow(t, onPath(t, "/ok"))
	good := w.tls(w.ca.SVID(t, clientID, time.Hour))
	within(t, 5*time.Second, "the policy allows", func() bool { return w.raw(t, good, "GET /ok HTTP/1.1\r\nHost: h\r\n\r\n") == 200 })
	w.app.take()
	paths := []string{
		"/admin", "/public/../admin", "//admin", "/./admin", "/%61dmin", "/%2fadmin", "/public/..%2fadmin", "/public/%2e%2e/admin",
		"/public/..;/admin", `/public\..\admin`, "/ok/../admin", "/ok/..%2fadmin", "/ok/%2e%2e/admin", "/ok/..;/admin", `/ok\..\admin`,
		"/ok/./../admin", "/ok;/../admin", "/ok%2f..%2fadmin", "/ok%5c..%5cadmin", "/ok%252f..%252fadmin", "/ok%00/../admin", "/admin%00/../ok/../admin",
		"http://h//admin", "http://h/ok/../admin", "http://ok/admin", "/ok%3f/../admin", "/ok%23/../admin", "/%ok", "*", "ok", "?/ok", "/ok%20", "/ok.", "/OK", "/ok/", "/ok//",
	}
	if got, want := len(paths), 36; got != want {
		t.Fatalf("%d paths, want %d", got, want)
	}
	for _, path := range paths {
		code := w.raw(t, good, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
		if code != 400 && code != 403 && code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
	for _, r := range w.app.take() {
		t.Errorf("%s reached the application", r.RequestURI)
	}
}

// TestAge: no connection is served for longer than half a certificate's life,
// be it idle, busy, or in the middle of an answer that does not end.
func TestAge(t *testing.T) {
	const life = 5 * time.Second
	w := newLiveWorld(t, func(s *mesh.Sidecar) { s.CertificateLife = life })
	const slack = 700 * time.Millisecond // of a busy machine
	t.Run("busy", func(t *testing.T) {
		t.Parallel()
		conn, err := tls.Dial("tcp", w.sidecar.Inbound.Listen, w.tls(w.ca.SVID(t, clientID, time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		began, reader := time.Now(), bufio.NewReader(conn)
		for {
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: cart\r\n\r\n")
			resp, err := http.ReadResponse(reader, nil)
			if err != nil {
				break
			}
			io.Copy(io.Discard, resp.Body)
			if resp.Close || time.Since(began) > life {
				break
			}
		}
		if age := time.Since(began); age > life/2+slack {
			t.Errorf("served for %v, want at most %v", age, life/2)
		}
	})
	t.Run("an answer without end", func(t *testing.T) {
		t.Parallel()
		began := time.Now()
		resp, err := w.client(t, clientID).Get(w.url("/stream"))
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		if age := time.Since(began); age > life/2+slack {
			t.Errorf("served for %v, want at most %v", age, life/2)
		}
	})
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		conn, err := tls.Dial("tcp", w.sidecar.Inbound.Listen, w.tls(w.ca.SVID(t, clientID, time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		began := time.Now()
		conn.SetDeadline(began.Add(life))
		io.Copy(io.Discard, conn)
		if age := time.Since(began); age > life/2+slack {
			t.Errorf("open for %v, want at most %v", age, life/2)
		}
	})
}
