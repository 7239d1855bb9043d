package workloadapi_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	spiffe "github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/nodeagent/workloadapi"
	"github.com/istio-auth/istio-auth/sds/sdstest"
)

var (
	td = spiffeid.RequireTrustDomainFromString("td.test")
	id = spiffeid.RequireFromPath(td, "/ns/a/sa/b")
)

// start serves on a real socket and returns its path.
func start(t *testing.T, s *workloadapi.Server) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wl") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	s.Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return path
}

func dial(t *testing.T, path string) workload.SpiffeWorkloadAPIClient {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return workload.NewSpiffeWorkloadAPIClient(conn)
}

func update(t *testing.T, ca *sdstest.Authority) nodeagent.Update {
	t.Helper()
	svid, err := ca.SVID(id, sdstest.Leaf{})
	if err != nil {
		t.Fatal(err)
	}
	return nodeagent.Update{SVID: svid, Bundle: ca.Bundle()}
}

func authority(t *testing.T) *sdstest.Authority {
	t.Helper()
	ca, err := sdstest.NewAuthority(td)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func timeout(t *testing.T) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(stop)
	return ctx
}

// The judge is the client that everyone uses.
func TestGoSPIFFE(t *testing.T) {
	ca, next, server := authority(t), authority(t), &workloadapi.Server{}
	ctx, path := timeout(t), start(t, server)
	published := make(chan error, 1)
	first := update(t, ca)
	go func() { published <- server.Publish(first) }()
	// The source may ask before the identity is there, and waits.
	source, err := spiffe.NewX509Source(ctx, spiffe.WithClientOptions(spiffe.WithAddr("unix://"+path)))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	got, err := source.GetX509SVID()
	if err != nil || got.ID != id || !got.Certificates[0].Equal(first.SVID.Certificates[0]) {
		t.Fatalf("got %v, %v", got, err)
	}

	// A new certificate and a new root arrive together.
	second := update(t, next)
	second.Bundle = next.Bundle(ca)
	if err := server.Publish(second); err != nil {
		t.Fatal(err)
	}
	select {
	case <-source.Updated():
	case <-ctx.Done():
		t.Fatal("no update")
	}
	if got, err = source.GetX509SVID(); err != nil || !got.Certificates[0].Equal(second.SVID.Certificates[0]) {
		t.Errorf("after the renewal: %v, %v", got, err)
	}
	bundle, err := source.GetX509BundleForTrustDomain(td)
	if err != nil || len(bundle.X509Authorities()) != 2 {
		t.Errorf("the bundle: %v, %v", bundle, err)
	}
	if _, _, err := x509svid.Verify(got.Certificates, bundle); err != nil {
		t.Error(err)
	}
	bundles, err := spiffe.FetchX509Bundles(ctx, spiffe.WithAddr("unix://"+path))
	if err != nil || bundles.Len() != 1 {
		t.Errorf("bundles: %v, %v", bundles, err)
	}
}

func TestHeader(t *testing.T) {
	ca, server := authority(t), &workloadapi.Server{}
	if err := server.Publish(update(t, ca)); err != nil {
		t.Fatal(err)
	}
	client := dial(t, start(t, server))
	calls := map[string]func(context.Context) error{
		"FetchX509SVID": func(ctx context.Context) error {
			s, err := client.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"FetchX509Bundles": func(ctx context.Context) error {
			s, err := client.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"FetchJWTSVID": func(ctx context.Context) error {
			_, err := client.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{})
			return err
		},
		"FetchJWTBundles": func(ctx context.Context) error {
			s, err := client.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"ValidateJWTSVID": func(ctx context.Context) error {
			_, err := client.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{})
			return err
		},
		"FetchWITSVID": func(ctx context.Context) error {
			s, err := client.FetchWITSVID(ctx, &workload.WITSVIDRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"FetchWITBundles": func(ctx context.Context) error {
			s, err := client.FetchWITBundles(ctx, &workload.WITBundlesRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
	}
	with := func(values ...string) context.Context {
		ctx := timeout(t)
		for _, value := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", value)
		}
		return ctx
	}
	for name, call := range calls {
		for header, ctx := range map[string]context.Context{
			"none": with(), "empty": with(""), "upper case": with("True"), "false": with("false"), "twice": with("true", "true"), "space": with("true x"),
		} {
			if got, want := status.Code(call(ctx)), codes.InvalidArgument; got != want {
				t.Errorf("%s with the header %s: got %v, want %v", name, header, got, want)
			}
		}
		want := codes.Unimplemented
		if name == "FetchX509SVID" || name == "FetchX509Bundles" {
			want = codes.OK
		}
		if got := status.Code(call(with("true"))); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestMessage(t *testing.T) {
	ca, server := authority(t), &workloadapi.Server{}
	u := update(t, ca)
	if err := server.Publish(u); err != nil {
		t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(timeout(t), "workload.spiffe.io", "true")
	svids, err := dial(t, start(t, server)).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	message, err := svids.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(message.Svids) != 1 || message.Svids[0].SpiffeId != id.String() || !bytes.Equal(message.Svids[0].Bundle, ca.Root.Raw) {
		t.Errorf("got %v", message)
	}
	// The identity ends without a successor: absence is said by the end.
	if err := server.Publish(nodeagent.Update{Bundle: ca.Bundle()}); err != nil {
		t.Fatal(err)
	}
	if _, err = svids.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after the end of the identity: %v", err)
	}
}

func TestRefusedUpdateChangesNothing(t *testing.T) {
	ca, server := authority(t), &workloadapi.Server{}
	good := update(t, ca)
	if err := server.Publish(good); err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign := spiffeid.RequireTrustDomainFromString("other.test")
	for name, edit := range map[string]func(*nodeagent.Update){
		"no bundle":    func(u *nodeagent.Update) { u.Bundle = nil },
		"empty bundle": func(u *nodeagent.Update) { u.Bundle = x509bundle.New(td) },
		"other bundle": func(u *nodeagent.Update) {
			u.Bundle = x509bundle.FromX509Authorities(foreign, ca.Bundle().X509Authorities())
		},
		"another key":     func(u *nodeagent.Update) { u.SVID.PrivateKey = other },
		"no certificates": func(u *nodeagent.Update) { u.SVID.Certificates = nil },
		"another ID":      func(u *nodeagent.Update) { u.SVID.ID = spiffeid.RequireFromPath(td, "/x") },
	} {
		bad := update(t, ca)
		edit(&bad)
		if err := server.Publish(bad); err == nil {
			t.Errorf("%s: published", name)
		}
	}
	got, err := spiffe.FetchX509SVID(timeout(t), spiffe.WithAddr("unix://"+start(t, server)))
	if err != nil || !got.Certificates[0].Equal(good.SVID.Certificates[0]) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestTooManyStreams(t *testing.T) {
	server := &workloadapi.Server{MaxStreams: 1}
	if err := server.Publish(update(t, authority(t))); err != nil {
		t.Fatal(err)
	}
	client := dial(t, start(t, server))
	ctx := metadata.AppendToOutgoingContext(timeout(t), "workload.spiffe.io", "true")
	first, err := client.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recv(); err != nil {
		t.Fatal(err)
	}
	second, err := client.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err == nil {
		_, err = second.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the second stream: %v", err)
	}
}
