package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPodSecurity: CA and manager are admitted where Pod Security is
// "restricted". The agent is not, and could not be: that it is refused shows
// that the namespace looks.
func TestPodSecurity(t *testing.T) {
	n := install(t)
	n.Apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: strict, labels: {pod-security.kubernetes.io/enforce: restricted}}")
	n.Until(t, "the namespace's account", func() error {
		_, err := n.Client().CoreV1().ServiceAccounts("strict").Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	for app, admitted := range map[string]bool{"istio-ca": true, "istio-manager": true, "istio-nodeagent": false} {
		spec := running(t, n, system, app).Spec
		spec.NodeName, spec.ServiceAccountName = "", "default"
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: spec}
		_, err := n.Client().CoreV1().Pods("strict").Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		switch {
		case admitted && err != nil:
			t.Errorf("%s: %v", app, err)
		case !admitted && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity")):
			t.Errorf("%s: got %v, want a refusal by Pod Security", app, err)
		}
	}
}

// administrator runs istio-auth in a pod with every right, as a cluster's
// administrator would run it.
const administrator = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: administrator, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: administrator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: administrator, namespace: default}]
---
apiVersion: v1
kind: Pod
metadata: {name: check, namespace: default}
spec:
  serviceAccountName: administrator
  restartPolicy: Never
  containers: [{name: check, image: "%s", args: [check, --pre, --output=json]}]
`

// TestCheckPre: nothing is lacking on this node, whether or not the chart is
// installed.
func TestCheckPre(t *testing.T) {
	n := prepare(t)
	n.Apply(t, fmt.Sprintf(administrator, release.images["istio-auth"]))
	t.Cleanup(func() {
		out, err := n.Command(context.WithoutCancel(t.Context()), "kubectl", "delete",
			"pod/check", "clusterrolebinding/administrator", "serviceaccount/administrator").CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	n.Until(t, "the check", func() error {
		pod, err := n.Client().CoreV1().Pods("default").Get(t.Context(), "check", metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			err = errors.New("it is " + string(pod.Status.Phase))
		}
		return err
	})
	out := n.Kubectl(t, "logs", "check")
	var findings []struct {
		Check, Detail, Fix string
		OK                 bool
	}
	if err := json.Unmarshal([]byte(out), &findings); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(findings) < 5 {
		t.Errorf("%d findings, want five or more: %s", len(findings), out)
	}
	for _, f := range findings {
		if !f.OK {
			t.Errorf("%s: %s (%s)", f.Check, f.Detail, f.Fix)
		}
	}
}

// TestUninstallRefusesWhilePodsMountTheVolume: and names them. The release is
// whole after the refusal, and goes once they are gone.
func TestUninstallRefusesWhilePodsMountTheVolume(t *testing.T) {
	n := install(t)
	pod := mount(t, n, "holds-the-volume")
	began := time.Now()
	out, err := n.Command(t.Context(), "helm", "uninstall", name, "--namespace="+system, "--timeout=60s").CombinedOutput()
	if err == nil {
		t.Fatalf("helm uninstalled under a pod that mounts our volume:\n%s", out)
	}
	t.Logf("refused after %v", since(began))
	if !strings.Contains(string(out), "default/"+pod.Name) {
		t.Errorf("the refusal does not name the pod: %s", out)
	}
	running(t, n, system, "istio-ca")
	source(t, n, pod) // it is still served
	// Helm calls the release "uninstalling" from here on, and changes no such
	// release. Who goes on after all rolls back to the revision that is there.
	was := release.set
	release.set = nil
	var current struct{ Version int }
	if err := json.Unmarshal([]byte(n.Helm(t, "status", name, "--namespace="+system, "--output=json")), &current); err != nil {
		t.Fatal(err)
	}
	n.Helm(t, "rollback", name, fmt.Sprint(current.Version), "--namespace="+system, "--wait", "--timeout=60s")
	install(t, was[2:]...)

	if err := n.Client().CoreV1().Pods("default").Delete(t.Context(), pod.Name, *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	release.set = nil
	n.Helm(t, "uninstall", name, "--namespace="+system, "--wait", "--timeout=60s")
	if _, err := n.Client().StorageV1().CSIDrivers().Get(t.Context(), "csi.istio-auth.io", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the driver is still there: %v", err)
	}
	n.Until(t, "the pods to end", func() error {
		pods, err := n.Client().CoreV1().Pods(system).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods are left, such as %s", len(pods.Items), pods.Items[0].Name)
		}
		return err
	})
	// The root outlives it: who installs again is the same mesh.
	if _, err := n.Client().CoreV1().PersistentVolumeClaims(system).Get(t.Context(), "istio-ca", metav1.GetOptions{}); err != nil {
		t.Errorf("the CA's state is gone: %v", err)
	}
	install(t)
}
