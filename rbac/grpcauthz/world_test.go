package grpcauthz_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/istio-auth/istio-auth/mtls"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/grpcauthz"
)

var (
	domain = spiffeid.RequireTrustDomainFromString("td.test")
	shopID = spiffeid.RequireFromString("spiffe://td.test/ns/shop/sa/web")
	webID  = spiffeid.RequireFromString("spiffe://td.test/ns/front/sa/web")
	apiID  = spiffeid.RequireFromString("spiffe://td.test/ns/front/sa/api")
	callID = spiffeid.RequireFromString("spiffe://td.test/istio-auth/manager")
)

// An authority signs whatever the test asks for.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := template(domain.ID().String())
	template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &authority{must(x509.ParseCertificate(der)), key}
}

func template(uris ...string) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "x"}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, uri := range uris {
		c.URIs = append(c.URIs, must(url.Parse(uri)))
	}
	return c
}

func (a *authority) svid(uris ...string) *x509svid.SVID {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.CreateCertificate(rand.Reader, template(uris...), a.cert, key.Public(), a.key))
	svid := &x509svid.SVID{Certificates: []*x509.Certificate{must(x509.ParseCertificate(der))}, PrivateKey: key}
	if len(uris) == 1 {
		svid.ID = must(spiffeid.FromString(uris[0]))
	}
	return svid
}

func (a *authority) bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(domain, []*x509.Certificate{a.cert})
}

func anybody(spiffeid.ID) error { return nil }

// server and client are as programs of the mesh make them. Optional takes
// clients without a certificate.
func (a *authority) server(optional bool) *tls.Config {
	if optional {
		return mtls.ServerOptionalClient(a.svid(shopID.String()), a.bundle(), anybody)
	}
	return mtls.Server(a.svid(shopID.String()), a.bundle(), anybody)
}

func (a *authority) client(id spiffeid.ID) *tls.Config {
	if id.IsZero() {
		return mtls.AnonymousClient(a.bundle(), anybody)
	}
	return mtls.Client(a.svid(id.String()), a.bundle(), anybody)
}

// stock is a configuration of crypto/tls, which verifies by its pool.
func (a *authority) stock(auth tls.ClientAuthType) *tls.Config {
	own, pool := a.svid(shopID.String()), x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{own.Certificates[0].Raw}, PrivateKey: own.PrivateKey}},
		ClientCAs:    pool, ClientAuth: auth, SessionTicketsDisabled: true,
	}
}

func (a *authority) stockClient(svid *x509svid.SVID) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true}
	if svid != nil {
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{svid.Certificates[0].Raw}, PrivateKey: svid.PrivateKey}}
	}
	return c
}

// lines is a log that a test can read.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// take returns what was logged since it was asked last.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

func (l *lines) log() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serveGRPC runs a server with the health service; without a configuration, in
// plaintext. It returns its address.
func serveGRPC(t testing.TB, a *grpcauthz.Authorizer, config *tls.Config, options ...grpc.ServerOption) string {
	t.Helper()
	if config != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	s := grpc.NewServer(append(options, grpc.UnaryInterceptor(a.Unary), grpc.StreamInterceptor(a.Stream))...)
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	l, done := listen(t), make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return l.Addr().String()
}

func dial(t testing.TB, address string, config *tls.Config, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, append(options, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// serveHTTP answers each request that is let in with its path as it sees it.
func serveHTTP(t testing.TB, a *grpcauthz.Authorizer, config *tls.Config) string {
	t.Helper()
	s := &http.Server{
		Handler:   a.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })),
		TLSConfig: config, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	l, done := listen(t), make(chan error, 1)
	go func() {
		if config == nil {
			done <- s.Serve(l)
			return
		}
		done <- s.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return l.Addr().String()
}

// policies are those of shop's web, in namespace shop.
func policies(all ...rbac.Policy) rbac.Set { return rbac.Select(all, target()) }

func target() rbac.Target {
	return rbac.Target{Namespace: "shop", TrustDomain: domain, Providers: []string{"opa", "other"}}
}

func policy(action rbac.Action, tests ...rbac.Test) rbac.Policy {
	p := rbac.Policy{Namespace: "shop", Name: action.String(), Action: action, Rules: []rbac.Rule{{When: tests}}}
	if action == rbac.Custom {
		p.Provider = "opa"
	}
	return p
}

func in(a rbac.Attribute, values ...string) rbac.Test {
	t := rbac.Test{Attribute: a}
	for _, v := range values {
		t.In = append(t.In, must(rbac.ParseValue(a, v, "shop")))
	}
	return t
}

func notIn(a rbac.Attribute, values ...string) rbac.Test {
	t := in(a, values...)
	t.In, t.NotIn = nil, t.In
	return t
}

func current(set rbac.Set) *grpcauthz.Current {
	c := new(grpcauthz.Current)
	c.Store(set)
	return c
}

func allowAll(context.Context, string, rbac.Request) error { return nil }
