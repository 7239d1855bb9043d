package keypolicy_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/catest"
	. "github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/profile"
)

// A csrRow of CSR-01 says what becomes of one request, and why.
type csrRow struct {
	name   string
	der    []byte
	reason string
}

// CSR-01: whatever a request asks for and however it is written, either its key
// comes out or nothing does, and what is then signed is the same to the last bit as for
// a request that asks for nothing.
func TestPublicKeyOfCSR(t *testing.T) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	var table []csrRow
	table = append(table, nameRows(key)...)
	table = append(table, extensionRows(key)...)
	table = append(table, attributeRows(key)...)
	table = append(table, signatureRows(key)...)
	table = append(table, keyRows(key)...)
	table = append(table, shapeRows(key)...)
	if got, want := len(table), 284; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	toBeSigned := issuing(t)
	want := toBeSigned(must(Of(key.Public())))
	seen := map[string]bool{}
	for _, r := range table {
		if seen[r.name] {
			t.Errorf("two rows are called %q", r.name)
		}
		seen[r.name] = true
		got, err := PublicKeyOfCSR(r.der)
		if reason := ReasonOf(err); reason != r.reason {
			t.Errorf("%s: %s (%v), want %s", r.name, reason, err, r.reason)
		}
		if err != nil && !got.IsZero() {
			t.Errorf("%s: refused, and yet a key", r.name)
		}
		if err == nil && !bytes.Equal(toBeSigned(got), want) {
			t.Errorf("%s: something else would be signed", r.name)
		}
	}
}

