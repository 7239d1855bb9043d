package stream_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/sds/stream"
)

// An input is one request, in both protocols where it can be said in both.
type input struct {
	name   string
	reason string // of the refusal; empty means accepted
	later  bool   // not the first request of its stream
	sotw   *discoveryv3.DiscoveryRequest
	delta  *discoveryv3.DeltaDiscoveryRequest
}

func manyNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("name-", i)
	}
	return names
}

// node returns a node that makes a request of about n bytes.
func node(n int) *corev3.Node {
	return &corev3.Node{Id: strings.Repeat("n", n)}
}

// inputs builds the table: each kind of wrongness in each protocol, and beside
// it what is just good enough.
func inputs() []input {
	const url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	var table []input
	names := []struct {
		name, reason string
		names        []string
	}{
		{"one name", "", []string{"default"}},
		{"a SPIFFE ID", "", []string{"spiffe://td.test/ns/a/sa/b"}},
		{"the same name twice", "", []string{"default", "default"}},
		{"an unknown name", "", []string{"default", "kubernetes://other-namespace/secret"}},
		{"a path", "", []string{"../../../etc/passwd"}},
		{"letters beyond ASCII", "", []string{"пароль"}},
		{"64 names", "", manyNames(64)},
		{"65 names", "too-many-names", manyNames(65)},
		{"a million names' worth", "too-many-names", manyNames(10_000)},
		{"2048 bytes", "", []string{strings.Repeat("a", 2048)}},
		{"2049 bytes", "name-too-long", []string{strings.Repeat("a", 2049)}},
		{"an empty name", "name-empty", []string{""}},
		{"an empty name among good ones", "name-empty", []string{"default", "", "ROOTCA"}},
		{"a NUL", "name-invalid", []string{"default\x00"}},
		{"a line break", "name-invalid", []string{"default\nspiffe_id=forged"}},
		{"an escape", "name-invalid", []string{"\x1b[2J"}},
		{"a direction override", "name-invalid", []string{"a\u202eb"}},
		{"no UTF-8", "name-invalid", []string{"\xff\xfe"}},
		{"a delete", "name-invalid", []string{"a\x7f"}},
	}
	for _, n := range names {
		table = append(table,
			input{name: "name: " + n.name, reason: n.reason, sotw: &discoveryv3.DiscoveryRequest{TypeUrl: url, ResourceNames: n.names}},
			input{name: "name: " + n.name, reason: n.reason, delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: n.names}},
			input{name: "gone: " + n.name, reason: n.reason, delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesUnsubscribe: n.names}})
	}
	urls := []struct{ name, reason, url string }{
		{"none", "type-url-missing", ""},
		{"another", "", "type.googleapis.com/no.such.Type"},
		{"no prefix", "type-url-invalid", "envoy.extensions.transport_sockets.tls.v3.Secret"},
		{"another prefix", "type-url-invalid", "type.evil.example/envoy.extensions.transport_sockets.tls.v3.Secret"},
		{"a space", "type-url-invalid", "type.googleapis.com/a b"},
		{"a line break", "type-url-invalid", "type.googleapis.com/a\nb"},
		{"257 bytes", "type-url-invalid", "type.googleapis.com/" + strings.Repeat("a", 237)},
	}
	for _, u := range urls {
		table = append(table,
			input{name: "type: " + u.name, reason: u.reason, sotw: &discoveryv3.DiscoveryRequest{TypeUrl: u.url}},
			input{name: "type: " + u.name, reason: u.reason, delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: u.url}})
	}
	tokens := []struct{ name, bad, token string }{
		{"of nobody", "", "77"}, {"negative", "", "-1"}, {"huge", "", "99999999999999999999999999"},
		{"257 bytes", "invalid", strings.Repeat("1", 257)}, {"a line break", "invalid", "1\n2"}, {"no UTF-8", "invalid", "\xff"},
	}
	for _, k := range tokens {
		reason := func(what string) string {
			if k.bad == "" {
				return ""
			}
			return what + "-" + k.bad
		}
		table = append(table,
			input{name: "nonce: " + k.name, reason: reason("nonce"), sotw: &discoveryv3.DiscoveryRequest{TypeUrl: url, ResponseNonce: k.token}},
			input{name: "nonce: " + k.name, reason: reason("nonce"), later: true, delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResponseNonce: k.token}},
			input{name: "version: " + k.name, reason: reason("version"), sotw: &discoveryv3.DiscoveryRequest{TypeUrl: url, VersionInfo: k.token}},
			input{name: "version: " + k.name, reason: reason("version"), delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, InitialResourceVersions: map[string]string{"default": k.token}}})
	}
	versions := map[string]string{}
	for _, name := range manyNames(65) {
		versions[name] = "1"
	}
	locator := []*discoveryv3.ResourceLocator{{Name: "default"}}
	return append(table,
		input{name: "65 initial versions", reason: "too-many-versions", delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, InitialResourceVersions: versions}},
		input{name: "a nameless initial version", reason: "name-empty", delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, InitialResourceVersions: map[string]string{"": "1"}}},
		input{name: "locators", reason: "locators-unsupported", sotw: &discoveryv3.DiscoveryRequest{TypeUrl: url, ResourceLocators: locator}},
		input{name: "locators", reason: "locators-unsupported", delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceLocatorsSubscribe: locator}},
		input{name: "locators gone", reason: "locators-unsupported", delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceLocatorsUnsubscribe: locator}},
		input{name: "Envoy's node", sotw: &discoveryv3.DiscoveryRequest{TypeUrl: url, Node: node(62 << 10)}},
		input{name: "a node too large", reason: "request-too-large", sotw: &discoveryv3.DiscoveryRequest{TypeUrl: url, Node: node(256 << 10)}},
		input{name: "a node too large", reason: "request-too-large", delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, Node: node(4 << 20)}},
		input{name: "Envoy's node again", later: true, delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, Node: node(62 << 10)}},
		input{name: "a node too large later", reason: "request-too-large", later: true, sotw: &discoveryv3.DiscoveryRequest{TypeUrl: url, Node: node(64 << 10)}},
		input{name: "a node too large later", reason: "request-too-large", later: true, delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, Node: node(64 << 10)}},
		input{name: "a refusal too large", reason: "request-too-large", later: true, sotw: &discoveryv3.DiscoveryRequest{TypeUrl: url, ErrorDetail: &statuspb.Status{Message: strings.Repeat("x", 65<<10)}}},
		input{name: "a refusal of nothing", later: true, sotw: &discoveryv3.DiscoveryRequest{TypeUrl: url, ErrorDetail: &statuspb.Status{Code: 3}}},
		input{name: "a refusal of nothing", later: true, delta: &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ErrorDetail: &statuspb.Status{Code: 3}}},
	)
}

