package rbactest

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// A Call is what a client sends: over a connection, a method and a request
// target, an authority and headers, as they go over the wire. The target may
// have any path, canonical or not, and a query.
type Call struct {
	Connection
	// TCP says that there is nothing but the connection.
	TCP       bool   `json:"tcp,omitempty"`
	HTTP2     bool   `json:"http2,omitempty"`
	Method    string `json:"method,omitempty"`
	Target    string `json:"target,omitempty"`
	Authority string `json:"authority,omitempty"`
	// Headers are lines, in order. Names are of lower case.
	Headers []Header `json:"headers,omitempty"`
	// Claims are those of a verified token. Nil: the call has none.
	Claims map[string]any `json:"claims,omitempty"`
}

// A Header is one line.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Request is the call as policy sees it. The error is [rbac.ErrNotCanonical]
// where it is refused before any policy is asked.
func (c Call) Request() (rbac.Request, error) {
	req := rbac.Request{
		Protocol:    rbac.HTTP,
		Peer:        rbac.Peer{ID: c.Peer},
		Source:      c.Source,
		Remote:      c.Remote,
		Destination: c.Destination,
		ServerName:  c.ServerName,
	}
	if c.TCP {
		req.Protocol = rbac.TCP
		return req, nil
	}
	req.Method, req.Host = c.Method, c.Authority
	if _, rest, absolute := strings.Cut(c.Target, "://"); absolute && !strings.HasPrefix(c.Target, "/") {
		req.Host, _, _ = strings.Cut(rest, "/") // RFC 9112 §3.2.2
	}
	req.Host = withoutPort(req.Host)
	for _, h := range c.Headers {
		if req.Headers == nil {
			req.Headers = map[string][]string{}
		}
		req.Headers[h.Name] = append(req.Headers[h.Name], strings.Trim(h.Value, " \t"))
	}
	if c.Claims != nil {
		req.Token = &rbac.Token{Claims: maps.Clone(c.Claims)}
		rbac.SplitClaims(req.Token.Claims)
	}
	var err error
	req.Path, err = rbac.CanonicalPath(c.Target)
	return req, err
}

// withoutPort is what our sidecar leaves of an authority, before policy and the
// application see it: without the dot at the end of the host, and without a port
// that is a number of 32 bits.
func withoutPort(authority string) string {
	switch dot := strings.LastIndexByte(authority, '.'); {
	case dot >= 0 && dot == len(authority)-1:
		authority = authority[:dot]
	case dot >= 0 && authority[dot+1] == ':':
		authority = authority[:dot] + authority[dot+1:]
	}
	if colon := strings.LastIndexByte(authority, ':'); colon > strings.LastIndexByte(authority, ']') {
		if _, err := strconv.ParseUint(authority[colon+1:], 10, 32); err == nil {
			authority = authority[:colon]
		}
	}
	return authority
}

// Call makes a call that is near to what the policies say.
func (g *Generator) Call(policies []rbac.Policy) Call {
	near := literalsOf(policies)
	c := Call{Connection: g.connection(near)}
	if g.features.has(Connections) && g.chance(4) {
		c.TCP = true
		return c
	}
	c.HTTP2 = g.features.has(HTTP2) && g.chance(50)
	c.Method, c.Target = g.verb(near), g.target(near)
	if _, err := rbac.CanonicalPath(c.Target); err != nil && g.chance(70) {
		c.Target = g.target(near) // refused ones cost a connection each
	}
	c.Authority = g.authority(near)
	if g.features.has(Hosts) && !c.HTTP2 && g.chance(3) {
		// Envoy takes more authorities there than rbac.CanonicalPath does.
		absolute := "http://" + g.authority(near)
		if _, err := rbac.CanonicalPath(absolute); err == nil {
			c.Target = absolute + c.Target
		}
	}
	if g.features.has(Headers) {
		c.Headers = g.headers(near)
	}
	if g.features.has(Tokens) && g.chance(45) {
		c.Claims = g.claims(near)
	}
	return c
}

