package profile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
)

var (
	td     = spiffeid.RequireTrustDomainFromString("mesh.test")
	start  = time.Date(2030, 1, 2, 3, 4, 5, 987654321, time.UTC)
	second = start.Truncate(time.Second)
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	node     = attest.Node{Name: "node", UID: "uid-of-node"}
	workload = must(attest.NewWorkload(td, node, attest.Pod{Namespace: "shop", Name: "pod", UID: "uid-of-pod", ServiceAccount: "cart"}))
	agent    = must(attest.NewAgent(td, node))
	service  = must(attest.NewService(td, "manager"))
)

func newKey() (keypolicy.Key, *ecdsa.PrivateKey) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	return must(keypolicy.Of(key.Public())), key
}

// issuerUntil is an issuer of a trust domain, valid from an hour before start.
func issuerUntil(td spiffeid.TrustDomain, notAfter time.Time) *x509.Certificate {
	key, _ := newKey()
	issuer := must(CAOrder{TrustDomain: td, Key: key, Serial: big.NewInt(1), Now: start}.template("issuer", time.Hour))
	issuer.NotBefore, issuer.NotAfter = second.Add(-time.Hour), notAfter
	return issuer
}

func order(identity attest.Identity) Order {
	key, _ := newKey()
	return Order{
		Identity: identity, Key: key, Serial: must(NewSerial(rand.Reader)), Now: start,
		Issuer: issuerUntil(td, second.Add(30*24*time.Hour)),
	}
}

// TestLife: a life is counted from the second of issue and includes its last
// second; backdating counts for nothing (LN-01).
func TestLife(t *testing.T) {
	const m = time.Minute
	table := []struct {
		name     string
		profile  Profile
		identity attest.Identity
		asked    time.Duration
		life     time.Duration
		backdate time.Duration
	}{
		{"default workload", Profile{}, workload, 0, 6 * time.Hour, 5 * m},
		{"default agent", Profile{}, agent, 0, time.Hour, 5 * m},
		{"default service", Profile{}, service, 0, time.Hour, 5 * m},
		{"short workload", Profile{Life: 10 * time.Second}, workload, 0, 10 * time.Second, 10 * time.Second},
		{"short agent by default", Profile{Life: 10 * time.Second}, agent, 0, 10 * time.Second, 10 * time.Second},
		{"own agent life", Profile{Life: 10 * time.Second, AgentLife: m}, agent, 0, m, m},
		{"a day", Profile{Life: 24 * time.Hour}, workload, 0, 24 * time.Hour, 5 * m},
		{"a day's agent", Profile{Life: 24 * time.Hour}, agent, 0, time.Hour, 5 * m},
		{"asked for less", Profile{}, workload, m, m, m},
		{"asked for the least", Profile{}, workload, MinLife, MinLife, MinLife},
		{"asked for the same", Profile{}, workload, 6 * time.Hour, 6 * time.Hour, 5 * m},
		{"asked for more", Profile{}, workload, 100 * time.Hour, 6 * time.Hour, 5 * m},
		{"an agent that asked for more", Profile{}, agent, 6 * time.Hour, time.Hour, 5 * m},
		{"asked for parts of a second", Profile{}, workload, 10*time.Second + 999*time.Millisecond, 10 * time.Second, 10 * time.Second},
		{"own backdate", Profile{Backdate: m}, workload, 0, 6 * time.Hour, m},
	}
	for _, r := range table {
		if err := r.profile.Validate(); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
		o := order(r.identity)
		o.Life = r.asked
		leaf, err := r.profile.Leaf(o)
		if err != nil {
			t.Errorf("%s: %v", r.name, err)
			continue
		}
		if got, want := leaf.NotAfter, second.Add(r.life-time.Second); !got.Equal(want) {
			t.Errorf("%s: ends at %v, want %v", r.name, got, want)
		}
		if got, want := leaf.NotBefore, second.Add(-r.backdate); !got.Equal(want) {
			t.Errorf("%s: begins at %v, want %v", r.name, got, want)
		}
	}
}

// TestLeaf: what a leaf holds, and that it holds nothing else: the template is
// compared whole.
func TestLeaf(t *testing.T) {
	for _, identity := range []attest.Identity{workload, agent, service} {
		o := order(identity)
		leaf := must(Profile{}.Leaf(o))
		if got := leaf.URIs; len(got) != 1 || got[0].String() != identity.ID().String() {
			t.Errorf("%s: names %v", identity, got)
		}
		tbs := must(Encode(leaf, o.Issuer))
		cert := must(x509.ParseCertificate(must(Assemble(tbs, []byte{1}))))
		if cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature || len(cert.ExtKeyUsage) != 2 || len(cert.UnknownExtKeyUsage) != 0 ||
			len(cert.Subject.Names) != 0 || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) != 0 || len(cert.Extensions) != 5 {
			t.Errorf("%s: %+v", identity, cert)
		}
	}
}

