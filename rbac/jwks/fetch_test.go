package jwks_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/istio-auth/istio-auth/rbac/jwks"
)

// A web is a server on 127.0.0.2 with a certificate for example.com and
// 127.0.0.1, and one resolver of names. What lists the connections to it.
type web struct {
	server      *httptest.Server
	roots       *x509.CertPool
	resolver    *net.Resolver
	connections atomic.Int64

	mu      sync.Mutex // guards answers
	answers []string   // of the resolver, one a lookup; the last is kept
}

func newWeb(t *testing.T, handler http.Handler) *web {
	t.Helper()
	w := &web{roots: x509.NewCertPool()}
	listener, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewUnstartedServer(handler)
	w.server.Listener.Close()
	w.server.Listener = listener
	w.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			w.connections.Add(1)
		}
	}
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	w.roots.AddCert(w.server.Certificate())
	w.resolve(t)
	return w
}

// url is an address on the server, by another host.
func (w *web) url(host, path string) string {
	_, port, err := net.SplitHostPort(w.server.Listener.Addr().String())
	if err != nil {
		panic(err)
	}
	return "https://" + net.JoinHostPort(host, port) + path
}

// resolve answers each lookup of an IPv4 address with the next of the answers.
func (w *web) resolve(t *testing.T) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buffer := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer, err := w.answer(buffer[:n]); err == nil {
				if _, err := conn.WriteTo(answer, from); err != nil {
					return
				}
			}
		}
	})
	t.Cleanup(func() { conn.Close(); done.Wait() })
	w.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (w *web) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		w.mu.Lock()
		ip := w.answers[0]
		if len(w.answers) > 1 {
			w.answers = w.answers[1:]
		}
		w.mu.Unlock()
		for _, one := range strings.Fields(ip) {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.AResource{A: netip.MustParseAddr(one).As4()},
			})
		}
	}
	return m.Pack()
}

func (w *web) fetch(t *testing.T, uri, answers string, allow ...string) (jwks.Set, error) {
	t.Helper()
	w.mu.Lock()
	w.answers = strings.Split(answers, ",")
	w.mu.Unlock()
	config := jwks.FetcherConfig{Roots: w.roots, Resolver: w.resolver}
	for _, a := range allow {
		config.Allow = append(config.Allow, netip.MustParsePrefix(a))
	}
	return jwks.NewFetcher(config).Fetch(t.Context(), uri, 0)
}

func reason(err error) string {
	var refusal *jwks.Refusal
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	return fmt.Sprint(err)
}

