package attest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
)

var (
	td   = spiffeid.RequireTrustDomainFromString("mesh.example")
	node = attest.Node{Name: "node-1.example", UID: "7b1f8a8e-6f4b-4f0c-9f2e-0d5b7d1d3c01"}
	pod  = attest.Pod{Namespace: "shop", Name: "web-0", UID: "1c2d", ServiceAccount: "web.front"}
)

func TestIdentities(t *testing.T) {
	workload, err := attest.NewWorkload(td, node, pod)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := attest.NewAgent(td, node)
	if err != nil {
		t.Fatal(err)
	}
	manager, err := attest.NewService(td, "manager")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		got  attest.Identity
		id   string
		kind attest.Kind
		node attest.Node
		pod  attest.Pod
	}{
		{workload, "spiffe://mesh.example/ns/shop/sa/web.front", attest.Workload, node, pod},
		{agent, "spiffe://mesh.example/istio-auth/node/node-1.example/7b1f8a8e-6f4b-4f0c-9f2e-0d5b7d1d3c01", attest.Agent, node, attest.Pod{}},
		{manager, "spiffe://mesh.example/istio-auth/manager", attest.Service, attest.Node{}, attest.Pod{}},
		{attest.Identity{}, "", attest.None, attest.Node{}, attest.Pod{}},
	} {
		if c.got.ID().String() != c.id || c.got.String() != c.id || c.got.Kind() != c.kind || c.got.Node() != c.node ||
			c.got.Pod() != c.pod || c.got.IsZero() != (c.kind == attest.None) {
			t.Errorf("got %+v, want ID %s, kind %s", c.got, c.id, c.kind)
		}
	}
	back, err := attest.AgentFromID(agent.ID())
	if err != nil || back != agent {
		t.Errorf("read back %v, %v, want %v", back, err, agent)
	}
}

// A row of ID-01: what is made, and the reason code of its refusal, "" where it
// is accepted and "parse" where go-spiffe does not read it.
type idRow struct {
	name, want string
	make       func() error
}

