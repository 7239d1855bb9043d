package rbactest

import (
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// Trust domains of which generated policies and peers speak. An alias and a
// foreign one begin, or end, as ours does.
var (
	aliasDomains   = []spiffeid.TrustDomain{domain("old.test"), domain("td")}
	foreignDomains = []spiffeid.TrustDomain{domain("other.test"), domain("td.test.x")}
)

func domain(name string) spiffeid.TrustDomain { return spiffeid.RequireTrustDomainFromString(name) }

// Providers are those that generated targets can reach. Generated policies ask
// one more.
var Providers = []string{"first", "second"}

// A Connection is who calls, and from where to where.
type Connection struct {
	Peer        spiffeid.ID    `json:"peer,omitzero"`   // zero: plaintext
	Source      netip.Addr     `json:"source,omitzero"` // a loopback address, which a test can bind
	Remote      netip.Addr     `json:"remote,omitzero"`
	Destination netip.AddrPort `json:"destination,omitzero"`
	ServerName  string         `json:"serverName,omitempty"` // as the client writes it
}

var (
	sources     = []string{"127.0.0.1", "127.0.0.2", "127.0.1.2", "127.1.0.3", "127.0.0.129"}
	remotes     = []string{"127.0.0.1", "192.0.2.1", "192.0.2.129", "198.51.100.1", "10.0.0.1", "2001:db8::1", "2001:db8:0:1::1", "::1"}
	locals4     = []string{"127.0.0.1:8080", "10.1.2.3:80", "10.1.2.3:443", "10.1.2.4:8443", "10.1.2.130:8080"}
	locals6     = []string{"[2001:db8::aa]:8080", "[2001:db8::ab]:80", "[::1]:443"}
	serverNames = []string{"", "", "a.test", "ab.test", "web.a.test", "Web.A.Test", "a.test.x", "td"}
	networks    = []string{
		"127.0.0.1", "127.0.0.0/8", "127.0.0.0/24", "127.0.0.2/31", "127.0.0.128/25", "0.0.0.0/0", "::/0", "::1", "::/1", "0.0.0.0/1", "128.0.0.0/1",
		"192.0.2.0/24", "192.0.2.128/25", "192.0.2.1", "198.51.100.0/24", "10.0.0.0/8", "10.1.2.3", "10.1.2.0/24", "10.1.2.128/25", "10.1.2.2/31",
		"2001:db8::/32", "2001:db8::/64", "2001:db8::1", "2001:db8::aa", "2001:db8::aa/127", "2001:db8:0:1::/64",
	}
	ports = []string{"80", "443", "8080", "8443", "8", "65535"}
)

// Connections returns n connections that generated policies speak of: each with
// another peer, but for every fifth, which is plaintext where features has it,
// and every eighth, which is a stranger's. Equal arguments give equal ones.
func (f Features) Connections(n int) []Connection {
	g := New(42, f)
	peers, strangers := f.Peers(n), Strangers()
	list := make([]Connection, n)
	for i := range list {
		c := Connection{Peer: peers[i], Source: netip.MustParseAddr("127.0.0.1"), Remote: netip.MustParseAddr("127.0.0.1"), Destination: netip.MustParseAddrPort("127.0.0.1:8080")}
		if f.has(Addresses) {
			c.Source, c.Remote = netip.MustParseAddr(pick(g, sources)), netip.MustParseAddr(pick(g, remotes))
			c.Destination = netip.MustParseAddrPort(pick(g, locals4))
			if c.Remote.Is6() {
				c.Destination = netip.MustParseAddrPort(pick(g, locals6))
			}
		}
		if f.has(ServerNames) {
			c.ServerName = pick(g, serverNames)
		}
		switch {
		case f.has(Plaintext) && i%5 == 4:
			c.Peer, c.ServerName = spiffeid.ID{}, ""
		case i%8 == 7:
			c.Peer = strangers[i/8%len(strangers)]
		}
		list[i] = c
	}
	return list
}

// Peers is [Peers], some of aliases and of foreign trust domains where f has
// them.
func (f Features) Peers(n int) []spiffeid.ID {
	g := New(42, f)
	seen := map[spiffeid.ID]bool{}
	var peers []spiffeid.ID
	for len(peers) < n {
		id := must(spiffeid.FromSegments(g.domain(), "ns", pick(g, namespaces), "sa", pick(g, accounts)))
		if !seen[id] {
			seen[id] = true
			peers = append(peers, id)
		}
	}
	return peers
}

// domain is ours, mostly.
func (g *Generator) domain() spiffeid.TrustDomain {
	if g.features.has(TrustDomains) && g.chance(40) {
		return pick(g, append(aliasDomains, foreignDomains...))
	}
	return TrustDomain
}

// Target is [Target], with some of what it may have beyond.
func (g *Generator) Target() rbac.Target {
	t := Target()
	if g.features.has(TrustDomains) {
		t.Aliases = g.some(aliasDomains)
		t.Foreign = g.some(foreignDomains)
	}
	t.Plaintext = g.features.has(Plaintext) && g.chance(60)
	if g.features.has(Customs) {
		t.Providers = Providers
	}
	return t
}

func (g *Generator) some(domains []spiffeid.TrustDomain) (list []spiffeid.TrustDomain) {
	for _, td := range domains {
		if g.chance(60) {
			list = append(list, td)
		}
	}
	return list
}
