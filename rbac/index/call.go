package index

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
)

// A call is a request, and what is read of it once.
type call struct {
	rbac.Request
	domains  rbac.Domains
	workload bool   // the peer is one; false: it has no certificate
	ours     bool   // of our own trust domain, or an alias of it
	id       string // without scheme
	domain   string
	// The rest of id, apart, and joined: "namespace/sa/account".
	namespace, account, joined string

	host            string // empty: it cannot be told
	serverName      string
	folded, bare    string // the path, and without a slash at the end
	issuer, subject string // both, or neither
}

// begin reads the request, or refuses it before any rule is looked at.
func (c *call) begin(plaintext bool) eval.Reason {
	req := &c.Request
	if c.domains.Own.IsZero() {
		return eval.UnknownSet
	}
	if req.Protocol != rbac.HTTP && req.Protocol != rbac.TCP {
		return eval.NoProtocol
	}
	td := req.Peer.ID.TrustDomain()
	c.namespace, c.account, c.workload = req.Peer.Workload(td)
	if c.workload {
		c.ours = c.domains.IsOurs(td)
		c.id, c.domain = strings.TrimPrefix(req.Peer.ID.String(), "spiffe://"), td.Name()
		c.joined = c.id[len(c.domain)+len("/ns/"):]
	}
	accepted := c.workload && (c.ours || slices.Contains(c.domains.Foreign, td))
	if anonymous := req.Peer.ID.IsZero() && plaintext; !accepted && !anonymous {
		return eval.NoIdentity
	}
	c.serverName = lower(req.ServerName)
	if req.Protocol == rbac.TCP {
		return ""
	}
	if !rbac.PlainPath(req.Path) {
		return eval.BadPath
	}
	if !rbac.PlainMethod(req.Method) {
		return eval.NoMethod
	}
	c.host = rbac.FoldHost(req.Host)
	c.folded = rbac.FoldPath(req.Path)
	c.bare = strings.TrimSuffix(c.folded, "/")
	if req.Token != nil {
		issuer, subject := c.only("iss"), c.only("sub")
		if issuer != "" && subject != "" {
			c.issuer, c.subject = issuer, subject
		}
	}
	return ""
}

func (c *call) only(key string) string {
	text, _ := c.Token.Claims[key].(string)
	if text == "-" {
		return ""
	}
	return text
}

// An attribute is a rbac.Attribute, taken apart once.
type attribute struct {
	kind   rbac.AttributeKind
	header string
	claim  []string
	number uint64 // of no other attribute of the index
	http   bool
}

// known tells whether it can be told what the call has of it.
func (c *call) known(a *attribute) bool {
	switch {
	case a.kind == 0, c.Protocol == rbac.TCP && a.http:
		return false
	case a.kind == rbac.Host:
		return c.host != ""
	case a.kind == rbac.Header:
		lines := c.Headers[a.header]
		return len(lines) == 0 || len(lines) == 1 && strings.IndexByte(lines[0], ',') < 0
	}
	return true
}

// has tells whether the call has it, where that is known.
func (c *call) has(a *attribute) bool {
	switch a.kind {
	case rbac.Principal, rbac.TrustDomain, rbac.AnyNamespace, rbac.AnyServiceAccount:
		return c.workload
	case rbac.Namespace, rbac.ServiceAccount:
		return c.ours
	case rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP:
		return c.address(a.kind).IsValid()
	case rbac.ServerName:
		return c.serverName != ""
	case rbac.Header:
		return len(c.Headers[a.header]) > 0
	case rbac.RequestPrincipal:
		return c.issuer != ""
	case rbac.Audience, rbac.Presenter, rbac.Claim:
		switch value := c.claimed(a).(type) {
		case string:
			return true
		case []any:
			for _, item := range value {
				if _, ok := item.(string); ok {
					return true
				}
			}
		}
		return false
	}
	return true
}

func (c *call) address(kind rbac.AttributeKind) netip.Addr {
	switch kind {
	case rbac.SourceIP:
		return c.Source
	case rbac.RemoteIP:
		return c.Remote
	}
	return c.Destination.Addr()
}

