package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/journal"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/profile"
	"github.com/istio-auth/istio-auth/ca/signer"
	"github.com/istio-auth/istio-auth/test/testreq"
)

var td = spiffeid.RequireTrustDomainFromString("mesh.test")

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var workload = must(attest.NewWorkload(td, attest.Node{Name: "node", UID: "uid-of-node"},
	attest.Pod{Namespace: "shop", Name: "pod", UID: "uid-of-pod", ServiceAccount: "cart"}))

// open opens an authority, and closes it when the test ends, if it is not closed by then.
func open(t testing.TB, c Config) *Authority {
	t.Helper()
	c.TrustDomain = td
	if c.Dir == "" {
		c.Dir = filepath.Join(t.TempDir(), "ca")
	}
	a, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// request is one for the workload, with a key of its own.
func request(t testing.TB) Request {
	t.Helper()
	key, _ := newKey(t)
	return Request{Identity: workload, Key: key, Evidence: sha256.Sum256([]byte("evidence"))}
}

func newKey(t testing.TB) (keypolicy.Key, crypto.Signer) {
	t.Helper()
	key, err := signer.Create(filepath.Join(t.TempDir(), "k", "key"))
	if err != nil {
		t.Fatal(err)
	}
	return must(keypolicy.Of(key.Public())), key
}

// TestIssue: a certificate of the wanted identity, key and life, which every
// verifier accepts, and what the journal says about it.
func TestIssue(t *testing.T) {
	a := open(t, Config{})
	r := request(t)
	before := time.Now()
	issued, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if len(issued.Chain) != 2 || !issued.Chain[1].Equal(a.Issuer()) {
		t.Fatalf("a chain of %d", len(issued.Chain))
	}
	leaf := issued.Chain[0]
	id, _, err := x509svid.Verify(issued.Chain, a)
	if err != nil || id != workload.ID() {
		t.Errorf("verified as %s, %v", id, err)
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, r.Key.SPKI()) {
		t.Error("another key")
	}
	if life := leaf.NotAfter.Add(time.Second).Sub(before.Truncate(time.Second)); life < 6*time.Hour || life > 6*time.Hour+time.Minute {
		t.Errorf("a life of %v", life)
	}
	entry, ok := a.Journal().Lookup(leaf.SerialNumber, time.Now())
	if !ok || entry.ID != workload.ID() || entry.Evidence != r.Evidence || entry.Key != r.Key.Digest() ||
		entry.Profile != (profile.Profile{}).Digest() || !entry.NotAfter.Equal(leaf.NotAfter) ||
		entry.Outcome == nil || entry.Outcome.Certificate != sha256.Sum256(leaf.Raw) {
		t.Errorf("the journal has %+v", entry)
	}
	for record, err := range a.Journal().Records() {
		if err != nil {
			t.Fatal(err)
		}
		if in := record.Intent; in != nil && in.Serial.Cmp(leaf.SerialNumber) == 0 && !bytes.Equal(in.TBS, leaf.RawTBSCertificate) {
			t.Error("the journal has other bytes than were signed")
		}
	}
}

// TestOpenSSL: another implementation accepts root, issuer and leaf, by its
// strictest rules, with and without a constraint.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		testreq.Missing(t, "openssl: install the package openssl")
	}
	for name, p := range map[string]profile.Profile{"default": {}, "constrained": {ConstrainURI: true}} {
		t.Run(name, func(t *testing.T) {
			a := open(t, Config{Profile: p})
			issued, err := a.Issue(t.Context(), request(t))
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			write := func(name string, cert *x509.Certificate) string {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			root, issuer, leaf := write("root", a.root.cert), write("issuer", issued.Chain[1]), write("leaf", issued.Chain[0])
			for _, purpose := range []string{"sslserver", "sslclient"} {
				out, err := exec.Command(openssl, "verify", "-x509_strict", "-check_ss_sig", "-policy_check", "-purpose", purpose,
					"-CAfile", root, "-untrusted", issuer, leaf).CombinedOutput()
				if err != nil {
					t.Errorf("%s: %v: %s", purpose, err, out)
				}
			}
			// Neither is the issuer good for a handshake, nor the leaf for signing.
			if out, err := exec.Command(openssl, "verify", "-purpose", "crlsign", "-CAfile", root, "-untrusted", issuer, leaf).CombinedOutput(); err == nil {
				t.Errorf("a leaf may sign: %s", out)
			}
			text, err := exec.Command(openssl, "x509", "-in", leaf, "-noout", "-text").CombinedOutput()
			if err != nil || !strings.Contains(string(text), "URI:"+workload.ID().String()) {
				t.Errorf("%v: %s", err, text)
			}
		})
	}
}

