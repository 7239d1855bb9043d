package sds_test

import (
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/sdstest"
	"github.com/istio-auth/istio-auth/sds/secret"
	"github.com/istio-auth/istio-auth/sds/stream"
)

// A spoiler is a source that can serve what secret.Source would refuse.
type spoiler struct {
	stream.Cell
	typeURL string
}

func (s *spoiler) TypeURL() string { return s.typeURL }

func (s *spoiler) set(resources map[string]*stream.Resource) {
	s.Cell.Set(stream.Snapshot{Resources: resources, Complete: true})
}

func resource(t *testing.T, name, version string, body proto.Message) *stream.Resource {
	t.Helper()
	packed, err := anypb.New(body)
	if err != nil {
		t.Fatal(err)
	}
	return &stream.Resource{Name: name, Version: version, Body: packed}
}

// ENVOY trap 4: Envoy keeps a secret that it refused, and refuses the next good
// one for it, or goes dark. Our server sends the last good one at once.
func TestEnvoyRefusedSecretPoisonsNothing(t *testing.T) {
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	for name, how := range protocols {
		t.Run(name, func(t *testing.T) {
			spoiled := &spoiler{typeURL: sds.SecretType}
			w := newWorld(t, spoiled)
			next, err := sdstest.NewAuthority(td)
			if err != nil {
				t.Fatal(err)
			}
			server, client := w.svid(t, "/ns/a/sa/server", sdstest.Leaf{}), w.svid(t, "/ns/a/sa/client", sdstest.Leaf{})
			chain, _, err := server.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			_, otherKey, err := client.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			// serve what is good, but for what is spoiled.
			put := func(bad *stream.Resource, others ...*sdstest.Authority) {
				t.Helper()
				w.set(t, server, others...)
				good, _ := w.source.Current()
				resources := map[string]*stream.Resource{"default": good.Resources["default"], "ROOTCA": good.Resources["ROOTCA"]}
				if bad != nil {
					resources[bad.Name] = bad
				}
				spoiled.set(resources)
			}
			put(nil)
			w.start(t, how, false)
			address := w.envoy.Address(t, "in").String()
			refusals, certs, roots := 0, w.events.count(acked("default")), w.events.count(acked("ROOTCA"))
			for i, bad := range []*stream.Resource{
				resource(t, "default", "mismatch", &tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{
					TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(chain), PrivateKey: inline(otherKey)}}}),
				resource(t, "default", "empty", &tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{}}}),
				resource(t, "default", "kind", &tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{}}}),
				resource(t, "default", "name", &tlsv3.Secret{Name: "other"}),
			} {
				if bad.Version == "name" && how.API == "GRPC" {
					continue // passed over in silence, and acknowledged
				}
				var others []*sdstest.Authority
				if i%2 == 1 {
					others = append(others, next)
				}
				put(bad, others...)
				refusals++
				w.events.until(w.ctx, t, refusals, nacked)
				certs++ // the last good one, without being asked
				w.events.until(w.ctx, t, certs, acked("default"))
				// The next good neighbour is taken, though the source still holds the bad one.
				if i%2 == 0 {
					others = append(others, next)
				} else {
					others = nil
				}
				roots = w.events.count(acked("ROOTCA"))
				put(bad, others...)
				w.events.until(w.ctx, t, roots+1, acked("ROOTCA"))
				if _, _, err := get(w.ctx, address, client); err != nil {
					t.Fatalf("after %s: %v", bad.Version, err)
				}
				refusals, certs = w.events.count(nacked), w.events.count(acked("default"))
				put(nil, others...)
			}
			if n := w.events.count(func(e sds.Event) bool { return e.Kind == sds.Nacked && e.Name != "default" }); n != 0 {
				t.Errorf("%d good neighbours were refused", n)
			}
		})
	}
}

