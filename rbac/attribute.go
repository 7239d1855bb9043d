package rbac

import "strings"

// An AttributeKind is one of the things that a rule can ask of a request. The
// zero value is none: a test of it is never satisfied.
type AttributeKind int

// What a rule can ask. The comment says when a request has it; "HTTP" is every
// request, and no connection that is looked at as TCP.
const (
	Principal         AttributeKind = iota + 1 // the peer's SPIFFE ID without its scheme; with a workload's certificate
	Namespace                                  // the peer's namespace; a workload of our own trust domain or an alias of it
	ServiceAccount                             // the peer's namespace and account, a pair; likewise
	AnyNamespace                               // the peer's namespace in whatever accepted trust domain
	AnyServiceAccount                          // the peer's namespace and account in whatever accepted trust domain
	TrustDomain                                // the peer's trust domain; with a workload's certificate
	SourceIP                                   // the address at the other end of the connection; always
	RemoteIP                                   // the client's address as trusted proxies tell it; always
	DestinationIP                              // our address of the connection; always
	DestinationPort                            // our port of the connection, in decimal; always
	ServerName                                 // the TLS server name that the client asked for; where it did
	Method                                     // HTTP
	Host                                       // HTTP; the host without port, in lower case
	Path                                       // HTTP; canonical, without query
	Header                                     // HTTP, by lower-case name; where the request has it
	RequestPrincipal                           // issuer and subject of the verified token, a pair; where there is one
	Audience                                   // the verified token's "aud", one or several
	Presenter                                  // the verified token's "azp"
	Claim                                      // a string, or list of strings, of the verified token, by path

	lastAttribute = Claim
)

var attributeKeys = [...]string{
	Principal: "source.principal", Namespace: "source.namespace", ServiceAccount: "source.serviceAccount",
	AnyNamespace: "source.namespace of any trust domain", AnyServiceAccount: "source.serviceAccount of any trust domain",
	TrustDomain: "source.trustDomain", SourceIP: "source.ip", RemoteIP: "remote.ip", DestinationIP: "destination.ip",
	DestinationPort: "destination.port", ServerName: "connection.sni", Method: "request.method", Host: "request.host",
	Path: "request.path", Header: "request.headers", RequestPrincipal: "request.auth.principal",
	Audience: "request.auth.audiences", Presenter: "request.auth.presenter", Claim: "request.auth.claims",
}

// An Attribute is a kind, and for [Header] and [Claim] which one. Attributes
// can be compared. Make one with [Attr], [HeaderAttr] or [ClaimAttr].
type Attribute struct {
	kind AttributeKind
	name string // a header's, or a claim's path as it is written: "[realm][roles]"
}

// Attr is an attribute of which a request has one. For Header and Claim it is
// the zero Attribute.
func Attr(kind AttributeKind) Attribute {
	if kind < Principal || kind > lastAttribute || kind == Header || kind == Claim {
		return Attribute{}
	}
	return Attribute{kind: kind}
}

// HeaderAttr is a request header. Errors are [Refusal]s.
func HeaderAttr(name string) (Attribute, error) {
	name = lower(name)
	if name == "" || len(name) > maxHeaderName || !all(name, isHeaderByte) {
		return Attribute{}, refuse("bad-header", "%.80q: a header's name has letters, digits and hyphens", name)
	}
	if name == "host" {
		return Attribute{}, refuse("bad-header", "the host is not matched as a header: use hosts")
	}
	return Attribute{kind: Header, name: name}, nil
}

// isHeaderByte is RFC 9110 §5.6.2 without the underscore, which our sidecar
// refuses since many servers take it for a hyphen.
func isHeaderByte(b byte) bool {
	return 'a' <= b && b <= 'z' || '0' <= b && b <= '9' || strings.IndexByte("!#$%&'*+-.^`|~", b) >= 0
}

// ClaimAttr is a claim of the verified token: a key, and the keys beneath it.
// A key may hold any byte but brackets and controls. Errors are [Refusal]s.
func ClaimAttr(keys ...string) (Attribute, error) {
	if len(keys) == 0 || len(keys) > maxClaimDepth {
		return Attribute{}, refuse("bad-claim", "%d keys, want one to %d", len(keys), maxClaimDepth)
	}
	var name strings.Builder
	for _, key := range keys {
		if key == "" || len(key) > maxClaimKey || strings.ContainsAny(key, "[]") || !all(key, func(b byte) bool { return b >= 0x20 && b != 0x7f }) {
			return Attribute{}, refuse("bad-claim", "%.80q: not a key of a claim", key)
		}
		name.WriteString("[" + key + "]")
	}
	return Attribute{kind: Claim, name: name.String()}, nil
}

// Kind says what a is.
func (a Attribute) Kind() AttributeKind { return a.kind }

// HeaderName is the lower-case name of a header; empty for all else.
func (a Attribute) HeaderName() string {
	if a.kind == Header {
		return a.name
	}
	return ""
}

// ClaimPath lists the keys of a claim; nil for all else.
func (a Attribute) ClaimPath() []string {
	if a.kind != Claim {
		return nil
	}
	return strings.Split(strings.Trim(a.name, "[]"), "][")
}

// OfHTTP tells whether only an HTTP request has it.
func (a Attribute) OfHTTP() bool {
	return a.kind >= Method && a.kind <= lastAttribute
}

// OfPeer tells whether it is of the peer's certificate.
func (a Attribute) OfPeer() bool { return a.kind >= Principal && a.kind <= TrustDomain }

// OfToken tells whether it is of the end user's verified token.
func (a Attribute) OfToken() bool { return a.kind >= RequestPrincipal && a.kind <= Claim }

// String is the key that authors write in a condition.
func (a Attribute) String() string {
	switch {
	case a.kind < Principal || a.kind > lastAttribute:
		return "none"
	case a.kind == Header:
		return attributeKeys[Header] + "[" + a.name + "]"
	}
	return attributeKeys[a.kind] + a.name
}