// TestRequests: what is refused, and with which code; a longer life is cut, as
// is an agent's (CSR-30).
func TestRequests(t *testing.T) {
	a := open(t, Config{})
	foreign := must(attest.NewWorkload(spiffeid.RequireTrustDomainFromString("other.test"), workload.Node(), workload.Pod()))
	taken := request(t)
	if _, err := a.Issue(t.Context(), taken); err != nil {
		t.Fatal(err)
	}
	issuerKey := must(keypolicy.Parse(a.Issuer().RawSubjectPublicKeyInfo))
	rootKey := must(keypolicy.Parse(a.root.cert.RawSubjectPublicKeyInfo))
	ownKey := must(keypolicy.Parse(must(a.GetX509SVID()).Certificates[0].RawSubjectPublicKeyInfo))
	for name, r := range map[string]struct {
		change func(*Request)
		reason string
	}{
		"no identity":       {func(r *Request) { r.Identity = attest.Identity{} }, profile.ReasonNoIdentity},
		"no key":            {func(r *Request) { r.Key = keypolicy.Key{} }, profile.ReasonNoKey},
		"a foreign one":     {func(r *Request) { r.Identity = foreign }, profile.ReasonTrustDomain},
		"too short":         {func(r *Request) { r.Life = time.Second }, profile.ReasonLifeShort},
		"negative":          {func(r *Request) { r.Life = -time.Hour }, profile.ReasonLifeShort},
		"the issuer's key":  {func(r *Request) { r.Key = issuerKey }, ReasonKeyTaken},
		"the root's key":    {func(r *Request) { r.Key = rootKey }, ReasonKeyTaken},
		"the CA's own key":  {func(r *Request) { r.Key = ownKey }, ReasonKeyTaken},
		"another's key":     {func(r *Request) { r.Key, r.Identity = taken.Key, a.self }, ReasonKeyTaken},
		"its own key again": {func(r *Request) { r.Key = taken.Key }, ""},
	} {
		req := request(t)
		r.change(&req)
		if _, err := a.Issue(t.Context(), req); attest.Reason(err) != r.reason || (err == nil) != (r.reason == "") {
			t.Errorf("%s: %v, want %q", name, err, r.reason)
		}
	}
	long := request(t)
	long.Life = 100 * time.Hour
	issued, err := a.Issue(t.Context(), long)
	if err != nil {
		t.Fatal(err)
	}
	if life := issued.Chain[0].NotAfter.Sub(time.Now()); life > 6*time.Hour {
		t.Errorf("asked for 100 h, got %v", life)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Issue(ctx, request(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
}

// TestRestart: root, issuer and bundle are the same after a restart, and what
// was issued before it still verifies.
func TestRestart(t *testing.T) {
	c := Config{Dir: filepath.Join(t.TempDir(), "ca")}
	a := open(t, c)
	issued, err := a.Issue(t.Context(), request(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), a.config); err == nil {
		t.Fatal("two processes in one folder")
	}
	bundle, _ := a.Bundle().Current()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b := open(t, c)
	again, _ := b.Bundle().Current()
	if !b.Issuer().Equal(a.Issuer()) || !b.root.cert.Equal(a.root.cert) || again.Sequence != bundle.Sequence || !again.Bundle.Equal(bundle.Bundle) {
		t.Error("another authority after a restart")
	}
	if _, _, err := x509svid.Verify(issued.Chain, b); err != nil {
		t.Errorf("issued before the restart: %v", err)
	}
	if _, ok := b.Journal().Lookup(issued.Chain[0].SerialNumber, time.Now()); !ok {
		t.Error("the journal has forgotten what was issued before the restart")
	}
	if must(b.GetX509SVID()).Certificates[0].SerialNumber.Cmp(must(a.GetX509SVID()).Certificates[0].SerialNumber) == 0 {
		t.Error("the CA's own certificate has come back, and so must its key")
	}
}

// TestSpoiledFolder: a folder that does not hold together keeps the CA from
// starting, and never leads to a new root.
func TestSpoiledFolder(t *testing.T) {
	keys := func(dir string) []string { return must(filepath.Glob(filepath.Join(dir, "keys", "*.key"))) }
	for name, r := range map[string]struct {
		spoil func(dir string) error
		want  error // nil: any
	}{
		"the store is gone": {func(dir string) error {
			for _, path := range must(filepath.Glob(filepath.Join(dir, "store.db*"))) {
				if err := os.Remove(path); err != nil {
					return err
				}
			}
			return nil
		}, ErrStateLost},
		"the keys are gone":   {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "keys")) }, fs.ErrNotExist},
		"a key can be read":   {func(dir string) error { return os.Chmod(keys(dir)[0], 0o644) }, signer.ErrExposed},
		"the keys' folder is": {func(dir string) error { return os.Chmod(filepath.Join(dir, "keys"), 0o755) }, signer.ErrExposed},
		"the folder is open":  {func(dir string) error { return os.Chmod(dir, 0o755) }, nil},
		"the keys are swapped": {func(dir string) error {
			two := keys(dir)
			return errors.Join(os.Rename(two[0], two[0]+"x"), os.Rename(two[1], two[0]), os.Rename(two[0]+"x", two[1]))
		}, nil},
		"the journal is corrupt": {func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "journal", "journal"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{0xff}, 300)
			return errors.Join(err, f.Close())
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t, Config{})
			if err := errors.Join(a.Close(), r.spoil(a.config.Dir)); err != nil {
				t.Fatal(err)
			}
			b, err := New(t.Context(), a.config)
			if err == nil {
				b.Close()
				t.Fatal("opened")
			}
			if r.want != nil && !errors.Is(err, r.want) {
				t.Errorf("%v, want %v", err, r.want)
			}
		})
	}
	a := open(t, Config{})
	a.Close()
	other := a.config
	other.TrustDomain = spiffeid.RequireTrustDomainFromString("other.test")
	if b, err := New(t.Context(), other); err == nil {
		b.Close()
		t.Error("opened as another trust domain's")
	}
	for name, c := range map[string]Config{
		"no trust domain": {Dir: t.TempDir()}, "no folder": {TrustDomain: td}, "a bad profile": {TrustDomain: td, Dir: t.TempDir(), Profile: profile.Profile{Life: 1}},
	} {
		if b, err := New(t.Context(), c); err == nil {
			b.Close()
			t.Errorf("%s: opened", name)
		}
	}
}