func TestLeafRefusals(t *testing.T) {
	table := []struct {
		name   string
		change func(*Order)
		reason string // empty: ErrIssuerSpent
	}{
		{"no identity", func(o *Order) { o.Identity = attest.Identity{} }, ReasonNoIdentity},
		{"no key", func(o *Order) { o.Key = keypolicy.Key{} }, ReasonNoKey},
		{"no issuer", func(o *Order) { o.Issuer = nil }, ReasonTrustDomain},
		{"a foreign issuer", func(o *Order) {
			o.Issuer = issuerUntil(spiffeid.RequireTrustDomainFromString("other.test"), o.Issuer.NotAfter)
		}, ReasonTrustDomain},
		{"a negative life", func(o *Order) { o.Life = -time.Second }, ReasonLifeShort},
		{"a life of 4.999 s", func(o *Order) { o.Life = 4999 * time.Millisecond }, ReasonLifeShort},
		{"an issuer that has expired", func(o *Order) { o.Now = o.Issuer.NotAfter.Add(time.Second) }, ""},
		{"an issuer with a second less than a life", func(o *Order) { o.Issuer.NotAfter = second.Add(6*time.Hour - 2*time.Second) }, ""},
		{"the same, a short life wanted", func(o *Order) { o.Issuer.NotAfter, o.Life = second.Add(6*time.Hour-2*time.Second), time.Minute }, ""},
		{"an issuer that is not valid yet", func(o *Order) { o.Now = o.Issuer.NotBefore.Add(-time.Second) }, ""},
	}
	for _, r := range table {
		o := order(workload)
		r.change(&o)
		_, err := Profile{}.Leaf(o)
		if r.reason == "" && !errors.Is(err, ErrIssuerSpent) {
			t.Errorf("%s: %v, want ErrIssuerSpent", r.name, err)
		}
		if attest.Reason(err) != r.reason {
			t.Errorf("%s: %v, want %s", r.name, err, r.reason)
		}
	}
	o := order(workload)
	o.Issuer.NotAfter = second.Add(6*time.Hour - time.Second)
	if leaf, err := (Profile{}).Leaf(o); err != nil || !leaf.NotAfter.Equal(o.Issuer.NotAfter) {
		t.Errorf("an issuer with exactly one life left: %v", err)
	}
	o.Issuer.NotBefore = second.Add(-time.Minute)
	if leaf, err := (Profile{}).Leaf(o); err != nil || !leaf.NotBefore.Equal(o.Issuer.NotBefore) {
		t.Errorf("backdated to before its issuer: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for name, p := range map[string]Profile{
		"life too short":               {Life: MinLife - time.Second},
		"life too long":                {Life: MaxLife + time.Second},
		"a negative life":              {Life: -time.Hour},
		"parts of a second":            {Life: time.Hour + time.Millisecond},
		"agent life too long":          {AgentLife: MaxAgentLife + time.Second},
		"agent life too short":         {AgentLife: time.Second},
		"backdated too far":            {Backdate: MaxBackdate + time.Second},
		"a negative backdate":          {Backdate: -time.Second},
		"an issuer of three lives":     {IssuerLife: 18 * time.Hour},
		"a root shorter than issuers":  {RootLife: DefaultIssuerLife - time.Second},
		"an issuer in parts of second": {IssuerLife: 24*time.Hour + time.Millisecond},
	} {
		if p.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := (Profile{}).Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
}

// TestDigest: profiles that differ in anything have different digests, and the
// default is the same written out.
func TestDigest(t *testing.T) {
	seen := map[[32]byte]string{}
	for name, p := range map[string]Profile{
		"default": {}, "life": {Life: time.Minute}, "agent": {AgentLife: time.Minute}, "backdate": {Backdate: time.Minute},
		"issuer": {IssuerLife: 48 * time.Hour}, "root": {RootLife: 200 * 24 * time.Hour}, "uri": {ConstrainURI: true},
	} {
		if other, twice := seen[p.Digest()]; twice {
			t.Errorf("%s has the digest of %s", name, other)
		}
		seen[p.Digest()] = name
	}
	if (Profile{}).Digest() != (Profile{Life: DefaultLife}).Digest() {
		t.Error("the default written out has another digest")
	}
}

// TestAuthorities: a root and an issuer under it, a leaf under both; X.509 says
// that it holds, and an issuer cannot sign another one.
func TestAuthorities(t *testing.T) {
	for _, p := range []Profile{{}, {ConstrainURI: true}} {
		rootKey, rootSigner := newKey()
		issuerKey, issuerSigner := newKey()
		caOrder := func(key keypolicy.Key) CAOrder {
			return CAOrder{TrustDomain: td, Key: key, Serial: must(NewSerial(rand.Reader)), Now: start}
		}
		sign := func(template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
			return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, template.PublicKey, key))))
		}
		template := must(p.Root(caOrder(rootKey)))
		root := sign(template, template, rootSigner)
		issuer := sign(must(p.Issuer(caOrder(issuerKey), root)), root, rootSigner)
		if !root.IsCA || root.MaxPathLen != 1 || !issuer.IsCA || issuer.MaxPathLen != 0 || !issuer.MaxPathLenZero {
			t.Errorf("path lengths %d and %d", root.MaxPathLen, issuer.MaxPathLen)
		}
		if issuer.NotAfter.After(root.NotAfter) || bytes.Equal(issuer.RawSubject, root.RawSubject) {
			t.Error("the issuer outlives its root, or has its name")
		}
		if got := len(issuer.PermittedURIDomains); (got == 1) != p.ConstrainURI {
			t.Errorf("%d permitted URI domains", got)
		}
		o := order(workload)
		o.Issuer = issuer
		leaf := sign(must(p.Leaf(o)), issuer, issuerSigner)
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(root)
		between.AddCert(issuer)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: start}); err != nil {
			t.Errorf("the leaf: %v", err)
		}
		// NC-01: another issuer below the issuer, signed all the same.
		lower, lowerSigner := newKey()
		second := sign(must(p.Issuer(caOrder(lower), root)), issuer, issuerSigner)
		o.Issuer = second
		between.AddCert(second)
		leaf = sign(must(p.Leaf(o)), second, lowerSigner)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: start}); err == nil {
			t.Error("an issuer below an issuer is accepted")
		}
	}
}

