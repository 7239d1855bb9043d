package mtls_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"google.golang.org/grpc/credentials"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/mtls"
)

var (
	domain    = spiffeid.RequireTrustDomainFromString("mesh.example")
	other     = spiffeid.RequireTrustDomainFromString("other.example")
	caID      = spiffeid.RequireFromString("spiffe://mesh.example/istio-auth/ca")
	managerID = spiffeid.RequireFromString("spiffe://mesh.example/istio-auth/manager")
	agentID   = spiffeid.RequireFromString("spiffe://mesh.example/istio-auth/node/n/u")
	leafKey   = newKey()
)

func newKey() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// An authority is a root and one issuer under it.
type authority struct {
	root, issuer       *x509.Certificate
	rootKey, issuerKey crypto.Signer
}

func newAuthority(t *testing.T, td spiffeid.TrustDomain) *authority {
	t.Helper()
	a := &authority{rootKey: newKey(), issuerKey: newKey()}
	a.root = a.sign(t, caTemplate(td), nil, a.rootKey, a.rootKey)
	a.issuer = a.sign(t, caTemplate(td), a.root, a.issuerKey, a.rootKey)
	return a
}

func caTemplate(td spiffeid.TrustDomain) *x509.Certificate {
	c := template(td.ID().String())
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
	return c
}

// template is a good leaf, with the URI names byte for byte as given.
func template(uris ...string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "x"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		ExtraExtensions: []pkix.Extension{names(6, uris...)},
	}
}

// names is a subject alternative name extension: 6 is a URI, 2 a DNS name.
func names(kind uint8, values ...string) pkix.Extension {
	var b cryptobyte.Builder
	b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, v := range values {
			b.AddASN1(cryptobyteasn1.Tag(kind).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(v)) })
		}
	})
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: b.BytesOrPanic()}
}

func (a *authority) sign(t *testing.T, c, parent *x509.Certificate, key, by crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leaf signs c and returns it with its issuer, as a peer presents it.
func (a *authority) leaf(t *testing.T, c *x509.Certificate) []*x509.Certificate {
	t.Helper()
	return []*x509.Certificate{a.sign(t, c, a.issuer, leafKey, a.issuerKey), a.issuer}
}

func (a *authority) svid(t *testing.T, id spiffeid.ID) *x509svid.SVID {
	t.Helper()
	return &x509svid.SVID{ID: id, Certificates: a.leaf(t, template(id.String())), PrivateKey: leafKey}
}

func (a *authority) bundle(td spiffeid.TrustDomain) *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(td, []*x509.Certificate{a.root})
}

// trust is a source whose bundle can be replaced.
type trust struct {
	mu  sync.Mutex
	now *x509bundle.Bundle
}

func (s *trust) set(b *x509bundle.Bundle) { s.mu.Lock(); s.now = b; s.mu.Unlock() }

func (s *trust) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.GetX509BundleForTrustDomain(td)
}

type result struct {
	state tls.ConnectionState
	err   error
}

// handshake connects the two over a socket pair. The server writes a byte, and
// each side reads until the other's end, so that alerts and tickets arrive.
func handshake(t *testing.T, client, server *tls.Config) (c, s result) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := listener.Accept()
		if err != nil {
			s.err = err
			return
		}
		conn := tls.Server(raw, server)
		defer conn.Close()
		if s.err = conn.Handshake(); s.err == nil {
			_, s.err = conn.Write([]byte("1"))
		}
		s.state = conn.ConnectionState()
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn := tls.Client(raw, client)
	if c.err = conn.Handshake(); c.err == nil {
		_, c.err = io.ReadAll(conn)
	}
	c.state = conn.ConnectionState()
	conn.Close()
	<-done
	return c, s
}

// raw is what a stranger's client or server is made of: it verifies nothing.
func raw(chain []*x509.Certificate, key crypto.Signer) *tls.Config {
	cert := tls.Certificate{PrivateKey: key}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}
}

func anybody(spiffeid.ID) error { return nil }