func newWorkload(td string, n attest.Node, p attest.Pod) error {
	domain, err := trustDomain(td)
	if err != nil {
		return err
	}
	i, err := attest.NewWorkload(domain, n, p)
	return same(i, err, fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", td, p.Namespace, p.ServiceAccount))
}

func newAgent(n attest.Node) error {
	i, err := attest.NewAgent(td, n)
	return same(i, err, fmt.Sprintf("spiffe://%s/istio-auth/node/%s/%s", td, n.Name, n.UID))
}

func newService(name string) error {
	i, err := attest.NewService(td, name)
	return same(i, err, fmt.Sprintf("spiffe://%s/istio-auth/%s", td, name))
}

func readAgent(s string) error {
	id, err := spiffeid.FromString(s)
	if err != nil {
		return &attest.Refusal{Reason: "parse", Err: err}
	}
	i, err := attest.AgentFromID(id)
	return same(i, err, s)
}

func trustDomain(s string) (spiffeid.TrustDomain, error) {
	if s == "" {
		return spiffeid.TrustDomain{}, nil
	}
	td, err := spiffeid.TrustDomainFromString(s)
	if err != nil {
		return td, &attest.Refusal{Reason: "parse", Err: err}
	}
	return td, nil
}

// same reports an identity that is not written as asked, or an error beside an
// identity.
func same(i attest.Identity, err error, want string) error {
	switch {
	case err != nil && !i.IsZero():
		return fmt.Errorf("an identity beside an error: %w", err)
	case err == nil && i.ID().String() != want:
		return fmt.Errorf("ID %q, want %q", i.ID(), want)
	}
	return err
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	digits = "0123456789"
)

func where(b int, good, reason string) string {
	if b < 128 && strings.IndexByte(good, byte(b)) >= 0 {
		return ""
	}
	return reason
}

// byteRows puts every byte value into each kind of place that an identity has.
func byteRows() (rows []idRow) {
	for b := range 256 {
		s := string([]byte{byte(b)})
		add := func(place, want string, make func() error) {
			rows = append(rows, idRow{fmt.Sprintf("%s byte %#02x", place, b), want, make})
		}
		add("inside the trust domain", where(b, lower+digits+"-._", "parse"), func() error { return newWorkload("a"+s+"b", node, pod) })
		add("inside the namespace", where(b, lower+digits+"-", "bad-namespace"), func() error {
			return newWorkload("a", node, attest.Pod{Namespace: "a" + s + "b", Name: "p", UID: "u", ServiceAccount: "d"})
		})
		add("first in the service account", where(b, lower+digits, "bad-service-account"), func() error {
			return newWorkload("a", node, attest.Pod{Namespace: "n", Name: "p", UID: "u", ServiceAccount: s + "b"})
		})
		add("inside the pod name", where(b, lower+digits+"-.", "bad-pod-name"), func() error {
			return newWorkload("a", node, attest.Pod{Namespace: "n", Name: "a" + s + "b", UID: "u", ServiceAccount: "d"})
		})
		add("inside the node name", where(b, lower+digits+"-.", "bad-node-name"), func() error { return newAgent(attest.Node{Name: "a" + s + "b", UID: "u"}) })
		add("last in the node UID", where(b, lower+digits, "bad-node-uid"), func() error { return newAgent(attest.Node{Name: "a", UID: "u" + s}) })
		add("inside the service name", where(b, lower+digits+"-", "bad-service-name"), func() error { return newService("a" + s + "b") })

		// Read, not made: what SPIFFE allows in a path and we do not write is refused
		// as a UID; a slash opens a segment and is in the UID too.
		read := where(b, lower+digits+"-", "parse")
		if strings.Contains("ABCDEFGHIJKLMNOPQRSTUVWXYZ._/", s) {
			read = "bad-node-uid"
		}
		add("inside the UID that is read", read, func() error { return readAgent("spiffe://a/istio-auth/node/n/a" + s + "b") })
	}
	return rows
}

// lengthRows walks along each limit.
func lengthRows() (rows []idRow) {
	add := func(name, want string, make func() error) { rows = append(rows, idRow{name, want, make}) }
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		most         int
		part, reason string
		make         func(s string) error
	}{
		{255, "trust domain", "bad-trust-domain", func(s string) error { return newWorkload(s, node, pod) }},
		{63, "namespace", "bad-namespace", func(s string) error {
			return newWorkload("a", node, attest.Pod{Namespace: s, Name: "p", UID: "u", ServiceAccount: "d"})
		}},
		{253, "service account", "bad-service-account", func(s string) error {
			return newWorkload("a", node, attest.Pod{Namespace: "n", Name: "p", UID: "u", ServiceAccount: s})
		}},
		{253, "pod name", "bad-pod-name", func(s string) error {
			return newWorkload("a", node, attest.Pod{Namespace: "n", Name: s, UID: "u", ServiceAccount: "d"})
		}},
		{64, "pod UID", "bad-pod-uid", func(s string) error {
			return newWorkload("a", node, attest.Pod{Namespace: "n", Name: "p", UID: s, ServiceAccount: "d"})
		}},
		{253, "workload's node name", "bad-node-name", func(s string) error { return newWorkload("a", attest.Node{Name: s, UID: "u"}, pod) }},
		{64, "workload's node UID", "bad-node-uid", func(s string) error { return newWorkload("a", attest.Node{Name: "n", UID: s}, pod) }},
		{253, "node name", "bad-node-name", func(s string) error { return newAgent(attest.Node{Name: s, UID: "u"}) }},
		{64, "node UID", "bad-node-uid", func(s string) error { return newAgent(attest.Node{Name: "n", UID: s}) }},
		{63, "service name", "bad-service-name", newService},
	} {
		add(c.part+" empty", c.reason, func() error { return c.make("") })
		add(c.part+" of one", "", func() error { return c.make("x") })
		add(c.part+" one short of the limit", "", func() error { return c.make(x(c.most - 1)) })
		add(c.part+" at the limit", "", func() error { return c.make(x(c.most)) })
		add(c.part+" one past the limit", c.reason, func() error { return c.make(x(c.most + 1)) })
		add(c.part+" far past the limit", c.reason, func() error { return c.make(x(1 << 20)) })
	}
	// Whole IDs. An agent's never comes near the limit of 2048 bytes, so what is
	// within it is refused for the part that is too long.
	head := "spiffe://a/istio-auth/node/n/"
	for n, want := range map[int]string{2047: "bad-node-uid", 2048: "bad-node-uid", 2049: "id-too-long", 1 << 20: "id-too-long"} {
		add(fmt.Sprintf("whole ID of %d", n), want, func() error { return readAgent(head + x(n-len(head))) })
	}
	add("trust domain of 256 read", "bad-trust-domain", func() error { return readAgent("spiffe://" + x(256) + "/istio-auth/node/n/u") })
	return rows
}

