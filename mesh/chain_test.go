package mesh_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// select a set of what yaml says, for a workload that knows two providers.
func selected(t *testing.T, yaml string) rbac.Set {
	t.Helper()
	var policies []rbac.Policy
	if yaml != "" {
		var err error
		if policies, err = parse.Policies("test", []byte(yaml)); err != nil {
			t.Fatal(err)
		}
	}
	return rbac.Select(policies, rbac.Target{Namespace: "shop", TrustDomain: domain, Providers: []string{"grpc", "web"}})
}

// policy is one of shop.
func policy(name, spec string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop, name: " + name + "}\nspec: " + spec + "\n---\n"
}

// enforce gives the sidecar the filters of these slots: of all, if none is named.
func (w *world) enforce(t *testing.T, set rbac.Set, only ...string) {
	t.Helper()
	make := map[string]func() (*anypb.Any, error){
		mesh.RBACFilter:  func() (*anypb.Any, error) { return compile.HTTP(set) },
		mesh.AuditFilter: func() (*anypb.Any, error) { return compile.Audit(set) },
		mesh.TokenFilter: func() (*anypb.Any, error) { return compile.Tokens(set) },
	}
	for _, p := range w.sidecar.Providers {
		make[mesh.CustomFilter+p.Name] = func() (*anypb.Any, error) { return compile.Custom(set, p.Name) }
	}
	if len(only) == 0 {
		for name := range make {
			only = append(only, name)
		}
	}
	for _, name := range only {
		filter, err := make[name]()
		if err != nil {
			t.Fatal(err)
		}
		w.agent.set(t, name, &corev3.TypedExtensionConfig{Name: name, TypedConfig: filter})
	}
	within(t, 10*time.Second, "Envoy has taken the filters", func() bool {
		w.agent.mu.Lock()
		defer w.agent.mu.Unlock()
		for _, name := range only {
			if w.agent.acked[name] != w.agent.resources[name].Version {
				return false
			}
		}
		return true
	})
}

// A judge answers as a provider, over gRPC and over HTTP, and counts.
type judge struct {
	asked atomic.Int64
	mu    sync.Mutex                                                          // guards say
	say   func(ctx context.Context, path string) (*authv3.CheckResponse, int) // over gRPC; over HTTP, zero: gRPC's error
	authv3.UnimplementedAuthorizationServer
}

func (j *judge) will(say func(ctx context.Context, path string) (*authv3.CheckResponse, int)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.say = say
}

func (j *judge) answer(ctx context.Context, path string) (*authv3.CheckResponse, int) {
	j.asked.Add(1)
	j.mu.Lock()
	say := j.say
	j.mu.Unlock()
	return say(ctx, path)
}

func (j *judge) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	answer, _ := j.answer(ctx, r.GetAttributes().GetRequest().GetHttp().GetPath())
	if answer == nil {
		return nil, grpcstatus.Error(codes.Unavailable, "out of order")
	}
	return answer, nil
}

func (j *judge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, code := j.answer(r.Context(), r.URL.Path)
	for name := range r.Header {
		w.Header().Add("X-Got", name)
	}
	w.Header().Set("X-Pass", "judged")
	w.Header().Set("X-Forwarded-Client-Cert", "URI=forged")
	w.WriteHeader(code)
}

func yes(headers ...*corev3.HeaderValueOption) *authv3.CheckResponse {
	return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: headers}}}
}

func no() *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:       &status.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: 403}}},
	}
}

func always(answer *authv3.CheckResponse, code int) func(context.Context, string) (*authv3.CheckResponse, int) {
	return func(context.Context, string) (*authv3.CheckResponse, int) { return answer, code }
}

