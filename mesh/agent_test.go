package mesh_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/ca/catest"
)

// An agent is a node agent that does exactly what a test says, wrong things
// included, and keeps what Envoy sent.
type agent struct {
	socket string

	mu        sync.Mutex // guards what follows
	server    *grpc.Server
	resources map[string]*discoveryv3.Resource // by name
	changed   chan struct{}                    // closed when resources change
	streams   int
	nodes     []int // size of the node in each request
	nacks     []string
	acks      int
	acked     map[string]string // the version of each resource that was accepted last
}

func newAgent(t *testing.T, socket string) *agent {
	t.Helper()
	a := &agent{socket: socket, resources: map[string]*discoveryv3.Resource{}, acked: map[string]string{}, changed: make(chan struct{})}
	a.start(t)
	t.Cleanup(a.stop)
	return a
}

func (a *agent) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, ads{agent: a})
	secretv3.RegisterSecretDiscoveryServiceServer(s, secrets{agent: a})
	a.mu.Lock()
	a.server = s
	a.mu.Unlock()
	go s.Serve(l)
}

// stop is an outage: it ends the streams and removes the socket.
func (a *agent) stop() {
	a.mu.Lock()
	s := a.server
	a.mu.Unlock()
	s.Stop()
}

// set replaces one resource.
func (a *agent) set(t *testing.T, name string, m proto.Message) {
	t.Helper()
	body, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	version := 1
	if old := a.resources[name]; old != nil {
		fmt.Sscan(old.Version, &version)
		version++
	}
	a.resources[name] = &discoveryv3.Resource{Name: name, Version: fmt.Sprint(version), Resource: body}
	close(a.changed)
	a.changed = make(chan struct{})
}

// identify gives the sidecar a certificate and the roots of a CA.
func (a *agent) identify(t *testing.T, ca *catest.CA, svid *x509svid.SVID) {
	t.Helper()
	a.set(t, "default", certificateSecret(t, svid))
	a.set(t, "ROOTCA", trustSecret(t, ca))
}

// allow sets the policy filter.
func (a *agent) allow(t *testing.T, filter proto.Message) {
	t.Helper()
	body, err := anypb.New(filter)
	if err != nil {
		t.Fatal(err)
	}
	a.set(t, "istio-auth.rbac", &corev3.TypedExtensionConfig{Name: "istio-auth.rbac", TypedConfig: body})
}

func (a *agent) seen() (streams, acks int, nodes []int, nacks []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.streams, a.acks, append([]int(nil), a.nodes...), append([]string(nil), a.nacks...)
}

type ads struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	agent *agent
}

func (s ads) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.agent.serve(stream)
}

type secrets struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	agent *agent
}

func (s secrets) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	return s.agent.serve(stream)
}

// serve speaks delta xDS on one stream.
func (a *agent) serve(stream grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]) error {
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- r:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	a.mu.Lock()
	a.streams++
	a.mu.Unlock()
	wanted := map[string]string{} // name => type
	sent := map[string]string{}   // name => version
	nonce := 0
	carried := map[string][]*discoveryv3.Resource{} // by nonce
	for {
		a.mu.Lock()
		changed := a.changed
		batches := map[string][]*discoveryv3.Resource{}
		for name, typeURL := range wanted {
			if r := a.resources[name]; r != nil && sent[name] != r.Version {
				batches[typeURL] = append(batches[typeURL], r)
				sent[name] = r.Version
			}
		}
		a.mu.Unlock()
		for typeURL, batch := range batches {
			nonce++
			carried[fmt.Sprint(nonce)] = batch
			if err := stream.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Resources: batch, Nonce: fmt.Sprint(nonce)}); err != nil {
				return err
			}
		}
		select {
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			a.record(r, carried[r.ResponseNonce])
			for _, name := range r.ResourceNamesSubscribe {
				wanted[name] = r.TypeUrl
				if v, ok := r.InitialResourceVersions[name]; ok {
					sent[name] = v
				}
			}
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (a *agent) record(r *discoveryv3.DeltaDiscoveryRequest, batch []*discoveryv3.Resource) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nodes = append(a.nodes, proto.Size(r.Node))
	switch {
	case r.ErrorDetail != nil:
		a.nacks = append(a.nacks, r.ErrorDetail.Message)
	case r.ResponseNonce != "":
		a.acks++
		for _, resource := range batch {
			a.acked[resource.Name] = resource.Version
		}
	}
}

func certificateSecret(t *testing.T, svid *x509svid.SVID) *tlsv3.Secret {
	t.Helper()
	certs, key, err := svid.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &tlsv3.Secret{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(certs), PrivateKey: inline(key),
	}}}
}

// trustSecret has the SPIFFE validator, as sds/secret makes it.
func trustSecret(t *testing.T, cas ...*catest.CA) *tlsv3.Secret {
	t.Helper()
	config := &tlsv3.SPIFFECertValidatorConfig{}
	for _, ca := range cas {
		config.TrustDomains = append(config.TrustDomains, &tlsv3.SPIFFECertValidatorConfig_TrustDomain{
			Name: ca.TrustDomain.Name(), TrustBundle: inline(pemOf(ca.Root)),
		})
	}
	packed, err := anypb.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return &tlsv3.Secret{Name: "ROOTCA", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		SuppressClientCaList:  true,
		CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: "envoy.tls.cert_validator.spiffe", TypedConfig: packed},
	}}}
}

func inline(data []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: data}}
}

func pemOf(certs ...*x509.Certificate) []byte {
	var out strings.Builder
	for _, c := range certs {
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return []byte(out.String())
}

// within asks ok until it is true, at most limit long, and gives the time taken.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("after %v still not: %s", limit, what)
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	return time.Since(began)
}