// issuing returns what would be signed for a key, all else being equal.
func issuing(t *testing.T) func(Key) []byte {
	td := spiffeid.RequireTrustDomainFromString("mesh.test")
	workload := must(attest.NewWorkload(td, attest.Node{Name: "node", UID: "uid-of-node"},
		attest.Pod{Namespace: "shop", Name: "pod", UID: "uid-of-pod", ServiceAccount: "cart"}))
	issuer := catest.New(t, td).Issuer
	serial, now := must(profile.NewSerial(rand.Reader)), time.Now()
	return func(k Key) []byte {
		template, err := profile.Profile{}.Leaf(profile.Order{Identity: workload, Key: k, Issuer: issuer, Serial: serial, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return must(profile.Encode(template, issuer))
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// ask is a request made by crypto/x509.
func ask(key crypto.Signer, template x509.CertificateRequest) []byte {
	return must(x509.CreateCertificateRequest(rand.Reader, &template, key))
}

func nameRows(key crypto.Signer) (rows []csrRow) {
	add := func(name string, template x509.CertificateRequest) {
		rows = append(rows, csrRow{name, ask(key, template), Accepted})
	}
	add("nothing", x509.CertificateRequest{})
	for _, cn := range []string{
		"cart", "spiffe://mesh.test/istio-auth/ca", "spiffe://mesh.test/ns/other/sa/admin", "*", "*.mesh.test", "kubernetes",
		"system:masters", "../../etc", "a,b", "a;b", "a=b", "a\x00b", "\u202eevil", "Istio-Auth root", strings.Repeat("x", 1000),
	} {
		add(fmt.Sprintf("common name %.20q", cn), x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}})
	}
	add("a whole subject", x509.CertificateRequest{Subject: pkix.Name{
		Country: []string{"XX"}, Organization: []string{"system:masters", "Istio-Auth"}, OrganizationalUnit: []string{"ca"},
		Locality: []string{"here"}, SerialNumber: "1", CommonName: "system:admin",
	}})
	for _, name := range []string{
		"cart.shop.svc", "istio-ca.istio-auth", "localhost", "*", "*.svc", "kubernetes.default", "a..b", ".", "", "-", "xn--a", "127.0.0.1",
		"spiffe://mesh.test/ns/a/sa/b", strings.Repeat("a", 300),
	} {
		add(fmt.Sprintf("DNS name %.20q", name), x509.CertificateRequest{DNSNames: []string{name}})
	}
	for _, ip := range []string{"127.0.0.1", "10.96.0.1", "0.0.0.0", "255.255.255.255", "::1", "::ffff:10.0.0.1"} {
		add("address "+ip, x509.CertificateRequest{IPAddresses: []net.IP{net.ParseIP(ip)}})
	}
	for _, mail := range []string{"root@mesh.test", "@", "admin@", "a@b@c"} {
		add("mail "+mail, x509.CertificateRequest{EmailAddresses: []string{mail}})
	}
	for _, id := range []string{
		"spiffe://mesh.test/ns/shop/sa/cart", "spiffe://mesh.test/ns/shop/sa/other", "spiffe://mesh.test/ns/kube-system/sa/admin",
		"spiffe://mesh.test/istio-auth/ca", "spiffe://mesh.test/istio-auth/manager", "spiffe://mesh.test/istio-auth/node/a/b",
		"spiffe://mesh.test", "spiffe://mesh.test/", "spiffe://other.test/ns/shop/sa/cart", "spiffe://MESH.test/ns/shop/sa/cart",
		"SPIFFE://mesh.test/ns/shop/sa/cart", "spiffe://mesh.test/ns/shop/sa/../../x", "spiffe://mesh.test/ns//sa/cart",
		"spiffe://mesh.test/ns/shop/sa/cart%2f", "spiffe://u@mesh.test/a", "spiffe://mesh.test:1/a", "spiffe://mesh.test/a?b", "spiffe://mesh.test/a#b",
		"https://mesh.test/ns/shop/sa/cart", "spiffe:///ns/shop/sa/cart", "urn:x",
	} {
		add("URI "+id, x509.CertificateRequest{URIs: []*url.URL{must(url.Parse(id))}})
	}
	both := []*url.URL{must(url.Parse("spiffe://mesh.test/a")), must(url.Parse("spiffe://mesh.test/b"))}
	add("two URIs", x509.CertificateRequest{URIs: both})
	add("one of each name", x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a"}, EmailAddresses: []string{"a@b"}, IPAddresses: []net.IP{net.IPv6loopback}, URIs: both,
	})
	return rows
}

// extensionRows asks for every extension of RFC 5280 and some others, critical
// and not.
func extensionRows(key crypto.Signer) (rows []csrRow) {
	oid := func(last ...int) asn1.ObjectIdentifier { return append(asn1.ObjectIdentifier{2, 5, 29}, last...) }
	type asked struct {
		name  string
		id    asn1.ObjectIdentifier
		value []byte
	}
	all := []asked{
		{"subject key identifier", oid(14), []byte{4, 2, 1, 2}},
		{"issuer alternative name", oid(18), []byte{0x30, 3, 0x82, 1, 'a'}},
		{"cA", oid(19), []byte{0x30, 3, 1, 1, 0xff}},
		{"cA, path length 5", oid(19), []byte{0x30, 6, 1, 1, 0xff, 2, 1, 5}},
		{"name constraints", oid(30), []byte{0x30, 0}},
		{"CRL distribution points", oid(31), []byte{0x30, 0}},
		{"policies", oid(32), []byte{0x30, 6, 0x30, 4, 6, 2, 0x2a, 3}},
		{"policy mappings", oid(33), []byte{0x30, 0}},
		{"authority key identifier", oid(35), []byte{0x30, 0}},
		{"policy constraints", oid(36), []byte{0x30, 0}},
		{"freshest CRL", oid(46), []byte{0x30, 0}},
		{"inhibit anyPolicy", oid(54), []byte{2, 1, 0}},
		{"authority information", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 1}, []byte{0x30, 0}},
		{"must staple", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, []byte{0x30, 3, 2, 1, 5}},
		{"SCTs", asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, []byte{4, 0}},
		{"poison", asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, []byte{5, 0}},
		{"Istio's old one", asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 4710, 2, 1}, []byte("admin")},
		{"an unknown one", asn1.ObjectIdentifier{1, 2, 3, 4}, []byte{1, 2, 3}},
		{"an empty one", asn1.ObjectIdentifier{1, 2, 3, 5}, nil},
	}
	for bit := range 9 {
		value := []byte{3, 3, 0, 0, 0}
		value[3+bit/8] = 0x80 >> (bit % 8)
		all = append(all, asked{fmt.Sprintf("key usage bit %d", bit), oid(15), value})
	}
	for _, last := range []int{1, 2, 3, 4, 8, 9, 14, 17} {
		usage := []byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, byte(last)}
		all = append(all, asked{fmt.Sprintf("extended key usage %d", last), oid(37), usage})
	}
	all = append(all, asked{"any extended key usage", oid(37), []byte{0x30, 6, 6, 4, 0x55, 0x1d, 0x25, 0}})
	for _, x := range all {
		for _, critical := range []bool{false, true} {
			rows = append(rows, csrRow{
				fmt.Sprintf("extension: %s, critical %v", x.name, critical),
				ask(key, x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: x.id, Critical: critical, Value: x.value}}}),
				Accepted,
			})
		}
	}
	return rows
}

