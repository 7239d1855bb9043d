package mesh_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
)

// TestSharedNames: what mesh sets is what rbac/compile reads.
func TestSharedNames(t *testing.T) {
	for got, want := range map[string]string{
		mesh.PathState: compile.PathKey, mesh.FoldState: compile.FoldKey, mesh.HostState: compile.HostKey,
		mesh.IssuerState: compile.IssuerKey, mesh.SubjectState: compile.SubjectKey,
	} {
		if got != want {
			t.Errorf("mesh says %q, rbac/compile %q", got, want)
		}
	}
}

// A target is what one request asks for.
type target struct{ path, host string }

// TestTargetIsGos: for hostile paths and hosts, what policy finds in Envoy's
// filter state is what rbac.FoldPath and rbac.FoldHost make of what the
// application gets. The script, the copy, and the choice between them are all
// under test: it does not matter here which of them a target takes.
func TestTargetIsGos(t *testing.T) {
	log := filepath.Join(t.TempDir(), "states")
	w := newEditedWorld(t, func(b *bootstrapv3.Bootstrap) {
		editInbound(t, b, func(m *hcmv3.HttpConnectionManager) { m.AccessLog = statesLog(t, log) })
	})
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.untilOpen(t)

	var one, two []target
	for _, p := range hostilePaths(22_000) {
		if _, err := rbac.CanonicalPath(p); err == nil {
			one = append(one, target{p, "cart"})
		}
	}
	for _, h := range hostileHosts(5_000) {
		one = append(one, target{"/", h})
	}
	for _, p := range beyondASCII(1_000) {
		two = append(two, target{p, "cart"})
	}
	for _, h := range hostileHosts(500) {
		if !strings.Contains(h, "@") { // to which Envoy answers nothing over HTTP/2, until the stream has its age
			two = append(two, target{"/", h})
		}
	}
	c := w.tls(w.ca.SVID(t, clientID, time.Hour))
	ask(t, w, c, one)
	ask2(t, w, c, two)

	var paths, hosts, odd, absent int
	seen := map[string]bool{}
	for _, line := range states(t, log, w) {
		path, fold, host, sentPath, sentHost := line[0], line[1], line[2], line[3], line[4]
		if seen[sentPath+" "+sentHost] || path == "" && (line[5] == "400" || line[5] == "0") {
			continue // refused by the connection manager, or by the codec
		}
		seen[sentPath+" "+sentHost] = true
		if want, _, _ := strings.Cut(sentPath, "?"); path != want {
			t.Errorf("path of %q: %q, want %q", sentPath, path, want)
		}
		if want := rbac.FoldPath(path); fold != want {
			t.Errorf("fold of %q: %q, want %q", path, fold, want)
		}
		if want := rbac.FoldHost(sentHost); host != want {
			t.Errorf("host of %q: %q, want %q", sentHost, host, want)
		}
		paths, hosts = paths+btoi(sentHost == "cart"), hosts+btoi(sentHost != "cart")
		odd, absent = odd+btoi(fold != path), absent+btoi(host == "")
	}
	t.Logf("%d paths of which %d are folded, %d hosts of which %d are none", paths, odd, hosts, absent)
	if paths < 15_000 || hosts < 2_000 || odd < 10_000 || absent < 500 {
		t.Errorf("%d paths (%d folded), %d hosts (%d none): too few were decided upon to say anything", paths, odd, hosts, absent)
	}
	if n, _ := w.Stat(t, "http.inbound.lua.errors"); n != 0 {
		t.Errorf("%d errors in the script", n)
	}
}

func btoi(b bool) int { return map[bool]int{true: 1}[b] }