// newJudges has a provider over gRPC behind a socket and one over HTTP on
// loopback.
func newJudges(t *testing.T) (byGRPC, byHTTP *judge, providers []mesh.Provider, stop func()) {
	t.Helper()
	byGRPC, byHTTP = &judge{say: always(yes(), 200)}, &judge{say: always(yes(), 200)}
	socket := filepath.Join(t.TempDir(), "grpc.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, byGRPC)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	web := httptest.NewServer(byHTTP)
	t.Cleanup(web.Close)
	return byGRPC, byHTTP, []mesh.Provider{
		{Name: "grpc", GRPC: socket, Timeout: 300 * time.Millisecond},
		{Name: "web", HTTP: web.Listener.Addr().String(), Timeout: 300 * time.Millisecond, PathPrefix: "/check", Headers: []string{"x-ask"}, Pass: []string{"x-pass"}},
	}, func() { server.Stop(); web.CloseClientConnections(); web.Listener.Close() }
}

func (w *world) code(t *testing.T, path string, headers ...string) int {
	t.Helper()
	return w.raw(t, w.tls(w.ca.SVID(t, clientID, time.Hour)), "GET "+path+" HTTP/1.1\r\nHost: cart\r\n"+strings.Join(append(headers, ""), "\r\n")+"\r\n")
}

// TestProviders: who is asked when, and what an answer is worth.
func TestProviders(t *testing.T) {
	byGRPC, byHTTP, providers, stop := newJudges(t)
	w := newWorld(t, func(s *mesh.Sidecar) { s.Providers = providers })
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.untilOpen(t)
	set := selected(t, policy("ask", `{action: CUSTOM, provider: {name: grpc}, rules: [{to: [{operation: {paths: ["/ask*", "/both*"]}}]}]}`)+
		policy("web", `{action: CUSTOM, provider: {name: web}, rules: [{to: [{operation: {paths: ["/web*", "/both*"]}}]}]}`)+
		policy("stranger", `{action: CUSTOM, provider: {name: nobody}, rules: [{to: [{operation: {paths: ["/stranger*"]}}]}]}`)+
		policy("deny", `{action: DENY, rules: [{to: [{operation: {paths: ["*/denied"]}}]}]}`)+
		policy("allow", `{rules: [{to: [{operation: {paths: ["/ask/*", "/web/*", "/both/*", "/open/*", "/stranger/*"]}}]}]}`))

	w.enforce(t, set, mesh.RBACFilter, mesh.AuditFilter, mesh.TokenFilter)
	if got := w.code(t, "/open/a"); got != 403 {
		t.Errorf("while nobody knows whom to ask: %d", got)
	}
	w.enforce(t, set, mesh.CustomFilter+"grpc")
	if got := w.code(t, "/open/a"); got != 403 {
		t.Errorf("while one of two says whether to ask: %d", got)
	}
	w.enforce(t, set)

	// Its own context would end it in the same moment in which Envoy gives up.
	late := make(chan struct{})
	defer close(late)
	slow := func(context.Context, string) (*authv3.CheckResponse, int) {
		<-late
		return yes(), 200
	}
	header := func(key, value string) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: key, Value: value}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}
	}
	type say = func(context.Context, string) (*authv3.CheckResponse, int)
	table := []struct {
		name, path string
		grpc, web  say
		code       int
		asked      int64 // of both
	}{
		{"nobody is asked", "/open/a", always(no(), 403), always(no(), 403), 200, 0},
		{"yes", "/ask/a", always(yes(), 0), always(no(), 403), 200, 1},
		{"no", "/ask/a", always(no(), 0), always(yes(), 200), 403, 1},
		{"yes, but DENY", "/ask/denied", always(yes(), 0), nil, 403, 1},
		{"yes, but no ALLOW", "/asking", always(yes(), 0), nil, 403, 1},
		{"DENY without asking", "/open/denied", nil, nil, 403, 0},
		{"gRPC is out of order", "/ask/a", always(nil, 0), nil, 403, 1},
		{"gRPC is slow", "/ask/a", slow, nil, 403, 1},
		{"an empty answer", "/ask/a", always(&authv3.CheckResponse{}, 0), nil, 200, 1},
		{"an unknown status", "/ask/a", always(&authv3.CheckResponse{Status: &status.Status{Code: 99}}, 0), nil, 403, 1},
		{"HTTP yes", "/web/a", nil, always(nil, 200), 200, 1},
		{"HTTP no", "/web/a", nil, always(nil, 401), 401, 1},
		{"HTTP 500", "/web/a", nil, always(nil, 500), 403, 1},
		{"HTTP 503", "/web/a", nil, always(nil, 503), 403, 1},
		{"HTTP 204 is no yes", "/web/a", nil, always(nil, 204), 204, 1},
		{"HTTP 302 is no yes", "/web/a", nil, always(nil, 302), 302, 1},
		{"HTTP is slow", "/web/a", nil, slow, 403, 1},
		{"both yes", "/both/a", always(yes(), 0), always(nil, 200), 200, 2},
		{"first no", "/both/a", always(no(), 0), always(nil, 200), 403, 1},
		{"second no", "/both/a", always(yes(), 0), always(nil, 403), 403, 2},
		{"a provider that nobody knows", "/stranger/a", always(yes(), 0), always(nil, 200), 403, 0},
		{"folded paths are asked about", "/A/..%25252fask/a", always(no(), 0), nil, 403, 1},
		{"a new path", "/ask/a", always(yes(header(":path", "/ask/denied")), 0), nil, 500, 1},
		{"a new method", "/ask/a", always(yes(header(":method", "POST")), 0), nil, 500, 1},
		{"a new host", "/ask/a", always(yes(header(":authority", "other")), 0), nil, 500, 1},
		{"a new host, by its old name", "/ask/a", always(yes(header("host", "other")), 0), nil, 500, 1},
		{"a new peer", "/ask/a", always(yes(header("x-forwarded-client-cert", "URI=forged")), 0), nil, 500, 1},
	}
	if got, want := len(table), 27; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			for j, say := range map[*judge]say{byGRPC: row.grpc, byHTTP: row.web} {
				if say == nil {
					say = always(nil, 500)
				}
				j.will(say)
			}
			w.app.take()
			before := byGRPC.asked.Load() + byHTTP.asked.Load()
			code := w.code(t, row.path)
			asked := byGRPC.asked.Load() + byHTTP.asked.Load() - before
			if code != row.code || asked != row.asked {
				t.Errorf("%d after asking %d, want %d after %d", code, asked, row.code, row.asked)
			}
			if n := len(w.app.take()); (n == 1) != (row.code == 200) || n > 1 {
				t.Errorf("%d requests reached the application", n)
			}
		})
	}

	t.Run("headers", func(t *testing.T) {
		byGRPC.will(always(yes(header("x-role", "granted")), 0))
		byHTTP.will(always(nil, 200))
		w.app.take()
		if code := w.code(t, "/both/a", "x-role: forged", "x-secret: s", "x-ask: me"); code != 200 {
			t.Fatal(code)
		}
		got := w.app.take()[0].Header
		if got.Get("X-Role") != "granted" || got.Get("X-Pass") != "judged" || got.Get("X-Got") != "" || !strings.Contains(got.Get("X-Forwarded-Client-Cert"), clientID.String()) {
			t.Errorf("the application got %v", got)
		}
	})
	t.Run("down", func(t *testing.T) {
		byGRPC.will(always(yes(), 200))
		byHTTP.will(always(yes(), 200))
		stop()
		for path, want := range map[string]int{"/open/a": 200, "/ask/a": 403, "/web/a": 403} {
			if got := w.code(t, path); got != want {
				t.Errorf("%s: %d, want %d", path, got, want)
			}
		}
	})
	if _, _, _, nacks := w.agent.seen(); len(nacks) > 0 {
		t.Errorf("Envoy refuses: %q", nacks)
	}
}

