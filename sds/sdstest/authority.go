// Package sdstest holds what tests and measurements of sds need: a small
// certificate authority with real keys, a server on a real Unix socket, and
// [FanOut], the measurement of `make bench BENCH=fanout`.
package sdstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// An Authority signs certificates for tests, directly under its root.
type Authority struct {
	TrustDomain spiffeid.TrustDomain
	Root        *x509.Certificate
	key         crypto.Signer
}

// NewAuthority makes an authority with a root of its own.
func NewAuthority(td spiffeid.TrustDomain) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "root of " + td.Name()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{TrustDomain: td, Root: root, key: key}, nil
}

// Bundle returns a bundle of this root and of those of others.
func (a *Authority) Bundle(others ...*Authority) *x509bundle.Bundle {
	roots := []*x509.Certificate{a.Root}
	for _, other := range others {
		roots = append(roots, other.Root)
	}
	return x509bundle.FromX509Authorities(a.TrustDomain, roots)
}

// A Leaf says what is to be odd about a certificate.
type Leaf struct {
	// Key is the key. Nil makes a new P-256 key.
	Key crypto.Signer
	// NotBefore and NotAfter are relative to now. Zero means -1 h and +1 h.
	NotBefore, NotAfter time.Duration
	// Edit changes the template last.
	Edit func(*x509.Certificate)
}

// SVID signs a certificate for an identity.
func (a *Authority) SVID(id spiffeid.ID, leaf Leaf) (*x509svid.SVID, error) {
	if leaf.Key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		leaf.Key = key
	}
	if leaf.NotBefore == 0 {
		leaf.NotBefore = -time.Hour
	}
	if leaf.NotAfter == 0 {
		leaf.NotAfter = time.Hour
	}
	template := &x509.Certificate{
		SerialNumber: serial(), URIs: nil,
		NotBefore: time.Now().Add(leaf.NotBefore), NotAfter: time.Now().Add(leaf.NotAfter),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	template.URIs = append(template.URIs, id.URL())
	if leaf.Edit != nil {
		leaf.Edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Root, leaf.Key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("signing for %s: %w", id, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: leaf.Key}, nil
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // crypto/rand does not fail
	return n
}
