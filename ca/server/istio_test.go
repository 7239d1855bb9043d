package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"istio.io/api/security/v1alpha1"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/mtls"
)

// startIstio serves the Istio-compatible service alone.
func startIstio(t *testing.T, w *world, audiences ...string) {
	t.Helper()
	w.listener = nil
	s := NewIstio(IstioConfig{
		TrustDomain: td, Authority: w.authority, Attester: w.cluster, Audiences: audiences,
		Log: w.config.Log, Observe: w.config.Observe, Limits: w.config.Limits,
	})
	w.listener = serve(t, s.Options(), s.Register)
}

// csrOf is the request of a stock sidecar, and of one that smuggles.
func csrOf(t *testing.T, key any, template *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func stock(t *testing.T) string {
	return csrOf(t, catest.Key(t), &x509.CertificateRequest{URIs: []*url.URL{webID.URL()}})
}

// TestStockClient is a stock client as Istio's agent is one: the generated stub
// over TLS, a bearer token, a CSR, and the last certificate taken as the root.
func TestStockClient(t *testing.T) {
	w := newWorld(t)
	startIstio(t, w, "istio-ca")
	key := catest.Key(t)
	// The CSR asks for more than it will get.
	csr := csrOf(t, key, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "istiod", Organization: []string{"root"}}, DNSNames: []string{"istiod.istio-system.svc"},
		URIs: []*url.URL{serverID.URL(), webID.URL()}, EmailAddresses: []string{"root@mesh.test"},
	})
	certSigner, err := structpb.NewStruct(map[string]any{"CertSigner": ""})
	if err != nil {
		t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer token-a", "ClusterID", "Kubernetes")
	response, err := v1alpha1.NewIstioCertificateServiceClient(w.dial(t, nil)).CreateCertificate(ctx,
		&v1alpha1.IstioCertificateRequest{Csr: csr, ValidityDuration: 600, Metadata: certSigner})
	if err != nil {
		t.Fatal(err)
	}
	var certs []*x509.Certificate
	for _, text := range response.GetCertChain() {
		block, rest := pem.Decode([]byte(text))
		if block == nil || len(rest) > 0 {
			t.Fatalf("not one PEM block: %q", text)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	if len(certs) != 3 || !certs[2].Equal(w.ca.Root) {
		t.Fatalf("got %d certificates, want leaf, issuer and root", len(certs))
	}
	id, _, err := x509svid.Verify(certs[:2], x509bundle.FromX509Authorities(td, certs[2:]))
	if err != nil || id != webID || !key.Public().(*ecdsa.PublicKey).Equal(certs[0].PublicKey) {
		t.Errorf("the certificate is of %s, %v", id, err)
	}
	if life := time.Until(certs[0].NotAfter); life > 10*time.Minute {
		t.Errorf("it lives for %v, asked for ten minutes", life)
	}
	if leaf := certs[0]; len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.EmailAddresses) > 0 || leaf.Subject.CommonName != "" {
		t.Errorf("the CSR got more than its key in: %v %v %v %v", leaf.URIs, leaf.DNSNames, leaf.EmailAddresses, leaf.Subject)
	}
}

// TestIstioTable is who may ask what of the Istio-compatible service.
func TestIstioTable(t *testing.T) {
	bearer := func(values ...string) []string {
		var pairs []string
		for _, v := range values {
			pairs = append(pairs, "authorization", v)
		}
		return pairs
	}
	token := bearer("Bearer token-a")
	impersonate, err := structpb.NewStruct(map[string]any{"ImpersonatedIdentity": webID.String()})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := structpb.NewStruct(map[string]any{"CertSigner": "other"})
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := stock(t)
	rows := []struct {
		name, outcome, reason string
		metadata              []string
		request               *v1alpha1.IstioCertificateRequest
		change                func(w *world)
	}{
		{"good", "OK", "", token, &v1alpha1.IstioCertificateRequest{Csr: good}, nil},
		{"a longer life is cut", "OK", "", token, &v1alpha1.IstioCertificateRequest{Csr: good, ValidityDuration: 1 << 62}, nil},
		{"a negative life", "PermissionDenied", ReasonLife, token, &v1alpha1.IstioCertificateRequest{Csr: good, ValidityDuration: -1}, nil},
		{"no token", "PermissionDenied", ReasonNoBearer, nil, &v1alpha1.IstioCertificateRequest{Csr: good}, nil},
		{"two tokens", "PermissionDenied", ReasonNoBearer, bearer("Bearer token-a", "Bearer token-b"), &v1alpha1.IstioCertificateRequest{Csr: good}, nil},
		{"basic authentication", "PermissionDenied", ReasonNoBearer, bearer("Basic token-a"), &v1alpha1.IstioCertificateRequest{Csr: good}, nil},
		{"an empty token", "PermissionDenied", ReasonNoBearer, bearer("Bearer "), &v1alpha1.IstioCertificateRequest{Csr: good}, nil},
		{"an unknown token", "PermissionDenied", "token-unknown", bearer("Bearer x"), &v1alpha1.IstioCertificateRequest{Csr: good}, nil},
		{"a token of a pod that is gone", "PermissionDenied", "token-unknown", bearer("Bearer token-gone"), &v1alpha1.IstioCertificateRequest{Csr: good}, nil},
		{"an agent's token", "PermissionDenied", ReasonKind, bearer("Bearer agent-a"), &v1alpha1.IstioCertificateRequest{Csr: good}, nil},
		{"a service's token", "PermissionDenied", ReasonKind, bearer("Bearer manager"), &v1alpha1.IstioCertificateRequest{Csr: good}, nil},
		{"impersonation", "PermissionDenied", ReasonMetadata, token, &v1alpha1.IstioCertificateRequest{Csr: good, Metadata: impersonate}, nil},
		{"another signer", "PermissionDenied", ReasonMetadata, token, &v1alpha1.IstioCertificateRequest{Csr: good, Metadata: signer}, nil},
		{"no CSR", "PermissionDenied", ReasonCSR, token, &v1alpha1.IstioCertificateRequest{}, nil},
		{"a CSR in base64 alone", "PermissionDenied", ReasonCSR, token, &v1alpha1.IstioCertificateRequest{Csr: "MIIBADCB"}, nil},
		{"a certificate", "PermissionDenied", ReasonCSR, token, &v1alpha1.IstioCertificateRequest{Csr: strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE")}, nil},
		{"two CSRs", "PermissionDenied", ReasonCSR, token, &v1alpha1.IstioCertificateRequest{Csr: good + good}, nil},
		{"text before the CSR", "PermissionDenied", ReasonCSR, token, &v1alpha1.IstioCertificateRequest{Csr: "x\n" + good}, nil},
		{"a CSR of noise", "PermissionDenied", "csr-encoding", token, &v1alpha1.IstioCertificateRequest{Csr: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("noise")}))}, nil},
		{"a CSR too large", "PermissionDenied", ReasonTooLarge, token, &v1alpha1.IstioCertificateRequest{Csr: strings.Repeat("x", 16<<10+1)}, nil},
		{"a key of P-224", "PermissionDenied", "key-curve", token, &v1alpha1.IstioCertificateRequest{Csr: csrOf(t, p224, &x509.CertificateRequest{})}, nil},
		{"the authority refuses", "PermissionDenied", "life-too-short", token, &v1alpha1.IstioCertificateRequest{Csr: good}, func(w *world) { w.authority.err = attest.Refuse("life-too-short", "") }},
		{"the authority does not answer", "Unavailable", ReasonUnavailable, token, &v1alpha1.IstioCertificateRequest{Csr: good}, func(w *world) { w.authority.err = attest.ErrUnavailable }},
		{"too many", "ResourceExhausted", ReasonRate, token, &v1alpha1.IstioCertificateRequest{Csr: good}, func(w *world) { w.config.Limits.Strangers = Rate{PerSecond: 1e-9} }},
	}
	if got, want := len(rows), 24; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t)
			if r.change != nil {
				r.change(w)
			}
			startIstio(t, w, "istio-ca")
			ctx := metadata.AppendToOutgoingContext(t.Context(), r.metadata...)
			_, err := v1alpha1.NewIstioCertificateServiceClient(w.dial(t, nil)).CreateCertificate(ctx, r.request)
			if got := status.Code(err).String(); got != r.outcome || w.lastDecision().Reason != r.reason {
				t.Errorf("got %s (%v) and reason %q, want %s and %q", got, err, w.lastDecision().Reason, r.outcome, r.reason)
			}
			if err != nil {
				opaque(t, err, w.lastDecision())
				if w.count() != 0 {
					t.Error("issued all the same")
				}
			}
		})
	}
}

