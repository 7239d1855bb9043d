package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/mtls"
)

// TestLanguage: from kubectl to Envoy, every kind of object has its effect: our
// own kinds, end users' tokens, a dry run, a DENY of a path in whatever spelling.
func TestLanguage(t *testing.T) {
	n := install(t)
	s := openShop(t, n, "language", life)
	server := running(t, n, s.namespace, "server")
	own := source(t, n, running(t, n, s.namespace, "client"))
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: n.Dial, TLSClientConfig: mtls.Client(own, own, mtls.Exactly(identity(s.namespace, "server"))),
	}}
	call := func(path, token string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+server.Status.PodIP+":15006"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	becomes := func(what string, want int, path, token string) {
		t.Helper()
		began := time.Now()
		within(t, 20*time.Second, what, func() error {
			if got := call(path, token); got != want {
				return fmt.Errorf("%s: %d, want %d", path, got, want)
			}
			return nil
		})
		t.Logf("%s: %s is %d after %v", what, path, want, since(began))
	}
	apply := func(text string) { n.Apply(t, strings.ReplaceAll(text, "NAMESPACE", s.namespace)) }

	becomes("the first policy", 200, "/orders", "")
	if got := call("/returns", ""); got != 403 {
		t.Fatalf("/returns: %d, want 403", got)
	}
	apply(accessOfClient)
	becomes("AccessRole and AccessGrant", 200, "/returns", "")

	issuer := newIssuer(t)
	apply(strings.ReplaceAll(endUsers, "KEYS", issuer.keys))
	becomes("without a token", 403, "/returns", "")
	becomes("with a token", 200, "/returns", issuer.token(t, "https://issuer.test", "alice", "staff"))
	for name, row := range map[string]struct {
		token string
		code  int
	}{
		"of another group":  {issuer.token(t, "https://issuer.test", "bob", "guests"), 403},
		"of another issuer": {issuer.token(t, "https://else.test", "alice", "staff"), 401},
		"of another key":    {newIssuer(t).token(t, "https://issuer.test", "alice", "staff"), 401},
	} {
		if got := call("/returns", row.token); got != row.code {
			t.Errorf("a token %s: %d, want %d", name, got, row.code)
		}
	}

	apply(dryRun)
	within(t, 20*time.Second, "the dry run to be told", func() error {
		if got := call("/orders/7", ""); got != 200 {
			t.Fatalf("a dry run decides: %d", got)
		}
		logs := s.kubectl(t, "logs", "deployment/server", "--container=envoy", "--tail=5")
		if !strings.Contains(logs, s.namespace+"/no-seven/0") {
			return fmt.Errorf("the log has\n%s", logs)
		}
		return nil
	})

	apply(denyOrders)
	becomes("DENY of a path", 403, "/orders/secret", "")
	for _, path := range []string{"/orders/SECRET", "/orders/secret/", "/orders/secret;x=y", "/orders/secret%20", "/orders/%2573ecret", "/orders//secret"} {
		if got := call(path, ""); got != 403 {
			t.Errorf("%s: %d, want 403", path, got)
		}
	}
	if got := call("/orders/8", ""); got != 200 {
		t.Errorf("/orders/8: %d, want 200", got)
	}
}

const accessOfClient = `
apiVersion: istio-auth.io/v1alpha1
kind: AccessRole
metadata: {name: returns, namespace: NAMESPACE}
spec: {permissions: [{operations: [{methods: [GET], paths: [/returns]}]}]}
---
apiVersion: istio-auth.io/v1alpha1
kind: AccessGrant
metadata: {name: client-returns, namespace: NAMESPACE}
spec: {roleRef: {name: returns}, subjects: [{serviceAccounts: [client]}], selector: {matchLabels: {app: server}}}
`

const endUsers = `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: staff, namespace: NAMESPACE}
spec: {selector: {matchLabels: {app: server}}, jwtRules: [{issuer: "https://issuer.test", jwks: 'KEYS'}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: staff-only, namespace: NAMESPACE}
spec:
  action: DENY
  selector: {matchLabels: {app: server}}
  rules: [{to: [{operation: {paths: [/returns]}}], when: [{key: "request.auth.claims[groups]", notValues: [staff]}]}]
`

const dryRun = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-seven, namespace: NAMESPACE, annotations: {istio.io/dry-run: "true"}}
spec: {action: DENY, selector: {matchLabels: {app: server}}, rules: [{to: [{operation: {paths: [/orders/7]}}]}]}
`

const denyOrders = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-secret, namespace: NAMESPACE}
spec: {action: DENY, selector: {matchLabels: {app: server}}, rules: [{to: [{operation: {paths: [/orders/secret]}}]}]}
`

// An issuer signs end users' tokens with ES256 (RFC 7518 §3.4).
type issuer struct {
	key  *ecdsa.PrivateKey
	keys string // its key set
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return &issuer{key, fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"k","x":%q,"y":%q}]}`, encode(point[1:33]), encode(point[33:]))}
}

func (i *issuer) token(t *testing.T, name, subject string, groups ...string) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{"iss": name, "sub": subject, "groups": groups, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + encode(claims)
	digest := sha256.Sum256([]byte(text))
	r, sig, err := ecdsa.Sign(rand.Reader, i.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + encode(append(r.FillBytes(make([]byte, 32)), sig.FillBytes(make([]byte, 32))...))
}
