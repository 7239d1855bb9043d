package secret_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istio-auth/istio-auth/sds/sdstest"
	"github.com/istio-auth/istio-auth/sds/secret"
	"github.com/istio-auth/istio-auth/sds/stream"
)

var (
	td     = spiffeid.RequireTrustDomainFromString("td.test")
	client = spiffeid.RequireFromPath(td, "/ns/a/sa/client")
)

func authority(t testing.TB, name string) *sdstest.Authority {
	t.Helper()
	a, err := sdstest.NewAuthority(spiffeid.RequireTrustDomainFromString(name))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func svid(t testing.TB, a *sdstest.Authority, id spiffeid.ID, leaf sdstest.Leaf) *x509svid.SVID {
	t.Helper()
	s, err := a.SVID(id, leaf)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func names(s stream.Snapshot) []string { return slices.Sorted(maps.Keys(s.Resources)) }

func open(t *testing.T, s stream.Snapshot, name string) *tlsv3.Secret {
	t.Helper()
	r := s.Resources[name]
	if r == nil {
		t.Fatalf("no secret %s among %q", name, names(s))
	}
	out := &tlsv3.Secret{}
	if err := r.Body.UnmarshalTo(out); err != nil {
		t.Fatal(err)
	}
	if out.GetName() != name || r.Name != name || r.Body.GetTypeUrl() != secret.TypeURL {
		t.Errorf("secret %q under the name %q, type %s", out.GetName(), r.Name, r.Body.GetTypeUrl())
	}
	return out
}

func TestNames(t *testing.T) {
	ca, foreign := authority(t, "td.test"), authority(t, "other.test")
	source := &secret.Source{}
	if s, _ := source.Current(); s.Complete || len(s.Resources) != 0 {
		t.Fatalf("before the first Set: %v", names(s))
	}

	// Without a certificate the bundles are there, and the rest is silence.
	if err := source.Set(secret.Material{Bundle: ca.Bundle()}); err != nil {
		t.Fatal(err)
	}
	s, replaced := source.Current()
	if diff := cmp.Diff([]string{"ALL", "ROOTCA", "spiffe://td.test"}, names(s)); diff != "" || s.Complete {
		t.Errorf("complete=%v, names (-want +got):\n%s", s.Complete, diff)
	}

	own := svid(t, ca, client, sdstest.Leaf{})
	if err := source.Set(secret.Material{SVID: own, Bundle: ca.Bundle(), Foreign: []*x509bundle.Bundle{foreign.Bundle()}}); err != nil {
		t.Fatal(err)
	}
	<-replaced
	s, _ = source.Current()
	want := []string{"ALL", "ROOTCA", "default", "spiffe://other.test", "spiffe://td.test", "spiffe://td.test/ns/a/sa/client"}
	if diff := cmp.Diff(want, names(s)); diff != "" || !s.Complete {
		t.Errorf("complete=%v, names (-want +got):\n%s", s.Complete, diff)
	}
	for _, name := range []string{"default", client.String()} {
		cert := open(t, s, name).GetTlsCertificate()
		got, err := x509svid.Parse(cert.GetCertificateChain().GetInlineBytes(), cert.GetPrivateKey().GetInlineBytes())
		if err != nil || got.ID != client || !got.Certificates[0].Equal(own.Certificates[0]) {
			t.Errorf("%s holds %v, %v", name, got, err)
		}
	}
	for name, domains := range map[string][]string{
		"ROOTCA": {"td.test"}, "spiffe://td.test": {"td.test"}, "spiffe://other.test": {"other.test"}, "ALL": {"other.test", "td.test"},
	} {
		context := open(t, s, name).GetValidationContext()
		validator := &tlsv3.SPIFFECertValidatorConfig{}
		if err := context.GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(validator); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range validator.GetTrustDomains() {
			got = append(got, d.GetName())
			if n := strings.Count(string(d.GetTrustBundle().GetInlineBytes()), "BEGIN CERTIFICATE"); n != 1 {
				t.Errorf("%s: %d roots for %s, want 1", name, n, d.GetName())
			}
		}
		if diff := cmp.Diff(domains, got); diff != "" {
			t.Errorf("%s holds (-want +got):\n%s", name, diff)
		}
		if !context.GetSuppressClientCaList() || len(context.GetMatchTypedSubjectAltNames()) != 0 {
			t.Errorf("%s: %v", name, context)
		}
	}
}

// Versions are of the content, so that a restart sends nothing anew, and a
// changed bundle sends no unchanged key.
func TestVersions(t *testing.T) {
	ca, next := authority(t, "td.test"), authority(t, "td.test")
	own := svid(t, ca, client, sdstest.Leaf{})
	versions := func(m secret.Material) map[string]string {
		t.Helper()
		source := &secret.Source{}
		if err := source.Set(m); err != nil {
			t.Fatal(err)
		}
		s, _ := source.Current()
		out := map[string]string{}
		for name, r := range s.Resources {
			out[name] = r.Version
		}
		return out
	}
	first := versions(secret.Material{SVID: own, Bundle: ca.Bundle(next)})
	if diff := cmp.Diff(first, versions(secret.Material{SVID: own, Bundle: next.Bundle(ca)})); diff != "" {
		t.Errorf("the same content, another order:\n%s", diff)
	}
	changed := versions(secret.Material{SVID: own, Bundle: ca.Bundle()})
	for _, name := range []string{"ROOTCA", "ALL", "spiffe://td.test"} {
		if first[name] == changed[name] {
			t.Errorf("%s: another bundle, the same version", name)
		}
	}
	for _, name := range []string{"default", client.String()} {
		if first[name] != changed[name] {
			t.Errorf("%s: only the bundle changed, and so did its version", name)
		}
	}
	renewed := versions(secret.Material{SVID: svid(t, ca, client, sdstest.Leaf{Key: own.PrivateKey}), Bundle: ca.Bundle(next)})
	if renewed["default"] == first["default"] || renewed["ROOTCA"] != first["ROOTCA"] {
		t.Errorf("renewed: %v, before %v", renewed, first)
	}
}

func TestSetWakesOnlyForAChange(t *testing.T) {
	ca := authority(t, "td.test")
	m := secret.Material{SVID: svid(t, ca, client, sdstest.Leaf{}), Bundle: ca.Bundle()}
	source := &secret.Source{}
	if err := source.Set(m); err != nil {
		t.Fatal(err)
	}
	_, replaced := source.Current()
	if err := source.Set(m); err != nil {
		t.Fatal(err)
	}
	select {
	case <-replaced:
		t.Error("the same material woke the streams")
	default:
	}
	if err := source.Set(secret.Material{Bundle: ca.Bundle()}); err != nil {
		t.Fatal(err)
	}
	<-replaced
	if s, _ := source.Current(); s.Complete || s.Resources["default"] != nil {
		t.Error("an ended identity is still offered, or said not to exist")
	}
}

// A certificate that is late for renewal must not keep a new bundle out.
func TestBundleReachesAnExpiredHolder(t *testing.T) {
	ca, next := authority(t, "td.test"), authority(t, "td.test")
	now := time.Now()
	source := &secret.Source{Now: func() time.Time { return now }}
	m := secret.Material{SVID: svid(t, ca, client, sdstest.Leaf{}), Bundle: ca.Bundle()}
	if err := source.Set(m); err != nil {
		t.Fatal(err)
	}
	before, _ := source.Current()
	now = now.Add(2 * time.Hour)
	m.Bundle = ca.Bundle(next)
	if err := source.Set(m); err != nil {
		t.Fatal(err)
	}
	after, _ := source.Current()
	if before.Resources["ROOTCA"].Version == after.Resources["ROOTCA"].Version {
		t.Error("the bundle did not change")
	}
	if err := (&secret.Source{Now: source.Now}).Set(m); err == nil {
		t.Error("an expired certificate was taken anew")
	}
}

func ec(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// badMaterials is every way in which a material may be no good.
func badMaterials(t *testing.T) []struct {
	name, reason string
	edit         func(*secret.Material)
} {
	ca, foreign := authority(t, "td.test"), authority(t, "other.test")
	sign := func(leaf sdstest.Leaf) func(*secret.Material) {
		return func(m *secret.Material) { m.SVID = svid(t, ca, client, leaf); m.Bundle = ca.Bundle() }
	}
	edit := func(f func(*x509.Certificate)) func(*secret.Material) { return sign(sdstest.Leaf{Edit: f}) }
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err) // Go refuses short keys unless told otherwise
	}
	roots := func(certs ...*x509.Certificate) func(*secret.Material) {
		return func(m *secret.Material) { m.Bundle = x509bundle.FromX509Authorities(td, certs) }
	}
	leafOf := func(m *secret.Material) *x509.Certificate { return m.SVID.Certificates[0] }
	return []struct {
		name, reason string
		edit         func(*secret.Material)
	}{
		{"as it should be", "", func(*secret.Material) {}},
		{"no identity yet", "", func(m *secret.Material) { m.SVID = nil }},
		{"P-384", "", sign(sdstest.Leaf{Key: ec(t, elliptic.P384())})},
		{"nothing", "bundle-missing", func(m *secret.Material) { *m = secret.Material{} }},
		{"no bundle", "bundle-missing", func(m *secret.Material) { m.Bundle = nil }},
		{"a nil foreign bundle", "bundle-missing", func(m *secret.Material) { m.Foreign = []*x509bundle.Bundle{nil} }},
		{"an empty bundle", "bundle-empty", func(m *secret.Material) { m.Bundle = x509bundle.New(td) }},
		{"an empty foreign bundle", "bundle-empty", func(m *secret.Material) { m.Foreign = []*x509bundle.Bundle{x509bundle.New(foreign.TrustDomain)} }},
		{"our domain as a foreign one", "bundle-duplicate", func(m *secret.Material) { m.Foreign = []*x509bundle.Bundle{m.Bundle} }},
		{"a foreign domain twice", "bundle-duplicate", func(m *secret.Material) { m.Foreign = []*x509bundle.Bundle{foreign.Bundle(), foreign.Bundle()} }},
		{"a root that does not parse", "bundle-unparsable", roots(&x509.Certificate{Raw: []byte("garbage")})},
		{"a root of no bytes", "bundle-unparsable", roots(&x509.Certificate{})},
		{"a leaf as root", "bundle-not-ca", func(m *secret.Material) { roots(leafOf(m))(m) }},
		{"the bundle of another domain", "trust-domain-mismatch", func(m *secret.Material) { m.Bundle = foreign.Bundle() }},
		{"no certificate", "no-certificate", func(m *secret.Material) { m.SVID.Certificates = nil }},
		{"a nil certificate", "certificate-unparsable", func(m *secret.Material) { m.SVID.Certificates = []*x509.Certificate{nil} }},
		{"a garbage certificate", "certificate-unparsable", func(m *secret.Material) { m.SVID.Certificates = []*x509.Certificate{{Raw: []byte("garbage")}} }},
		{"a truncated certificate", "certificate-unparsable", func(m *secret.Material) {
			m.SVID.Certificates = []*x509.Certificate{{Raw: leafOf(m).Raw[:100]}}
		}},
		{"a garbage issuer", "certificate-unparsable", func(m *secret.Material) {
			m.SVID.Certificates = append(m.SVID.Certificates, &x509.Certificate{Raw: []byte("garbage")})
		}},
		{"the wrong issuer", "chain-broken", func(m *secret.Material) { m.SVID.Certificates = append(m.SVID.Certificates, foreign.Root) }},
		{"a CA", "leaf-is-ca", edit(func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign })},
		{"no URI SAN", "id-invalid", edit(func(c *x509.Certificate) { c.URIs = nil })},
		{"two URI SANs", "id-invalid", edit(func(c *x509.Certificate) { c.URIs = append(c.URIs, client.URL()) })},
		{"not a SPIFFE URI", "id-invalid", edit(func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "td.test", Path: "/a"}} })},
		{"another identity", "id-mismatch", edit(func(c *x509.Certificate) {
			c.URIs = []*url.URL{spiffeid.RequireFromPath(td, "/ns/a/sa/other").URL()}
		})},
		{"a trust domain's identity", "id-mismatch", func(m *secret.Material) { m.SVID = svid(t, ca, td.ID(), sdstest.Leaf{}) }},
		{"an identity that the certificate lacks", "id-mismatch", func(m *secret.Material) { m.SVID.ID = spiffeid.RequireFromPath(td, "/ns/a/sa/other") }},
		{"expired", "expired", sign(sdstest.Leaf{NotAfter: -time.Second})},
		{"expiring now", "expired", sign(sdstest.Leaf{NotAfter: -time.Nanosecond})},
		{"not valid yet", "not-yet-valid", sign(sdstest.Leaf{NotBefore: time.Minute})},
		{"no key", "key-missing", func(m *secret.Material) { m.SVID.PrivateKey = nil }},
		{"another key", "key-mismatch", func(m *secret.Material) { m.SVID.PrivateKey = ec(t, elliptic.P256()) }},
		{"a key of another kind", "key-mismatch", func(m *secret.Material) { m.SVID.PrivateKey = ed }},
		{"Ed25519", "key-unsupported", sign(sdstest.Leaf{Key: ed})},
		{"P-224", "key-unsupported", sign(sdstest.Leaf{Key: ec(t, elliptic.P224())})},
		{"P-521", "key-unsupported", sign(sdstest.Leaf{Key: ec(t, elliptic.P521())})},
		{"a short RSA key", "key-unsupported", sign(sdstest.Leaf{Key: short})},
	}
}

