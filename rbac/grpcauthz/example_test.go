package grpcauthz_test

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/istio-auth/istio-auth/mtls"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/grpcauthz"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// A program that serves gRPC and HTTP, and is let policies by a file.
func Example() {
	var (
		config   *tls.Config // of mtls.Server
		policies grpcauthz.Current
	)
	all, err := parse.Policies("policy.yaml", []byte(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  rules:
  - from: [{source: {serviceAccounts: [front/web]}}]
    to: [{operation: {methods: [GET]}}]
`))
	if err != nil {
		slog.Error("reading the policies", "err", err)
		return
	}
	// Once now, and again whenever they change.
	policies.Store(rbac.Select(all, rbac.Target{Namespace: "shop", TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.example")}))

	authorizer := &grpcauthz.Authorizer{
		Policies: policies.Index,
		PeerID:   mtls.PeerID,
		Log:      slog.New(slog.NewJSONHandler(os.Stderr, nil)),
	}
	_ = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)),
		grpc.UnaryInterceptor(authorizer.Unary),
		grpc.StreamInterceptor(authorizer.Stream),
	)
	_ = &http.Server{TLSConfig: config, Handler: authorizer.Handler(http.NotFoundHandler())}
	// Output:
}
