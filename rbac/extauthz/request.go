package extauthz

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/istio-auth/istio-auth/rbac"
)

// Limits of what a question may hold: more than a sidecar of ours lets through.
const (
	maxLines      = 110       // headers, and Envoy's own among them
	maxQuestion   = 256 << 10 // bytes
	tokenMetadata = "envoy.filters.http.jwt_authn"
	tokenPayload  = "payload"
)

// A Problem says why a question is not answered with yes.
type Problem struct {
	// Reason is a stable code in kebab-case.
	Reason string
	// Detail is for people.
	Detail string
}

func (p *Problem) Error() string { return "extauthz: " + p.Detail + " (" + p.Reason + ")" }

func problem(reason, format string, args ...any) *Problem {
	return &Problem{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Request is what Envoy asks about. The question must be as a sidecar of ours
// puts it: each line of a header apart (encode_raw_headers), with the TLS
// session, the addresses, and no metadata but the verified token's payload. What
// is said twice must be said alike, and a field that is not known is one whose
// meaning is not known. Errors are [*Problem]s.
//
// Of a certificate with several URIs Envoy tells the first; the sidecar's own
// filter, which sees all of them, refuses it. The client's address is that of
// the connection: Envoy tells no other.
func Request(question *authv3.CheckRequest) (rbac.Request, error) {
	req := rbac.Request{Protocol: rbac.HTTP}
	about := question.GetAttributes()
	switch {
	case about == nil:
		return rbac.Request{}, problem("no-attributes", "the question is empty")
	case proto.Size(question) > maxQuestion:
		return rbac.Request{}, problem("too-large", "%d bytes, more than %d", proto.Size(question), maxQuestion)
	case hasUnknown(question.ProtoReflect()):
		return rbac.Request{}, problem("unknown-field", "it has a field that this version does not know")
	case len(about.GetContextExtensions()) > 0 || len(about.GetRouteMetadataContext().GetFilterMetadata())+len(about.GetRouteMetadataContext().GetTypedFilterMetadata()) > 0:
		return rbac.Request{}, problem("unknown-context", "it has extensions that our sidecars do not send")
	}
	for _, read := range []func(*authv3.AttributeContext, *rbac.Request) *Problem{readPeer, readAddresses, readServerName, readHTTP, readToken} {
		if p := read(about, &req); p != nil {
			return rbac.Request{}, p
		}
	}
	return req, nil
}

// hasUnknown tells whether m, or what is in it, has fields that are not known.
func hasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					found = hasUnknown(v.Message())
					return !found
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				found = found || hasUnknown(v.List().Get(i).Message())
			}
		default:
			found = hasUnknown(v.Message())
		}
		return !found
	})
	return found
}

// readPeer: Envoy's principal is the URI of the certificate, or for want of one
// a DNS name or the subject, which is nobody we know.
func readPeer(about *authv3.AttributeContext, req *rbac.Request) *Problem {
	principal := about.GetSource().GetPrincipal()
	if principal == "" {
		return nil
	}
	id, err := spiffeid.FromString(principal)
	if err != nil || id.String() != principal {
		return problem("bad-principal", "%.200q is no SPIFFE ID", principal)
	}
	req.Peer.ID = id
	return nil
}

func readAddresses(about *authv3.AttributeContext, req *rbac.Request) *Problem {
	source, p := address("source", about.GetSource().GetAddress())
	if p != nil {
		return p
	}
	if req.Destination, p = address("destination", about.GetDestination().GetAddress()); p != nil {
		return p
	}
	req.Source, req.Remote = source.Addr(), source.Addr()
	return nil
}

func address(whose string, a *corev3.Address) (netip.AddrPort, *Problem) {
	socket := a.GetSocketAddress()
	if socket == nil || socket.Protocol != corev3.SocketAddress_TCP {
		return netip.AddrPort{}, problem("bad-address", "the %s has no TCP address", whose)
	}
	ip, err := netip.ParseAddr(socket.GetAddress())
	port := socket.GetPortValue()
	if err != nil || ip.Zone() != "" || port == 0 || port > 65535 {
		return netip.AddrPort{}, problem("bad-address", "the %s is %.80q port %d", whose, socket.GetAddress(), port)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), nil
}

// readServerName: a peer with a certificate has a TLS session, which may name no
// server. Where Envoy does not tell of the session, the name is not known.
func readServerName(about *authv3.AttributeContext, req *rbac.Request) *Problem {
	if about.GetTlsSession() == nil && !req.Peer.ID.IsZero() {
		return problem("no-tls-session", "the server name is not known: set include_tls_session")
	}
	req.ServerName = about.GetTlsSession().GetSni()
	return nil
}