// wordRows puts what looks like a name, and is not, into each part.
func wordRows() (rows []idRow) {
	bad := map[string]string{
		"dot": ".", "dots": "..", "three dots": "...", "leading dot": ".a", "trailing dot": "a.", "empty label": "a..b",
		"leading hyphen": "-a", "trailing hyphen": "a-", "label with hyphen last": "a-.b", "label with hyphen first": "a.-b",
		"slash": "a/b", "traversal": "../a", "trailing slash": "a/", "leading slash": "/a", "backslash": `a\b`,
		"percent": "a%2fb", "percent of a letter": "%61", "upper case": "Web", "underscore": "a_b", "space": "a b", "trailing newline": "a\n",
		"NUL": "a\x00b", "trailing NUL": "a\x00", "comma": "a,b", "semicolon": "a;b", "colon": "a:b", "at": "a@b", "query": "a?b", "fragment": "a#b",
		"star": "*", "braces": "{a}", "plus": "a+b", "equals": "a=b", "quote": `a"b`, "Cyrillic a": "\u0430", "Kelvin sign": "\u212a", "full width": "\uff41",
		"fraction slash": "a\u2044b", "division slash": "a\u2215b", "right to left": "a\u202eb", "zero width": "a\u200bb", "soft hyphen": "a\u00adb",
		"combining": "a\u0301", "ideographic full stop": "a\u3002b", "overlong slash": "a\xc0\xafb", "overlong dot": "a\xc0\xaeb", "lone surrogate": "a\xed\xa0\x80",
		"byte order mark": "\ufeffa", "Turkish i": "\u0131", "long s": "\u017f",
	}
	for name, s := range bad {
		for _, c := range []struct {
			reason string
			make   func() error
		}{
			{"bad-namespace", func() error {
				return newWorkload("a", node, attest.Pod{Namespace: s, Name: "p", UID: "u", ServiceAccount: "d"})
			}},
			{"bad-service-account", func() error {
				return newWorkload("a", node, attest.Pod{Namespace: "n", Name: "p", UID: "u", ServiceAccount: s})
			}},
			{"bad-node-name", func() error { return newAgent(attest.Node{Name: s, UID: "u"}) }},
			{"bad-node-uid", func() error { return newAgent(attest.Node{Name: "n", UID: s}) }},
			{"bad-service-name", func() error { return newService(s) }},
		} {
			rows = append(rows, idRow{fmt.Sprintf("%s %s", c.reason, name), c.reason, c.make})
		}
	}
	return rows
}

// readRows are whole IDs, as a certificate would bring them.
func readRows() (rows []idRow) {
	for s, want := range map[string]string{
		"spiffe://a/istio-auth/node/n/u": "", "spiffe://a-._9/istio-auth/node/n.m/u-1": "",
		"": "parse", "spiffe://": "parse", "spiffe:///": "parse", "spiffe:///istio-auth/node/n/u": "parse", "spiffe:/a/istio-auth/node/n/u": "parse",
		"spiffe:a": "parse", "//a/istio-auth/node/n/u": "parse", "/istio-auth/node/n/u": "parse", "http://a/istio-auth/node/n/u": "parse",
		"SPIFFE://a/istio-auth/node/n/u": "parse", "Spiffe://a/istio-auth/node/n/u": "parse", " spiffe://a/istio-auth/node/n/u": "parse",
		"spiffe://a/istio-auth/node/n/u ": "parse", "spiffe://A/istio-auth/node/n/u": "parse", "spiffe://a.B/istio-auth/node/n/u": "parse",
		"spiffe://u@a/istio-auth/node/n/u": "parse", "spiffe://u:p@a/istio-auth/node/n/u": "parse", "spiffe://a:80/istio-auth/node/n/u": "parse",
		"spiffe://a:/istio-auth/node/n/u": "parse", "spiffe://[::1]/istio-auth/node/n/u": "parse", "spiffe://a/istio-auth/node/n/u?": "parse",
		"spiffe://a/istio-auth/node/n/u?x=y": "parse", "spiffe://a/istio-auth/node/n/u#": "parse", "spiffe://a/istio-auth/node/n/u#f": "parse",
		"spiffe://a/istio-auth/node/n/u/": "parse", "spiffe://a/istio-auth/node/n//u": "parse", "spiffe://a//istio-auth/node/n/u": "parse",
		"spiffe://a/./istio-auth/node/n/u": "parse", "spiffe://a/istio-auth/node/../node/n/u": "parse", "spiffe://a/istio-auth/node/n/.": "parse",
		"spiffe://a/istio-auth/node/n/..": "parse", "spiffe://a/istio-auth/node/n/%75": "parse", "spiffe://a/istio-auth%2fnode/n/u": "parse",
		"spiffe://a%2f/istio-auth/node/n/u": "parse", "spiffe://a/istio-auth/node/n/u\x00": "parse", "spiffe://a\x00/istio-auth/node/n/u": "parse",
		"spiffe://a/istio-auth/node/n/u\n": "parse", "spiffe://\u0430/istio-auth/node/n/u": "parse", "spiffe://a/\u0456stio-auth/node/n/u": "parse",
		"spiffe://a/istio-auth/node/n/u\u202e": "parse", "spiffe://a/istio-auth/node/n/\xc0\xae": "parse", "spiffe://a/istio-auth/node/n/u,spiffe://b/c": "parse",
		"spiffe://a/istio-auth/node/n/u;v": "parse", `spiffe:\\a\istio-auth\node\n\u`: "parse", "spiffe://a/*": "parse", "spiffe://*/istio-auth/node/n/u": "parse",
		"spiffe://a": "not-an-agent", "spiffe://a/": "parse", "spiffe://a/istio-auth": "not-an-agent", "spiffe://a/istio-auth/node": "not-an-agent",
		"spiffe://a/istio-auth/node/n": "not-an-agent", "spiffe://a/istio-auth/ca": "not-an-agent", "spiffe://a/istio-auth/manager": "not-an-agent",
		"spiffe://a/ns/n/sa/u": "not-an-agent", "spiffe://a/ns/istio-auth/sa/node": "not-an-agent", "spiffe://a/Istio-Auth/node/n/u": "not-an-agent",
		"spiffe://a/istio-auth/Node/n/u": "not-an-agent", "spiffe://a/istio-auth/nodes/n/u": "not-an-agent", "spiffe://a/x/istio-auth/node/n/u": "not-an-agent",
		"spiffe://a/istio-auth/node/n/u/v": "bad-node-uid", "spiffe://a/istio-auth/node/N/u": "bad-node-name", "spiffe://a/istio-auth/node/n/U": "bad-node-uid",
		"spiffe://a/istio-auth/node/n_m/u": "bad-node-name", "spiffe://a/istio-auth/node/-n/u": "bad-node-name", "spiffe://a/istio-auth/node/n/u.": "bad-node-uid",
		"spiffe://a/istio-auth/node/node/n/u": "bad-node-uid", "spiffe://a/istio-auth/node/.n/u": "bad-node-name",
	} {
		rows = append(rows, idRow{fmt.Sprintf("read %q", s), want, func() error { return readAgent(s) }})
	}
	rows = append(rows,
		idRow{"the zero ID", "not-an-agent", func() error { _, err := attest.AgentFromID(spiffeid.ID{}); return err }},
		idRow{"the name that agents have taken", "bad-service-name", func() error { return newService("node") }},
	)
	return rows
}

