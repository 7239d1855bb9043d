package compile_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/jwks"
	"github.com/istio-auth/istio-auth/test/envoy"
)

func compiledTokens(t testing.TB, rules []rbac.TokenRule) (*jwtv3.JwtAuthentication, []byte) {
	t.Helper()
	packed, err := compile.Tokens(tokenSet(rules))
	if err != nil {
		t.Fatal(err)
	}
	filter := &jwtv3.JwtAuthentication{}
	if err := packed.UnmarshalTo(filter); err != nil {
		t.Fatal(err)
	}
	return filter, packed.Value
}

// TestTokensPinsAll is JW-02: whatever a rule leaves out, its provider says.
// Envoy looks at nothing that a provider does not name.
func TestTokensPinsAll(t *testing.T) {
	for name, rules := range tokenSets() {
		t.Run(name, func(t *testing.T) {
			filter, bytes1 := compiledTokens(t, rules)
			_, bytes2 := compiledTokens(t, rules)
			if !bytes.Equal(bytes1, bytes2) {
				t.Error("equal sets give other bytes")
			}
			if filter.BypassCorsPreflight || !filter.StripFailureResponse || len(rules) == 0 != (len(filter.Providers) == 0) {
				t.Errorf("got %v", filter)
			}
			for name, p := range filter.Providers {
				text := p.GetLocalJwks().GetInlineString()
				set, err := jwks.Load(text)
				if err != nil || set.JSON() == "" || p.GetRemoteJwks() != nil {
					t.Errorf("%s: the keys %q: %v", name, text, err)
				}
				for _, private := range []string{`"d"`, `"k"`, `"oct"`} {
					if strings.Contains(text, private) {
						t.Errorf("%s: the keys have %s", name, private)
					}
				}
				if p.Issuer == "" || !p.RequireExpiration || p.ClockSkewSeconds != 60 || p.MaxLifetime.AsDuration() != jwks.TokenLife+compile.ClockSkew || p.PayloadInMetadata != compile.PayloadKey {
					t.Errorf("%s: got %v", name, p)
				}
			}
			if n := len(filter.Rules); n > 0 && (filter.Rules[n-1].Match.GetPrefix() != "/" || len(filter.Rules[n-1].Match.Headers) > 0) {
				t.Error("the last requirement is not for all requests")
			}
		})
	}
}

func TestTokensRefuses(t *testing.T) {
	if _, err := compile.Tokens(rbac.Set{}); !errors.Is(err, compile.ErrUnknownSet) {
		t.Errorf("got %v, want %v", err, compile.ErrUnknownSet)
	}
	for name, locations := range map[string][]rbac.TokenLocation{
		"a parameter that is a pattern": {{Param: "a.*|b&"}},
		"a cookie with a blank":         {{Cookie: "a b"}},
		"33 places":                     slices.Collect(places(33)),
	} {
		if _, err := compile.Tokens(tokenSet([]rbac.TokenRule{{Issuer: issuerA, Locations: locations}})); err == nil {
			t.Errorf("%s: compiled", name)
		}
	}
	if _, err := compile.Tokens(tokenSet([]rbac.TokenRule{{Issuer: issuerA, Locations: slices.Collect(places(32))}})); err != nil {
		t.Error(err)
	}
}

func places(n int) func(func(rbac.TokenLocation) bool) {
	return func(yield func(rbac.TokenLocation) bool) {
		for i := range n {
			if !yield(rbac.TokenLocation{Header: "x-" + strings.Repeat("a", i+1)}) {
				return
			}
		}
	}
}