func TestAuthorityRefusals(t *testing.T) {
	key, _ := newKey()
	good := CAOrder{TrustDomain: td, Key: key, Serial: big.NewInt(1), Now: start}
	root := must(Profile{}.Root(good))
	with := func(change func(*CAOrder)) CAOrder { o := good; change(&o); return o }
	for name, o := range map[string]CAOrder{
		"no trust domain": with(func(o *CAOrder) { o.TrustDomain = spiffeid.TrustDomain{} }),
		"no key":          with(func(o *CAOrder) { o.Key = keypolicy.Key{} }),
	} {
		if _, err := (Profile{}).Root(o); !errors.Is(err, attest.ErrRefused) {
			t.Errorf("root with %s: %v", name, err)
		}
		if _, err := (Profile{}).Issuer(o, root); !errors.Is(err, attest.ErrRefused) {
			t.Errorf("issuer with %s: %v", name, err)
		}
	}
	foreign := with(func(o *CAOrder) { o.TrustDomain = spiffeid.RequireTrustDomainFromString("other.test") })
	if _, err := (Profile{}).Issuer(foreign, root); attest.Reason(err) != ReasonTrustDomain {
		t.Errorf("under a foreign root: %v", err)
	}
	root.NotAfter = second.Add(24*time.Hour - time.Second)
	if issuer, err := (Profile{}).Issuer(good, root); err != nil || !issuer.NotAfter.Equal(root.NotAfter) {
		t.Errorf("under a root with four lives left: %v", err)
	}
	root.NotAfter = root.NotAfter.Add(-time.Second)
	if _, err := (Profile{}).Issuer(good, root); !errors.Is(err, ErrIssuerSpent) {
		t.Errorf("under a root with less: %v", err)
	}
}

// LN-03: serials are positive, at most 20 bytes, never twice, and every bit that
// is left to chance is set in half of them.
func TestSerials(t *testing.T) {
	const draws = 20000
	seen := map[string]bool{}
	var ones [160]int
	for range draws {
		serial := must(NewSerial(rand.Reader))
		if serial.Sign() <= 0 || serial.BitLen() > 159 || serial.BitLen() < 128 {
			t.Fatalf("%x", serial)
		}
		seen[serial.String()] = true
		for i := range ones {
			ones[i] += int(serial.Bit(i))
		}
	}
	if len(seen) != draws {
		t.Errorf("%d of %d differ", len(seen), draws)
	}
	// One bit's count has a standard deviation of 71; seven of them happen by chance once in 4e11.
	for i, got := range ones[:159] {
		if got < draws/2-500 || got > draws/2+500 {
			t.Errorf("bit %d is set in %d of %d", i, got, draws)
		}
	}
	if _, err := NewSerial(bytes.NewReader(make([]byte, 30))); err == nil {
		t.Error("a serial without chance")
	}
}

func TestEncodeRefuses(t *testing.T) {
	o := order(workload)
	leaf := must(Profile{}.Leaf(o))
	leaf.SerialNumber = nil
	if _, err := Encode(leaf, o.Issuer); !errors.Is(err, ErrEncoding) {
		t.Errorf("without a serial: %v", err)
	}
	leaf.SerialNumber = big.NewInt(-1)
	if _, err := Encode(leaf, o.Issuer); !errors.Is(err, ErrEncoding) {
		t.Errorf("with a negative serial: %v", err)
	}
	for _, tbs := range [][]byte{nil, {0x30, 0}, {0x30, 0x80}, []byte("hello"), {0x30, 3, 2, 1, 1}} {
		if _, err := Assemble(tbs, []byte{1}); !errors.Is(err, ErrEncoding) {
			t.Errorf("%x: %v", tbs, err)
		}
	}
}