func TestBothSidesKnowEachOther(t *testing.T) {
	a := newAuthority(t, domain)
	bundle := a.bundle(domain)
	server := mtls.Server(a.svid(t, caID), bundle, mtls.Agents(domain))
	client := mtls.Client(a.svid(t, agentID), bundle, mtls.Exactly(caID))
	c, s := handshake(t, client, server)
	if c.err != nil || s.err != nil {
		t.Fatal(c.err, s.err)
	}
	if id, err := mtls.PeerID(c.state); id != caID || err != nil {
		t.Errorf("the client sees %v, %v, want %v", id, err, caID)
	}
	if id, err := mtls.PeerID(s.state); id != agentID || err != nil {
		t.Errorf("the server sees %v, %v, want %v", id, err, agentID)
	}
	if c.state.Version != tls.VersionTLS13 || c.state.CurveID != tls.X25519MLKEM768 {
		t.Errorf("got %s with %s, want TLS 1.3 with X25519MLKEM768", tls.VersionName(c.state.Version), c.state.CurveID)
	}

	bc, err1 := mtls.Binding(c.state)
	bs, err2 := mtls.Binding(s.state)
	if bc != bs || bc == [32]byte{} || err1 != nil || err2 != nil {
		t.Errorf("bindings %x, %x, errors %v, %v, want the same at both ends", bc, bs, err1, err2)
	}
	c2, _ := handshake(t, client, server)
	if b2, err := mtls.Binding(c2.state); b2 == bc || err != nil {
		t.Errorf("another connection has binding %x, %v, want another", b2, err)
	}

	classic := client.Clone()
	classic.CurvePreferences = []tls.CurveID{tls.X25519}
	if c, _ := handshake(t, classic, server); c.err != nil || c.state.CurveID != tls.X25519 {
		t.Errorf("a peer without hybrids: %v with %s", c.err, c.state.CurveID)
	}
}

func TestPeerIDOnlyAfterVerification(t *testing.T) {
	a := newAuthority(t, domain)
	bundle := a.bundle(domain)
	server := mtls.Server(a.svid(t, caID), bundle, anybody)
	inner, asked := server.VerifyConnection, false
	server.VerifyConnection = func(state tls.ConnectionState) error {
		asked = true
		if id, err := mtls.PeerID(state); err == nil || !id.IsZero() {
			t.Errorf("PeerID before the verdict: %v, %v", id, err)
		}
		if b, err := mtls.Binding(state); err == nil || b != [32]byte{} {
			t.Errorf("Binding before the verdict: %x, %v", b, err)
		}
		return inner(state)
	}
	c, s := handshake(t, mtls.Client(a.svid(t, agentID), bundle, anybody), server)
	if c.err != nil || s.err != nil || !asked {
		t.Fatal(c.err, s.err, asked)
	}
	for name, change := range map[string]func(*tls.ConnectionState){
		"incomplete": func(s *tls.ConnectionState) { s.HandshakeComplete = false },
		"TLS 1.2":    func(s *tls.ConnectionState) { s.Version = tls.VersionTLS12 },
		"resumed":    func(s *tls.ConnectionState) { s.DidResume = true },
		"zero":       func(s *tls.ConnectionState) { *s = tls.ConnectionState{} },
	} {
		state := s.state
		change(&state)
		if id, err := mtls.PeerID(state); err == nil || errors.Is(err, mtls.ErrNoPeer) {
			t.Errorf("%s: PeerID gives %v, %v", name, id, err)
		}
	}
}

