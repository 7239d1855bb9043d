package grpcauthz

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
)

// Handler lets through to next what the policies let in. What they refuse gets
// 403. A request whose path is not canonical (see rbac.CanonicalPath) gets 400,
// so that policy and next look at one path: nothing is rewritten.
func (a *Authorizer) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := rbac.Request{Protocol: rbac.HTTP, Method: r.Method, Host: r.Host, Headers: lowerCase(r.Header)}
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if err := a.connection(&req, r.TLS, remoteAddr(r.RemoteAddr), local); err != nil {
			a.refused(r.Context(), req, eval.Verdict{Reason: BadIdentity}, err)
			http.Error(w, "access denied", http.StatusForbidden)
			return
		}
		path, ok := canonical(r.RequestURI)
		if !ok {
			a.refused(r.Context(), req, eval.Verdict{Reason: eval.BadPath}, rbac.ErrNotCanonical)
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		if req.Path = path; !a.allows(r.Context(), req) {
			http.Error(w, "access denied", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// canonical is the path of a request target, where it is written as policy sees
// it.
func canonical(target string) (string, bool) {
	path, err := rbac.CanonicalPath(target)
	if err != nil {
		return "", false
	}
	written, _, _ := strings.Cut(target, "?")
	if !strings.HasPrefix(written, "/") { // of absolute form, RFC 9112 §3.2.2
		_, rest, _ := strings.Cut(written, "://")
		authority, _, _ := strings.Cut(rest, "/")
		if written = rest[len(authority):]; written == "" {
			written = "/"
		}
	}
	return path, path == written
}

// lowerCase has the names of headers in lower case. Names that are one are
// taken together.
func lowerCase(h http.Header) map[string][]string {
	out := make(map[string][]string, len(h))
	for name, lines := range h {
		name = strings.ToLower(name)
		out[name] = append(out[name], lines...)
	}
	return out
}

// remoteAddr is what net/http writes as text.
func remoteAddr(text string) net.Addr {
	addr, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil
	}
	return net.TCPAddrFromAddrPort(addr)
}