func TestBadMaterial(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	table := badMaterials(t)
	if got, want := len(table), 37; got != want {
		t.Fatalf("the table has %d rows, want %d", got, want)
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			ca := authority(t, "td.test")
			good := secret.Material{SVID: svid(t, ca, client, sdstest.Leaf{}), Bundle: ca.Bundle()}
			source := &secret.Source{}
			if err := source.Set(good); err != nil {
				t.Fatal(err)
			}
			before, replaced := source.Current()
			bad := secret.Material{SVID: svid(t, ca, client, sdstest.Leaf{}), Bundle: ca.Bundle()}
			row.edit(&bad)
			err := source.Set(bad)
			var refusal *secret.Refusal
			got := ""
			if errors.As(err, &refusal) {
				got = refusal.Reason
			}
			if got != row.reason || (err == nil) != (row.reason == "") {
				t.Fatalf("got %v, want the reason %q", err, row.reason)
			}
			if err == nil {
				return
			}
			select {
			case <-replaced:
				t.Error("a refused material woke the streams")
			default:
			}
			if after, _ := source.Current(); !maps.Equal(before.Resources, after.Resources) {
				t.Error("a refused material changed what is served")
			}
		})
	}
}

func TestNothingPrintsAKey(t *testing.T) {
	ca := authority(t, "td.test")
	m := secret.Material{SVID: svid(t, ca, client, sdstest.Leaf{}), Bundle: ca.Bundle()}
	source := &secret.Source{}
	if err := source.Set(m); err != nil {
		t.Fatal(err)
	}
	s, _ := source.Current()
	key := m.SVID.PrivateKey.(*ecdsa.PrivateKey)
	secretBytes, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	r := s.Resources["default"]
	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(handler).Info("x", "material", m, "pointer", &m, "resource", r, "value", *r, "snapshot", s, "names", s.Resources)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		fmt.Fprintf(&log, verb+verb+verb+verb+verb+verb+"\n", m, &m, r, *r, s, s.Resources)
	}
	for _, v := range []any{m, &m, r, *r, s} {
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		log.Write(out)
	}
	body := base64.StdEncoding.EncodeToString(r.Body.GetValue()) // as JSON has bytes
	leaks := []string{
		"PRIVATE", base64.StdEncoding.EncodeToString(der)[40:60], body[400:440], body[len(body)/2:][:40], key.D.String(), fmt.Sprintf("%x", secretBytes), "50524956415445", fmt.Sprint(secretBytes[:6])[1:],
	}
	for _, leak := range leaks {
		if strings.Contains(log.String(), leak) {
			t.Errorf("printed %q in:\n%s", leak, log.String())
		}
	}
}