// TestTLS01 is the attack on go-spiffe's configurations: a client that was let
// in once comes back with its ticket after its root has left the bundle and the
// rule has turned against it. The first row shows that the attack is one.
func TestTLS01(t *testing.T) {
	for _, c := range []struct {
		name    string
		make    func(own *x509svid.SVID, s *trust, authorize mtls.Authorizer) *tls.Config
		resumed bool
	}{
		{"a configuration that verifies in VerifyPeerCertificate", func(own *x509svid.SVID, s *trust, authorize mtls.Authorizer) *tls.Config {
			config := raw(own.Certificates, leafKey)
			config.ClientAuth = tls.RequireAnyClientCert
			config.VerifyPeerCertificate = func(certs [][]byte, _ [][]*x509.Certificate) error {
				id, _, err := x509svid.ParseAndVerify(certs, s)
				return errors.Join(err, authorize(id))
			}
			return config
		}, true},
		{"Server", func(own *x509svid.SVID, s *trust, authorize mtls.Authorizer) *tls.Config {
			return mtls.Server(own, s, authorize)
		}, false},
		{"ServerOptionalClient", func(own *x509svid.SVID, s *trust, authorize mtls.Authorizer) *tls.Config {
			return mtls.ServerOptionalClient(own, s, authorize)
		}, false},
		{"Server, were tickets on", func(own *x509svid.SVID, s *trust, authorize mtls.Authorizer) *tls.Config {
			config := mtls.Server(own, s, authorize)
			config.SessionTicketsDisabled = false
			return config
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAuthority(t, domain)
			roots, deny := &trust{now: a.bundle(domain)}, false
			server := c.make(a.svid(t, caID), roots, func(spiffeid.ID) error {
				if deny {
					return errors.New("banned")
				}
				return nil
			})
			hostile := raw(a.leaf(t, template(agentID.String())), leafKey)
			hostile.ClientSessionCache, hostile.ServerName = tls.NewLRUClientSessionCache(8), "x"
			if c, s := handshake(t, hostile, server); c.err != nil || s.err != nil {
				t.Fatalf("the first time: %v, %v", c.err, s.err)
			}
			roots.set(x509bundle.New(domain))
			deny = true
			_, s := handshake(t, hostile, server)
			if got := s.err == nil; got != c.resumed {
				t.Errorf("served again: %t (%v, resumed %t), want %t", got, s.err, s.state.DidResume, c.resumed)
			}
		})
	}
}

// TestTicketsAreNotGiven: the server hands out nothing, and the client keeps
// nothing that it is handed.
func TestTicketsAreNotGiven(t *testing.T) {
	a := newAuthority(t, domain)
	bundle := a.bundle(domain)
	cache := &countingCache{}
	hostile := raw(a.leaf(t, template(agentID.String())), leafKey)
	hostile.ClientSessionCache, hostile.ServerName = cache, "x"
	for range 2 {
		if c, s := handshake(t, hostile, mtls.Server(a.svid(t, caID), bundle, anybody)); c.err != nil || s.err != nil {
			t.Fatal(c.err, s.err)
		}
	}
	if cache.put != 0 {
		t.Errorf("the server gave %d tickets, want none", cache.put)
	}
	generous := raw(a.leaf(t, template(caID.String())), leafKey)
	client := mtls.Client(a.svid(t, agentID), bundle, anybody)
	client.ServerName = "x"
	for range 2 {
		if c, s := handshake(t, client, generous); c.err != nil || s.err != nil || c.state.DidResume || s.state.DidResume {
			t.Errorf("client %v, resumed %t; server %v", c.err, c.state.DidResume, s.err)
		}
	}
	for name, config := range map[string]*tls.Config{
		"Server": mtls.Server(nil, nil, nil), "ServerOptionalClient": mtls.ServerOptionalClient(nil, nil, nil),
		"Client": mtls.Client(nil, nil, nil), "AnonymousClient": mtls.AnonymousClient(nil, nil),
	} {
		if !config.SessionTicketsDisabled || config.ClientSessionCache != nil || config.MinVersion != tls.VersionTLS13 ||
			config.VerifyConnection == nil || config.CurvePreferences[0] != tls.X25519MLKEM768 || config.KeyLogWriter != nil {
			t.Errorf("%s is not of the form that all have", name)
		}
	}
}

// TestResumedIsRefused: were a session resumed after all, no configuration takes
// it, with a certificate or without.
func TestResumedIsRefused(t *testing.T) {
	a := newAuthority(t, domain)
	bundle, svid := a.bundle(domain), a.svid(t, agentID)
	for name, config := range map[string]*tls.Config{
		"Server": mtls.Server(svid, bundle, anybody), "ServerOptionalClient": mtls.ServerOptionalClient(svid, bundle, anybody),
		"Client": mtls.Client(svid, bundle, anybody), "AnonymousClient": mtls.AnonymousClient(bundle, anybody),
	} {
		for _, chain := range [][]*x509.Certificate{nil, svid.Certificates} {
			state := tls.ConnectionState{Version: tls.VersionTLS13, DidResume: true, PeerCertificates: chain}
			if err := config.VerifyConnection(state); attest.Reason(err) != "tls-resumed" {
				t.Errorf("%s with %d certificates: got %v, want tls-resumed", name, len(chain), err)
			}
		}
	}
}

type countingCache struct{ put int }