// TestFetchAsksNobodyInside is the first half of JW-05: no address leads inside,
// however it is written. A server on the loopback counts who comes.
func TestFetchAsksNobodyInside(t *testing.T) {
	w := newWeb(t, http.NotFoundHandler())
	rows := []struct{ name, uri, answers, reason string }{
		{"http", "http://example.com/", "", jwks.BadURL},
		{"file", "file:///etc/passwd", "", jwks.BadURL},
		{"gopher", "gopher://127.0.0.2/x", "", jwks.BadURL},
		{"no scheme", "//example.com/", "", jwks.BadURL},
		{"a path", "/etc/passwd", "", jwks.BadURL},
		{"opaque", "https:example.com", "", jwks.BadURL},
		{"no host", "https:///x", "", jwks.BadURL},
		{"nothing", "", "", jwks.BadURL},
		{"a user", "https://a@example.com/", "", jwks.BadURL},
		{"a user like a host", "https://example.com:443@127.0.0.2/", "", jwks.BadURL},
		{"a fragment", "https://example.com/#x", "", jwks.BadURL},
		{"a newline", "https://example.com/\r\nHost: x", "", jwks.BadURL},
		{"a backslash", `https://example.com\@127.0.0.2/`, "", jwks.BadURL},
		{"a blank", "https://example.com /", "", jwks.BadURL},
		{"too long", "https://example.com/" + strings.Repeat("x", 2048), "", jwks.BadURL},
		{"port 0", "https://example.com:0/", "", jwks.BadURL},
		{"decimal", "https://2130706434/", "", jwks.BadURL},
		{"hexadecimal", "https://0x7f000002/", "", jwks.BadURL},
		{"octal", "https://0177.0.0.2/", "", jwks.BadURL},
		{"a hexadecimal label", "https://127.0.0.0x2/", "", jwks.BadURL},
		{"short", "https://127.2/", "", jwks.BadURL},
		{"short, with a dot", "https://127.2./", "", jwks.BadURL},
		{"full-width digits", "https://１２７.0.0.2/", "", jwks.BadURL},
		{"circled digits", "https://①②⑦.0.0.2/", "", jwks.BadURL},
		{"a zone", "https://[fe80::1%25lo]/", "", jwks.BadURL},
		{"a percent-encoded host", "https://%31%32%37.0.0.2/", "", jwks.BadURL},
		{"loopback", w.url("127.0.0.2", "/"), "", jwks.BadAddress},
		{"loopback of IPv6", "https://[::1]/", "", jwks.BadAddress},
		{"v4 in v6", w.url("::ffff:127.0.0.2", "/"), "", jwks.BadAddress},
		{"v4 in v6, in hexadecimal", w.url("::ffff:7f00:2", "/"), "", jwks.BadAddress},
		{"v4 compatible v6", "https://[::7f00:2]/", "", jwks.BadAddress},
		{"NAT64", "https://[64:ff9b::7f00:2]/", "", jwks.BadAddress},
		{"6to4", "https://[2002:7f00:2::]/", "", jwks.BadAddress},
		{"Teredo", "https://[2001:0:7f00:2::]/", "", jwks.BadAddress},
		{"metadata", "https://169.254.169.254/latest/meta-data/", "", jwks.BadAddress},
		{"metadata of IPv6", "https://[fd00:ec2::254]/", "", jwks.BadAddress},
		{"metadata, v4 in v6", "https://[::ffff:a9fe:a9fe]/", "", jwks.BadAddress},
		{"ten", "https://10.0.0.1/", "", jwks.BadAddress},
		{"172.16", "https://172.31.255.255/", "", jwks.BadAddress},
		{"192.168", "https://192.168.0.1/", "", jwks.BadAddress},
		{"shared", "https://100.64.0.1/", "", jwks.BadAddress},
		{"this host", "https://0.0.0.0/", "", jwks.BadAddress},
		{"unspecified", "https://[::]/", "", jwks.BadAddress},
		{"multicast", "https://224.0.0.1/", "", jwks.BadAddress},
		{"broadcast", "https://255.255.255.255/", "", jwks.BadAddress},
		{"unique local", "https://[fc00::1]/", "", jwks.BadAddress},
		{"link-local", "https://[fe80::1]/", "", jwks.BadAddress},
		{"documentation", "https://[2001:db8::1]/", "", jwks.BadAddress},
		{"a name inside", w.url("example.com", "/"), "127.0.0.2", jwks.BadAddress},
		{"a name with many addresses inside", w.url("example.com", "/"), "127.0.0.2 10.0.0.1", jwks.BadAddress},
		{"a name of the metadata", w.url("example.com", "/"), "169.254.169.254", jwks.BadAddress},
	}
	if got, want := len(rows), 51; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			set, err := w.fetch(t, r.uri, r.answers)
			if reason(err) != r.reason || !set.IsZero() {
				t.Errorf("got %v, want %s", err, r.reason)
			}
		})
	}
	if n := w.connections.Load(); n != 0 {
		t.Errorf("%d connections were made to the inside", n)
	}
}

