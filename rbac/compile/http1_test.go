package compile_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// A sender sends calls to a world, each to a set by its number.
type sender interface {
	do(set int, call rbactest.Call) (answer, error)
	close()
}

// An answer is what Envoy decided and by which line of which filter.
type answer struct {
	code                int
	line, details, path string
	dry, dryResult      string   // of the dry run: line, and "allowed" or "denied"
	audit, hint         string   // of AUDIT policies: line, and whether the request is marked
	asks                []string // the line of each of rbactest.Providers
}

// read is the answer that came with these headers.
func read(code int, get func(string) string) answer {
	a := answer{
		code: code, line: get("x-line"), details: get("x-details"), path: get("x-path"),
		dry: get("x-dry"), dryResult: get("x-dry-result"), audit: get("x-audit"), hint: get("x-hint"),
	}
	for i := range rbactest.Providers {
		a.asks = append(a.asks, get(fmt.Sprintf("x-ask-%d", i)))
	}
	return a
}

// setHeader names the header that says which set decides.
const setHeader = "x-set"

// lines are the headers of a call beyond those of HTTP itself.
func lines(set int, call rbactest.Call) []rbactest.Header {
	list := append([]rbactest.Header{{Name: setHeader, Value: "c" + strconv.Itoa(set)}}, call.Headers...)
	if call.Claims != nil {
		list = append(list, rbactest.Header{Name: "authorization", Value: "Bearer " + testTokens.sign(call.Claims)})
	}
	return list
}

// A client has one connection for HTTP/1 that it keeps, and sends what nobody
// has tidied. It is not for many at once.
type client struct {
	dial func() (net.Conn, error)
	conn net.Conn
	in   *bufio.Reader
}

// do sends a call. Envoy closes some connections after an answer; then the next
// call opens another.
func (c *client) do(set int, call rbactest.Call) (answer, error) {
	if c.conn == nil {
		conn, err := c.dial()
		if err != nil {
			return answer{}, err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s HTTP/1.1\r\nhost: %s\r\n", call.Method, call.Target, call.Authority)
	for _, h := range lines(set, call) {
		out.WriteString(h.Name + ": " + h.Value + "\r\n")
	}
	out.WriteString("\r\n")
	if _, err := c.conn.Write([]byte(out.String())); err != nil {
		c.close()
		return answer{}, err
	}
	resp, err := http.ReadResponse(c.in, &http.Request{Method: call.Method})
	if err != nil {
		c.close()
		return answer{}, err
	}
	if err := resp.Body.Close(); err != nil {
		c.close()
		return answer{}, err
	}
	if resp.Close {
		c.close()
	}
	return read(resp.StatusCode, resp.Header.Get), nil
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// client returns one with a certificate of these URI SANs.
func (w *world) client(t testing.TB, uris ...string) *client {
	t.Helper()
	return w.clientOf(t, w.mtls, uris...)
}

func (w *world) clientOf(t testing.TB, address netip.AddrPort, uris ...string) *client {
	t.Helper()
	config := &tls.Config{
		Certificates:       []tls.Certificate{w.ca.leaf(t, uris...)},
		InsecureSkipVerify: true, // the test is of the other side
	}
	c := &client{dial: func() (net.Conn, error) { return tls.Dial("tcp", address.String(), config) }}
	t.Cleanup(c.close)
	return c
}

// dialer opens connections as c says: from its source, by a balancer that says
// what its remote address and its destination are, in TLS where it has a peer.
// Listeners are those for TLS and for plaintext.
func (w *world) dialer(t testing.TB, c rbactest.Connection, secure, insecure netip.AddrPort) func(port int) (net.Conn, error) {
	t.Helper()
	config := &tls.Config{ServerName: c.ServerName, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}} // the cheapest
	address := insecure
	if !c.Peer.IsZero() {
		config.Certificates = []tls.Certificate{w.ca.of(t, c.Peer)}
		address = secure
	}
	family := "TCP4"
	if c.Remote.Is6() {
		family = "TCP6"
	}
	if c.Remote.Is6() != c.Destination.Addr().Is6() {
		t.Fatal("a connection between an IPv4 and an IPv6 address")
	}
	return func(port int) (net.Conn, error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.Source, 0))}
		conn, err := d.Dial("tcp", address.String())
		if err != nil {
			return nil, err
		}
		// Far more than a round takes: what hangs is to be told.
		if err := conn.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		header := fmt.Sprintf("PROXY %s %s %s %d %d\r\n", family, c.Remote, c.Destination.Addr(), port, c.Destination.Port())
		if _, err := conn.Write([]byte(header)); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		if c.Peer.IsZero() {
			return conn, nil
		}
		return tls.Client(conn, config), nil
	}
}
