package e2e

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"istio.io/api/security/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/mtls"
	"github.com/istio-auth/istio-auth/test/node"
)

// TestSPIFFEClientAtThePodsSocket: go-spiffe, as it is, fetches the pod's own
// identity from the socket in the pod's volume. test/clients has the Python one.
func TestSPIFFEClientAtThePodsSocket(t *testing.T) {
	n := install(t)
	pod := mount(t, n, "socket")
	own := source(t, n, pod)
	svid, err := own.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if want := identity("default", "default"); svid.ID != want {
		t.Errorf("got %s, want %s", svid.ID, want)
	}
	if _, _, err := x509svid.Verify(svid.Certificates, roots(t, n)); err != nil {
		t.Error(err)
	}
	leaf := svid.Certificates[0]
	if left := time.Until(leaf.NotAfter); left > life || left < life-time.Minute {
		t.Errorf("it lives for %v more, want %v", left, life)
	}
	if leaf.Subject.String() != "" || len(leaf.DNSNames) != 0 {
		t.Errorf("it is %s for %q too", leaf.Subject, leaf.DNSNames)
	}
}

// mount runs a pod that mounts our volume and does nothing with it.
func mount(t *testing.T, n *node.Node, name string) *corev1.Pod {
	t.Helper()
	yes := true
	return startPod(t, n, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{Volumes: []corev1.Volume{{
			Name:         "istio-auth",
			VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "csi.istio-auth.io", ReadOnly: &yes}},
		}}},
	})
}

// TestStockIstioClient: a client that is generated from Istio's own protocol
// gets a certificate with a token of the audience istio-ca, where the values
// say so, and finds nothing otherwise.
func TestStockIstioClient(t *testing.T) {
	n := install(t)
	pod := startPod(t, n, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "stock"}})
	stock := token(t, n, pod, "istio-ca")
	closed := net.JoinHostPort(running(t, n, system, "istio-ca").Status.PodIP, "15013")
	if conn, err := n.Dial(t.Context(), "tcp", closed); err == nil {
		conn.Close()
		t.Error("the listener for Istio's clients is open by default")
	}
	if _, err := createCertificate(t, n, address(t, n, "istio-ca", 15012), stock); err == nil {
		t.Error("the agents' listener serves Istio's clients")
	}

	install(t, "ca.istio.enabled=true")
	open := address(t, n, "istio-ca", 15013)
	chain, err := createCertificate(t, n, open, stock)
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := x509svid.Verify(chain[:len(chain)-1], roots(t, n))
	if err != nil || id != identity("default", "default") {
		t.Errorf("got %s, %v", id, err)
	}
	if root := chain[len(chain)-1]; !roots(t, n).HasX509Authority(root) {
		t.Error("the last certificate is not the root, as Istio's clients take it to be")
	}
	for _, row := range []struct {
		name  string
		token attest.Token
	}{
		{"a token for workloads", token(t, n, pod, forWorkloads)},
		{"a token for agents", token(t, n, running(t, n, system, "istio-nodeagent"), forAgents)},
		{"a token for the API server", token(t, n, pod)},
		{"no token", attest.NewToken("none")},
	} {
		if _, err := createCertificate(t, n, open, row.token); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: got %v", row.name, err)
		}
	}
}

// createCertificate makes the one call of Istio's certificate service.
func createCertificate(t *testing.T, n *node.Node, address string, token attest.Token) ([]*x509.Certificate, error) {
	t.Helper()
	server := mtls.Exactly(spiffeid.RequireFromSegments(td, "istio-auth", "ca"))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(mtls.AnonymousClient(roots(t, n), server))),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return n.Dial(ctx, "tcp", address) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, catest.Key(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token.Reveal(), "ClusterID", "Kubernetes")
	response, err := v1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &v1alpha1.IstioCertificateRequest{
		Csr:              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		ValidityDuration: 3600,
	}, grpc.WaitForReady(true)) // kube-proxy is a moment behind the new CA
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for _, text := range response.GetCertChain() {
		block, rest := pem.Decode([]byte(text))
		if block == nil || len(rest) != 0 {
			return nil, fmt.Errorf("not one PEM block: %q", text)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, cert)
	}
	if len(chain) < 3 {
		return nil, fmt.Errorf("a chain of %d certificates", len(chain))
	}
	return chain, nil
}
