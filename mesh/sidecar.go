// Package mesh writes the configuration of a sidecar Envoy that trusts nothing
// but the node agent's socket.
//
// A [Sidecar] says whose Envoy it is, where its application listens, and whom
// it may call; [Bootstrap] turns that into a whole static configuration, in
// which certificates, trust and the policy filter are named and never held.
// What the file does not say cannot be said later: there is no discovery of
// listeners or clusters yet, only of secrets and of the filters that decide, from
// [TokenFilter] to [RBACFilter].
//
// Each choice answers a way in which a real Envoy 1.40 was seen to fail open;
// the table in traps_test.go names them.
package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Names by which the sidecar asks the agent, and the filter state that the
// policy filter reads.
const (
	// RBACFilter names the policy filter, and its resource of type
	// envoy.config.core.v3.TypedExtensionConfig.
	RBACFilter = "istio-auth.rbac"
	// TokenFilter names the filter that verifies end users' tokens, AuditFilter
	// the one that marks requests for the access log, and CustomFilter, with a
	// provider's name behind it, the one that says whether to ask that provider.
	// They are discovered likewise.
	TokenFilter  = "istio-auth.jwt"
	AuditFilter  = "istio-auth.audit"
	CustomFilter = "istio-auth.custom."
	// PathState is the filter state that holds the request's path without its
	// query, normalised. The policy filters read it; no request can set it, nor
	// those that follow.
	PathState = "istio-auth.path"
	// FoldState holds rbac.FoldPath of that path.
	FoldState = "istio-auth.fold"
	// HostState holds rbac.FoldHost of the authority that the application gets.
	// It is not there where that is empty.
	HostState = "istio-auth.host"
	// IssuerState and SubjectState hold "iss" and "sub" of the verified token.
	// They are not there where it has none.
	IssuerState  = "istio-auth.issuer"
	SubjectState = "istio-auth.subject"
	// PeerState holds the URI of the peer's certificate.
	PeerState = "istio-auth.peer"
	// CertificateSecret and TrustSecret are the two secrets.
	CertificateSecret = "default"
	TrustSecret       = "ROOTCA"
)

// Keys in Envoy's dynamic metadata that rbac/compile's filters write.
const (
	enforcedKeys = "istio_auth_"
	trialKeys    = "istio_auth_dry_"
	auditKeys    = "istio_auth_audit_"
	customKeys   = "istio_auth_custom_" // and the provider
	noAsk        = "no-ask"
)

// Lives that a certificate may have, so that every span computed from one is at
// least what Envoy's timers resolve.
const (
	minLife = 5 * time.Second
	maxLife = 24 * time.Hour
)

// A Sidecar is the Envoy beside one workload. Its zero value is refused.
type Sidecar struct {
	// Workload is whose sidecar this is: an ID below /ns/. Its trust domain is
	// the only one whose peers are let in.
	Workload spiffeid.ID
	// AgentSocket is the workload's own Unix socket of the node agent.
	AgentSocket string
	// RuntimeDir holds the admin socket and the probe's, mode 0600. It must be
	// this Envoy's alone, and on no disk that others read.
	RuntimeDir string
	// CertificateLife is what the CA issues for, from 5 s to 24 h. No
	// connection, in or out, lives longer than half of it.
	CertificateLife time.Duration
	// StatusAddress serves /ready and /stats/prometheus to anybody who reaches
	// it, in plaintext. Empty: nothing is served.
	StatusAddress string
	// Inbound is what others reach. The zero value: nobody is let in.
	Inbound Inbound
	// Outbound are the servers that the application may call.
	Outbound []Upstream
	// Providers are whom CUSTOM policies may ask about requests to Inbound. They
	// are asked in this order.
	Providers []Provider
	// AccessLog is a file for one JSON object a request. Empty: standard output.
	AccessLog string
}

// Inbound is the application's door.
type Inbound struct {
	// Listen is IP:port. Only mutual TLS is spoken there.
	Listen string
	// App is where the application listens: a loopback IP:port, for whoever
	// reaches it there has passed by every policy.
	App string
}

// An Upstream is a server that the application calls through the sidecar.
type Upstream struct {
	// Name is a label of letters, digits and dashes, for statistics and logs.
	Name string
	// Listen is the loopback IP:port that the application calls in plaintext.
	Listen string
	// Address is host:port; a host that is no IP address is looked up by DNS.
	Address string
	// Servers are exactly the identities that may answer there. An empty list
	// is refused: it would mean anybody of the mesh.
	Servers []spiffeid.ID
}

// A Problem is one reason for which a [Sidecar] is refused.
type Problem struct {
	// Field is the path of the field, as in "outbound[1].servers".
	Field string
	// Reason is a stable code in kebab-case.
	Reason string
	// Detail is for people.
	Detail string
}

func (p *Problem) Error() string { return p.Field + ": " + p.Detail + " (" + p.Reason + ")" }

