// Package secret gives a workload's identity and its trust bundles to Envoy as
// SDS secrets.
//
// Start at [Source]. It checks what it is given before it replaces what it
// serves, because Envoy does not recover by itself from a secret that it
// refused. How secrets travel is in sds and sds/stream.
package secret

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/sds/stream"
)

// TypeURL is the type of the secrets.
const TypeURL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// The names that SPIRE and Istio use, and with them every Envoy configuration
// that is written for one of them. Besides these a certificate has its SPIFFE
// ID for a name, and the roots of a trust domain have "spiffe://<trust domain>".
const (
	// DefaultName is the workload's certificate and key.
	DefaultName = "default"
	// RootName holds the roots of the workload's own trust domain.
	RootName = "ROOTCA"
	// AllName holds the roots of every trust domain that the workload trusts.
	AllName = "ALL"
)

// A Source serves the secrets of one workload; it is a sds.Source. The zero
// Source knows nothing yet, and all of its methods may be called at once.
//
// The versions are hashes of certificates: the same secret has the same version
// after a restart, and a changed bundle sends no unchanged key. A name's order
// is the order in which what changed together is sent, and it happens to be the
// right one: the roots before the certificate that needs them.
//
// Who may read a Source has that workload's key. It keeps the key nowhere but in
// the bodies of its snapshot, and those print as their name alone.
type Source struct {
	// Now is the clock for validity. Nil means time.Now.
	Now func() time.Time

	cell stream.Cell

	mu    sync.Mutex // guards what follows, and the order of cell.Set
	chain string     // version of the certificate that is served
	id    string
	certs []*stream.Resource // that certificate's secrets
}

// TypeURL returns the type of Envoy's secrets.
func (s *Source) TypeURL() string { return TypeURL }

// Current returns the secrets, and a channel that is closed when they are
// replaced.
func (s *Source) Current() (stream.Snapshot, <-chan struct{}) { return s.cell.Current() }

// Set replaces what is served. A material that does not pass every check is
// refused with a *[Refusal] and changes nothing. A certificate that is served
// already is not held to its validity again, so that a new bundle reaches a
// workload whose renewal is late.
func (s *Source) Set(m Material) error {
	domains, err := checkBundles(m)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var certs []*stream.Resource
	chain, id := "", ""
	if m.SVID != nil {
		chain, id = version("chain", rawOf(m.SVID)), m.SVID.ID.String()
		if certs = s.certs; chain != s.chain || id != s.id {
			if certs, err = s.certificates(m.SVID, chain); err != nil {
				return err
			}
		}
	}
	roots, err := validations(domains)
	if err != nil {
		return err
	}
	next := stream.Snapshot{Resources: map[string]*stream.Resource{}, Complete: m.SVID != nil}
	for _, r := range append(roots, certs...) {
		next.Resources[r.Name] = r
	}
	s.chain, s.id, s.certs = chain, id, certs
	if current, _ := s.cell.Current(); !same(current, next) {
		s.cell.Set(next)
	}
	return nil
}

// same reports whether nobody would have to be told of the change.
func same(a, b stream.Snapshot) bool {
	if a.Complete != b.Complete || len(a.Resources) != len(b.Resources) {
		return false
	}
	for name, r := range a.Resources {
		if other := b.Resources[name]; other == nil || other.Version != r.Version {
			return false
		}
	}
	return true
}

func rawOf(svid *x509svid.SVID) [][]byte {
	var raw [][]byte
	for _, c := range svid.Certificates {
		if c != nil {
			raw = append(raw, c.Raw)
		}
	}
	return raw
}

// version is a digest of certificates. Keys do not go into it: it is logged.
func version(kind string, parts ...[][]byte) string {
	hash := sha256.New()
	hash.Write([]byte(kind))
	for _, part := range parts {
		for _, der := range append([][]byte{{byte(len(part))}}, part...) {
			sum := sha256.Sum256(der)
			hash.Write(sum[:])
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:16])
}

// certificates builds the secrets of a certificate, after checking it.
func (s *Source) certificates(svid *x509svid.SVID, version string) ([]*stream.Resource, error) {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	if err := checkSVID(svid, now()); err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		return nil, refuse("key-unsupported", err)
	}
	body := &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(pemOf("CERTIFICATE", rawOf(svid)...)),
		PrivateKey:       inline(pemOf("PRIVATE KEY", key)),
	}}
	var out []*stream.Resource
	for _, name := range []string{DefaultName, svid.ID.String()} {
		r, err := resource(&tlsv3.Secret{Name: name, Type: body}, version)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// validations builds the secrets that hold roots. The SPIFFE validator keeps
// the roots of one domain from vouching for another.
//
// They hold no SAN matcher: Envoy adds those of a dynamic validation context to
// the static ones and asks for any of them, so one of ours would widen an
// operator's "exactly this server".
func validations(domains []domain) ([]*stream.Resource, error) {
	own := domains[:1]
	sets := map[string][]domain{RootName: own, AllName: domains}
	for i, d := range domains {
		sets["spiffe://"+d.name.Name()] = domains[i : i+1]
	}
	var out []*stream.Resource
	for name, set := range sets {
		set = slices.Clone(set)
		slices.SortFunc(set, func(a, b domain) int { return a.name.Compare(b.name) })
		validator := &tlsv3.SPIFFECertValidatorConfig{}
		kind, parts := "roots", [][][]byte(nil)
		for _, d := range set {
			validator.TrustDomains = append(validator.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{
				Name: d.name.Name(), TrustBundle: inline(pemOf("CERTIFICATE", d.roots...)),
			})
			kind += " " + d.name.Name()
			parts = append(parts, d.roots)
		}
		if err := validator.ValidateAll(); err != nil {
			return nil, refuse("secret-invalid", err)
		}
		config, err := marshal(validator)
		if err != nil {
			return nil, err
		}
		r, err := resource(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{
				// Else a Go client whose issuer is not in the list sends no
				// certificate at all, in the middle of a change of roots.
				SuppressClientCaList: true,
				CustomValidatorConfig: &corev3.TypedExtensionConfig{
					Name: "envoy.tls.cert_validator.spiffe", TypedConfig: config,
				},
			},
		}}, version(kind, parts...))
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func inline(data []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: data}}
}

func pemOf(kind string, blocks ...[]byte) []byte {
	var out []byte
	for _, der := range blocks {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	return out
}

// resource marshals a secret, after the checks that Envoy makes: it names no
// field when it refuses one.
func resource(secret *tlsv3.Secret, version string) (*stream.Resource, error) {
	if err := secret.ValidateAll(); err != nil {
		return nil, refuse("secret-invalid", err)
	}
	body, err := marshal(secret)
	if err != nil {
		return nil, err
	}
	return &stream.Resource{Name: secret.GetName(), Version: version, Body: body}, nil
}

func marshal(m proto.Message) (*anypb.Any, error) {
	body := &anypb.Any{}
	if err := anypb.MarshalFrom(body, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, refuse("secret-invalid", err)
	}
	return body, nil
}
