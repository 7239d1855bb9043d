package ca

import (
	"testing"
	"time"
	"crypto/x509"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestSmoke(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("mesh.test")
	dir := t.TempDir() + "/ca"
	st := time.Now()
	a, err := New(t.Context(), Config{TrustDomain: td, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(time.Since(st))
	svid, _ := a.GetX509SVID()
	id, _, err := x509svid.Verify(svid.Certificates, a)
	t.Log(id, err)
	_ = x509.Certificate{}
	for range 3 {
	st = time.Now()
	_, err = a.issueTo(t.Context(), a.self)
	t.Log(time.Since(st), err)
	}
	a.Close()
	b, err := New(t.Context(), Config{TrustDomain: td, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(b.Issuer().Equal(a.Issuer()))
	b.Close()
}