// TestBrokenScript: a script that fails lets nothing through, for it leaves no
// path behind, and policy wants one. Plain targets do not need it.
func TestBrokenScript(t *testing.T) {
	for name, script := range map[string]string{
		"fails":          `function envoy_on_request(handle) error("broken") end`,
		"fails half way": `function envoy_on_request(handle) handle:streamInfo():filterState():set("istio-auth.fold", "envoy.string", "/x") error("broken") end`,
		"does nothing":   `function envoy_on_request(handle) end`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newEditedWorld(t, func(b *bootstrapv3.Bootstrap) {
				editInbound(t, b, func(m *hcmv3.HttpConnectionManager) {
					target := m.HttpFilters[0]
					target.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: replaceScript(t, target.GetTypedConfig(), script)}
				})
			})
			w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
			w.untilOpen(t)
			w.enforce(t, selected(t, ""))
			for path, want := range map[string]int{"/plain": 200, "/Folded": 403, "/a;b": 403, "/%20": 403} {
				if got := w.code(t, path); got != want {
					t.Errorf("%s: %d, want %d", path, got, want)
				}
			}
			line := w.logged(t, func(l map[string]any) bool { return l["path"] == "/Folded" })
			if line["rule"] != "bad-path" {
				t.Errorf("refused by %v, want bad-path", line["rule"])
			}
		})
	}
}