// A request is one that is put together by hand. What is nil is as it should be.
type request struct {
	version, subject, key, attributes, more, algorithm []byte

	sign func(tbs []byte) []byte
}

var ecdsaWithSHA256 = []byte{0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2}

func (r request) der(key *ecdsa.PrivateKey) []byte {
	or := func(given, usual []byte) []byte {
		if given != nil {
			return given
		}
		return usual
	}
	info := element(0x30,
		or(r.version, []byte{2, 1, 0}), or(r.subject, []byte{0x30, 0}),
		or(r.key, must(x509.MarshalPKIXPublicKey(key.Public()))), or(r.attributes, []byte{0xa0, 0}), r.more)
	sign := r.sign
	if sign == nil {
		sign = func(tbs []byte) []byte { return signWith(key, tbs) }
	}
	return element(0x30, info, or(r.algorithm, ecdsaWithSHA256), element(3, []byte{0}, sign(info)))
}

func signWith(key *ecdsa.PrivateKey, tbs []byte) []byte {
	digest := sha256.Sum256(tbs)
	return must(ecdsa.SignASN1(rand.Reader, key, digest[:]))
}

// element is a tag, a length and a content.
func element(tag byte, content ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.Tag(tag), func(b *cryptobyte.Builder) {
		for _, c := range content {
			b.AddBytes(c)
		}
	})
	return b.BytesOrPanic()
}

func attributeRows(key *ecdsa.PrivateKey) (rows []csrRow) {
	add := func(name, reason string, attributes ...[]byte) {
		rows = append(rows, csrRow{"attribute: " + name, request{attributes: element(0xa0, attributes...)}.der(key), reason})
	}
	extensionRequest := []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14}
	password := []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 7}
	unstructured := []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 2}
	unknown := []byte{6, 3, 0x2a, 3, 4}
	secret := element(0x31, element(0x0c, []byte("secret")))
	isCA := element(0x30, []byte{6, 3, 0x55, 0x1d, 19}, element(4, []byte{0x30, 3, 1, 1, 0xff}))
	san := element(0x30, []byte{6, 3, 0x55, 0x1d, 17}, element(4, element(0x30, element(0x86, []byte("spiffe://mesh.test/a")))))
	bad := element(0x30, []byte{6, 3, 0x55, 0x1d, 17}, element(4, []byte{0x30, 5, 0x86}))
	extensions := func(list ...[]byte) []byte {
		return element(0x30, extensionRequest, element(0x31, element(0x30, list...)))
	}

	add("challenge password", Accepted, element(0x30, password, secret))
	add("unstructured name", Accepted, element(0x30, unstructured, secret))
	add("an unknown one", Accepted, element(0x30, unknown, secret))
	add("three at once", Accepted, element(0x30, password, secret), element(0x30, unknown, secret), extensions(isCA))
	add("the same twice", Accepted, element(0x30, password, secret), element(0x30, password, secret))
	add("no values", Accepted, element(0x30, password, element(0x31)))
	add("basic constraints", Accepted, extensions(isCA))
	add("names and basic constraints", Accepted, extensions(isCA, san))
	add("no extensions", Accepted, extensions())
	add("an extension twice", ReasonCSREncoding, extensions(san, san))
	add("another extension twice", ReasonCSREncoding, extensions(isCA, san, isCA))
	add("requests for extensions twice", Accepted, extensions(san), extensions(isCA))
	add("a broken name", ReasonCSREncoding, extensions(bad))
	add("extensions as a string", ReasonCSREncoding, element(0x30, extensionRequest, secret))
	add("extensions that end early", ReasonCSREncoding, element(0x30, extensionRequest, element(0x31, []byte{0x30, 9, 6, 3})))
	add("an attribute that ends early", ReasonCSREncoding, []byte{0x30, 9, 6, 1})
	add("an attribute that is an INTEGER", ReasonCSREncoding, []byte{2, 1, 1})
	return rows
}

