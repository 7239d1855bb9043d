package compile_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// An authority signs whatever it is asked for, so that certificates which our
// own CA would refuse reach the filter.
type authority struct {
	key  crypto.Signer
	cert *x509.Certificate

	mu     sync.Mutex // guards what follows
	n      int64
	leaves map[string]tls.Certificate // of one URI
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	ca := &authority{key: newKey(t)}
	ca.cert = ca.sign(t, ca.key, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return ca
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (ca *authority) sign(t testing.TB, key crypto.Signer, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	ca.mu.Lock()
	ca.n++
	template.SerialNumber = big.NewInt(ca.n)
	ca.mu.Unlock()
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent := ca.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// of is a certificate of one identity, the same each time.
func (ca *authority) of(t testing.TB, id spiffeid.ID) tls.Certificate {
	t.Helper()
	ca.mu.Lock()
	leaf, ok := ca.leaves[id.String()]
	ca.mu.Unlock()
	if ok {
		return leaf
	}
	leaf = ca.leaf(t, id.String())
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if ca.leaves == nil {
		ca.leaves = map[string]tls.Certificate{}
	}
	ca.leaves[id.String()] = leaf
	return leaf
}

// leaf is a certificate with these URI SANs.
func (ca *authority) leaf(t testing.TB, uris ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	for _, uri := range uris {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	key := newKey(t)
	return tls.Certificate{Certificate: [][]byte{ca.sign(t, key, template).Raw}, PrivateKey: key}
}

// transportSocket is TLS that requires a client certificate of the authority,
// and looks at nothing else in it.
func (ca *authority) transportSocket(t testing.TB) *corev3.TransportSocket {
	t.Helper()
	inline := func(kind string, der []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})}}
	}
	own := ca.leaf(t, "spiffe://td.test/ns/shop/sa/web")
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(t, &tlsv3.DownstreamTlsContext{
		RequireClientCertificate: wrapperspb.Bool(true),
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: inline("CERTIFICATE", own.Certificate[0]), PrivateKey: inline("PRIVATE KEY", key)}},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: inline("CERTIFICATE", ca.cert.Raw),
			}},
		},
	})}}
}
