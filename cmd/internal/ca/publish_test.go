package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/ca/profile"
)

var (
	domain = spiffeid.RequireTrustDomainFromString("td.test")
	where  = ConfigMap{Namespace: "istio-auth", Name: "istio-auth-bundle"}
)

// cluster is a fake API server that hands on each ConfigMap it stores.
func fakeCluster(objects ...runtime.Object) (*fake.Clientset, <-chan *corev1.ConfigMap) {
	client, stored := fake.NewClientset(objects...), make(chan *corev1.ConfigMap, 16)
	client.PrependReactor("update", "configmaps", func(action clienttesting.Action) (bool, runtime.Object, error) {
		stored <- action.(clienttesting.UpdateAction).GetObject().(*corev1.ConfigMap).DeepCopy()
		return false, nil, nil
	})
	return client, stored
}

func publish(t *testing.T, authority *ca.Authority, client *fake.Clientset) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- publishConfigMap(ctx, authority, client, where, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("publishing ended with %v", err)
		}
	})
}

func next(t *testing.T, stored <-chan *corev1.ConfigMap) *corev1.ConfigMap {
	t.Helper()
	select {
	case object := <-stored:
		return object
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was published")
		return nil
	}
}

func published(t *testing.T, object *corev1.ConfigMap) *x509bundle.Bundle {
	t.Helper()
	b, err := x509bundle.Parse(domain, []byte(object.Data["bundle.pem"]))
	if err != nil {
		t.Fatalf("%v in %q", err, object.Data)
	}
	return b
}

func empty() *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: where.Namespace, Name: where.Name, Labels: map[string]string{"kept": "yes"}}}
}

// add puts another root into the authority's bundle.
func add(t *testing.T, authority *ca.Authority) bundle.Versioned {
	t.Helper()
	current, _ := authority.Bundle().Current()
	roots := append([]*x509.Certificate{catest.New(t, domain).Root}, current.Bundle.X509Authorities()...)
	v := bundle.Versioned{Sequence: current.Sequence + 1, Bundle: x509bundle.FromX509Authorities(domain, roots)}
	if err := authority.Bundle().Set(v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestPublishFollowsTheBundle: the ConfigMap is filled at once and at each
// change, with the sequence, and keeps what is not ours.
func TestPublishFollowsTheBundle(t *testing.T) {
	authority := catest.Start(t, domain, profile.Profile{})
	client, stored := fakeCluster(empty())
	publish(t, authority, client)
	first, _ := authority.Bundle().Current()
	for _, want := range []func() bundle.Versioned{
		func() bundle.Versioned { return first },
		func() bundle.Versioned { return add(t, authority) },
		func() bundle.Versioned { return add(t, authority) },
	} {
		v := want()
		object := next(t, stored)
		if got := published(t, object); !got.Equal(v.Bundle) {
			t.Errorf("published %d roots, want those of the bundle, %d", len(got.X509Authorities()), len(v.Bundle.X509Authorities()))
		}
		if got, want := object.Data["sequence"], strconv.FormatUint(v.Sequence, 10); got != want {
			t.Errorf("sequence %s, want %s", got, want)
		}
		if object.Labels["kept"] != "yes" {
			t.Errorf("labels were lost: %v", object.Labels)
		}
	}
}

// TestPublishTriesAgain: through refusals, and until the chart has made the
// object, which we may not make ourselves.
func TestPublishTriesAgain(t *testing.T) {
	authority := catest.Start(t, domain, profile.Profile{})
	client, stored := fakeCluster()
	asked := make(chan struct{}, 16)
	tries := 0
	client.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		asked <- struct{}{}
		tries++
		return tries == 1, nil, errors.New("etcd is away")
	})
	publish(t, authority, client)
	<-asked // refused
	<-asked // not found
	if err := client.Tracker().Add(empty()); err != nil {
		t.Fatal(err)
	}
	want, _ := authority.Bundle().Current()
	if got := published(t, next(t, stored)); !got.Equal(want.Bundle) {
		t.Error("another bundle was published")
	}
	for _, action := range client.Actions() {
		if verb := action.GetVerb(); verb != "get" && verb != "update" {
			t.Errorf("asked to %s: the CA has no such right", verb)
		}
	}
}

// TestPublishFile: who reads it while it changes sees one whole bundle or the
// other, and nothing lies beside it.
func TestPublishFile(t *testing.T) {
	authority := catest.Start(t, domain, profile.Profile{})
	dir := t.TempDir()
	path := filepath.Join(dir, BundleFile)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- publishFile(ctx, authority, path) }()
	current, _ := authority.Bundle().Current()
	for want := current; want.Sequence < current.Sequence+3; want = add(t, authority) {
		for deadline := time.After(20 * time.Second); ; {
			data, err := os.ReadFile(path)
			if err == nil {
				got, err := x509bundle.Parse(domain, data)
				if err != nil {
					t.Fatalf("half a file was seen: %v", err)
				}
				if got.Equal(want.Bundle) {
					break
				}
			}
			select {
			case <-deadline:
				t.Fatalf("sequence %d was not written", want.Sequence)
			case <-time.After(time.Millisecond):
			}
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("beside the file: %v (%v)", left, err)
	}
	if err := publishFile(t.Context(), authority, "/nonexistent/x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