// claimed is the claim as it stands in the token.
func (c *call) claimed(a *attribute) any {
	if c.Token == nil {
		return nil
	}
	claims := c.Token.Claims
	for _, key := range a.claim[:len(a.claim)-1] {
		claims, _ = claims[key].(map[string]any)
	}
	return claims[a.claim[len(a.claim)-1]]
}

// some is the greatest answer of the patterns, for what the call has of an
// attribute that is known.
func (c *call) some(a *attribute, l *list) answer {
	switch a.kind {
	case rbac.Principal:
		return isTrue(c.workload && l.any(c.id))
	case rbac.TrustDomain:
		return isTrue(c.workload && l.anyDomain(c.ours, c.domain))
	case rbac.Namespace, rbac.AnyNamespace:
		return isTrue(c.has(a) && l.any(c.namespace))
	case rbac.ServiceAccount, rbac.AnyServiceAccount:
		return isTrue(c.has(a) && l.anyPair(c.namespace, c.account))
	case rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP:
		address := c.address(a.kind)
		return isTrue(address.IsValid() && l.anyAddress(address))
	case rbac.DestinationPort:
		return isTrue(l.anyPort(int(c.Destination.Port())))
	case rbac.ServerName:
		return isTrue(c.serverName != "" && l.any(c.serverName))
	case rbac.Method:
		return isTrue(l.any(c.Method))
	case rbac.Host:
		return isTrue(l.any(c.host))
	case rbac.Path:
		return l.path(c)
	case rbac.Header:
		lines := c.Headers[a.header]
		if len(lines) > 0 && lines[0] == "" && l.present() {
			return maybe // it may be there or not, and an empty text matches nothing else
		}
		return isTrue(len(lines) > 0 && l.any(lines[0]))
	case rbac.RequestPrincipal:
		return isTrue(c.issuer != "" && l.anyPair(c.issuer, c.subject))
	}
	switch value := c.claimed(a).(type) {
	case string:
		return isTrue(l.any(value))
	case []any:
		for _, item := range value {
			if text, ok := item.(string); ok && l.any(text) {
				return yes
			}
		}
	}
	return no
}

// texts appends what the call has of an attribute that is known, as comparisons
// see it: of a pair the first.
func (c *call) texts(to []string, a *attribute) []string {
	if !c.has(a) {
		return to
	}
	switch a.kind {
	case rbac.Principal:
		return append(to, c.domains.Names(c.Peer.ID)...)
	case rbac.TrustDomain:
		if !c.ours {
			return append(to, c.domain)
		}
		for _, td := range c.domains.Family() {
			to = append(to, td.Name())
		}
		return to
	case rbac.Namespace, rbac.AnyNamespace, rbac.ServiceAccount, rbac.AnyServiceAccount:
		return append(to, c.namespace)
	case rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP:
		return append(to, c.address(a.kind).Unmap().String())
	case rbac.DestinationPort:
		return append(to, strconv.Itoa(int(c.Destination.Port())))
	case rbac.ServerName:
		return append(to, c.serverName)
	case rbac.Method:
		return append(to, c.Method)
	case rbac.Host:
		return append(to, c.host)
	case rbac.Path:
		return append(to, c.Path)
	case rbac.Header:
		return append(to, c.Headers[a.header][0])
	case rbac.RequestPrincipal:
		return append(to, c.issuer)
	}
	switch value := c.claimed(a).(type) {
	case string:
		return append(to, value)
	case []any:
		for _, item := range value {
			if text, ok := item.(string); ok {
				to = append(to, text)
			}
		}
	}
	return to
}

// lower is ASCII's. It copies where it must.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return lowered(s)
		}
	}
	return s
}

func lowered(s string) string {
	out := []byte(s)
	for i, b := range out {
		if 'A' <= b && b <= 'Z' {
			out[i] = b + 'a' - 'A'
		}
	}
	return string(out)
}