// envoy#47309, SDS-05: a listener update changes the bytes of its ConfigSource,
// so Envoy makes a new holder for a secret that it has subscribed already, and
// repeats its last request. Unless that is answered, the new listener waits for
// ever here (without the timeout), or opens without a certificate.
func TestEnvoyAsksAgain(t *testing.T) {
	listeners := &spoiler{typeURL: "type.googleapis.com/envoy.config.listener.v3.Listener"}
	own := &secret.Source{}
	w := newWorld(t, own, listeners)
	w.source = own
	w.set(t, w.svid(t, "/ns/a/sa/server", sdstest.Leaf{}))
	how := setup{API: "GRPC", ADS: true, LDS: true, Prefix: "spiffe://td.test/ns/", Timeout: "0s"}
	put := func(version string) {
		t.Helper()
		asJSON, err := yaml.YAMLToJSON([]byte(how.Listener()))
		if err != nil {
			t.Fatal(err)
		}
		listener := &listenerv3.Listener{}
		if err := protojson.Unmarshal(asJSON, listener); err != nil {
			t.Fatal(err)
		}
		listeners.set(map[string]*stream.Resource{"in": resource(t, "in", version, listener)})
	}
	put("1")
	w.start(t, how, false)
	client := w.svid(t, "/ns/a/sa/client", sdstest.Leaf{})
	w.envoy.Until(t, "the first listener", func() bool {
		n, ok := w.envoy.Stat(t, "listener_manager.listener_create_success")
		return ok && n > 0
	})
	answered := w.events.count(acked("default"))
	how.Timeout = "3600s"
	put("2")
	w.events.until(w.ctx, t, answered+1, acked("default"))
	w.envoy.Until(t, "the second listener to be warm", func() bool {
		modified, ok := w.envoy.Stat(t, "listener_manager.listener_modified")
		warming, known := w.envoy.Stat(t, "listener_manager.total_listeners_warming")
		return ok && known && modified == 1 && warming == 0
	})
	if _, _, err := get(w.ctx, w.envoy.Address(t, "in").String(), client); err != nil {
		t.Error(err)
	}
}

// The SPIFFE validator from our secret refuses who is not of our domain, who has
// expired and who is signed by a stranger; and the static half of the validation
// context (the SAN prefix) holds from the first handshake on and after each new
// bundle (CVE-2020-8664, SDS-06).
func TestEnvoyRefusesPeers(t *testing.T) {
	for name, how := range protocols {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			other, err := sdstest.NewAuthority(spiffeid.RequireTrustDomainFromString("other.test"))
			if err != nil {
				t.Fatal(err)
			}
			namesake, err := sdstest.NewAuthority(td)
			if err != nil {
				t.Fatal(err)
			}
			sign := func(ca *sdstest.Authority, id spiffeid.ID, leaf sdstest.Leaf) func(string) error {
				svid, err := ca.SVID(id, leaf)
				if err != nil {
					t.Fatal(err)
				}
				return func(address string) error {
					_, _, err := get(w.ctx, address, svid)
					return err
				}
			}
			in := func(path string) spiffeid.ID { return spiffeid.RequireFromPath(td, path) }
			peers := []struct {
				name string
				good bool
				get  func(string) error
			}{
				{"a good one", true, sign(w.ca, in("/ns/good/sa/a"), sdstest.Leaf{})},
				{"another namespace", false, sign(w.ca, in("/ns/bad/sa/a"), sdstest.Leaf{})},
				{"a longer namespace", false, sign(w.ca, in("/ns/good-not/sa/a"), sdstest.Leaf{})},
				{"our own service", false, sign(w.ca, in("/istio-auth/ca"), sdstest.Leaf{})},
				{"another domain by its authority", false, sign(other, spiffeid.RequireFromString("spiffe://other.test/ns/good/sa/a"), sdstest.Leaf{})},
				{"our domain by another's authority", false, sign(other, in("/ns/good/sa/a"), sdstest.Leaf{})},
				{"another domain by our authority", false, sign(w.ca, spiffeid.RequireFromString("spiffe://other.test/ns/good/sa/a"), sdstest.Leaf{})},
				{"our domain by a namesake", false, sign(namesake, in("/ns/good/sa/a"), sdstest.Leaf{})},
				{"expired", false, sign(w.ca, in("/ns/good/sa/a"), sdstest.Leaf{NotAfter: -time.Minute})},
			}
			w.set(t, w.svid(t, "/ns/good/sa/server", sdstest.Leaf{}))
			how.Prefix = "spiffe://td.test/ns/good/"
			w.start(t, how, false)
			address := w.envoy.Address(t, "in").String()
			check := func(when string) {
				t.Helper()
				for _, p := range peers {
					if err := p.get(address); (err == nil) != p.good {
						t.Errorf("%s: %s: %v", when, p.name, err)
					}
				}
			}
			check("at first")
			more, err := sdstest.NewAuthority(td)
			if err != nil {
				t.Fatal(err)
			}
			roots := w.events.count(acked("ROOTCA"))
			w.set(t, w.svid(t, "/ns/good/sa/server", sdstest.Leaf{}), more)
			w.events.until(w.ctx, t, roots+1, acked("ROOTCA"))
			check("after a new bundle")
		})
	}
}
