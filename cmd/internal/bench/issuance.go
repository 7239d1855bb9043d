package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/proof"
)

var trustDomain = spiffeid.RequireTrustDomainFromString("bench.test")

// issuance is the processor time of one certificate: key policy, proof of
// possession, profile, lint, journal with its fsync, signature, comparison. The
// floor is Go's own cryptography for the same work: one P-256 verification, one
// signature, parsing and marshalling.
func issuance(ctx context.Context) (Figure, error) {
	const count, workers = 2000, 64
	dir, err := os.MkdirTemp("", "bench-ca-")
	if err != nil {
		return Figure{}, err
	}
	defer os.RemoveAll(dir)
	authority, err := ca.New(ctx, ca.Config{TrustDomain: trustDomain, Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return Figure{}, err
	}
	defer authority.Close()
	requests, err := makeRequests(count)
	if err != nil {
		return Figure{}, err
	}
	used, wall, err := parallel(requests, workers, func(r request) error { return r.issue(ctx, authority) })
	if err != nil {
		return Figure{}, err
	}
	least, err := newBare()
	if err != nil {
		return Figure{}, err
	}
	floor, _, err := parallel(requests, workers, least.do)
	if err != nil {
		return Figure{}, err
	}
	f := Figure{
		Value: microseconds(used / count), Unit: "us CPU",
		Note: fmt.Sprintf("one certificate, %d of them by %d workers, durable journal; %.0f a second; floor: verify, sign, parse, marshal", count, workers, count/wall.Seconds()),
	}
	return f.against(microseconds(floor / count)), nil
}

// A request is what an agent sends, with the key that only it holds.
type request struct {
	key     *ecdsa.PrivateKey
	spki    []byte
	proof   []byte
	binding proof.Binding
	pod     attest.Pod
}

func makeRequests(n int) ([]request, error) {
	all := make([]request, n)
	for i := range all {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		r := request{key: key, pod: attest.Pod{Namespace: "default", Name: fmt.Sprintf("pod-%d", i), UID: fmt.Sprintf("uid-%d", i), ServiceAccount: "default"}}
		if r.spki, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
			return nil, err
		}
		r.binding = proof.Binding{TrustDomain: trustDomain, TLS: [32]byte{1}, Purpose: proof.Issue, Subject: r.pod.UID}
		if r.proof, err = proof.Sign(key, r.binding); err != nil {
			return nil, err
		}
		all[i] = r
	}
	return all, nil
}

func (r request) issue(ctx context.Context, authority *ca.Authority) error {
	key, err := keypolicy.Parse(r.spki)
	if err != nil {
		return err
	}
	if err := proof.Verify(key, r.binding, r.proof); err != nil {
		return err
	}
	identity, err := attest.NewWorkload(trustDomain, attest.Node{Name: "node", UID: "node-uid"}, r.pod)
	if err != nil {
		return err
	}
	issued, err := authority.Issue(ctx, ca.Request{Identity: identity, Key: key, Evidence: sha256.Sum256(r.proof)})
	if err == nil && len(issued.Chain) == 0 {
		err = errors.New("an empty chain")
	}
	return err
}

// bare is the same work in Go's own cryptography alone: one P-256 verification,
// one signature, and parsing and marshalling of the key and of a certificate.
type bare struct {
	issuer    *ecdsa.PrivateKey
	template  []byte // a certificate
	digest    [32]byte
	signature []byte // of digest, by key
	public    *ecdsa.PublicKey
}

func newBare() (*bare, error) {
	issuer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	b := &bare{issuer: issuer, digest: sha256.Sum256([]byte("a proof of possession")), public: &issuer.PublicKey}
	if b.signature, err = ecdsa.SignASN1(rand.Reader, issuer, b.digest[:]); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Minute), KeyUsage: x509.KeyUsageDigitalSignature,
		URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain.Name(), Path: "/ns/default/sa/default"}},
	}
	b.template, err = x509.CreateCertificate(rand.Reader, template, template, issuer.Public(), issuer)
	return b, err
}

func (b *bare) do(r request) error {
	public, err := x509.ParsePKIXPublicKey(r.spki)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(b.public, b.digest[:], b.signature) {
		return errors.New("a signature of our own does not verify")
	}
	if _, err := x509.MarshalPKIXPublicKey(public); err != nil {
		return err
	}
	if _, err := ecdsa.SignASN1(rand.Reader, b.issuer, b.digest[:]); err != nil {
		return err
	}
	_, err = x509.ParseCertificate(b.template)
	return err
}

// parallel does the work with so many workers, and returns processor and wall
// time.
func parallel(requests []request, workers int, do func(request) error) (used, wall time.Duration, err error) {
	queue := make(chan request)
	failed := make(chan error, workers)
	var group sync.WaitGroup
	before, start := cpu(), time.Now()
	for range workers {
		group.Go(func() {
			for r := range queue {
				if err := do(r); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	for _, r := range requests {
		queue <- r
	}
	close(queue)
	group.Wait()
	select {
	case err = <-failed:
	default:
	}
	return cpu() - before, time.Since(start), err
}