// TestID01 is table ID-01. Nothing of it panics, is normalized, or comes out as
// another name than it went in.
func TestID01(t *testing.T) {
	var rows []idRow
	for _, more := range [][]idRow{byteRows(), lengthRows(), wordRows(), readRows()} {
		rows = append(rows, more...)
	}
	if got, want := len(rows), 2434; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	names := map[string]bool{}
	for _, r := range rows {
		if names[r.name] {
			t.Errorf("%s: twice", r.name)
		}
		names[r.name] = true
		err := r.make()
		if (err == nil) != (r.want == "") || attest.Reason(err) != r.want || (err != nil && !errors.Is(err, attest.ErrRefused)) {
			t.Errorf("%s: got %v, want reason %q", r.name, err, r.want)
		}
	}
}

func FuzzAgentFromID(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		id, err := spiffeid.FromString(s)
		if err != nil {
			return
		}
		agent, err := attest.AgentFromID(id)
		if err != nil {
			if !errors.Is(err, attest.ErrRefused) || attest.Reason(err) == "" || !agent.IsZero() {
				t.Fatalf("%q: refused without a reason: %v", s, err)
			}
			return
		}
		again, err := attest.NewAgent(id.TrustDomain(), agent.Node())
		if err != nil || again != agent || agent.ID() != id || agent.Kind() != attest.Agent || len(s) > 2048 {
			t.Fatalf("%q was read as %+v, made anew as %+v, %v", s, agent, again, err)
		}
	})
}

func TestRefusal(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("one layer: %w", &attest.Refusal{Reason: "some-reason", Err: cause})
	if !errors.Is(err, attest.ErrRefused) || !errors.Is(err, cause) || errors.Is(err, attest.ErrUnavailable) || attest.Reason(err) != "some-reason" {
		t.Errorf("%v is not the refusal it was made as", err)
	}
	if got, want := (&attest.Refusal{Reason: "bare"}).Error(), "refused: bare"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, err := range []error{nil, cause, attest.ErrRefused, attest.ErrUnavailable} {
		if got := attest.Reason(err); got != "" {
			t.Errorf("%v has reason %q, want none", err, got)
		}
	}
}
