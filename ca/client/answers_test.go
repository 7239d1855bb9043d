package client

import (
	"crypto"
	"crypto/x509"
	"log/slog"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/catest"
)

// TestAnswers: what a CA that is wrong, or half broken, could answer to Attest.
// Nothing of a refused answer is kept.
func TestAnswers(t *testing.T) {
	c, other := catest.New(t, td), catest.New(t, td)
	key := catest.Key(t)
	chain := func(certs []*x509.Certificate) (der [][]byte) {
		for _, cert := range certs {
			der = append(der, cert.Raw)
		}
		return der
	}
	issued := func(by *catest.CA, id spiffeid.ID) [][]byte {
		return chain(by.IssueKey(t, key.Public(), id, time.Hour))
	}
	elsewhere := spiffeid.RequireFromString("spiffe://other.test/istio-auth/node/node-a/a-uid")
	svid := c.SVID(t, agentID, time.Hour) // for a key of its own
	rows := []struct {
		name string
		good bool
		make func(r *capb.AttestResponse)
	}{
		{"good", true, func(*capb.AttestResponse) {}},
		{"a bundle of two", true, func(r *capb.AttestResponse) { r.Bundle.Authorities = append(r.Bundle.Authorities, other.Root.Raw) }},
		{"a clock an hour ahead", true, func(r *capb.AttestResponse) { r.ServerTime = timestamppb.New(time.Now().Add(time.Hour)) }},
		{"no time", false, func(r *capb.AttestResponse) { r.ServerTime = nil }},
		{"a time that is none", false, func(r *capb.AttestResponse) { r.ServerTime.Nanos = -1 }},
		{"no bundle", false, func(r *capb.AttestResponse) { r.Bundle = nil }},
		{"an empty bundle", false, func(r *capb.AttestResponse) { r.Bundle.Authorities = nil }},
		{"a bundle of too many", false, func(r *capb.AttestResponse) {
			for range maxAuthorities {
				r.Bundle.Authorities = append(r.Bundle.Authorities, c.Root.Raw)
			}
		}},
		{"a bundle of noise", false, func(r *capb.AttestResponse) { r.Bundle.Authorities = [][]byte{{0x30, 0}} }},
		{"a bundle with an authority too large", false, func(r *capb.AttestResponse) { r.Bundle.Authorities[0] = make([]byte, maxCertificate+1) }},
		{"a bundle of a leaf", false, func(r *capb.AttestResponse) { r.Bundle.Authorities = [][]byte{svid.Certificates[0].Raw} }},
		{"a bundle without a sequence", false, func(r *capb.AttestResponse) { r.Bundle.Sequence = 0 }},
		{"a bundle of another CA", false, func(r *capb.AttestResponse) { r.Bundle.Authorities = [][]byte{other.Root.Raw} }},
		{"no chain", false, func(r *capb.AttestResponse) { r.Chain = nil }},
		{"a leaf alone", false, func(r *capb.AttestResponse) { r.Chain = r.Chain[:1] }},
		{"a chain of four", false, func(r *capb.AttestResponse) { r.Chain = append(r.Chain, r.Chain...) }},
		{"a chain of noise", false, func(r *capb.AttestResponse) { r.Chain[0] = []byte("noise") }},
		{"a certificate too large", false, func(r *capb.AttestResponse) { r.Chain[0] = make([]byte, maxCertificate+1) }},
		{"a certificate by another CA", false, func(r *capb.AttestResponse) { r.Chain = issued(other, agentID) }},
		{"a certificate for another key", false, func(r *capb.AttestResponse) { r.Chain = chain(svid.Certificates) }},
		{"a certificate of another domain", false, func(r *capb.AttestResponse) { r.Chain = issued(c, elsewhere) }},
		{"the issuer as the leaf", false, func(r *capb.AttestResponse) { r.Chain = r.Chain[1:] }},
	}
	if got, want := len(rows), 22; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	for _, r := range rows {
		client, err := New(newWorld(t).config())
		if err != nil {
			t.Fatal(err)
		}
		response := &capb.AttestResponse{
			Chain:      issued(c, agentID),
			Bundle:     &capb.BundleUpdate{Sequence: 7, Authorities: [][]byte{c.Root.Raw}},
			ServerTime: timestamppb.Now(),
		}
		r.make(response)
		_, err = client.accept(response, key)
		if (err == nil) != r.good {
			t.Errorf("%s: got %v", r.name, err)
		}
		if own, _ := client.GetX509SVID(); (own != nil) != r.good || (client.bundles() != nil) != r.good {
			t.Errorf("%s: kept %v", r.name, own)
		}
		if r.name == "a clock an hour ahead" && client.Skew() > -59*time.Minute {
			t.Errorf("the clock is %v ahead, want an hour behind", client.Skew())
		}
	}
}

// FuzzAttestResponse: whatever the CA sends, nothing panics, and what is kept
// is an SVID of ours for our key.
func FuzzAttestResponse(f *testing.F) {
	c, key := catest.New(f, td), catest.Key(f)
	leaf := c.IssueKey(f, key.Public(), agentID, time.Hour)
	good, err := proto.Marshal(&capb.AttestResponse{
		Chain:      [][]byte{leaf[0].Raw, leaf[1].Raw},
		Bundle:     &capb.BundleUpdate{Sequence: 7, Authorities: [][]byte{c.Root.Raw}},
		ServerTime: timestamppb.Now(),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, bytes []byte) {
		response := &capb.AttestResponse{}
		if proto.Unmarshal(bytes, response) != nil {
			return
		}
		client := &Client{config: Config{TrustDomain: td, Log: slog.New(slog.DiscardHandler)}}
		own, err := client.accept(response, key)
		if (err == nil) != (client.svid != nil) || (err == nil) != (client.keeper != nil) {
			t.Fatalf("returned %v and kept %v", err, client.svid)
		}
		if err == nil && (own.svid.ID.TrustDomain() != td || !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(own.svid.Certificates[0].PublicKey)) {
			t.Fatalf("kept %v", own.svid.ID)
		}
	})
}

// TestOlderBundle: the keeper that is held is not replaced by what comes with a
// later attestation.
func TestOlderBundle(t *testing.T) {
	w := newWorld(t)
	client, err := New(w.config())
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ sent, held uint64 }{{7, 7}, {9, 9}, {8, 9}, {9, 9}, {10, 10}} {
		key := catest.Key(t)
		leaf := w.ca.IssueKey(t, key.Public(), agentID, time.Hour)
		_, err := client.accept(&capb.AttestResponse{
			Chain:      [][]byte{leaf[0].Raw, leaf[1].Raw},
			Bundle:     &capb.BundleUpdate{Sequence: step.sent, Authorities: [][]byte{w.ca.Root.Raw}},
			ServerTime: timestamppb.Now(),
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		if held, _ := client.bundles().Current(); held.Sequence != step.held {
			t.Errorf("after %d holds %d, want %d", step.sent, held.Sequence, step.held)
		}
	}
}