// TestTokensHeaders: what a client sends under the name of a claim's header is
// dropped, with and without a token, and only a rule that says so forwards.
func TestTokensHeaders(t *testing.T) {
	w := startTokens(t, tokenSets(), "authorization", "x-sub", "x-deep", "x-jwt-payload")
	good := goodClaims(time.Now()).with("a", claims{"b": "deep"})
	authorization := bearer(keyring()["e256"].token(good)).headers
	spoof := []string{"X-Sub: root", "X-Deep: root", "X-Jwt-Payload: root"}
	got, err := w.client(t, "forward").do(tokenRequest{headers: append(slices.Clone(authorization), spoof...)})
	if err != nil || got.code != 200 {
		t.Fatal(got, err)
	}
	for name, want := range map[string]string{"authorization": strings.TrimPrefix(authorization[0], "Authorization: "), "x-sub": "alice", "x-deep": "deep", "x-jwt-payload": b64([]byte(good.String()))} {
		if value := got.header.Get("x-seen-" + name); value != want {
			t.Errorf("%s is %q, want %q", name, value, want)
		}
	}
	got, err = w.client(t, "forward").do(tokenRequest{headers: spoof})
	for _, name := range []string{"x-sub", "x-deep", "x-jwt-payload"} {
		if value := got.header.Get("x-seen-" + name); err != nil || value != "" && value != "-" {
			t.Errorf("without a token %s is %q, %v", name, value, err)
		}
	}
	got, err = w.client(t, "one").do(tokenRequest{headers: authorization})
	if value := got.header.Get("x-seen-authorization"); err != nil || got.code != 200 || value != "" && value != "-" {
		t.Errorf("the token is forwarded: %q, %v", value, err)
	}
	got, err = w.client(t, "one").do(tokenRequest{query: "?a=b&access_token=" + keyring()["e256"].token(good)})
	if value := got.header.Get("x-path"); err != nil || value != "/?a=b" {
		t.Errorf("the path is %q, %v", value, err)
	}
}

// published is an issuer whose set changes.
type published struct{ now chan string }

func (p published) Fetch(ctx context.Context, _ string, _ time.Duration) (jwks.Set, error) {
	select {
	case document := <-p.now:
		return jwks.Parse([]byte(document))
	case <-ctx.Done():
		return jwks.Set{}, ctx.Err()
	}
}

// TestRolloverInEnvoy is JW-07 with all its parts: an issuer changes its key, a
// Keeper sees it, and Envoy gets the new filter while it runs. A token that the
// old key signed stays good, and the new key's becomes so.
func TestRolloverInEnvoy(t *testing.T) {
	const uri = "https://a.test/keys"
	older, newer := keyring()["e256"], keyring()["r256"]
	issuer := published{make(chan string)}
	keeper := &jwks.Keeper{Source: issuer, Log: slog.New(slog.DiscardHandler), Every: time.Millisecond}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- keeper.Run(ctx) }()
	defer func() { stop(); <-done }()
	keeper.Use(map[string]jwks.Use{uri: {}})
	rules := func() []rbac.TokenRule {
		return []rbac.TokenRule{{Issuer: issuerA, KeysURI: uri, Keys: keeper.Keys(uri)}}
	}
	file := filepath.Join(t.TempDir(), "filter.pb")
	push := func() { writeFilter(t, file, rules()) }
	push()
	w := startDiscovered(t, file)
	good := goodClaims(time.Now())
	first, second := bearer(older.token(good)), bearer(newer.token(good))
	c := w.client(t, "tokens")
	becomes := func(r tokenRequest, code int) {
		t.Helper()
		w.envoy.Until(t, "the answer", func() bool {
			got, err := c.do(r)
			return err == nil && got.code == code
		})
	}
	becomes(first, 401) // no keys yet
	issuer.now <- keySet(older)
	<-keeper.Changed()
	push()
	becomes(first, 200)
	becomes(second, 401)
	issuer.now <- keySet(newer)
	<-keeper.Changed()
	push()
	becomes(second, 200)
	becomes(first, 200)
}

// writeFilter puts the filter where Envoy looks, as one moves a file.
func writeFilter(t testing.TB, file string, rules []rbac.TokenRule) {
	t.Helper()
	packed, err := compile.Tokens(tokenSet(rules))
	if err != nil {
		t.Fatal(err)
	}
	answer := &discoveryv3.DiscoveryResponse{
		VersionInfo: time.Now().String(),
		TypeUrl:     "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
		Resources:   []*anypb.Any{anyOf(t, &corev3.TypedExtensionConfig{Name: "jwt", TypedConfig: packed})},
	}
	data, err := proto.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// startDiscovered runs an Envoy that reads its token filter from a file, and
// again when another is moved there.
func startDiscovered(t testing.TB, file string) *tokenWorld {
	t.Helper()
	manager := tokenManager(t, nil, nil)
	manager.HttpFilters[0].ConfigType = &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
		ConfigSource: &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{Path: file}}},
		TypeUrls:     []string{"type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"},
	}}
	e := envoy.Start(t, envoy.Config{Proto: &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: "a", Cluster: "a"},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Listeners: []*listenerv3.Listener{plainListener(t, "tokens", manager)}},
	}})
	return &tokenWorld{e, map[string]netip.AddrPort{"tokens": e.Address(t, "tokens")}}
}
