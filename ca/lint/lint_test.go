package lint_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	. "github.com/istio-auth/istio-auth/ca/lint"
	"github.com/istio-auth/istio-auth/ca/profile"
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

const good = "accepted"

func ruleOf(err error) string {
	if err == nil {
		return good
	}
	if b, ok := errors.AsType[*Broken](err); ok {
		return b.Rule
	}
	return "not a rule"
}

// leaf is a good one: its template, what is wanted of it, and its issuer.
func leaf(t testing.TB) (*x509.Certificate, Want) {
	t.Helper()
	mesh := catest.New(t, td)
	want := Want{
		ID: workload.ID(), Key: must(keypolicy.Of(catest.Key(t).Public())), Serial: must(profile.NewSerial(rand.Reader)),
		Issuer: mesh.Issuer, Now: time.Now(), Life: 6 * time.Hour,
	}
	template := must(profile.Profile{}.Leaf(profile.Order{
		Identity: workload, Key: want.Key, Issuer: want.Issuer, Serial: want.Serial, Now: want.Now,
	}))
	return template, want
}

type row struct {
	name   string
	rule   string
	change func(*x509.Certificate)
}

func uris(ids ...string) []*url.URL {
	var all []*url.URL
	for _, id := range ids {
		all = append(all, must(url.Parse(id)))
	}
	return all
}

// more adds an extension; extensions that are given replace those of the template.
func more(oid asn1.ObjectIdentifier, critical bool, value ...byte) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oid, Critical: critical, Value: value})
	}
}

func id(last ...int) asn1.ObjectIdentifier { return append(asn1.ObjectIdentifier{2, 5, 29}, last...) }

func nameRows() (rows []row) {
	for _, name := range []string{
		"spiffe://mesh.test/ns/shop/sa/carts", "spiffe://mesh.test/ns/shop/sa/Cart", "spiffe://mesh.test/ns/shop/sa/cart/", "spiffe://mesh.test/ns/shop/sa/car",
		"spiffe://mesh.test/istio-auth/ca", "spiffe://mesh.test", "spiffe://mesh.test/", "spiffe://other.test/ns/shop/sa/cart", "spiffe://MESH.test/ns/shop/sa/cart",
		"spiffe://mesh.test/ns/shop/sa/cart?x", "spiffe://mesh.test/ns/shop/sa/cart#x", "spiffe://u@mesh.test/ns/shop/sa/cart", "spiffe://mesh.test:1/ns/shop/sa/cart",
		"spiffe://mesh.test/ns/shop/sa/%63art", "spiffe://mesh.test//ns/shop/sa/cart", "https://mesh.test/ns/shop/sa/cart",
	} {
		rows = append(rows, row{"named " + name, RuleName, func(c *x509.Certificate) { c.URIs = uris(name) }})
	}
	mine := workload.ID().String()
	raw := func(general ...[]byte) func(*x509.Certificate) {
		return more(id(17), true, must(asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: bytes.Join(general, nil)}))...)
	}
	uri := func(s string) []byte { return append([]byte{0x86, byte(len(s))}, s...) }
	return append(rows,
		row{"two names", RuleName, func(c *x509.Certificate) { c.URIs = uris(mine, "spiffe://mesh.test/ns/shop/sa/b") }},
		row{"one name twice", RuleName, func(c *x509.Certificate) { c.URIs = uris(mine, mine) }},
		row{"and a DNS name", RuleName, func(c *x509.Certificate) { c.DNSNames = []string{"cart"} }},
		row{"and an address", RuleName, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv6loopback} }},
		row{"and a mail address", RuleName, func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b"} }},
		row{"no name, nothing in its place", RuleExtensions, func(c *x509.Certificate) { c.URIs = nil }},
		row{"a DNS name instead", RuleName, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"cart"} }},
		row{"the name as a DNS name", RuleName, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{mine} }},
		row{"the name as common name too", RuleSubject, func(c *x509.Certificate) { c.Subject.CommonName = mine }},
		row{"the name not critical", RuleCritical, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: id(17), Value: append([]byte{0x30, byte(len(mine) + 2)}, uri(mine)...)}}
		}},
		row{"and an otherName", RuleName, raw(uri(mine), []byte{0xa0, 7, 6, 1, 0x2a, 0xa0, 2, 5, 0})},
		row{"and a directory name", RuleName, raw(uri(mine), []byte{0xa4, 2, 0x30, 0})},
		row{"and a registered ID", RuleName, raw(uri(mine), []byte{0x88, 1, 0x2a})},
		row{"a zero byte behind it", RuleEncoding, raw(uri(mine + "\x00.evil"))},
		row{"not ASCII", RuleEncoding, raw(uri("spiffe://mesh.test/ns/shop/sa/cärt"))},
		row{"a scheme in capitals", RuleName, raw(uri("SPIFFE" + mine[6:]))},
		row{"an empty list of names", RuleName, raw()},
		row{"the wrong tag in the list", RuleName, raw(append([]byte{0x82, byte(len(mine))}, mine...))},
	)
}

