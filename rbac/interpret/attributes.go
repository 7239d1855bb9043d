package interpret

import (
	"github.com/istio-auth/istio-auth/rbac"
)

// What our sidecar's Envoy puts in front of a filter: keys of the filter state,
// and where the payload of a verified token is. rbac/compile and mesh have the
// same words; they are written out here, since whoever checks does not ask the
// one who is checked.
const (
	PeerKey    = "istio-auth.peer"    // the URI SANs of the certificate, joined by commas; not there without one
	PathKey    = "istio-auth.path"    // %PATH(NQ:PATH)%
	FoldKey    = "istio-auth.fold"    // rbac.FoldPath of it
	HostKey    = "istio-auth.host"    // rbac.FoldHost of :authority; not there where that is empty
	IssuerKey  = "istio-auth.issuer"  // the token's iss; "-" where there is none
	SubjectKey = "istio-auth.subject" // the token's sub; "-" where there is none
	JWTFilter  = "envoy.filters.http.jwt_authn"
	PayloadKey = "payload"
	WordFilter = "envoy.filters.http.ext_authz" // what our own provider tells: see [Attributes.Told]
	YesKey     = "yes"
	NoKey      = "no"
)

// FromRequest is what our sidecar's Envoy would know of a request.
func FromRequest(r rbac.Request) Attributes {
	a := Attributes{
		DirectSource: r.Source,
		Source:       r.Remote,
		Destination:  r.Destination,
		ServerName:   lower(r.ServerName),
	}
	if !r.Peer.ID.IsZero() {
		a.TLS, a.URISANs = true, []string{r.Peer.ID.String()}
	}
	a.State = map[string]string{}
	if a.TLS {
		a.State[PeerKey] = a.URISANs[0]
	}
	if r.Protocol != rbac.HTTP {
		return a
	}
	a.Headers = map[string][]string{":method": {r.Method}}
	for name, lines := range r.Headers {
		a.Headers[name] = lines
	}
	a.State[PathKey] = r.Path
	a.State[FoldKey] = rbac.FoldPath(r.Path)
	a.State[IssuerKey] = only(r.Token, "iss")
	a.State[SubjectKey] = only(r.Token, "sub")
	if host := rbac.FoldHost(r.Host); host != "" {
		a.State[HostKey] = host
	}
	if r.Token != nil {
		a.Metadata = map[string]map[string]any{JWTFilter: {PayloadKey: r.Token.Claims}}
	}
	return a
}

// Told is a with the word of our own provider: the names of the comparisons that
// hold, and of those that do not. a is left as it is.
func (a Attributes) Told(yes, no []string) Attributes {
	list := func(names []string) []any {
		out := make([]any, len(names))
		for i, name := range names {
			out[i] = name
		}
		return out
	}
	metadata := map[string]map[string]any{WordFilter: {YesKey: list(yes), NoKey: list(no)}}
	for filter, values := range a.Metadata {
		if filter != WordFilter {
			metadata[filter] = values
		}
	}
	a.Metadata = metadata
	return a
}

// only is a claim as the access log's format writes it: "-" where there is
// none. jwt_authn refuses a token whose iss or sub is no string; and an empty
// one is written as one that is missing.
func only(token *rbac.Token, key string) string {
	if token != nil {
		if text, ok := token.Claims[key].(string); ok && text != "" {
			return text
		}
	}
	return "-"
}