// replaceScript finds the one script within a filter.
func replaceScript(t *testing.T, filter *anypb.Any, script string) *anypb.Any {
	t.Helper()
	m, err := filter.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	replaced := 0
	rewrite(t, m.ProtoReflect(), func(a *anypb.Any) {
		lua := &luav3.Lua{}
		if a.UnmarshalTo(lua) == nil {
			replaced++
			lua.DefaultSourceCode = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: script}}
			if err := a.MarshalFrom(lua); err != nil {
				t.Fatal(err)
			}
		}
	})
	if replaced != 1 {
		t.Fatalf("%d scripts", replaced)
	}
	out, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rewrite lets change see every Any within m, the innermost first.
func rewrite(t *testing.T, m protoreflect.Message, change func(*anypb.Any)) {
	t.Helper()
	if a, ok := m.Interface().(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		rewrite(t, inner.ProtoReflect(), change)
		if err := a.MarshalFrom(inner); err != nil {
			t.Fatal(err)
		}
		change(a)
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				rewrite(t, v.List().Get(i).Message(), change)
			}
		default:
			rewrite(t, v.Message(), change)
		}
		return true
	})
}

// An endUser signs tokens as an issuer does.
type endUser struct{ key *ecdsa.PrivateKey }

func newEndUser(t *testing.T) endUser {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return endUser{key}
}