// connection looks for one whose peer is listened to, and spoken of, a few times.
func (g *Generator) connection(near literals) Connection {
	if g.pool == nil {
		g.pool = g.features.Connections(PoolSize)
	}
	domains := rbac.Domains{Own: g.workload.TrustDomain, Aliases: g.workload.Aliases, Foreign: g.workload.Foreign}
	c := pick(g, g.pool)
	for range 6 {
		names := domains.Names(c.Peer)
		if len(names) == 0 && !(c.Peer.IsZero() && g.workload.Plaintext) && g.chance(90) || len(names) > 0 && !near.speakOf(c, names) && g.chance(50) {
			c = pick(g, g.pool)
			continue
		}
		break
	}
	return c
}

// speakOf tells whether a pattern is of the peer, or of its namespace.
func (l literals) speakOf(c Connection, names []string) bool {
	namespace, _, _ := rbac.Peer{ID: c.Peer}.Workload(c.Peer.TrustDomain())
	return slices.ContainsFunc(l.of[rbac.Attr(rbac.Principal)], func(p rbac.Pattern) bool { return slices.ContainsFunc(names, p.Match) }) ||
		slices.ContainsFunc(l.of[rbac.Attr(rbac.Namespace)], func(p rbac.Pattern) bool { return p.Match(namespace) })
}

// PoolSize is how many connections generated calls come by: the first so many
// of [Features.Connections].
const PoolSize = 96

func (g *Generator) verb(near literals) string {
	method := pick(g, verbs)
	if list := near.of[rbac.Attr(rbac.Method)]; len(list) > 0 && g.chance(70) {
		method = g.complete(pick(g, list), pick(g, verbs))
	}
	if _, err := rbac.ParseValue(rbac.Attr(rbac.Method), method, Namespace); err != nil || method == "CONNECT" || method == "*" {
		method = pick(g, verbs) // Envoy's parser takes no other
	}
	return method
}

func (g *Generator) target(near literals) string {
	target := g.path()
	if list := near.of[rbac.Attr(rbac.Path)]; len(list) > 0 && g.chance(85) {
		target = g.complete(pick(g, list), g.path())
	}
	for range g.r.IntN(3) {
		target = g.mutate(target)
	}
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	if g.chance(15) {
		target += pick(g, []string{"?", "?x=1", "?/admin", "?a=/../b", "?%2f", "?x//y"})
	}
	return target
}

// authority is one that Envoy's codecs take.
func (g *Generator) authority(near literals) string {
	host := pick(g, hosts)
	if !g.features.has(Hosts) {
		return "shop.test"
	}
	if list := near.of[rbac.Attr(rbac.Host)]; len(list) > 0 && g.chance(70) {
		host = g.complete(pick(g, list), pick(g, hosts))
	}
	host = strings.Trim(host, ".")
	if host == "" {
		host = "shop.test"
	}
	switch g.r.IntN(10) {
	case 0:
		host = strings.ToUpper(host)
	case 1:
		host += pick(g, []string{":80", ":8080", ":443", ":0"})
	case 2:
		host += pick(g, []string{".", "x", "-", ".:80", ":80.", "!", "..", ":", ":x", ":099999"})
	case 3:
		host = pick(g, []string{"x.", "x", "user@", "a..", "[", "_", "~"}) + host
	}
	return host
}