func signatureRows(key *ecdsa.PrivateKey) (rows []csrRow) {
	add := func(name, reason string, r request) {
		rows = append(rows, csrRow{"signature: " + name, r.der(key), reason})
	}
	fixed := func(signature []byte) func([]byte) []byte { return func([]byte) []byte { return signature } }
	other := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	order := elliptic.P256().Params().N
	pair := func(r, s *big.Int) []byte {
		return element(0x30, must(asn1.Marshal(r)), must(asn1.Marshal(s)))
	}
	add("as it should be", Accepted, request{})
	add("none", ReasonCSRProof, request{sign: fixed(nil)})
	add("zeros", ReasonCSRProof, request{sign: fixed(make([]byte, 70))})
	add("of another key", ReasonCSRProof, request{sign: func(tbs []byte) []byte { return signWith(other, tbs) }})
	add("over other bytes", ReasonCSRProof, request{sign: func([]byte) []byte { return signWith(key, []byte("else")) }})
	add("over the request with another subject", ReasonCSRProof, request{sign: func(tbs []byte) []byte {
		return signWith(key, bytes.Replace(tbs, []byte{0x30, 0}, []byte{0x30, 1}, 1))
	}})
	add("r = s = 0", ReasonCSRProof, request{sign: fixed(pair(new(big.Int), new(big.Int)))})
	add("r = s = 1", ReasonCSRProof, request{sign: fixed(pair(big.NewInt(1), big.NewInt(1)))})
	add("r = s = order", ReasonCSRProof, request{sign: fixed(pair(order, order))})
	add("negative", ReasonCSRProof, request{sign: fixed(pair(big.NewInt(-1), big.NewInt(-1)))})
	add("followed by a byte", ReasonCSRProof, request{sign: func(tbs []byte) []byte { return append(signWith(key, tbs), 0) }})
	add("raw", ReasonCSRProof, request{sign: fixed(make([]byte, 64))})
	add("of 6,000 bytes", ReasonCSRProof, request{sign: fixed(make([]byte, 6000))})
	for name, oid := range map[string]asn1.ObjectIdentifier{
		"ECDSA with SHA-1":  {1, 2, 840, 10045, 4, 1},
		"RSA with MD5":      {1, 2, 840, 113549, 1, 1, 4},
		"RSA with SHA-256":  {1, 2, 840, 113549, 1, 1, 11},
		"RSA-PSS":           {1, 2, 840, 113549, 1, 1, 10},
		"Ed25519":           {1, 3, 101, 112},
		"DSA with SHA-256":  {2, 16, 840, 1, 101, 3, 4, 3, 2},
		"an unknown OID":    {1, 2, 3},
		"ECDSA with SHA512": {1, 2, 840, 10045, 4, 3, 4},
	} {
		add("named as "+name, ReasonCSRProof, request{algorithm: element(0x30, must(asn1.Marshal(oid)))})
	}
	add("without an algorithm", ReasonCSREncoding, request{algorithm: []byte{0x30, 0}})
	return rows
}