func encoded(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (u endUser) keys(t *testing.T) string {
	t.Helper()
	point, err := u.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"k","use":"sig","x":%q,"y":%q}]}`, encoded(point[1:33]), encoded(point[33:]))
}

func (u endUser) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": "https://issuer.test", "sub": "ann", "aud": "cart", "iat": time.Now().Unix(), "exp": time.Now().Add(10 * time.Minute).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	payload, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	signed := encoded([]byte(`{"alg":"ES256","kid":"k","typ":"JWT"}`)) + "." + encoded(payload)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, u.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + encoded(signature)
}

// TestTokens: only a verified token proves anything, and what it says reaches
// the application in headers that nobody else can set.
func TestTokens(t *testing.T) {
	user, forger := newEndUser(t), newEndUser(t)
	w := newWorld(t)
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.untilOpen(t)
	target := rbac.Target{Namespace: "shop", TrustDomain: domain}
	set := selected(t, policy("user", `{rules: [{from: [{source: {requestPrincipals: ["https://issuer.test/ann"]}}], to: [{operation: {paths: ["/user/*"]}}]}]}`)+
		policy("admin", `{rules: [{when: [{key: "request.auth.claims[role]", values: [admin]}], to: [{operation: {paths: ["/admin/*"]}}]}]}`)+
		policy("open", `{rules: [{to: [{operation: {paths: ["/open/*"]}}]}]}`)).
		WithTokens([]rbac.RequestAuthentication{{Namespace: "shop", Name: "users", Rules: []rbac.TokenRule{{
			Issuer: "https://issuer.test", Audiences: []string{"cart"}, Keys: user.keys(t),
			PayloadHeader: "x-payload", ClaimHeaders: []rbac.ClaimHeader{{Header: "x-user", Claim: "sub"}, {Header: "x-role", Claim: "role"}},
		}}}}, target)
	bearer := func(u endUser, claims map[string]any) string {
		return "Authorization: Bearer " + u.token(t, claims)
	}
	good, admin := bearer(user, nil), bearer(user, map[string]any{"role": "admin"})

	w.enforce(t, set, mesh.RBACFilter, mesh.AuditFilter)
	for path, want := range map[string]int{"/user/a": 403, "/admin/a": 403, "/open/a": 200} {
		if got := w.code(t, path, admin); got != want {
			t.Errorf("while nobody verifies tokens, %s: %d, want %d", path, got, want)
		}
	}
	w.enforce(t, set)
	table := []struct {
		name, path, header string
		code               int
	}{
		{"none", "/user/a", "X: y", 403},
		{"none needed", "/open/a", "X: y", 200},
		{"good", "/user/a", good, 200},
		{"another user", "/user/a", bearer(user, map[string]any{"sub": "bob"}), 403},
		{"no admin", "/admin/a", good, 403},
		{"admin", "/admin/a", admin, 200},
		{"one of several roles", "/admin/a", bearer(user, map[string]any{"role": []string{"user", "admin"}}), 200},
		{"forged", "/admin/a", bearer(forger, map[string]any{"role": "admin"}), 401},
		{"forged where none is needed", "/open/a", bearer(forger, nil), 401},
		{"expired", "/user/a", bearer(user, map[string]any{"exp": time.Now().Add(-10 * time.Minute).Unix()}), 401},
		{"another issuer", "/user/a", bearer(user, map[string]any{"iss": "https://other.test"}), 401},
		{"for somebody else", "/user/a", bearer(user, map[string]any{"aud": "billing"}), 403},
		{"basic", "/user/a", "Authorization: Basic YW5uOnB3", 403},
		{"not a token", "/user/a", "Authorization: Bearer ann", 401},
		{"the payload's header", "/admin/a", "x-payload: " + encoded([]byte(`{"role":"admin"}`)), 403},
		{"a claim's header", "/admin/a", "x-role: admin", 403},
	}
	if got, want := len(table), 16; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	for _, row := range table {
		if got := w.code(t, row.path, row.header); got != row.code {
			t.Errorf("%s: %d, want %d", row.name, got, row.code)
		}
	}
	for _, header := range []string{"X: y", good} {
		w.app.take()
		if got := w.code(t, "/open/a", header, "x-user: root", "x-role: admin", "x-payload: forged"); got != 200 {
			t.Fatal(got)
		}
		got := w.app.take()[0].Header
		want := map[bool]string{true: "ann"}[header == good]
		if got.Get("X-User") != want || got.Get("X-Role") != "" || got.Get("X-Payload") == "forged" {
			t.Errorf("the application got %v, want the user %q and no forged header", got, want)
		}
	}
}

// TestLogOfPolicy: the access log says what was decided by which rule, what a dry
// run would decide, and what is to be looked at; the statistics count by rule.
func TestLogOfPolicy(t *testing.T) {
	w := newWorld(t)
	w.agent.identify(t, w.ca, w.ca.SVID(t, serverID, time.Hour))
	w.untilOpen(t)
	dry := strings.Replace(policy("dry", `{action: DENY, rules: [{to: [{operation: {paths: ["/tried"]}}]}]}`), "name: dry}", `name: dry, annotations: {"istio.io/dry-run": "true"}}`, 1)
	w.enforce(t, selected(t, dry+policy("deny", `{action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}`)+
		policy("audit", `{action: AUDIT, rules: [{to: [{operation: {paths: [/seen, /denied]}}]}]}`)+
		policy("sni", `{action: DENY, rules: [{when: [{key: connection.sni, values: [cart.secret.test]}]}]}`)))
	for path, want := range map[string]map[string]any{
		"/a":      {"code": 200.0, "verdict": "allowed", "trial_verdict": "allowed", "audit": false},
		"/tried":  {"code": 200.0, "verdict": "allowed", "trial_verdict": "denied", "trial_rule": "shop/dry/0"},
		"/seen":   {"code": 200.0, "verdict": "allowed", "audit": true, "audit_rule": "shop/audit/0"},
		"/denied": {"code": 403.0, "verdict": "denied", "rule": "shop/deny/0", "audit": true},
	} {
		w.code(t, path)
		line := w.logged(t, func(l map[string]any) bool { return l["path"] == path })
		for key, value := range want {
			if line[key] != value {
				t.Errorf("%s: %s is %v, want %v: %v", path, key, line[key], value, line)
			}
		}
	}
	stats := w.Admin(t, "/stats?filter=rbac")
	if !strings.Contains(stats, "shop/dry/0") {
		t.Errorf("nothing counts the dry run by its rule:\n%s", stats)
	}
	secret := w.tls(w.ca.SVID(t, clientID, time.Hour))
	for name, want := range map[string]int{"": 200, "cart.test": 200, "cart.secret.test": 403, "CART.secret.test": 403} {
		secret.ServerName = name
		if got := w.raw(t, secret, "GET /a HTTP/1.1\r\nHost: cart\r\n\r\n"); got != want {
			t.Errorf("server name %q: %d, want %d", name, got, want)
		}
	}
}