// TestRootRunsOut: with less than a leaf's life left in the root, the CA does
// not start, and says why; before that it does.
func TestRootRunsOut(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	c := Config{Now: func() time.Time { return now }, Profile: profile.Profile{IssuerLife: 48 * time.Hour, RootLife: 30 * 24 * time.Hour}}
	a := open(t, c)
	c.Dir = a.config.Dir
	end := a.root.cert.NotAfter
	a.Close()
	now = end.Add(-25 * time.Hour)
	b := open(t, c)
	if b.Issuer().NotAfter.After(end) {
		t.Error("the issuer outlives its root")
	}
	b.Close()
	now = end.Add(2*time.Second - 6*time.Hour)
	_, err := New(t.Context(), b.config)
	if !errors.Is(err, profile.ErrIssuerSpent) || !strings.Contains(err.Error(), "bring in a new root") {
		t.Errorf("%v, want ErrIssuerSpent about the root", err)
	}
}

// TestIssuerRunsOut: an issuer with less than one leaf life left signs nothing,
// also when nobody has renewed it.
func TestIssuerRunsOut(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	a := open(t, Config{Now: func() time.Time { return now }})
	now = a.Issuer().NotAfter.Add(time.Second - 6*time.Hour)
	if _, err := a.Issue(t.Context(), request(t)); err != nil {
		t.Errorf("with exactly one life left: %v", err)
	}
	now = now.Add(time.Second)
	r := request(t)
	r.Life = time.Minute
	if _, err := a.Issue(t.Context(), r); !errors.Is(err, attest.ErrUnavailable) || !errors.Is(err, profile.ErrIssuerSpent) {
		t.Errorf("with less: %v", err)
	}
}