// TestIstioIsApart: without audiences no token is good, and neither listener
// serves the other's methods.
func TestIstioIsApart(t *testing.T) {
	w := newWorld(t)
	startIstio(t, w)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer token-a")
	stub := func() v1alpha1.IstioCertificateServiceClient {
		return v1alpha1.NewIstioCertificateServiceClient(w.dial(t, w.agent(t, nodeA)))
	}
	_, err := stub().CreateCertificate(ctx, &v1alpha1.IstioCertificateRequest{Csr: stock(t)})
	if status.Code(err).String() != "PermissionDenied" || w.lastDecision().Reason != ReasonEvidence {
		t.Errorf("without audiences: %v, reason %q", err, w.lastDecision().Reason)
	}
	s, err := capb.NewCertificateAuthorityClient(w.dial(t, w.agent(t, nodeA))).Issue(t.Context())
	if err := receiveErr(s, err); status.Code(err).String() != "Unimplemented" {
		t.Errorf("our service on Istio's listener: %v", err)
	}
	w.start(t)
	if _, err := stub().CreateCertificate(ctx, &v1alpha1.IstioCertificateRequest{Csr: stock(t)}); status.Code(err).String() != "Unimplemented" {
		t.Errorf("Istio's service on our listener: %v", err)
	}
}

// TestServing: the listener can show a certificate with a DNS name, which is
// what a stock client looks for.
func TestServing(t *testing.T) {
	w := newWorld(t)
	key := catest.Key(t)
	leaf := w.ca.Sign(t, &x509.Certificate{
		SerialNumber: w.own.Certificates[0].SerialNumber, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		PublicKey: key.Public(), DNSNames: []string{"istiod.istio-system.svc"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	serving := &x509svid.SVID{ID: serverID, PrivateKey: key, Certificates: []*x509.Certificate{leaf, w.ca.Issuer}}
	s := NewIstio(IstioConfig{
		TrustDomain: td, Authority: w.authority, Attester: w.cluster, Audiences: []string{"istio-ca"}, Log: w.config.Log, Serving: serving,
	})
	w.listener = serve(t, s.Options(), s.Register)
	config := mtls.AnonymousClient(w.ca.Bundle(), nil).Clone()
	config.InsecureSkipVerify, config.VerifyConnection = false, func(tls.ConnectionState) error { return nil }
	config.ServerName, config.RootCAs = "istiod.istio-system.svc", x509.NewCertPool()
	config.RootCAs.AddCert(w.ca.Root)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer token-a")
	_, err := v1alpha1.NewIstioCertificateServiceClient(dial(t, w.listener, config)).CreateCertificate(ctx, &v1alpha1.IstioCertificateRequest{Csr: stock(t)})
	if err != nil {
		t.Error(err)
	}
}
