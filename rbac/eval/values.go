package eval

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// A call is a request that is decided by rules, and the names of its peer: none
// for a peer without a certificate.
type call struct {
	rbac.Request
	domains rbac.Domains
	names   []string
}

// A value of an attribute: one text, or two for an attribute that is a pair.
type value struct{ text, second string }

// matches compares. A path is compared as it is, and as an obliging application
// might resolve it: where the two differ, it cannot be told. Nor can it be told
// whether a header that says nothing is there: some applications ask for its name
// alone.
func (v value) matches(a rbac.Attribute, p rbac.Pattern) answer {
	switch {
	case p.Kind() == rbac.Pair:
		return isTrue(p.MatchPair(v.text, v.second))
	case p.Kind() == rbac.Present && a.Kind() == rbac.Header && v.text == "":
		return maybe
	case p.Kind() == rbac.Present:
		return isTrue(v.text != "")
	case a.Kind() == rbac.Path:
		asIs, folded := p.Match(v.text), p.MatchFolded(rbac.FoldPath(v.text))
		if asIs != folded {
			return maybe
		}
		return isTrue(asIs)
	}
	return isTrue(p.Match(v.text))
}

// values are what the call has of an attribute; none where it does not have it.
// Known is false where it cannot be told what it has.
func (c call) values(a rbac.Attribute) (values []value, known bool) {
	if c.Protocol == rbac.TCP && a.OfHTTP() {
		return nil, false
	}
	switch {
	case a.OfPeer():
		return c.ofPeer(a.Kind()), true
	case a.OfToken():
		return c.ofToken(a), true
	}
	switch a.Kind() {
	case rbac.SourceIP:
		return ip(c.Source), true
	case rbac.RemoteIP:
		return ip(c.Remote), true
	case rbac.DestinationIP:
		return ip(c.Destination.Addr()), true
	case rbac.DestinationPort:
		return texts(strconv.Itoa(int(c.Destination.Port()))), true
	case rbac.ServerName:
		if c.ServerName == "" {
			return nil, true
		}
		return texts(lower(c.ServerName)), true
	case rbac.Method:
		return texts(c.Method), true
	case rbac.Path:
		return texts(c.Path), true
	case rbac.Host:
		host := rbac.FoldHost(c.Host)
		return texts(host), host != ""
	case rbac.Header:
		return c.header(a.HeaderName())
	}
	return nil, false
}

// ofPeer: a peer without a certificate has nothing. Namespace and service
// account are those of our own trust domain, unless any is asked for.
func (c call) ofPeer(kind rbac.AttributeKind) []value {
	td := c.Peer.ID.TrustDomain()
	namespace, account, ok := c.Peer.Workload(td)
	if !ok {
		return nil
	}
	ours := c.domains.IsOurs(td)
	switch {
	case kind == rbac.Principal:
		return texts(c.names...)
	case kind == rbac.TrustDomain && ours:
		var names []string
		for _, td := range c.domains.Family() {
			names = append(names, td.Name())
		}
		return texts(names...)
	case kind == rbac.TrustDomain:
		return texts(td.Name())
	case kind == rbac.AnyNamespace, kind == rbac.Namespace && ours:
		return texts(namespace)
	case kind == rbac.AnyServiceAccount, kind == rbac.ServiceAccount && ours:
		return []value{{namespace, account}}
	}
	return nil
}

// header: one line without a comma has one value. Of several values it cannot
// be told which one the application takes.
func (c call) header(name string) (values []value, known bool) {
	lines := c.Headers[name]
	if len(lines) == 0 {
		return nil, true
	}
	if len(lines) > 1 || strings.Contains(lines[0], ",") {
		return nil, false
	}
	return texts(lines[0]), true
}

// ofToken: without a verified token there is nothing. An issuer or subject "-" is
// none, since that is how a missing one looks to Envoy.
func (c call) ofToken(a rbac.Attribute) []value {
	switch a.Kind() {
	case rbac.RequestPrincipal:
		issuer, subject := c.only("iss"), c.only("sub")
		if issuer == "" || subject == "" {
			return nil
		}
		return []value{{issuer, subject}}
	case rbac.Audience:
		return texts(c.Token.Texts("aud")...)
	case rbac.Presenter:
		return texts(c.Token.Texts("azp")...)
	}
	return texts(c.Token.Texts(a.ClaimPath()...)...)
}

// only is a claim that must be a string, as RFC 7519 §4.1 has it of issuer and
// subject.
func (c call) only(key string) string {
	if c.Token == nil {
		return ""
	}
	if text, ok := c.Token.Claims[key].(string); ok && text != "-" {
		return text
	}
	return ""
}

func ip(a netip.Addr) []value {
	if !a.IsValid() {
		return nil
	}
	return texts(a.Unmap().String())
}

func texts(list ...string) []value {
	values := make([]value, 0, len(list))
	for _, s := range list {
		values = append(values, value{text: s})
	}
	return values
}

// lower is ASCII's, as Envoy's is.
func lower(s string) string {
	out := []byte(s)
	for i, b := range out {
		if 'A' <= b && b <= 'Z' {
			out[i] = b + 'a' - 'A'
		}
	}
	return string(out)
}