func readHTTP(about *authv3.AttributeContext, req *rbac.Request) *Problem {
	http := about.GetRequest().GetHttp()
	lines := http.GetHeaderMap().GetHeaders()
	switch {
	case http == nil:
		return problem("no-http", "it is not about an HTTP request")
	case len(http.GetHeaders()) > 0 || len(lines) == 0:
		return problem("no-lines", "lines of headers are not told apart: set encode_raw_headers")
	case len(lines) > maxLines:
		return problem("too-many-headers", "%d lines of headers, more than %d", len(lines), maxLines)
	}
	req.Headers = map[string][]string{}
	pseudo := map[string]string{}
	for _, line := range lines {
		name, value, p := header(line)
		switch {
		case p != nil:
			return p
		case name[0] != ':':
			req.Headers[name] = append(req.Headers[name], value)
		default:
			if _, twice := pseudo[name]; twice || name != ":method" && name != ":path" && name != ":authority" && name != ":scheme" {
				return problem("bad-header", "%q is there twice, or should not be", name)
			}
			pseudo[name] = value
		}
	}
	for name, value := range map[string]string{":method": http.GetMethod(), ":path": http.GetPath(), ":authority": http.GetHost(), ":scheme": http.GetScheme()} {
		if pseudo[name] != value {
			return problem("contradiction", "%s is %.80q and %.80q", name, pseudo[name], value)
		}
	}
	if http.GetQuery() != "" || http.GetFragment() != "" {
		return problem("contradiction", "query and fragment are apart, which Envoy never does")
	}
	req.Method, req.Host = http.GetMethod(), http.GetHost()
	req.Path, _, _ = strings.Cut(http.GetPath(), "?")
	if req.Path == "" || strings.Contains(req.Path, "#") {
		return problem("bad-path", "%.80q is no path", http.GetPath())
	}
	// Envoy has normalized it. If not, policy and application would see two
	// paths, or the filter and this.
	if canonical, err := rbac.CanonicalPath(req.Path); err != nil || canonical != req.Path {
		return problem("not-canonical", "%.80q is not as the sidecar makes paths", req.Path)
	}
	return nil
}

// header is one line. Its value may be any bytes that HTTP lets through, and is
// in one of two fields.
func header(line *corev3.HeaderValue) (name, value string, p *Problem) {
	name = line.GetKey()
	if name == "" || name == ":" || name == "host" {
		return "", "", problem("bad-header", "a header %q", name)
	}
	for i, b := range []byte(name) {
		if (b < 'a' || b > 'z') && (b < '0' || b > '9') && strings.IndexByte("!#$%&'*+-.^`|~", b) < 0 && (b != ':' || i > 0) {
			return "", "", problem("bad-header", "%.80q is no header's name", name)
		}
	}
	if line.GetValue() != "" && len(line.GetRawValue()) > 0 {
		return "", "", problem("contradiction", "the header %s has two values", name)
	}
	value = line.GetValue() + string(line.GetRawValue())
	if strings.ContainsAny(value, "\x00\r\n") {
		return "", "", problem("bad-header", "the header %s holds the end of a line", name)
	}
	return name, value, nil
}

// readToken: the payload is there where Envoy has verified a token, and nothing
// else may stand beside it.
func readToken(about *authv3.AttributeContext, req *rbac.Request) *Problem {
	metadata := about.GetMetadataContext()
	if len(metadata.GetTypedFilterMetadata()) > 0 {
		return problem("unknown-metadata", "typed metadata")
	}
	for filter, fields := range metadata.GetFilterMetadata() {
		if filter != tokenMetadata {
			return problem("unknown-metadata", "metadata of %.80q", filter)
		}
		payload, ok := fields.GetFields()[tokenPayload]
		if len(fields.GetFields()) == 0 {
			continue
		}
		if !ok || len(fields.GetFields()) > 1 || payload.GetStructValue() == nil {
			return problem("bad-token", "what the token says is not where it should be")
		}
		claims := payload.GetStructValue().AsMap()
		for _, name := range []string{"iss", "sub"} {
			if v, there := claims[name]; there {
				if text, isText := v.(string); !isText || !utf8.ValidString(text) {
					return problem("bad-token", "%q is no text", name)
				}
			}
		}
		req.Token = &rbac.Token{Claims: claims}
	}
	return nil
}