// feed gives an input to a session that serves another name meanwhile.
func feed(t *testing.T, in input) (*stream.Session, error) {
	t.Helper()
	now := time.Unix(1_000_000, 0)
	session, other := stream.NewSotW(), types["filter"]
	if in.delta != nil {
		session = stream.NewDelta()
	}
	if in.later {
		var err error
		if in.delta != nil {
			err = session.Delta(now, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: other, ResourceNamesSubscribe: []string{"f"}})
		} else {
			err = session.SotW(now, &discoveryv3.DiscoveryRequest{TypeUrl: other, ResourceNames: []string{"f"}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if in.delta != nil {
		return session, session.Delta(now, in.delta)
	}
	return session, session.SotW(now, in.sotw)
}

func TestBadInput(t *testing.T) {
	table := inputs()
	if got, want := len(table), 109; got != want {
		t.Fatalf("the table has %d rows, want %d", got, want)
	}
	seen := map[string]int{}
	for _, in := range table {
		protocol := "sotw"
		if in.delta != nil {
			protocol = "delta"
		}
		t.Run(protocol+"/"+in.name, func(t *testing.T) {
			session, err := feed(t, in)
			var refusal *stream.Refusal
			got := ""
			if errors.As(err, &refusal) {
				got = refusal.Reason
			} else if err != nil {
				t.Fatalf("an error that is no refusal: %v", err)
			}
			if got != in.reason {
				t.Fatalf("refused with %q, want %q", got, in.reason)
			}
			seen[got]++
			if err != nil {
				if text := err.Error(); len(text) > 2048 || strings.ContainsAny(text, "\n\x00\x1b") {
					t.Errorf("not fit for a log: %q", text)
				}
				return
			}
			// What was accepted leaves the stream serving.
			for _, url := range session.Types() {
				session.Set(url, snapshotOf([]string{"complete", "f=1", "default=1"}))
			}
			for range 200 {
				if _, more := session.Next(time.Unix(1_000_000, 0)); !more {
					return
				}
			}
			t.Error("the session does not stop answering")
		})
	}
	if len(seen) < 11 {
		t.Errorf("only %d outcomes were seen: %v", len(seen), seen)
	}
}

func TestTooManyTypes(t *testing.T) {
	session := stream.NewSotW()
	for i := range stream.MaxTypes {
		if err := session.SotW(time.Time{}, &discoveryv3.DiscoveryRequest{TypeUrl: fmt.Sprint("type.googleapis.com/t", i)}); err != nil {
			t.Fatal(err)
		}
	}
	wantRefusal(t, session.SotW(time.Time{}, &discoveryv3.DiscoveryRequest{TypeUrl: "type.googleapis.com/one-too-many"}), "too-many-types")
}

func TestTooManyNamesByAndBy(t *testing.T) {
	session := stream.NewDelta()
	var err error
	for i := range stream.MaxNames + 1 {
		if err != nil {
			t.Fatalf("refused after %d names: %v", i, err)
		}
		err = session.Delta(time.Time{}, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: types["secret"], ResourceNamesSubscribe: []string{fmt.Sprint(i)}})
	}
	wantRefusal(t, err, "too-many-names")
}

// A node has more pods than a workload has secrets.
func TestNamesOfANode(t *testing.T) {
	for _, n := range []int{250, 251} {
		versions := map[string]string{}
		for _, name := range manyNames(n) {
			versions[name] = "1"
		}
		sotw, delta := stream.NewSotW(), stream.NewDelta()
		sotw.Names, delta.Names = 250, 250
		errs := []error{
			sotw.SotW(time.Time{}, &discoveryv3.DiscoveryRequest{TypeUrl: types["filter"], ResourceNames: manyNames(n)}),
			delta.Delta(time.Time{}, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: types["filter"], ResourceNamesSubscribe: manyNames(n)}),
			delta.Delta(time.Time{}, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: types["secret"], InitialResourceVersions: versions}),
		}
		for i, err := range errs {
			if (err != nil) != (n > 250) {
				t.Errorf("%d names, request %d: %v", n, i, err)
			}
		}
	}
}