// TestRun: for five days the CA holds a valid certificate of its own, never the
// one of an hour ago, and an issuer that may sign; all verify by the first day's bundle.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := open(t, Config{Profile: profile.Profile{IssuerLife: 48 * time.Hour}})
		first := must(a.GetX509BundleForTrustDomain(td))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		serials, issuers := map[string]bool{}, map[string]bool{}
		const hours = 5 * 24
		for range hours {
			time.Sleep(time.Hour)
			synctest.Wait()
			svid := must(a.GetX509SVID())
			if _, _, err := x509svid.Verify(svid.Certificates, first, x509svid.WithTime(time.Now())); err != nil {
				t.Fatalf("%s: %v", time.Now(), err)
			}
			serials[svid.Certificates[0].SerialNumber.String()] = true
			issuers[svid.Certificates[1].SerialNumber.String()] = true
			if err := a.config.Profile.CheckIssuer(a.Issuer(), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got, want := len(serials), hours; got != want {
			t.Errorf("%d certificates seen, want another each hour: %d", got, want)
		}
		if got, want := len(issuers), 6; got != want {
			t.Errorf("%d issuers in five days, want one a day: %d", got, want)
		}
		a.Close()
	})
}

// TestRunRecovers: while the journal is broken the CA says so and keeps what it
// has; well again, it renews within seconds.
func TestRunRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := open(t, Config{})
		good, j := a.intents, &fakeJournal{history: &history{}, append: journal.ErrBroken}
		a.intents = j
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		before := must(a.GetX509SVID())
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if got := must(a.GetX509SVID()); got != before {
			t.Error("renewed without a journal")
		}
		tries := len(j.events)
		if tries < 100 || tries > 200 {
			t.Errorf("%d tries in the half hour after a third of the life, want one in ten seconds", tries)
		}
		stop()
		<-done
		a.intents = good
		ctx, stop = context.WithCancel(t.Context())
		go func() { done <- a.Run(ctx) }()
		time.Sleep(time.Second)
		synctest.Wait()
		if got := must(a.GetX509SVID()); got == before {
			t.Error("not renewed though it could be")
		}
		stop()
		<-done
		a.Close()
	})
}

// TestKeysStayInside: no file beside the keys' own folder holds a private key (I16).
func TestKeysStayInside(t *testing.T) {
	a := open(t, Config{})
	for _, path := range must(filepath.Glob(filepath.Join(a.config.Dir, "*"))) {
		info := must(os.Stat(path))
		if info.IsDir() {
			continue
		}
		if f := must(os.Open(path)); bytes.Contains(must(io.ReadAll(f)), []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a private key", path)
		}
	}
}
