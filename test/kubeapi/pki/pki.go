// Package pki makes the certificates and kubeconfigs of a throwaway cluster.
//
// It serves the harnesses that run Kubernetes itself, and webhooks in tests. It
// is no part of the product, whose certificates come from ca. Start at [New].
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// life is how long everything here is valid, from a minute ago.
const life = 24 * time.Hour

// An Authority signs the serving and client certificates of one cluster. Its
// methods may be called at once.
type Authority struct {
	// PEM is its certificate.
	PEM []byte

	cert *x509.Certificate
	key  crypto.Signer
}

// A Pair is a certificate and its key, both PEM.
type Pair struct{ Cert, Key []byte }

// A Name is who a certificate is for. With hosts it serves, always it can be a
// client's.
type Name struct {
	User   string   // common name
	Groups []string // organisations
	DNS    []string
	IPs    []string
}

// New makes an authority with a fresh P-256 key.
func New(name string) (*Authority, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	a := &Authority{cert: template}
	pair, key, err := a.sign(template)
	if err != nil {
		return nil, fmt.Errorf("making the authority %s: %w", name, err)
	}
	block, _ := pem.Decode(pair.Cert)
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("making the authority %s: %w", name, err)
	}
	a.PEM, a.key = pair.Cert, key
	return a, nil
}

// Issue makes a certificate with a fresh P-256 key in PKCS #8.
func (a *Authority) Issue(n Name) (Pair, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: n.User, Organization: n.Groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		DNSNames:    n.DNS,
	}
	for _, text := range n.IPs {
		ip := net.ParseIP(text)
		if ip == nil {
			return Pair{}, fmt.Errorf("issuing for %s: no IP address: %q", n.User, text)
		}
		template.IPAddresses = append(template.IPAddresses, ip)
	}
	if len(n.DNS)+len(n.IPs) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	pair, _, err := a.sign(template)
	if err != nil {
		return Pair{}, fmt.Errorf("issuing for %s: %w", n.User, err)
	}
	return pair, nil
}

// sign makes a key and a certificate for it; an authority without a key signs
// with the new one.
func (a *Authority) sign(template *x509.Certificate) (Pair, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return Pair{}, nil, err
	}
	template.NotBefore = time.Now().Add(-time.Minute)
	template.NotAfter = template.NotBefore.Add(life)
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), signer)
	if err != nil {
		return Pair{}, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, nil, err
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}, key, nil
}

// Kubeconfig is a kubeconfig file, as JSON, for the API server at url and a
// client of the name and groups.
func (a *Authority) Kubeconfig(url, user string, groups ...string) ([]byte, error) {
	pair, err := a.Issue(Name{User: user, Groups: groups})
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	file, err := json.Marshal(object{
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"contexts": []object{{"name": "test", "context": object{"cluster": "test", "user": "test"}}},
		"clusters": []object{{"name": "test", "cluster": object{"server": url, "certificate-authority-data": a.PEM}}},
		"users":    []object{{"name": "test", "user": object{"client-certificate-data": pair.Cert, "client-key-data": pair.Key}}},
	})
	if err != nil {
		return nil, fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return file, nil
}

// ServingTLS is the configuration of a server on loopback, reachable by the
// names too: what an admission webhook in a test serves with.
func (a *Authority) ServingTLS(names ...string) (*tls.Config, error) {
	pair, err := a.Issue(Name{User: "webhook", DNS: append([]string{"localhost"}, names...), IPs: []string{"127.0.0.1", "::1"}})
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("reading back a certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}, nil
}

// TokenKey makes the key that signs service account tokens. The private half is
// SEC 1, the only form in which kube-apiserver reads an elliptic key; the public
// half is PKIX, since it does not take the public key out of a private one.
func TokenKey() (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making the token key: %w", err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("making the token key: %w", err)
	}
	pkix, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("making the token key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix}), nil
}