func (c *countingCache) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *countingCache) Put(_ string, state *tls.ClientSessionState) {
	if state != nil {
		c.put++
	}
}

// TestBundleOfTheMoment: a root that comes and goes counts from the next
// handshake on, on both sides and with one configuration each.
func TestBundleOfTheMoment(t *testing.T) {
	old, young := newAuthority(t, domain), newAuthority(t, domain)
	ours := old.bundle(domain)
	roots := &trust{now: ours}
	server := mtls.Server(old.svid(t, caID), roots, anybody)
	client := mtls.Client(old.svid(t, agentID), roots, anybody)
	youngClient := raw(young.leaf(t, template(agentID.String())), leafKey)
	youngServer := raw(young.leaf(t, template(caID.String())), leafKey)
	both := x509bundle.FromX509Authorities(domain, []*x509.Certificate{old.root, young.root})
	for i, step := range []struct {
		bundle         *x509bundle.Bundle
		oldOK, youngOK bool
	}{{ours, true, false}, {both, true, true}, {young.bundle(domain), false, true}, {x509bundle.New(domain), false, false}, {old.bundle(other), false, false}, {ours, true, false}} {
		roots.set(step.bundle)
		if _, s := handshake(t, raw(old.leaf(t, template(agentID.String())), leafKey), server); (s.err == nil) != step.oldOK {
			t.Errorf("step %d: old client: %v, want served %t", i, s.err, step.oldOK)
		}
		if _, s := handshake(t, youngClient, server); (s.err == nil) != step.youngOK {
			t.Errorf("step %d: young client: %v, want served %t", i, s.err, step.youngOK)
		}
		if c, _ := handshake(t, client, youngServer); (c.err == nil) != step.youngOK {
			t.Errorf("step %d: young server: %v, want accepted %t", i, c.err, step.youngOK)
		}
	}
}

func TestTLS12IsRefused(t *testing.T) {
	a := newAuthority(t, domain)
	bundle := a.bundle(domain)
	old := raw(a.leaf(t, template(agentID.String())), leafKey)
	old.MaxVersion = tls.VersionTLS12
	if c, s := handshake(t, old, mtls.Server(a.svid(t, caID), bundle, anybody)); s.err == nil || c.err == nil {
		t.Error("a server of ours spoke TLS 1.2")
	}
	if c, s := handshake(t, mtls.Client(a.svid(t, agentID), bundle, anybody), old); s.err == nil || c.err == nil {
		t.Error("a client of ours spoke TLS 1.2")
	}
	// And were the minimum lost, the verdict still holds.
	lax := mtls.Server(a.svid(t, caID), bundle, anybody)
	lax.MinVersion = tls.VersionTLS12
	if _, s := handshake(t, old, lax); attest.Reason(s.err) != "tls-version" {
		t.Errorf("got %v, want tls-version", s.err)
	}
}

func TestServerOptionalClient(t *testing.T) {
	a, stranger := newAuthority(t, domain), newAuthority(t, domain)
	bundle := a.bundle(domain)
	server := mtls.ServerOptionalClient(a.svid(t, caID), bundle, mtls.Agents(domain))
	c, s := handshake(t, mtls.AnonymousClient(bundle, mtls.Exactly(caID)), server)
	if c.err != nil || s.err != nil {
		t.Fatal(c.err, s.err)
	}
	if id, err := mtls.PeerID(s.state); !errors.Is(err, mtls.ErrNoPeer) || !id.IsZero() {
		t.Errorf("without a certificate: %v, %v, want ErrNoPeer", id, err)
	}
	if _, err := mtls.Binding(s.state); err != nil {
		t.Errorf("binding without a certificate: %v", err)
	}
	if _, s := handshake(t, mtls.Client(a.svid(t, agentID), bundle, anybody), server); s.err != nil {
		t.Errorf("with a good certificate: %v", s.err)
	} else if id, err := mtls.PeerID(s.state); id != agentID || err != nil {
		t.Errorf("with a good certificate: %v, %v", id, err)
	}
	if _, s := handshake(t, mtls.Client(stranger.svid(t, agentID), bundle, anybody), server); attest.Reason(s.err) != "peer-not-verified" {
		t.Errorf("with a stranger's certificate: %v, want it refused", s.err)
	}
	if _, s := handshake(t, mtls.Client(a.svid(t, managerID), bundle, anybody), server); attest.Reason(s.err) != "not-an-agent" {
		t.Errorf("with a certificate that may not connect: %v, want it refused", s.err)
	}
	if c, s := handshake(t, mtls.AnonymousClient(bundle, anybody), mtls.Server(a.svid(t, caID), bundle, anybody)); s.err == nil || c.err == nil {
		t.Error("Server served a client without a certificate")
	}
}