// headers are lines of those that the policies ask for, and of others.
func (g *Generator) headers(near literals) []Header {
	var lines []Header
	names := near.order
	if g.chance(20) {
		names = append(names[:len(names):len(names)], g.named(rbac.Header))
	}
	for _, a := range names {
		if a.Kind() != rbac.Header || g.chance(20) {
			continue
		}
		value := func() string {
			text := pick(g, roles)
			if list := near.of[a]; len(list) > 0 && g.chance(60) {
				text = g.complete(pick(g, list), pick(g, roles))
			}
			return strings.Trim(text, " ")
		}
		first := value()
		switch g.r.IntN(12) {
		case 0:
			lines = append(lines, Header{a.HeaderName(), value()}) // and another line
		case 1:
			first += pick(g, []string{",", ", ", ",,"}) + value()
		case 2:
			first = ""
		case 3:
			first = g.mutateText(first)
		}
		lines = append(lines, Header{a.HeaderName(), first})
	}
	return lines
}

// mutateText changes a word a little.
func (g *Generator) mutateText(s string) string {
	at := g.r.IntN(len(s) + 1)
	head, tail := s[:at], s[at:]
	switch g.r.IntN(4) {
	case 0:
		return s + pick(g, []string{"x", ".", "-"})
	case 1:
		return swapCase(s)
	case 2:
		if len(tail) > 1 {
			return head + "." + tail[1:]
		}
	case 3:
		if len(tail) > 1 {
			return head + tail[1:]
		}
	}
	return s
}

// complete makes a string that matches p, with some of filler where the star is.
func (g *Generator) complete(p rbac.Pattern, filler string) string {
	filler = filler[:g.r.IntN(len(filler)+1)]
	switch p.Kind() {
	case rbac.Prefix:
		return p.Text() + filler
	case rbac.Suffix:
		return filler + p.Text()
	case rbac.Present:
		return filler
	case rbac.Template:
		var s strings.Builder
		for _, segment := range p.Segments() {
			switch segment {
			case rbac.AnySegment:
				segment = pick(g, namespaces)
			case rbac.AnyRest:
				segment = strings.TrimPrefix(filler, "/")
			}
			s.WriteString("/" + segment)
		}
		return s.String()
	}
	return p.Text()
}

// mutate changes a target a little: one byte more, less or other, another case,
// a dot for a byte and a byte for a dot, and the forms that normalization knows.
func (g *Generator) mutate(s string) string {
	at := g.r.IntN(len(s) + 1)
	head, tail := s[:at], s[at:]
	switch g.r.IntN(12) {
	case 0: // one byte less at the end
		return s[:max(len(s)-1, 0)]
	case 1: // one byte more at the end
		return s + pick(g, []string{"x", "/", ".", ";", "/x", "%20", ".."})
	case 2: // another case
		if len(tail) > 0 {
			return head + swapCase(tail[:1]) + tail[1:]
		}
		return s
	case 3: // any byte becomes a dot
		if len(tail) > 0 {
			return head + "." + tail[1:]
		}
		return s
	case 4: // a dot becomes another byte
		return strings.Replace(s, ".", "x", 1)
	case 5, 6: // an insertion that normalization removes, or refuses
		return head + pick(g, []string{"/", "//", "/./", "/../", "/x/../", "\\", "/.;/", "/..;x/", "/%2e/", "/%2e%2e/", "/%2E./", "/%2e%2e;/"}) + tail
	case 7: // an insertion that stays
		return head + pick(g, []string{";", ";x=y", "%20", "%3b", "%3B", "%25", "%253b", "%3fx", "%2561", "%252f", "%2523", "%c3%a9", "%", "%2", "...", "~", "\"", "|", "^"}) + tail
	case 8: // what is refused
		return head + pick(g, []string{"%2f", "%2F", "%5c", "%00", "#"}) + tail
	case 9: // one byte encoded
		if len(tail) > 0 {
			const hex = "0123456789abcdef"
			return head + "%" + string(hex[tail[0]>>4]) + string(hex[tail[0]&15]) + tail[1:]
		}
		return s
	case 10: // one byte gone
		if len(tail) > 0 {
			return head + tail[1:]
		}
		return s
	}
	return s
}

func swapCase(s string) string {
	if up := strings.ToUpper(s); up != s {
		return up
	}
	return strings.ToLower(s)
}