// A client that refuses without end is ended; one that refuses now and then is
// not.
func TestRefusalBudget(t *testing.T) {
	refuse := func(session *stream.Session, now time.Time) error {
		return session.SotW(now, &discoveryv3.DiscoveryRequest{TypeUrl: types["secret"], ResourceNames: []string{"default"}, ErrorDetail: &statuspb.Status{Code: 3}})
	}
	now := time.Unix(1_000_000, 0)
	fast, slow := stream.NewSotW(), stream.NewSotW()
	var err error
	n := 0
	for ; n < 1000 && err == nil; n++ {
		err = refuse(fast, now)
		if err := refuse(slow, now.Add(time.Duration(n)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	wantRefusal(t, err, "too-many-refusals")
	if n < 200 || n > 300 {
		t.Errorf("refused after %d refusals", n)
	}
}

func TestDetailIsFitForALog(t *testing.T) {
	for name, text := range map[string]string{
		"line breaks": "a\nb\r\x00\x1b[31m\u2028", "long": strings.Repeat("x", 60<<10), "bytes": strings.Repeat("\xff", 60<<10),
		"a key": "bad -----BEGIN PRIVATE KEY-----\nMIGHAgEAMBM\n",
	} {
		session := stream.NewSotW()
		p := &discoveryv3.DiscoveryRequest{TypeUrl: types["secret"], ResourceNames: []string{"default"}}
		if err := session.SotW(time.Time{}, p); err != nil {
			t.Fatal(err)
		}
		session.Set(types["secret"], snapshotOf([]string{"default=1"}))
		if _, ok := session.Next(time.Time{}); !ok {
			t.Fatal("no answer")
		}
		p = proto.Clone(p).(*discoveryv3.DiscoveryRequest)
		p.ResponseNonce, p.ErrorDetail = "1", &statuspb.Status{Message: text, Code: 3}
		if err := session.SotW(time.Time{}, p); err != nil {
			t.Fatal(err)
		}
		events := session.Events()
		if len(events) != 1 {
			t.Fatalf("%s: %d events", name, len(events))
		}
		got := events[0].Detail
		if len(got) > 1100 || strings.ContainsAny(got, "\n\r\x00\x1b\u2028") || strings.Contains(got, "MIGH") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func wantRefusal(t *testing.T, err error, reason string) {
	t.Helper()
	var refusal *stream.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != reason {
		t.Errorf("got %v, want a refusal %q", err, reason)
	}
}