func powerRows() (rows []row) {
	for bit := range 9 {
		usage := x509.KeyUsage(1 << bit)
		if usage == x509.KeyUsageDigitalSignature {
			continue
		}
		rows = append(rows,
			row{fmt.Sprintf("key usage %#x alone", usage), RuleKeyUsage, func(c *x509.Certificate) { c.KeyUsage = usage }},
			row{fmt.Sprintf("key usage %#x more", usage), RuleKeyUsage, func(c *x509.Certificate) { c.KeyUsage |= usage }})
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for usage := x509.ExtKeyUsageAny; usage <= x509.ExtKeyUsageMicrosoftKernelCodeSigning; usage++ {
		rows = append(rows, row{fmt.Sprintf("extended key usage %d alone", usage), RuleExtUsage, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{usage} }})
		if usage != x509.ExtKeyUsageServerAuth && usage != x509.ExtKeyUsageClientAuth {
			rows = append(rows, row{fmt.Sprintf("extended key usage %d more", usage), RuleExtUsage, func(c *x509.Certificate) { c.ExtKeyUsage = append(both[:2:2], usage) }})
		}
	}
	return append(rows,
		row{"no key usage", RuleExtensions, func(c *x509.Certificate) { c.KeyUsage = 0 }},
		row{"no extended key usage", RuleExtensions, func(c *x509.Certificate) { c.ExtKeyUsage = nil }},
		row{"an unknown extended key usage", RuleExtUsage, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }},
		row{"usages swapped", RuleExtUsage, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{both[1], both[0]} }},
		row{"an empty extended key usage", RuleExtUsage, more(id(37), false, 0x30, 0)},
		row{"extended key usage critical", RuleCritical, more(id(37), true, 0x30, 20, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2)},
		row{"key usage not critical", RuleCritical, more(id(15), false, 3, 2, 7, 0x80)},
		row{"key usage with a bit of padding", RuleKeyUsage, more(id(15), true, 3, 2, 6, 0x80)},
		row{"a CA, and so with a key identifier", RuleExtensions, func(c *x509.Certificate) { c.IsCA = true }},
		row{"a CA that may sign", RuleExtensions, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }},
		row{"cA", RuleConstraints, more(id(19), true, 0x30, 3, 1, 1, 0xff)},
		row{"cA of path length 0", RuleConstraints, more(id(19), true, 0x30, 6, 1, 1, 0xff, 2, 1, 0)},
		row{"no basic constraints", RuleExtensions, func(c *x509.Certificate) { c.BasicConstraintsValid = false }},
		row{"basic constraints not critical", RuleCritical, more(id(19), false, 0x30, 0)},
		row{"cA written out as false", RuleConstraints, more(id(19), true, 0x30, 3, 1, 1, 0)},
		row{"a path length without cA", RuleConstraints, more(id(19), true, 0x30, 3, 2, 1, 0)},
	)
}