// hostilePaths are n different targets over HTTP/1: each octet, in each place,
// encoded up to five times, and then whatever the pieces make.
func hostilePaths(n int) []string {
	list, seen := []string{}, map[string]bool{}
	add := func(p string) {
		if !seen[p] {
			seen[p] = true
			list = append(list, p)
		}
	}
	for octet := range 256 {
		for level := range 6 {
			code := "%" + strings.Repeat("25", level) + fmt.Sprintf("%02X", octet)
			for _, form := range []string{"/%s", "/a%s", "/%sa", "/a%sb", "/a%s/b", "/a/%sb/", "/a/b/%s/c?%[1]s"} {
				add(fmt.Sprintf(form, code))
				add(fmt.Sprintf(form, strings.ToLower(code)))
			}
		}
	}
	pieces := []string{
		"/", "/", "/", "//", "/.", "/..", "/./", "/../", ".", "..", "...", ";", ";a=b", "/;x", "/..;/", "/.;", `\`, `\..\`, "%2e", "%2E%2e", "%252e",
		"%252f", "%25252F", "%255c", "%3b", "%253B", "%3f", "%23", "%2500", "%20", "%2520", "%", "%2", "%g1", "%%", "%25", "%2525", "a", "admin", "Admin", "ADMIN", "b", "0",
		"~", "!", "$&'()*+,:=@", "|", "^", "[", "]", "{", "}", "_", "-", "%C3%A9", "%c3", "%FF", "?x=1", "?", "x.png", ".git",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for len(list) < n {
		p := "/"
		for range 1 + random.IntN(8) {
			p += pieces[random.IntN(len(pieces))]
		}
		add(p)
	}
	return list
}

// beyondASCII are n targets that only HTTP/2 can carry.
func beyondASCII(n int) []string {
	pieces := []string{"/", "/", "é", "ß", "\u212a", "\u2024\u2024", "／", "..", "a", "A", "%2525e9", ";", "İ", "?é", "\U0001f512"}
	random := rand.New(rand.NewPCG(3, 4))
	var list []string
	for len(list) < n {
		p := "/"
		for range 1 + random.IntN(8) {
			p += pieces[random.IntN(len(pieces))]
		}
		list = append(list, p)
	}
	return list
}

func hostileHosts(n int) []string {
	list := []string{"cart.", "CART", "cart:80", "cart:", "cart:99999", "cart:123456", "cart:8a", "cart.:80", "cart..", ".cart", "ca..rt", "-", "_", "[::1]", "[::1]:80", "[::1]x", "[", "[]", "[]:80", "[FE80::1]", "[::1].", "1.2.3.4", "::1", "a:b:c"}
	pieces := []string{"cart", "CART", "shop", ".", ".", "..", "-", "_", ":", ":80", ":080", "[", "]", "::1", "f", "G", "*", "%2e", "%", "@", "~", "1", ",", "!", "$", "+", ";", "="}
	random := rand.New(rand.NewPCG(5, 6))
	for len(list) < n {
		h := ""
		for range 1 + random.IntN(5) {
			h += pieces[random.IntN(len(pieces))]
		}
		list = append(list, h)
	}
	return list
}

// ask sends targets over HTTP/1.1, and begins a new connection where the old
// one was closed for what it carried.
func ask(t *testing.T, w *world, c *tls.Config, list []target) {
	t.Helper()
	const workers = 4
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			var conn *tls.Conn
			var in *bufio.Reader
			for i := k; i < len(list); i += workers {
				if conn == nil {
					var err error
					if conn, err = tls.Dial("tcp", w.sidecar.Inbound.Listen, c); err != nil {
						t.Error(err)
						return
					}
					conn.SetDeadline(time.Now().Add(time.Minute))
					in = bufio.NewReader(conn)
				}
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", list[i].path, list[i].host)
				resp, err := http.ReadResponse(in, nil)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
				}
				if err != nil || resp.Close {
					conn.Close()
					conn = nil
				}
			}
			if conn != nil {
				conn.Close()
			}
		})
	}
	wg.Wait()
}

// ask2 sends targets over HTTP/2, frame by frame: no client of Go's would. The
// requests with all of them are on one connection, an answer at a time.
func ask2(t *testing.T, w *world, c *tls.Config, list []target) {
	t.Helper()
	c = c.Clone()
	c.NextProtos = []string{"h2"}
	for len(list) > 0 {
		conn, err := tls.Dial("tcp", w.sidecar.Inbound.Listen, c)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(conn, http2.ClientPreface)
		framer := http2.NewFramer(conn, conn)
		framer.WriteSettings()
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for stream := uint32(1); len(list) > 0; stream += 2 {
			block.Reset()
			for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: list[0].host}, {Name: ":path", Value: list[0].path}} {
				encoder.WriteField(f)
			}
			list = list[1:]
			conn.SetDeadline(time.Now().Add(2 * time.Second))
			framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
			if !answered(framer, stream) {
				break
			}
		}
		conn.Close()
	}
}

// answered reads until a stream has ended: false where the connection has.
func answered(framer *http2.Framer, stream uint32) bool {
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return false
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				framer.WriteSettingsAck()
			}
		case *http2.GoAwayFrame:
			return false
		case *http2.RSTStreamFrame:
			return true
		case *http2.DataFrame:
			framer.WriteWindowUpdate(0, max(1, uint32(len(f.Data()))))
			if f.StreamID == stream && f.StreamEnded() {
				return true
			}
		case *http2.HeadersFrame:
			if f.StreamID == stream && f.StreamEnded() {
				return true
			}
		}
	}
}

// Bytes that no header holds stand between the fields of a line, and at its end.
const between, lineEnd = "\x1c<between>\x1c", "\x1c<end>\x1c\n"

// statesLog writes the raw states of each request into a file.
func statesLog(t *testing.T, path string) []*accesslogv3.AccessLog {
	t.Helper()
	fields := []string{
		"%FILTER_STATE(" + mesh.PathState + ":PLAIN)%", "%FILTER_STATE(" + mesh.FoldState + ":PLAIN)%", "%FILTER_STATE(" + mesh.HostState + ":PLAIN)%",
		"%REQ(:PATH)%", "%REQ(:AUTHORITY)%", "%RESPONSE_CODE%",
	}
	body, err := anypb.New(&filev3.FileAccessLog{Path: path, AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
		OmitEmptyValues: true,
		Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{
			InlineString: strings.Join(fields, between) + lineEnd,
		}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return []*accesslogv3.AccessLog{{Name: "envoy.access_loggers.file", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: body}}}
}

// states reads what statesLog wrote, once all of it is there.
func states(t *testing.T, path string, w *world) [][]string {
	t.Helper()
	total, ok := w.Stat(t, "http.inbound.downstream_rq_total")
	if !ok {
		t.Fatal("nothing counts the requests")
	}
	var lines []string
	within(t, 15*time.Second, fmt.Sprint(total, " lines are in the log"), func() bool {
		data, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		lines = strings.Split(string(data), lineEnd)
		return len(lines) > int(total)
	})
	var list [][]string
	for _, line := range lines[:len(lines)-1] {
		fields := strings.Split(line, between)
		if len(fields) != 6 {
			t.Fatalf("%d fields in %q", len(fields), line)
		}
		list = append(list, fields)
	}
	return list
}
