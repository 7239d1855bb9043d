package extauthz_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/extauthz"
)

func socket(ip string, port uint32) *authv3.AttributeContext_Peer {
	return &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}}
}

func line(name, value string) *corev3.HeaderValue {
	return &corev3.HeaderValue{Key: name, RawValue: []byte(value)}
}

func object(t testing.TB, fields map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// question is as Envoy puts it for one request.
func question(t testing.TB) *authv3.CheckRequest {
	source, destination := socket("10.0.0.1", 40000), socket("10.0.0.2", 15006)
	source.Principal = "spiffe://td.test/ns/front/sa/web"
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: source, Destination: destination,
		TlsSession: &authv3.AttributeContext_TLSSession{Sni: "cart.test"},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/a?x=1", Host: "cart", Scheme: "https", Protocol: "HTTP/1.1",
			HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
				line(":method", "GET"), line(":path", "/a?x=1"), line(":authority", "cart"), line(":scheme", "https"),
				line("x-a", "1"), line("x-b", "2"), line("x-a", "3, \xff"),
			}},
		}},
		MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			"envoy.filters.http.jwt_authn": object(t, map[string]any{"payload": map[string]any{"iss": "i", "sub": "s", "n": 1.0, "groups": []any{"a", "b"}}}),
		}},
	}}
}

func TestRequest(t *testing.T) {
	got, err := extauthz.Request(question(t))
	if err != nil {
		t.Fatal(err)
	}
	if got.Peer.ID.String() != "spiffe://td.test/ns/front/sa/web" || got.Source.String() != "10.0.0.1" || got.Remote != got.Source ||
		got.Destination.String() != "10.0.0.2:15006" || got.ServerName != "cart.test" || got.Method != "GET" || got.Host != "cart" ||
		got.Path != "/a" || got.Protocol != rbac.HTTP {
		t.Errorf("got %+v", got)
	}
	if want := map[string][]string{"x-a": {"1", "3, \xff"}, "x-b": {"2"}}; !reflect.DeepEqual(got.Headers, want) {
		t.Errorf("headers %q, want %q", got.Headers, want)
	}
	if got.Token.Texts("iss")[0] != "i" || len(got.Token.Texts("groups")) != 2 || len(got.Token.Texts("n")) != 0 {
		t.Errorf("token %+v", got.Token)
	}
}