// keyRows holds keys that the policy refuses before it looks at a signature:
// none of these requests is signed at all.
func keyRows(key *ecdsa.PrivateKey) (rows []csrRow) {
	null, e := []byte{5, 0}, big.NewInt(RSAExponent)
	unsigned := func([]byte) []byte { return make([]byte, 64) }
	add := func(name, reason string, spki []byte) {
		rows = append(rows, csrRow{"key: " + name, request{key: spki, sign: unsigned}.der(key), reason})
	}
	for _, bits := range []int{512, 1024, 2047, 4097, 8192, 15360} {
		add(fmt.Sprintf("RSA of %d bits", bits), ReasonRSASize, SPKI(OIDRSA, null, RSADER(Modulus(bits), e)))
	}
	for _, bits := range []int{16384, 32768, 56000} {
		add(fmt.Sprintf("RSA of %d bits", bits), ReasonSize, SPKI(OIDRSA, null, RSADER(Modulus(bits), e)))
	}
	add("RSA of 65536 bits, exponent 2^31-1", ReasonCSRSize, SPKI(OIDRSA, null, RSADER(Modulus(65536), big.NewInt(1<<31-1))))
	add("RSA, exponent 2^31-1", ReasonExponent, SPKI(OIDRSA, null, RSADER(Modulus(4096), big.NewInt(1<<31-1))))
	add("RSA, exponent 3", ReasonExponent, SPKI(OIDRSA, null, RSADER(Modulus(2048), big.NewInt(3))))
	add("RSA, even", ReasonWeak, SPKI(OIDRSA, null, RSADER(new(big.Int).Lsh(big.NewInt(1), 2047), e)))
	add("RSA that nobody holds", ReasonCSRProof, SPKI(OIDRSA, null, RSADER(Modulus(4096), e)))
	for name, curve := range map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-521": elliptic.P521()} {
		add(name, ReasonCurve, must(x509.MarshalPKIXPublicKey(must(ecdsa.GenerateKey(curve, rand.Reader)).Public())))
	}
	good := must(x509.MarshalPKIXPublicKey(key.Public()))
	off := bytes.Clone(good)
	off[len(off)-1] ^= 1
	add("off the curve", ReasonPoint, off)
	add("another's, without proof", ReasonCSRProof, good)
	add("X25519", ReasonAlgorithm, SPKI(asn1.ObjectIdentifier{1, 3, 101, 110}, nil, make([]byte, 32)))
	add("DSA", ReasonAlgorithm, SPKI(asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, nil, make([]byte, 32)))
	add("Ed25519 of small order", ReasonPoint, SPKI(asn1.ObjectIdentifier{1, 3, 101, 112}, nil, make([]byte, 32)))
	add("an empty SEQUENCE", ReasonEncoding, []byte{0x30, 0})
	add("an INTEGER", ReasonCSREncoding, []byte{2, 1, 1})
	return rows
}