// TestFetchRebinding: the address counts that is dialled, each time.
func TestFetchRebinding(t *testing.T) {
	w := newWeb(t, serve(document(edJWK())))
	config := jwks.FetcherConfig{Roots: w.roots, Resolver: w.resolver, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}
	w.mu.Lock()
	w.answers = []string{"127.0.0.2", "127.0.0.1", "127.0.0.2"}
	w.mu.Unlock()
	f := jwks.NewFetcher(config)
	for i, want := range []string{"<nil>", jwks.BadAddress, "<nil>"} {
		if _, err := f.Fetch(t.Context(), w.url("example.com", "/"), 0); reason(err) != want {
			t.Errorf("fetch %d: got %v, want %s", i, err, want)
		}
	}
	if n := w.connections.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

func serve(body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
}

// TestFetchTakesOnlyKeySets is the other half of JW-05: what a server may answer.
// No error has anything of what it said.
func TestFetchTakesOnlyKeySets(t *testing.T) {
	const secret = "s3cr3t-of-the-inside"
	good := document(edJWK())
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(make([]byte, 50<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	redirect := func(code int, to string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(code)
			fmt.Fprint(w, good)
		}
	}
	rows := []struct {
		name, reason string
		handler      http.Handler
	}{
		{"a key set", "<nil>", serve(good)},
		{"HTML", jwks.NotJSON, serve("<html>" + secret)},
		{"other JSON", jwks.NotAKeySet, serve(`{"password":"` + secret + `"}`)},
		{"nothing", jwks.NotJSON, serve("")},
		{"a private key", jwks.PrivateKey, serve(document(edJWK().with("d", secret)))},
		{"text behind the set", jwks.NotJSON, serve(good + secret)},
		{"301", jwks.Redirected, redirect(301, "/other")},
		{"302 to the metadata", jwks.Redirected, redirect(302, "http://169.254.169.254/")},
		{"307 to a file", jwks.Redirected, redirect(307, "file:///etc/passwd")},
		{"308 without a place", jwks.Redirected, redirect(308, "")},
		{"201", jwks.BadStatus, redirect(201, "")},
		{"404", jwks.BadStatus, redirect(404, "")},
		{"500", jwks.BadStatus, redirect(500, "")},
		{"2 MiB that are announced", jwks.TooLarge, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(2<<20))
			w.Write(make([]byte, 2<<20))
		})},
		{"blanks without end", jwks.TooLarge, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for range 64 {
				if _, err := w.Write(bytes.Repeat([]byte{' '}, 1<<16)); err != nil {
					return
				}
			}
		})},
		{"gzip that nobody asked for", jwks.BadEncoding, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(zipped.Bytes())
		})},
		{"gzip that does not say so", jwks.NotJSON, serve(zipped.String())},
		{"headers without end", jwks.Unreachable, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for i := range 200 {
				w.Header().Set(fmt.Sprintf("x-%d", i), strings.Repeat(secret, 50))
			}
			fmt.Fprint(w, good)
		})},
		{"broken off", jwks.Unreachable, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, secret)
			panic(http.ErrAbortHandler)
		})},
		{"hung up", jwks.Unreachable, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			w := newWeb(t, r.handler)
			set, err := w.fetch(t, w.url("example.com", "/keys"), "127.0.0.2", "127.0.0.0/8")
			if reason(err) != r.reason || set.IsZero() != (err != nil) {
				t.Errorf("got %v, want %s", err, r.reason)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error tells what was answered: %v", err)
			}
			if n := w.connections.Load(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

// TestFetchEnds: whoever answers byte by byte, or not at all, is left in time.
func TestFetchEnds(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"no answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"slow": func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					fmt.Fprint(w, " ")
					w.(http.Flusher).Flush()
				case <-r.Context().Done():
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWeb(t, handler)
			f := jwks.NewFetcher(jwks.FetcherConfig{Roots: w.roots, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
			if _, err := f.Fetch(t.Context(), w.server.URL, 100*time.Millisecond); reason(err) != jwks.Unreachable {
				t.Errorf("got %v, want %s", err, jwks.Unreachable)
			}
		})
	}
}

// TestFetchTLS: only a server that the roots vouch for, by name, of TLS 1.2 or
// newer, and no proxy between.
func TestFetchTLS(t *testing.T) {
	w := newWeb(t, serve(document(edJWK())))
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	allow := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	if _, err := w.fetch(t, w.url("example.com", "/"), "127.0.0.2", "127.0.0.0/8"); err != nil {
		t.Error(err)
	}
	if _, err := w.fetch(t, w.url("other.test", "/"), "127.0.0.2", "127.0.0.0/8"); reason(err) != jwks.Unreachable {
		t.Errorf("another name: got %v", err)
	}
	if _, err := jwks.NewFetcher(jwks.FetcherConfig{Resolver: w.resolver, Allow: allow}).Fetch(t.Context(), w.url("example.com", "/"), 0); reason(err) != jwks.Unreachable {
		t.Errorf("other roots: got %v", err)
	}
	old := httptest.NewUnstartedServer(serve(document(edJWK())))
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.StartTLS()
	defer old.Close()
	roots := x509.NewCertPool()
	roots.AddCert(old.Certificate())
	if _, err := jwks.NewFetcher(jwks.FetcherConfig{Roots: roots, Allow: allow}).Fetch(t.Context(), old.URL, 0); reason(err) != jwks.Unreachable {
		t.Errorf("TLS 1.1: got %v", err)
	}
}
