package check_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	discovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/istio-auth/istio-auth/cmd/internal/check"
)

// cluster is a fake API server: the faults below are not to be had from a real
// one on demand. The real one is asked in the end-to-end tests.
func cluster(gitVersion string, allowed func(authorizationv1.ResourceAttributes) bool, objects ...runtime.Object) *fake.Clientset {
	client := fake.NewClientset(objects...)
	client.Discovery().(*discovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: gitVersion}
	client.PrependReactor("create", "selfsubjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview).DeepCopy()
		review.Status.Allowed = allowed(*review.Spec.ResourceAttributes)
		return true, review, nil
	})
	return client
}

func node(name, system, kernel string, swap int64) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.NodeInfo = corev1.NodeSystemInfo{OperatingSystem: system, KernelVersion: kernel, Swap: &corev1.NodeSwapStatus{Capacity: &swap}}
	return n
}

func TestBefore(t *testing.T) {
	everything := func(authorizationv1.ResourceAttributes) bool { return true }
	noCRDs := func(a authorizationv1.ResourceAttributes) bool { return a.Resource != "customresourcedefinitions" }
	good := node("good", "linux", "6.12.1-cloud", 0)
	driver := func(managedBy string) *storagev1.CSIDriver {
		return &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: check.Driver, Labels: map[string]string{"app.kubernetes.io/managed-by": managedBy}}}
	}
	for _, test := range []struct {
		name    string
		version string
		allowed func(authorizationv1.ResourceAttributes) bool
		objects []runtime.Object
		failing []string
	}{
		{"all well", "v1.33.0", everything, []runtime.Object{good}, nil},
		{"newer", "v1.37.2-eks.1", everything, []runtime.Object{good}, nil},
		{"too old", "v1.32.9", everything, []runtime.Object{good}, []string{"version"}},
		{"no version", "v0.0.0-master+$Format:%H$", everything, []runtime.Object{good}, []string{"version"}},
		{"not a version", "banana", everything, []runtime.Object{good}, []string{"version"}},
		{"not an administrator", "v1.37.2", noCRDs, []runtime.Object{good}, []string{"rights"}},
		{"another's driver", "v1.37.2", everything, []runtime.Object{good, driver("somebody")}, []string{"driver"}},
		{"an upgrade without definitions", "v1.37.2", everything, []runtime.Object{good, driver("Helm")}, []string{"policies"}},
		{"no nodes", "v1.37.2", everything, nil, []string{"nodes"}},
		{"Windows alone", "v1.37.2", everything, []runtime.Object{node("w", "windows", "10", 0)}, []string{"nodes"}},
		{"swap, new kernel", "v1.37.2", everything, []runtime.Object{node("s", "linux", "6.4.0", 1<<30)}, nil},
		{"swap, old kernel", "v1.37.2", everything, []runtime.Object{good, node("s", "linux", "6.1.0-13-amd64", 1<<30)}, []string{"swap"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			findings, err := check.Before(t.Context(), cluster(test.version, test.allowed, test.objects...), absent)
			if err != nil {
				t.Fatal(err)
			}
			var failing []string
			for _, f := range findings {
				if !f.OK {
					failing = append(failing, f.Check)
				}
				if f.OK == (f.Fix != "") {
					t.Errorf("%s: ok %v with the fix %q", f.Check, f.OK, f.Fix)
				}
			}
			if !slices.Equal(failing, test.failing) {
				t.Errorf("failing %q, want %q", failing, test.failing)
			}
		})
	}
}

func absent(_ context.Context, name string) ([]byte, error) {
	return nil, apierrors.NewNotFound(schema.GroupResource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}, name)
}

func TestBeforeLooksAtTheDefinitions(t *testing.T) {
	version := func(name string, served, preserve bool) string {
		return fmt.Sprintf(`{"name": %q, "served": %v, "schema": {"openAPIV3Schema": {"properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": %v}}}}}`, name, served, preserve)
	}
	both := version("v1", true, true) + "," + version("v1beta1", true, true)
	const policies, peers, grants = "authorizationpolicies.security.istio.io", "peerauthentications.security.istio.io", "accessgrants.istio-auth.io"
	all := map[string]string{
		policies: both, peers: both, "requestauthentications.security.istio.io": both,
		grants: version("v1alpha1", true, true), "accessroles.istio-auth.io": version("v1alpha1", true, true), "accessrules.istio-auth.io": version("v1alpha1", true, true),
	}
	installed := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: check.Driver, Labels: map[string]string{"app.kubernetes.io/managed-by": "Helm"}}}
	for _, test := range []struct {
		name, definition, versions string // in place of what all has; empty removes it
		upgrade, ok                bool
	}{
		{"ours", policies, both, false, true},
		{"ours, an upgrade", policies, both, true, true},
		{"not there yet", policies, "", false, true},
		{"not there, an upgrade", policies, "", true, false},
		{"a kind of ours is not there, an upgrade", grants, "", true, false},
		{"Istio's", policies, version("v1", true, false) + "," + version("v1beta1", true, false), false, false},
		{"Istio's, of another kind", peers, version("v1", true, false), false, false},
		{"one version prunes", policies, version("v1", true, true) + "," + version("v1beta1", true, false), false, false},
		{"a version that is not served prunes", policies, version("v1", true, true) + "," + version("v1beta1", false, false), false, true},
		{"no v1", policies, version("v1beta1", true, true), false, false},
		{"v1 is not served", policies, version("v1", false, true) + "," + version("v1beta1", true, true), false, false},
		{"another version of ours", grants, version("v1", true, true), false, false},
		{"no versions", policies, " ", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects := []runtime.Object{node("good", "linux", "6.12.1", 0)}
			if test.upgrade {
				objects = append(objects, installed)
			}
			client := cluster("v1.37.2", func(authorizationv1.ResourceAttributes) bool { return true }, objects...)
			findings, err := check.Before(t.Context(), client, func(ctx context.Context, name string) ([]byte, error) {
				versions, ok := all[name]
				if name == test.definition {
					versions = test.versions
				}
				if !ok || versions == "" {
					return absent(ctx, name)
				}
				return []byte(`{"spec": {"versions": [` + versions + `]}}`), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			last := findings[len(findings)-1]
			if last.Check != "policies" || last.OK != test.ok || last.OK == (last.Fix != "") || !last.OK && !strings.Contains(last.Detail, test.definition) {
				t.Errorf("got %+v, want ok %v", last, test.ok)
			}
		})
	}
	if _, err := check.Before(t.Context(), cluster("v1.37.2", func(authorizationv1.ResourceAttributes) bool { return true }),
		func(context.Context, string) ([]byte, error) { return []byte("{"), nil }); err == nil {
		t.Error("a definition that is no JSON is accepted")
	}
}

func TestUsersNamesThePodsThatMountOurVolume(t *testing.T) {
	pod := func(name, driver string, phase corev1.PodPhase) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Status: corev1.PodStatus{Phase: phase}}
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: driver}}}}
		return p
	}
	client := fake.NewClientset(
		pod("web", check.Driver, corev1.PodRunning), pod("starting", check.Driver, corev1.PodPending),
		pod("done", check.Driver, corev1.PodSucceeded), pod("other", "csi.example.org", corev1.PodRunning))
	users, err := check.Users(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(users, " "), "shop/starting shop/web"; got != want {
		t.Errorf("users %q, want %q", got, want)
	}
}
