package rbac

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// parseTrustDomain reads a value of trustDomains: a trust domain's name, or its
// beginning or end with a star.
func parseTrustDomain(s string) (Pattern, error) {
	p, err := parsePattern(s, maxTrustDomain+1)
	if err != nil || p.kind == Present {
		return p, err
	}
	if _, err := spiffeid.TrustDomainFromString(p.text); err != nil || strings.Contains(p.text, "/") {
		return Pattern{}, refuse("bad-trust-domain", "%.80q: a trust domain has lower-case letters, digits, and - . _ only", s)
	}
	return p, nil
}

// parseNetwork reads an IP address, or a network in CIDR form (RFC 4632 §3.1,
// RFC 4291 §2.3) without bits beyond its length. IPv4 inside IPv6 is refused: it
// would never match what a connection has.
func parseNetwork(s string) (Pattern, error) {
	if s == "" {
		return Pattern{}, refuse("empty-value", "empty: leave the field out, or give a value")
	}
	prefix, err := netip.ParsePrefix(s)
	if address, addrErr := netip.ParseAddr(s); addrErr == nil && address.Zone() == "" {
		prefix, err = netip.PrefixFrom(address, address.BitLen()), nil
	}
	switch {
	case err != nil:
		return Pattern{}, refuse("bad-ip", "%.80q: want an IP address, or a network as 192.0.2.0/24", s)
	case prefix.Addr().Is4In6():
		return Pattern{}, refuse("bad-ip", "%.80q: write the IPv4 address itself", s)
	case prefix != prefix.Masked():
		return Pattern{}, refuse("bad-ip", "%.80q: has bits beyond its length; the network is %s", s, prefix.Masked())
	}
	return Pattern{kind: Network, network: prefix}, nil
}

// parsePort reads a port in decimal, without leading zeros.
func parsePort(s string) (Pattern, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return Pattern{}, refuse("bad-port", "%.80q: want a port from 1 to 65535", s)
	}
	return Pattern{kind: Exact, text: s}, nil
}

// parseHostname reads a value of hosts, or of connection.sni: a name or an IP
// address, or its beginning or end with a star, in any case. A port is no part
// of it: "name:*" is taken for "name", since every port matches.
func parseHostname(reason, s string) (Pattern, error) {
	p, err := parsePattern(strings.TrimSuffix(s, ":*"), maxHost+1)
	if err != nil || p.kind == Present {
		return p, err
	}
	p.text = lower(p.text)
	if strings.Contains(p.text, ":") && !strings.HasPrefix(p.text, "[") {
		return Pattern{}, refuse(reason, "%.80q: a host is matched without its port: write the host, and the port under ports", s)
	}
	whole := p.text // with what the star stands for, a host
	switch p.kind {
	case Prefix:
		whole += "x"
	case Suffix:
		whole = "x" + whole
	}
	if FoldHost(whole) != whole {
		return Pattern{}, refuse(reason, "%.80q: want a host name, or an IP address", s)
	}
	return p, nil
}

// parseHeaderValue reads a value of a header. One with a comma could match
// nothing, since a header with several values matches nothing.
func parseHeaderValue(s string) (Pattern, error) {
	p, err := parsePattern(s, maxHeaderValue)
	if err != nil {
		return Pattern{}, err
	}
	if strings.Contains(p.text, ",") {
		return Pattern{}, refuse("bad-header-value", "%.80q: a header with a comma has several values, and no rule matches it", s)
	}
	blankFirst, blankLast := strings.HasPrefix(p.text, " "), strings.HasSuffix(p.text, " ")
	if !all(p.text, func(b byte) bool { return b >= 0x20 && b < 0x7f }) || blankFirst && p.kind != Suffix || blankLast && p.kind != Prefix {
		return Pattern{}, refuse("bad-header-value", "%.80q: want visible ASCII, and no blanks around it", s)
	}
	return p, nil
}

// parseClaimValue reads a value of the claim of that name. One that no token has
// is refused: a DENY of it would deny nothing.
func parseClaimValue(name, s string) (Pattern, error) {
	p, err := parsePattern(s, maxClaimValue)
	if err != nil {
		return Pattern{}, err
	}
	switch name {
	case "[scope]", "[permission]":
		if strings.Contains(p.text, " ") {
			return Pattern{}, refuse("bad-claim-value", "%.80q: %s is split at blanks, and compared word by word", s, name)
		}
	case "[exp]", "[iat]", "[nbf]":
		return Pattern{}, refuse("bad-claim-value", "%.80q: %s is a number (RFC 7519 §4.1), and texts alone are compared", s, name)
	}
	return p, nil
}

// parseRequestPrincipal reads "<issuer>/<subject>", cut at the last slash. One
// star may stand first or last, for the beginning of the issuer or the end of
// the subject; a text without a slash needs one, since no token is without
// either.
func parseRequestPrincipal(s string) (Pattern, error) {
	p, err := parsePattern(s, maxClaimValue)
	if err != nil {
		return Pattern{}, err
	}
	anything := Pattern{kind: Present}
	at := strings.LastIndexByte(p.text, '/')
	if at < 0 {
		switch p.kind {
		case Present:
			return pair(anything, anything), nil
		case Suffix:
			return pair(anything, p), nil
		case Prefix:
			return pair(p, anything), nil
		}
		return Pattern{}, refuse("bad-request-principal", "%.80q: want <issuer>/<subject>", s)
	}
	issuer, subject := Pattern{kind: Exact, text: p.text[:at]}, Pattern{kind: Exact, text: p.text[at+1:]}
	switch p.kind {
	case Suffix:
		if issuer.kind = Suffix; issuer.text == "" {
			issuer = anything
		}
	case Prefix:
		if subject.kind = Prefix; subject.text == "" {
			subject = anything
		}
	}
	if issuer.text == "" && issuer.kind == Exact || subject.text == "" && subject.kind == Exact || strings.HasSuffix(issuer.text, ":/") {
		return Pattern{}, refuse("bad-request-principal", "%.80q: is cut at its last slash into issuer %.80q and subject %.80q: want <issuer>/<subject>", s, issuer.text, subject.text)
	}
	return pair(issuer, subject), nil
}

// parseTemplate reads a path with wildcards for segments: {*} is one segment,
// {**} any text and the last. Literal segments are as in a canonical path.
func parseTemplate(s string) (Pattern, error) {
	p := Pattern{kind: Template, text: s}
	if len(s) > maxPath {
		return Pattern{}, refuse("too-long", "%d bytes, at most %d", len(s), maxPath)
	}
	if !strings.HasPrefix(s, "/") {
		return Pattern{}, refuse("bad-path", "%.80q: a path begins with a slash", s)
	}
	segments := p.Segments()
	if len(segments) > maxSegments {
		return Pattern{}, refuse("too-long", "%d segments, at most %d", len(segments), maxSegments)
	}
	var filled strings.Builder
	for i, segment := range segments {
		switch {
		case segment == AnySegment, segment == AnyRest && i == len(segments)-1:
			segment = "x"
		case segment == AnyRest:
			return Pattern{}, refuse("bad-template", "%.80q: {**} must be the last of a template", s)
		case strings.ContainsAny(segment, "{}*"):
			return Pattern{}, refuse("bad-template", "%.80q: a wildcard is a whole segment: /{*}/ or, at the end, /{**}", s)
		}
		filled.WriteString("/" + segment)
	}
	if _, err := parsePath(filled.String()); err != nil {
		return Pattern{}, err
	}
	return p, nil
}