// hostile are questions that must come to a request, or to a refusal with this
// reason.
func hostile(t testing.TB) map[string]struct {
	change func(*authv3.AttributeContext)
	want   string
} {
	type about = *authv3.AttributeContext
	http := func(f func(*authv3.AttributeContext_HttpRequest)) func(about) {
		return func(a about) { f(a.Request.Http) }
	}
	add := func(lines ...*corev3.HeaderValue) func(about) {
		return func(a about) {
			a.Request.Http.HeaderMap.Headers = append(a.Request.Http.HeaderMap.Headers, lines...)
		}
	}
	path := func(s string) func(about) {
		return http(func(h *authv3.AttributeContext_HttpRequest) { h.Path, h.HeaderMap.Headers[1] = s, line(":path", s) })
	}
	principal := func(s string) func(about) { return func(a about) { a.Source.Principal = s } }
	token := func(fields map[string]any) func(about) {
		return func(a about) { a.MetadataContext.FilterMetadata["envoy.filters.http.jwt_authn"] = object(t, fields) }
	}
	unknown := func(m proto.Message) { m.ProtoReflect().SetUnknown([]byte{0xfa, 0x3f, 0x01, 'x'}) }
	return map[string]struct {
		change func(*authv3.AttributeContext)
		want   string
	}{
		"as it is":               {func(about) {}, ""},
		"no certificate":         {principal(""), ""},
		"no certificate, no TLS": {func(a about) { a.Source.Principal, a.TlsSession = "", nil }, ""},
		"no server name":         {func(a about) { a.TlsSession.Sni = "" }, ""},
		"no token":               {func(a about) { a.MetadataContext = nil }, ""},
		"no verified token":      {token(map[string]any{}), ""},
		"no iss":                 {token(map[string]any{"payload": map[string]any{"sub": "s"}}), ""},
		"IPv6":                   {func(a about) { a.Source.Address = socket("2001:db8::1", 1).Address }, ""},
		"mapped IPv4":            {func(a about) { a.Source.Address = socket("::ffff:10.0.0.1", 1).Address }, ""},
		"a body":                 {http(func(h *authv3.AttributeContext_HttpRequest) { h.Body, h.Size = "x", 1 }), ""},
		"text values":            {add(&corev3.HeaderValue{Key: "x-c", Value: "text"}), ""},
		"an empty header":        {add(line("x-c", "")), ""},

		"a DNS name":         {principal("web.front"), "bad-principal"},
		"a subject":          {principal("CN=web"), "bad-principal"},
		"another scheme":     {principal("https://td.test/ns/front/sa/web"), "bad-principal"},
		"scheme in capitals": {principal("SPIFFE://td.test/ns/front/sa/web"), "bad-principal"},
		"domain in capitals": {principal("spiffe://TD.test/ns/front/sa/web"), "bad-principal"},
		"two URIs":           {principal("spiffe://td.test/ns/front/sa/web,spiffe://td.test/ns/root/sa/admin"), "bad-principal"},
		"a dot segment":      {principal("spiffe://td.test/ns/front/../sa/web"), "bad-principal"},
		"a slash behind":     {principal("spiffe://td.test/ns/front/sa/web/"), "bad-principal"},
		"a blank before":     {principal(" spiffe://td.test/ns/front/sa/web"), "bad-principal"},
		"a NUL behind":       {principal("spiffe://td.test/ns/front/sa/web\x00"), "bad-principal"},
		"an encoded slash":   {principal("spiffe://td.test/ns/front%2fsa/web"), "bad-principal"},
		"no source":          {func(a about) { a.Source = nil }, "bad-address"},
		"no source address":  {func(a about) { a.Source.Address = nil }, "bad-address"},
		"a pipe": {func(a about) {
			a.Source.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/x"}}}
		}, "bad-address"},
		"a name for address": {func(a about) { a.Source.Address = socket("web", 1).Address }, "bad-address"},
		"an octal address":   {func(a about) { a.Source.Address = socket("010.0.0.1", 1).Address }, "bad-address"},
		"a zone":             {func(a about) { a.Source.Address = socket("fe80::1%eth0", 1).Address }, "bad-address"},
		"an empty address":   {func(a about) { a.Source.Address = socket("", 1).Address }, "bad-address"},
		"port zero":          {func(a about) { a.Destination.Address = socket("10.0.0.2", 0).Address }, "bad-address"},
		"a large port":       {func(a about) { a.Destination.Address = socket("10.0.0.2", 65536).Address }, "bad-address"},
		"a named port": {func(a about) {
			a.Destination.Address.GetSocketAddress().PortSpecifier = &corev3.SocketAddress_NamedPort{NamedPort: "http"}
		}, "bad-address"},
		"UDP":            {func(a about) { a.Destination.Address.GetSocketAddress().Protocol = corev3.SocketAddress_UDP }, "bad-address"},
		"no destination": {func(a about) { a.Destination = nil }, "bad-address"},
		"no TLS session": {func(a about) { a.TlsSession = nil }, "no-tls-session"},
		"no request":     {func(a about) { a.Request = nil }, "no-http"},
		"TCP":            {func(a about) { a.Request.Http = nil }, "no-http"},
		"headers joined": {http(func(h *authv3.AttributeContext_HttpRequest) {
			h.Headers, h.HeaderMap = map[string]string{":method": "GET"}, nil
		}), "no-lines"},
		"headers both ways": {http(func(h *authv3.AttributeContext_HttpRequest) { h.Headers = map[string]string{"x-a": "1"} }), "no-lines"},
		"no headers":        {http(func(h *authv3.AttributeContext_HttpRequest) { h.HeaderMap = nil }), "no-lines"},
		"no header lines":   {http(func(h *authv3.AttributeContext_HttpRequest) { h.HeaderMap.Headers = nil }), "no-lines"},
		"too many lines": {func(a about) {
			for range 200 {
				add(line("x", "y"))(a)
			}
		}, "too-many-headers"},
		"another method":     {http(func(h *authv3.AttributeContext_HttpRequest) { h.Method = "POST" }), "contradiction"},
		"another path":       {http(func(h *authv3.AttributeContext_HttpRequest) { h.Path = "/b" }), "contradiction"},
		"path without query": {http(func(h *authv3.AttributeContext_HttpRequest) { h.Path = "/a" }), "contradiction"},
		"another host":       {http(func(h *authv3.AttributeContext_HttpRequest) { h.Host = "other" }), "contradiction"},
		"another scheme's":   {http(func(h *authv3.AttributeContext_HttpRequest) { h.Scheme = "http" }), "contradiction"},
		"no method":          {http(func(h *authv3.AttributeContext_HttpRequest) { h.Method = "" }), "contradiction"},
		"no path":            {http(func(h *authv3.AttributeContext_HttpRequest) { h.Path = "" }), "contradiction"},
		"no path twice":      {http(func(h *authv3.AttributeContext_HttpRequest) { h.Path, h.HeaderMap.Headers[1] = "", line(":path", "") }), "bad-path"},
		"only a query": {http(func(h *authv3.AttributeContext_HttpRequest) {
			h.Path, h.HeaderMap.Headers[1] = "?a", line(":path", "?a")
		}), "bad-path"},
		"a fragment": {http(func(h *authv3.AttributeContext_HttpRequest) {
			h.Path, h.HeaderMap.Headers[1] = "/a#b", line(":path", "/a#b")
		}), "bad-path"},
		"a dot segment's path":    {path("/a/../b"), "not-canonical"},
		"an encoded dot segment":  {path("/a/%2e%2e/b"), "not-canonical"},
		"an encoded letter":       {path("/%61"), "not-canonical"},
		"an encoded slash's path": {path("/a%2fb"), "not-canonical"},
		"two slashes":             {path("//a"), "not-canonical"},
		"a backslash":             {path("/a\\b"), "not-canonical"},
		"a dot's parameters":      {path("/..;x/a"), "not-canonical"},
		"an encoded NUL":          {path("/a%00"), "not-canonical"},
		"an absolute target":      {path("http://cart/a"), "not-canonical"},
		"an asterisk":             {path("*"), "not-canonical"},
		"bytes beyond ASCII":      {path("/\xc3\xa9"), "not-canonical"},
		"a canonical escape":      {path("/%C3%A9"), ""},
		"encoded twice":           {path("/%252e%252e/a"), ""},
		"a query with slashes":    {path("/a?b=//../%2e"), ""},
		"a query apart":           {http(func(h *authv3.AttributeContext_HttpRequest) { h.Query = "x" }), "contradiction"},
		"a fragment apart":        {http(func(h *authv3.AttributeContext_HttpRequest) { h.Fragment = "x" }), "contradiction"},
		"two methods":             {add(line(":method", "GET")), "bad-header"},
		"two paths":               {add(line(":path", "/b")), "bad-header"},
		"two authorities":         {add(line(":authority", "b")), "bad-header"},
		"a protocol":              {add(line(":protocol", "websocket")), "bad-header"},
		"a lone colon":            {add(line(":", "x")), "bad-header"},
		"a host header":           {add(line("host", "b")), "bad-header"},
		"a nameless header":       {add(line("", "b")), "bad-header"},
		"capitals in a name":      {add(line("X-A", "b")), "bad-header"},
		"an underscore":           {add(line("x_a", "b")), "bad-header"},
		"a blank in a name":       {add(line("x a", "b")), "bad-header"},
		"a colon in a name":       {add(line("x:a", "b")), "bad-header"},
		"a line end in a name":    {add(line("x\na", "b")), "bad-header"},
		"a line end":              {add(line("x-c", "b\r\nx-a: 1")), "bad-header"},
		"a NUL":                   {add(line("x-c", "b\x00")), "bad-header"},
		"a value twice":           {add(&corev3.HeaderValue{Key: "x-c", Value: "a", RawValue: []byte("a")}), "contradiction"},
		"payload of no object":    {token(map[string]any{"payload": "x"}), "bad-token"},
		"payload null":            {token(map[string]any{"payload": nil}), "bad-token"},
		"payload list":            {token(map[string]any{"payload": []any{}}), "bad-token"},
		"payload elsewhere":       {token(map[string]any{"other": map[string]any{"iss": "i"}}), "bad-token"},
		"two payloads":            {token(map[string]any{"payload": map[string]any{}, "other": map[string]any{}}), "bad-token"},
		"iss of a list":           {token(map[string]any{"payload": map[string]any{"iss": []any{"i"}}}), "bad-token"},
		"sub of a number":         {token(map[string]any{"payload": map[string]any{"sub": 1.0}}), "bad-token"},
		"other metadata": {func(a about) {
			a.MetadataContext.FilterMetadata["envoy.filters.http.rbac"] = object(t, map[string]any{"x": "y"})
		}, "unknown-metadata"},
		"typed metadata": {func(a about) { a.MetadataContext.TypedFilterMetadata = map[string]*anypb.Any{"x": {}} }, "unknown-metadata"},
		"route metadata": {func(a about) {
			a.RouteMetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"x": {}}}
		}, "unknown-context"},
		"an extension":           {func(a about) { a.ContextExtensions = map[string]string{"allow": "true"} }, "unknown-context"},
		"an unknown attribute":   {func(a about) { unknown(a) }, "unknown-field"},
		"an unknown of HTTP":     {func(a about) { unknown(a.Request.Http) }, "unknown-field"},
		"an unknown of a header": {func(a about) { unknown(a.Request.Http.HeaderMap.Headers[4]) }, "unknown-field"},
		"an unknown of a claim": {func(a about) {
			unknown(a.MetadataContext.FilterMetadata["envoy.filters.http.jwt_authn"].Fields["payload"])
		}, "unknown-field"},
		"too large": {add(line("x-c", strings.Repeat("x", 300<<10))), "too-large"},
	}
}