func TestNoCertificateOfOurOwn(t *testing.T) {
	a := newAuthority(t, domain)
	bundle := a.bundle(domain)
	if _, s := handshake(t, mtls.AnonymousClient(bundle, anybody), mtls.ServerOptionalClient(noSVID{}, bundle, anybody)); !errors.Is(s.err, errNoSVID) {
		t.Errorf("server: %v, want its source's error", s.err)
	}
	if c, _ := handshake(t, mtls.Client(noSVID{}, bundle, anybody), mtls.Server(a.svid(t, caID), bundle, anybody)); !errors.Is(c.err, errNoSVID) {
		t.Errorf("client: %v, want its source's error", c.err)
	}
}

var errNoSVID = errors.New("none yet")

type noSVID struct{}

func (noSVID) GetX509SVID() (*x509svid.SVID, error) { return nil, errNoSVID }

func TestAuthorizers(t *testing.T) {
	id := spiffeid.RequireFromString
	for _, c := range []struct {
		name      string
		authorize mtls.Authorizer
		id        spiffeid.ID
		want      string
	}{
		{"the one", mtls.Exactly(caID), caID, ""},
		{"one of two", mtls.Exactly(caID, managerID), managerID, ""},
		{"another", mtls.Exactly(caID), managerID, "peer-not-expected"},
		{"a longer path", mtls.Exactly(caID), id(caID.String() + "/x"), "peer-not-expected"},
		{"another case", mtls.Exactly(caID), id("spiffe://mesh.example/istio-auth/CA"), "peer-not-expected"},
		{"another domain", mtls.Exactly(caID), id("spiffe://other.example/istio-auth/ca"), "peer-not-expected"},
		{"nobody", mtls.Exactly(), caID, "peer-not-expected"},
		{"the zero ID", mtls.Exactly(spiffeid.ID{}), spiffeid.ID{}, "peer-not-expected"},
		{"an agent", mtls.Agents(domain), agentID, ""},
		{"another domain's agent", mtls.Agents(domain), id("spiffe://other.example/istio-auth/node/n/u"), "peer-trust-domain"},
		{"a longer domain's agent", mtls.Agents(domain), id("spiffe://mesh.example.x/istio-auth/node/n/u"), "peer-trust-domain"},
		{"a service for an agent", mtls.Agents(domain), caID, "not-an-agent"},
		{"a workload for an agent", mtls.Agents(domain), id("spiffe://mesh.example/ns/istio-auth/sa/node"), "not-an-agent"},
		{"agents of no domain", mtls.Agents(spiffeid.TrustDomain{}), agentID, "peer-trust-domain"},
		{"agents of no domain, zero ID", mtls.Agents(spiffeid.TrustDomain{}), spiffeid.ID{}, "peer-trust-domain"},
	} {
		if err := c.authorize(c.id); attest.Reason(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// TestGRPC: grpc's credentials add h2 to our configuration and keep its verdict.
func TestGRPC(t *testing.T) {
	a := newAuthority(t, domain)
	bundle := a.bundle(domain)
	client, server := net.Pipe()
	done := make(chan error, 1)
	go func() {
		_, info, err := credentials.NewTLS(mtls.Server(a.svid(t, caID), bundle, mtls.Exactly(agentID))).ServerHandshake(server)
		if err == nil {
			state := info.(credentials.TLSInfo).State
			if id, e := mtls.PeerID(state); id != agentID || e != nil || state.NegotiatedProtocol != "h2" {
				err = errors.Join(errors.New(id.String()+" "+state.NegotiatedProtocol), e)
			}
		}
		done <- err
	}()
	_, info, err := credentials.NewTLS(mtls.Client(a.svid(t, agentID), bundle, mtls.Exactly(caID))).ClientHandshake(t.Context(), "dns.example", client)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := mtls.PeerID(info.(credentials.TLSInfo).State); id != caID || err != nil {
		t.Errorf("got %v, %v", id, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
