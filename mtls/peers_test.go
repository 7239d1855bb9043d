package mtls_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/mtls"
)

// TestPeers shows one certificate after another to a server and to a client of
// ours. Each is signed by the authority that both trust, unless it says so.
func TestPeers(t *testing.T) {
	a, stranger, foreign := newAuthority(t, domain), newAuthority(t, domain), newAuthority(t, other)
	const id = "spiffe://mesh.example/ns/shop/sa/web"
	now := time.Now()
	with := func(change func(*x509.Certificate), uris ...string) []*x509.Certificate {
		if uris == nil {
			uris = []string{id}
		}
		c := template(uris...)
		change(c)
		return a.leaf(t, c)
	}
	as := func(uris ...string) []*x509.Certificate { return a.leaf(t, template(uris...)) }
	under := func(change func(*x509.Certificate)) []*x509.Certificate {
		issuer := caTemplate(domain)
		change(issuer)
		key := newKey()
		cert := a.sign(t, issuer, a.root, key, a.rootKey)
		return []*x509.Certificate{a.sign(t, template(id), cert, leafKey, key), cert}
	}
	good := as(id)
	self := a.sign(t, template(id), nil, leafKey, leafKey)
	eku := func(use ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = use }
	}
	ku := func(use x509.KeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.KeyUsage = use }
	}
	rows := []struct {
		name  string
		chain []*x509.Certificate
		want  string
	}{
		{"good", good, ""},
		{"good, straight from the root", []*x509.Certificate{a.sign(t, template(id), a.root, leafKey, a.rootKey)}, ""},
		{"good, with its root", append(as(id), a.root), ""},
		{"a third use beside the two", with(eku(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageCodeSigning)), ""},
		{"no subject", with(func(c *x509.Certificate) { c.Subject = pkix.Name{} }), ""},

		{"expired", with(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), "peer-not-verified"},
		{"not yet valid", with(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }), "peer-not-verified"},
		{"two URI names", as(id, "spiffe://mesh.example/ns/shop/sa/db"), "peer-not-verified"},
		{"the same URI name twice", as(id, id), "peer-not-verified"},
		{"a web URI beside it", as(id, "https://mesh.example/"), "peer-not-verified"},
		{"no URI name", with(func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{names(2, "mesh.example")} }), "peer-not-verified"},
		{"the ID as a DNS name", with(func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{names(2, id)} }), "peer-not-verified"},
		{"no alternative names", with(func(c *x509.Certificate) { c.ExtraExtensions = nil }), "peer-not-verified"},
		{"the ID as common name", with(func(c *x509.Certificate) { c.ExtraExtensions, c.Subject.CommonName = nil, id }), "peer-not-verified"},

		{"a foreign domain under our root", as("spiffe://other.example/ns/shop/sa/web"), "peer-not-verified"},
		{"a foreign domain under its own root", foreign.leaf(t, template("spiffe://other.example/ns/shop/sa/web")), "peer-not-verified"},
		{"our domain under a foreign root", foreign.leaf(t, template(id)), "peer-not-verified"},
		{"our domain under a stranger's root of our name", stranger.leaf(t, template(id)), "peer-not-verified"},
		{"self-signed", []*x509.Certificate{self}, "peer-not-verified"},
		{"self-signed, with our issuer behind it", []*x509.Certificate{self, a.issuer}, "peer-not-verified"},
		{"without its issuer", good[:1], "peer-not-verified"},
		{"with another's issuer", []*x509.Certificate{good[0], stranger.issuer}, "peer-not-verified"},
		{"with more than is good", append(as(id), a.issuer, a.issuer, a.issuer, a.issuer), "peer-chain-length"},

		{"a CA", with(func(c *x509.Certificate) { c.IsCA = true }), "peer-not-verified"},
		{"may sign certificates", with(ku(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign)), "peer-not-verified"},
		{"may sign lists", with(ku(x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign)), "peer-not-verified"},
		{"no key usage", with(ku(0)), "peer-use"},
		{"no digital signature", with(ku(x509.KeyUsageKeyEncipherment)), "peer-use"},
		{"no extended use", with(eku()), "peer-use"},
		{"server only", with(eku(x509.ExtKeyUsageServerAuth)), "peer-use"},
		{"client only", with(eku(x509.ExtKeyUsageClientAuth)), "peer-use"},
		{"code signing", with(eku(x509.ExtKeyUsageCodeSigning)), "peer-use"},
		{"any use", with(eku(x509.ExtKeyUsageAny)), "peer-use"},

		{"the trust domain itself", as("spiffe://mesh.example"), "peer-id-root"},
		{"scheme in upper case", as("SPIFFE://mesh.example/ns/shop/sa/web"), "peer-id-spelling"},
		{"an empty fragment", as(id + "#"), "peer-id-spelling"},
		{"a fragment", as(id + "#x"), "peer-not-verified"},
		{"a query", as(id + "?x"), "peer-not-verified"},
		{"an empty query", as(id + "?"), "peer-not-verified"},
		{"a trailing slash", as(id + "/"), "peer-not-verified"},
		{"a percent", as("spiffe://mesh.example/ns/shop/sa/%77eb"), "peer-not-verified"},
		{"dots", as("spiffe://mesh.example/ns/x/../shop/sa/web"), "peer-not-verified"},
		{"a port", as("spiffe://mesh.example:443/ns/shop/sa/web"), "peer-not-verified"},
		{"a user", as("spiffe://u@mesh.example/ns/shop/sa/web"), "peer-not-verified"},
		{"domain in upper case", as("spiffe://Mesh.example/ns/shop/sa/web"), "peer-not-verified"},
		{"another scheme", as("https://mesh.example/ns/shop/sa/web"), "peer-not-verified"},

		{"an expired issuer", under(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), "peer-not-verified"},
		{"an issuer that is no CA", under(func(c *x509.Certificate) { c.IsCA = false }), "peer-not-verified"},
		{"an issuer for code alone", under(eku(x509.ExtKeyUsageCodeSigning)), "peer-use"},
		{"an issuer for our uses", under(eku(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)), ""},
		{"an issuer for any use", under(eku(x509.ExtKeyUsageAny)), ""},
		{"an issuer with a name constraint of another domain", under(func(c *x509.Certificate) {
			c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"other.example"}, true
		}), "peer-not-verified"},
	}
	if got, want := len(rows), 52; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	bundle := a.bundle(domain)
	server := mtls.Server(a.svid(t, caID), bundle, anybody)
	client := mtls.Client(a.svid(t, agentID), bundle, anybody)
	for _, r := range rows {
		_, s := handshake(t, raw(r.chain, leafKey), server)
		if attest.Reason(s.err) != r.want || (s.err == nil) != (r.want == "") {
			t.Errorf("client: %s: got %v, want %q", r.name, s.err, r.want)
		}
		c, _ := handshake(t, client, raw(r.chain, leafKey))
		if attest.Reason(c.err) != r.want || (c.err == nil) != (r.want == "") {
			t.Errorf("server: %s: got %v, want %q", r.name, c.err, r.want)
		}
		if id, err := mtls.PeerID(s.state); (err == nil) != (r.want == "") {
			t.Errorf("%s: PeerID gives %v, %v", r.name, id, err)
		}
	}

	for name, authorize := range map[string]mtls.Authorizer{
		"nil": nil, "nobody": mtls.Exactly(), "another": mtls.Exactly(managerID),
		"an authorizer that refuses": func(spiffeid.ID) error { return attest.Refuse("peer-not-expected", "no") },
	} {
		if _, s := handshake(t, raw(good, leafKey), mtls.Server(a.svid(t, caID), bundle, authorize)); attest.Reason(s.err) != "peer-not-expected" {
			t.Errorf("%s: the server let the client in: %v", name, s.err)
		}
		if c, _ := handshake(t, mtls.Client(a.svid(t, agentID), bundle, authorize), raw(good, leafKey)); attest.Reason(c.err) != "peer-not-expected" {
			t.Errorf("%s: the client let the server be: %v", name, c.err)
		}
	}
}