// Validate says all that is wrong with s: nil, or joined [*Problem] values.
func (s Sidecar) Validate() error {
	var c checker
	c.workload("workload", s.Workload)
	c.path("agentSocket", s.AgentSocket, maxSocketPath)
	c.path("runtimeDir", s.RuntimeDir, maxSocketPath-len("/admin.sock"))
	if s.CertificateLife < minLife || s.CertificateLife > maxLife {
		c.add("certificateLife", "life-out-of-range", "want %v to %v, not %v", minLife, maxLife, s.CertificateLife)
	}
	if s.StatusAddress != "" {
		c.listen("statusAddress", s.StatusAddress, false)
	}
	if s.AccessLog != "" {
		c.path("accessLog", s.AccessLog, 4096)
	}
	switch {
	case s.Inbound == Inbound{}:
		if len(s.Outbound) == 0 {
			c.add("inbound", "nothing-to-do", "a sidecar without inbound and outbound does nothing")
		}
	default:
		c.listen("inbound.listen", s.Inbound.Listen, false)
		c.listen("inbound.app", s.Inbound.App, true)
	}
	for i, u := range s.Outbound {
		c.upstream(fmt.Sprintf("outbound[%d]", i), u, s.Workload.TrustDomain())
	}
	if len(s.Providers) > 0 && s.Inbound == (Inbound{}) {
		c.add("providers", "nothing-to-ask-about", "providers are asked about inbound requests, and there are none")
	}
	for i, p := range s.Providers {
		field := fmt.Sprintf("providers[%d]", i)
		c.provider(field, p, s.Workload.TrustDomain())
		c.own(field, p, s.AgentSocket)
	}
	return errors.Join(c.problems...)
}

// maxSocketPath is sun_path without its NUL (unix(7)).
const maxSocketPath = 107

// A checker gathers problems, and the names and addresses already taken.
type checker struct {
	problems []error
	taken    map[string]string
}

func (c *checker) add(field, reason, format string, args ...any) {
	c.problems = append(c.problems, &Problem{Field: field, Reason: reason, Detail: fmt.Sprintf(format, args...)})
}

// take refuses what another field has already claimed.
func (c *checker) take(field, kind, value string) {
	if other, ok := c.taken[kind+value]; ok {
		c.add(field, kind+"-taken", "%s has %q already", other, value)
		return
	}
	if c.taken == nil {
		c.taken = map[string]string{}
	}
	c.taken[kind+value] = field
}

// workload wants an ID below /ns/: an agent's or a service's own identity has
// no business behind a sidecar.
func (c *checker) workload(field string, id spiffeid.ID) {
	switch {
	case id.IsZero():
		c.add(field, "id-missing", "a SPIFFE ID is required")
	case !strings.HasPrefix(id.Path(), "/ns/"):
		c.add(field, "id-not-a-workload", "%s is not below /ns/", id)
	}
}

func (c *checker) path(field, path string, limit int) {
	switch {
	case path == "":
		c.add(field, "path-missing", "a path is required")
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		c.add(field, "path-not-absolute", "want an absolute, clean path, not %q", path)
	case !printable(path):
		c.add(field, "path-unprintable", "%q holds what a log should not", path)
	case len(path) > limit:
		c.add(field, "path-too-long", "%d bytes; the most is %d", len(path), limit)
	}
}

// printable tells whether s is plain ASCII without Envoy's format character.
func printable(s string) bool {
	for _, b := range []byte(s) {
		if b <= ' ' || b >= 0x7f || b == '%' {
			return false
		}
	}
	return true
}

// listen wants IP:port of which the port is not zero: an address that the
// system chose is one that nobody can be told of.
func (c *checker) listen(field, address string, loopback bool) {
	if address == "" {
		c.add(field, "address-missing", "IP:port is required")
		return
	}
	a, err := netip.ParseAddrPort(address)
	switch {
	case err != nil:
		c.add(field, "address-malformed", "want IP:port, not %q", address)
	case a.Port() == 0:
		c.add(field, "port-zero", "%q has no port", address)
	case a.Addr().Zone() != "" || a.Addr().Is4In6() || a.String() != address:
		c.add(field, "address-not-canonical", "write %q as %q", address, netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()))
	case loopback && !a.Addr().IsLoopback():
		c.add(field, "address-not-loopback", "%s is reached by others: its plaintext would be theirs", address)
	default:
		c.take(field, "address", address)
	}
}

func (c *checker) upstream(field string, u Upstream, td spiffeid.TrustDomain) {
	if isLabel(u.Name) {
		c.take(field+".name", "name", u.Name)
	} else {
		c.add(field+".name", "name-malformed", "want 1 to 63 lower-case letters, digits and dashes, not %q", u.Name)
	}
	c.listen(field+".listen", u.Listen, true)
	c.target(field+".address", u.Address)
	c.servers(field, u.Servers, td)
}

func (c *checker) target(field, address string) {
	if address == "" {
		c.add(field, "address-missing", "host:port is required")
		return
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		c.add(field, "address-malformed", "want host:port, not %q", address)
		return
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil || strconv.FormatUint(n, 10) != port:
		c.add(field, "address-malformed", "port %q is no number from 1 to 65535", port)
	case n == 0:
		c.add(field, "port-zero", "%q has no port", address)
	case !isHost(host):
		c.add(field, "address-malformed", "%q is neither an IP address nor a DNS name", host)
	}
}

// isHost accepts an IP address without a zone, or a DNS name (RFC 1123 2.1).
func isHost(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Zone() == "" && !a.IsUnspecified()
	}
	name := strings.TrimSuffix(host, ".")
	if len(name) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(strings.ToLower(name), ".") {
		if !isLabel(label) {
			return false
		}
		last = label
	}
	// A name that ends in a number is an IPv4 address written wrongly.
	_, err := strconv.Atoi(last)
	return err != nil
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, b := range []byte(s) {
		if (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' {
			return false
		}
	}
	return true
}