func otherRows() (rows []row) {
	for name, oid := range map[string]asn1.ObjectIdentifier{
		"subject key identifier": id(14), "issuer names": id(18), "name constraints": id(30), "CRL points": id(31), "policies": id(32),
		"policy mappings": id(33), "policy constraints": id(36), "freshest CRL": id(46), "any policy": id(54),
		"authority information": {1, 3, 6, 1, 5, 5, 7, 1, 1}, "must staple": {1, 3, 6, 1, 5, 5, 7, 1, 24}, "poison": {1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, "unknown": {1, 2, 3},
	} {
		for _, critical := range []bool{false, true} {
			value := []byte{0x30, 0}
			rule := RuleExtensions
			switch name {
			case "subject key identifier":
				value = []byte{4, 1, 1}
			case "policies":
				value = []byte{0x30, 6, 0x30, 4, 6, 2, 0x2a, 3}
			case "any policy":
				value = []byte{2, 1, 0}
			case "policy constraints":
				value = []byte{0x30, 3, 0x80, 1, 0}
			case "name constraints":
				rule = RuleEncoding // crypto/x509 does not take an empty one
			}
			if critical && (name == "subject key identifier" || name == "authority information") {
				rule = RuleEncoding // nor one that may not be critical
			}
			rows = append(rows, row{fmt.Sprintf("extension %s, critical %v", name, critical), rule, more(oid, critical, value...)})
		}
	}
	day := 24 * time.Hour
	serial := func(n *big.Int) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.SerialNumber = n }
	}
	return append(rows,
		row{"not valid yet", RuleValidity, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(5*time.Minute + time.Second) }},
		row{"backdated by a second more", RuleValidity, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-time.Second) }},
		row{"backdated by a day", RuleValidity, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-day) }},
		row{"a second too long", RuleValidity, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }},
		row{"a day too long", RuleValidity, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(day) }},
		row{"for a hundred years", RuleValidity, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(36500 * day) }},
		row{"already over", RuleValidity, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(-7 * time.Hour) }},
		row{"ends before it begins", RuleValidity, func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(-time.Second) }},
		row{"backdated by more than its life", RuleValidity, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(5*time.Second - 6*time.Hour) }},
		row{"serial 1", RuleSerial, serial(big.NewInt(1))},
		row{"a serial of 63 bits", RuleSerial, serial(big.NewInt(1<<62 + 12345))},
		row{"a serial of 127 bits", RuleSerial, serial(new(big.Int).Lsh(big.NewInt(1), 126))},
		row{"another serial", RuleSerial, serial(new(big.Int).Lsh(big.NewInt(3), 150))},
		row{"a serial of 160 bits", RuleSerial, serial(new(big.Int).Lsh(big.NewInt(1), 159))},
		row{"an organization", RuleSubject, func(c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} }},
		row{"an empty common name", RuleSubject, func(c *x509.Certificate) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: id(3)[:2], Value: ""}}
		}},
	)
}

// TestCheck: what a bad leaf is called. The template is changed, encoded, and
// looked at as it would be signed.
func TestCheck(t *testing.T) {
	table := append(append(nameRows(), powerRows()...), otherRows()...)
	if got, want := len(table), 134; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	template, want := leaf(t)
	if err := Check(must(profile.Encode(template, want.Issuer)), want); err != nil {
		t.Fatalf("a good leaf: %v", err)
	}
	for _, r := range table {
		changed := *template
		r.change(&changed)
		tbs, err := profile.Encode(&changed, want.Issuer)
		if err != nil {
			t.Errorf("%s: %v", r.name, err)
			continue
		}
		err = Check(tbs, want)
		if got := ruleOf(err); got != r.rule {
			t.Errorf("%s: %s (%v), want %s", r.name, got, err, r.rule)
		}
	}
}