func shapeRows(key *ecdsa.PrivateKey) (rows []csrRow) {
	add := func(name, reason string, der []byte) { rows = append(rows, csrRow{"shape: " + name, der, reason}) }
	good := ask(key, x509.CertificateRequest{})
	add("nothing", ReasonCSRSize, nil)
	add("8 KiB and a byte", ReasonCSRSize, make([]byte, MaxCSR+1))
	add("a good one with 8 KiB behind it", ReasonCSRSize, append(bytes.Clone(good), make([]byte, MaxCSR)...))
	add("1 MiB", ReasonCSRSize, make([]byte, 1<<20))
	add("8 KiB of zeros", ReasonCSREncoding, make([]byte, MaxCSR))
	add("PEM", ReasonCSREncoding, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: good}))
	add("a trailing zero", ReasonCSREncoding, append(bytes.Clone(good), 0))
	add("two requests", ReasonCSREncoding, append(bytes.Clone(good), good...))
	add("an indefinite length", ReasonCSREncoding, append(append([]byte{0x30, 0x80}, good[3:]...), 0, 0))
	add("a length in too many bytes", ReasonCSREncoding, append([]byte{0x30, 0x82, 0, good[2]}, good[3:]...))
	add("nested 17 deep in an attribute", ReasonCSREncoding, request{attributes: deep(17)}.der(key))
	add("no attribute list", ReasonCSREncoding, request{attributes: []byte{}}.der(key))
	add("a length of 4 GB", ReasonCSREncoding, append([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, good[3:]...))
	add("nested 2,000 deep", ReasonCSREncoding, bytes.Repeat([]byte{0x30, 0x80}, 2000))
	add("an open attribute list", ReasonCSREncoding, request{attributes: []byte{0xa0, 0x80, 0, 0}}.der(key))
	add("a subject of unknown length", ReasonCSREncoding, request{subject: []byte{0x30, 0x80, 0, 0}}.der(key))
	add("a subject that is no name", ReasonCSREncoding, request{subject: []byte{0x30, 2, 5, 0}}.der(key))
	add("a subject that is a SET", ReasonCSREncoding, request{subject: []byte{0x31, 0}}.der(key))
	add("version 2", Accepted, request{version: []byte{2, 1, 1}}.der(key))
	add("version -1", Accepted, request{version: []byte{2, 1, 0xff}}.der(key))
	add("version as text", ReasonCSREncoding, request{version: []byte{0x0c, 1, '0'}}.der(key))
	add("a version in too many bytes", ReasonCSREncoding, request{version: []byte{2, 2, 0, 0}}.der(key))
	add("more after the attributes", ReasonCSREncoding, request{more: []byte{5, 0}}.der(key))
	add("a certificate", ReasonCSREncoding, certificate(key))
	add("a public key", ReasonCSREncoding, must(x509.MarshalPKIXPublicKey(key.Public())))
	for n := 1; n < 60; n++ {
		add(fmt.Sprintf("the first %d of 60 parts", n), ReasonCSREncoding, good[:len(good)*n/60])
	}
	return rows
}

// deep is a list of one attribute, whose value is nested.
func deep(n int) []byte {
	value := []byte{5, 0}
	for range n {
		value = element(0x30, value)
	}
	return element(0xa0, element(0x30, []byte{6, 3, 0x2a, 3, 4}, element(0x31, value)))
}

func certificate(key crypto.Signer) []byte {
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	return must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
}

// TestCSRKinds: the requests of ordinary clients, one of each kind of key.
func TestCSRKinds(t *testing.T) {
	for kind, key := range map[Kind]crypto.Signer{
		P256:    must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		P384:    must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		Ed25519: ed25519.NewKeyFromSeed(make([]byte, 32)),
		RSA:     must(rsa.GenerateKey(rand.Reader, 2048)),
	} {
		got, err := PublicKeyOfCSR(ask(key, x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}))
		if err != nil || got.Kind() != kind || !got.Equal(must(Of(key.Public()))) {
			t.Errorf("%v: %v, %v", kind, got.Kind(), err)
		}
	}
}

func FuzzCSR(f *testing.F) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for _, rows := range [][]csrRow{attributeRows(key), signatureRows(key), shapeRows(key)[:25], nameRows(key)[:3]} {
		for _, r := range rows {
			if len(r.der) <= MaxCSR {
				f.Add(r.der)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := PublicKeyOfCSR(data)
		switch {
		case err != nil && ReasonOf(err) == "not a refusal":
			t.Errorf("%v is not a refusal", err)
		case err == nil && !bytes.Contains(data, key.SPKI()):
			t.Error("a key that is not in the request")
		}
	})
}