func TestHostile(t *testing.T) {
	table := hostile(t)
	if got, want := len(table), 100; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	server := &extauthz.Server{Sets: everything}
	for name, row := range table {
		q := question(t)
		row.change(q.Attributes)
		req, err := extauthz.Request(q)
		got := ""
		if p, ok := errors.AsType[*extauthz.Problem](err); ok {
			got = p.Reason
		} else if err != nil {
			got = err.Error()
		}
		if got != row.want {
			t.Errorf("%s: got %q (%v), want %q", name, got, err, row.want)
		}
		if err != nil && !reflect.DeepEqual(req, rbac.Request{}) {
			t.Errorf("%s: refused, and %+v", name, req)
		}
		// Where all workloads are let in, only what is of one piece is.
		answer, err := server.Check(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		allowed := row.want == "" && q.Attributes.Source.GetPrincipal() != ""
		if (answer.Status.Code == int32(codes.OK)) != allowed || (answer.GetOkResponse() != nil) != allowed {
			t.Errorf("%s: answered with %v", name, answer)
		}
	}
	for name, q := range map[string]*authv3.CheckRequest{"nil": nil, "empty": {}, "empty attributes": {Attributes: &authv3.AttributeContext{}}} {
		if answer, err := server.Check(t.Context(), q); err != nil || answer.Status.Code != int32(codes.PermissionDenied) {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
	}
}

// FuzzRequest: whatever the bytes, a question comes to a request that says what
// it says, or to a refusal with a reason.
func FuzzRequest(f *testing.F) {
	for _, change := range []func(*authv3.AttributeContext){
		func(*authv3.AttributeContext) {},
		func(a *authv3.AttributeContext) { a.MetadataContext = nil },
		func(a *authv3.AttributeContext) { a.Source.Principal, a.TlsSession = "", nil },
	} {
		q := question(f)
		change(q.Attributes)
		data, err := proto.Marshal(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		q := &authv3.CheckRequest{}
		if proto.Unmarshal(data, q) != nil {
			t.Skip()
		}
		req, err := extauthz.Request(q)
		if err != nil {
			if p, ok := errors.AsType[*extauthz.Problem](err); !ok || p.Reason == "" {
				t.Errorf("refused without a reason: %v", err)
			}
			return
		}
		http := q.Attributes.Request.Http
		if !strings.HasPrefix(http.Path, req.Path) || req.Method != http.Method || req.Host != http.Host || !req.Source.IsValid() {
			t.Errorf("%v became %+v", q, req)
		}
		if id := req.Peer.ID; !id.IsZero() && id.String() != q.Attributes.Source.Principal {
			t.Errorf("%v became %v", q.Attributes.Source, id)
		}
		total := 0
		for _, lines := range req.Headers {
			total += len(lines)
		}
		if lines := len(http.HeaderMap.Headers); total > lines {
			t.Errorf("%d lines of %d", total, lines)
		}
	})
}