// TestWant: a good leaf is a bad one where something else was wanted.
func TestWant(t *testing.T) {
	template, want := leaf(t)
	tbs := must(profile.Encode(template, want.Issuer))
	otherKey := must(keypolicy.Of(catest.Key(t).Public()))
	for name, r := range map[string]struct {
		rule   string
		change func(*Want)
	}{
		"identity":           {RuleName, func(w *Want) { w.ID = spiffeid.RequireFromPath(td, "/ns/shop/sa/b") }},
		"an authority's":     {RuleName, func(w *Want) { w.ID = td.ID() }},
		"key":                {RuleKey, func(w *Want) { w.Key = otherKey }},
		"no key":             {RuleKey, func(w *Want) { w.Key = keypolicy.Key{} }},
		"serial":             {RuleSerial, func(w *Want) { w.Serial = new(big.Int).Add(w.Serial, big.NewInt(1)) }},
		"no serial":          {RuleSerial, func(w *Want) { w.Serial = nil }},
		"issuer":             {RuleIssuer, func(w *Want) { w.Issuer = catest.New(t, td).Issuer }},
		"earlier":            {RuleValidity, func(w *Want) { w.Now = w.Now.Add(-time.Hour) }},
		"later":              {RuleValidity, func(w *Want) { w.Now = w.Now.Add(time.Hour) }},
		"a shorter life":     {RuleValidity, func(w *Want) { w.Life -= time.Second }},
		"an issuer's end":    {RuleOutlives, func(w *Want) { c := *w.Issuer; c.NotAfter = template.NotAfter.Add(-time.Second); w.Issuer = &c }},
		"an issuer's start":  {RuleOutlives, func(w *Want) { c := *w.Issuer; c.NotBefore = template.NotBefore.Add(time.Second); w.Issuer = &c }},
		"an issuer's key id": {RuleAuthorityKey, func(w *Want) { c := *w.Issuer; c.SubjectKeyId = []byte{1}; w.Issuer = &c }},
		"an issuer's kind": {RuleAlgorithm, func(w *Want) {
			c := *w.Issuer
			c.PublicKey = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).Public()
			w.Issuer = &c
		}},
	} {
		w := want
		r.change(&w)
		if got := ruleOf(Check(tbs, w)); got != r.rule {
			t.Errorf("%s: %s, want %s", name, got, r.rule)
		}
	}
}

// TestEveryBitMatters: outside of the two times, whose bounds have tables of
// their own, there is no bit of a leaf that could be another.
func TestEveryBitMatters(t *testing.T) {
	template, want := leaf(t)
	tbs := must(profile.Encode(template, want.Issuer))
	times := bytes.Index(tbs, []byte(template.NotBefore.UTC().Format("060102150405Z")))
	if times < 0 {
		t.Fatal("the times are not found")
	}
	for at := range tbs {
		if at >= times && at < times+28 {
			continue
		}
		for bit := range 8 {
			changed := bytes.Clone(tbs)
			changed[at] ^= 1 << bit
			if got := ruleOf(Check(changed, want)); got == good || got == "not a rule" {
				t.Errorf("bit %d of byte %d: %s", bit, at, got)
			}
		}
	}
	for n := range tbs {
		if got := ruleOf(Check(tbs[:n], want)); got != RuleEncoding {
			t.Errorf("the first %d bytes: %s", n, got)
		}
	}
	if got := ruleOf(Check(append(bytes.Clone(tbs), 0), want)); got != RuleEncoding {
		t.Errorf("a byte more: %s", got)
	}
	if got := ruleOf(Check(make([]byte, MaxTBS+1), want)); got != RuleEncoding {
		t.Errorf("too long: %s", got)
	}
}

// TestCheckAuthority: what a bad root or issuer is called.
func TestCheckAuthority(t *testing.T) {
	rootKey, issuerKey := catest.Key(t), catest.Key(t)
	now := time.Now()
	order := func(key crypto.Signer) profile.CAOrder {
		return profile.CAOrder{TrustDomain: td, Key: must(keypolicy.Of(key.Public())), Serial: must(profile.NewSerial(rand.Reader)), Now: now}
	}
	rootOrder, issuerOrder := order(rootKey), order(issuerKey)
	rootTemplate := must(profile.Profile{}.Root(rootOrder))
	root := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, rootTemplate, rootTemplate, rootKey.Public(), rootKey))))
	issuerTemplate := must(profile.Profile{}.Issuer(issuerOrder, root))
	table := []row{
		{"nothing changed", good, func(*x509.Certificate) {}},
		{"a path", RuleName, func(c *x509.Certificate) { c.URIs = uris("spiffe://mesh.test/ns/a/sa/b") }},
		{"another trust domain", RuleName, func(c *x509.Certificate) { c.URIs = uris("spiffe://other.test") }},
		{"two names", RuleName, func(c *x509.Certificate) { c.URIs = uris("spiffe://mesh.test", "spiffe://other.test") }},
		{"a DNS name", RuleName, func(c *x509.Certificate) { c.DNSNames = []string{"ca"} }},
		{"no name", RuleName, func(c *x509.Certificate) { c.URIs = nil }},
		{"no CA", RuleConstraints, func(c *x509.Certificate) { c.IsCA, c.MaxPathLen, c.MaxPathLenZero = false, 0, false }},
		{"a longer path", RuleConstraints, func(c *x509.Certificate) { c.MaxPathLen = 3 }},
		{"any path", RuleConstraints, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = -1, false }},
		{"no basic constraints", RuleConstraints, func(c *x509.Certificate) {
			c.BasicConstraintsValid, c.IsCA, c.MaxPathLen, c.MaxPathLenZero = false, false, 0, false
		}},
		{"may authenticate", RuleKeyUsage, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }},
		{"may sign CRLs alone", RuleKeyUsage, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }},
		{"code signing", RuleExtUsage, func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) }},
		{"an unknown usage", RuleExtUsage, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }},
		{"an unknown critical extension", RuleExtensions, more(asn1.ObjectIdentifier{1, 2, 3}, true, 5, 0)},
		{"serial 1", RuleSerial, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(1) }},
		{"another key", RuleKey, func(c *x509.Certificate) { c.PublicKey = catest.Key(t).Public() }},
		{"a key of another kind", RuleKey, func(c *x509.Certificate) { c.PublicKey = must(ed25519Key()) }},
		{"not valid yet", RuleValidity, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }},
		{"already over", RuleValidity, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }},
		{"no subject", RuleIssuer, func(c *x509.Certificate) { c.Subject = pkix.Name{} }},
		{"its root's name", RuleSubject, func(c *x509.Certificate) { c.Subject = root.Subject }},
		{"outlives its root", RuleOutlives, func(c *x509.Certificate) { c.NotAfter = root.NotAfter.Add(time.Second) }},
		{"names in a subject that is too long", "e_subject_common_name_max_length", func(c *x509.Certificate) { c.Subject.CommonName = string(bytes.Repeat([]byte("a"), 65)) }},
		{"a common name that ends in a blank", "w_subject_dn_trailing_whitespace", func(c *x509.Certificate) { c.Subject.CommonName = "a " }},
	}
	if got, want := len(table), 25; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	onlyIssuer := map[string]bool{"its root's name": true, "outlives its root": true}
	for _, r := range table {
		changed := *issuerTemplate
		r.change(&changed)
		want := WantAuthority{TrustDomain: td, Key: issuerOrder.Key, Root: root, Now: now}
		rule := r.rule
		if r.name == "no subject" {
			rule = "e_ca_subject_field_empty"
		}
		if err := CheckAuthority(must(profile.Encode(&changed, root)), want); ruleOf(err) != rule {
			t.Errorf("issuer, %s: %v, want %s", r.name, err, rule)
		}
		if onlyIssuer[r.name] {
			continue
		}
		changed = *rootTemplate
		r.change(&changed)
		want = WantAuthority{TrustDomain: td, Key: rootOrder.Key, Now: now}
		rule = r.rule
		if r.name == "a common name that ends in a blank" {
			rule = "w_issuer_dn_trailing_whitespace" // a root is its own issuer
		}
		if err := CheckAuthority(must(profile.Encode(&changed, &changed)), want); ruleOf(err) != rule {
			t.Errorf("root, %s: %v, want %s", r.name, err, rule)
		}
	}
}

func ed25519Key() (crypto.PublicKey, error) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	return public, err
}

// FuzzLint: whatever the bytes, a verdict comes back, and nothing but what was
// wanted is good.
func FuzzLint(f *testing.F) {
	template, want := leaf(f)
	tbs := must(profile.Encode(template, want.Issuer))
	f.Add(tbs)
	f.Add(tbs[:100])
	f.Add([]byte{0x30, 0})
	for _, r := range nameRows()[:5] {
		changed := *template
		r.change(&changed)
		f.Add(must(profile.Encode(&changed, want.Issuer)))
	}
	authority := WantAuthority{TrustDomain: td, Key: want.Key, Root: want.Issuer, Now: want.Now}
	f.Fuzz(func(t *testing.T, data []byte) {
		if ruleOf(CheckAuthority(data, authority)) == "not a rule" {
			t.Error("an error that is no rule")
		}
		switch err := Check(data, want); ruleOf(err) {
		case "not a rule":
			t.Error(err)
		case good:
			if !bytes.Equal(data[:20], tbs[:20]) || len(data) != len(tbs) {
				t.Errorf("accepted: %x", data)
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	template, want := leaf(b)
	tbs := must(profile.Encode(template, want.Issuer))
	for b.Loop() {
		if err := Check(tbs, want); err != nil {
			b.Fatal(err)
		}
	}
}
