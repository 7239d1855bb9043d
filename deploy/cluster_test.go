package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/istio-auth/istio-auth/test/kubeapi"
	"github.com/istio-auth/istio-auth/test/testreq"
)

func TestMain(m *testing.M) { kubeapi.Main(m, kubeapi.Config{}) }

// TestPodSecurity (DP-01): a real API server that enforces PodSecurity
// "restricted" admits every pod of the chart but the agent's, whose exceptions
// are these and no more.
func TestPodSecurity(t *testing.T) {
	text, err := render(t)
	if err != nil {
		t.Fatal(text)
	}
	s := kubeapi.Shared(t)
	ns, err := s.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "restricted", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, o := range objects(t, text) {
		template := at(o, "spec", "template")
		if template == nil {
			continue
		}
		n++
		data, err := yaml.Marshal(template)
		if err != nil {
			t.Fatal(err)
		}
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict(data, &pod); err != nil {
			t.Fatal(err)
		}
		pod.GenerateName = "pod-"
		// No such admission here: it has a namespace of its own.
		pod.Spec.PriorityClassName = ""
		s.CreateServiceAccount(t, ns.Name, pod.Spec.ServiceAccountName)
		_, err = s.Client().CoreV1().Pods(ns.Name).Create(t.Context(), &pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if pod.Labels["app"] != "istio-nodeagent" {
			if err != nil {
				t.Errorf("%s is not restricted: %v", pod.Labels["app"], err)
			}
			continue
		}
		if !apierrors.IsForbidden(err) {
			t.Fatalf("the agent in a restricted namespace: %v", err)
		}
		for _, violation := range []string{"privileged", "runAsNonRoot", "runAsUser=0", "allowPrivilegeEscalation", "unrestricted capabilities", "restricted volume types"} {
			if !strings.Contains(err.Error(), violation) {
				t.Errorf("the agent does not break %q: take it off this list\n%v", violation, err)
			}
		}
		for _, no := range []string{"host namespaces", "hostNetwork", "hostPID", "hostPort", "seccompProfile", "procMount", "sysctl"} {
			if strings.Contains(err.Error(), no) {
				t.Errorf("the agent breaks %q: %v", no, err)
			}
		}
	}
	if n != 4 {
		t.Errorf("%d pods in the chart, want 4", n)
	}
}

// TestInstallUpgradeUninstall with a real helm and API server: an upgrade leaves
// the trust bundle alone, also of other values, and everything is gone after
// the uninstall but what is to be kept.
func TestInstallUpgradeUninstall(t *testing.T) {
	s := kubeapi.Shared(t)
	chart, err := filepath.Abs("chart")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(chart); err != nil {
		t.Fatal(err)
	}
	maps := s.Client().CoreV1().ConfigMaps(namespace)
	s.Helm(t, "install", "istio-auth", chart, "--namespace", namespace, "--create-namespace", "--wait=false")
	bundle, err := maps.Get(t.Context(), "istio-auth-bundle", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(bundle.Data) != 0 {
		t.Errorf("the bundle has %v before the CA is there", bundle.Data)
	}
	// As the CA does it.
	bundle.Data = map[string]string{"bundle.pem": "roots", "sequence": "1"}
	if _, err := maps.Update(t.Context(), bundle, metav1.UpdateOptions{FieldManager: "istio-ca"}); err != nil {
		t.Fatal(err)
	}
	for i, values := range []string{"logLevel=info", "logLevel=debug", "rootNamespace=other"} {
		s.Helm(t, "upgrade", "istio-auth", chart, "--namespace", namespace, "--wait=false", "--set", values)
		bundle, err = maps.Get(t.Context(), "istio-auth-bundle", metav1.GetOptions{})
		if err != nil || bundle.Data["bundle.pem"] != "roots" || bundle.Data["sequence"] != "1" {
			t.Fatalf("upgrade %d: %v %v", i, bundle.Data, err)
		}
	}
	s.Helm(t, "rollback", "istio-auth", "1", "--namespace", namespace, "--wait=false")
	if bundle, err = maps.Get(t.Context(), "istio-auth-bundle", metav1.GetOptions{}); err != nil || bundle.Data["bundle.pem"] != "roots" {
		t.Fatalf("rollback: %v %v", bundle.Data, err)
	}
	// The rights are what they seem to the API server itself.
	for question, want := range map[string]string{
		"istio-ca create tokenreviews.authentication.k8s.io":           "yes",
		"istio-ca watch pods":                                          "yes",
		"istio-ca get nodes":                                           "yes",
		"istio-ca update configmaps/istio-auth-bundle":                 "yes",
		"istio-ca update configmaps/istio-ca":                          "no",
		"istio-ca create configmaps":                                   "no",
		"istio-ca list nodes":                                          "no",
		"istio-ca get secrets":                                         "no",
		"istio-ca create serviceaccounts/token":                        "no",
		"istio-ca list authorizationpolicies.security.istio.io":        "no",
		"istio-manager list authorizationpolicies.security.istio.io":   "yes",
		"istio-manager watch requestauthentications.security.istio.io": "yes",
		"istio-manager watch accessgrants.istio-auth.io":               "yes",
		"istio-manager update accessgrants.istio-auth.io":              "no",
		"istio-manager watch pods":                                     "yes",
		"istio-manager update authorizationpolicies.security.istio.io": "no",
		"istio-manager create tokenreviews.authentication.k8s.io":      "no",
		"istio-manager get secrets":                                    "no",
		"istio-manager get configmaps/istio-auth-bundle":               "no",
		"istio-nodeagent get pods":                                     "no",
		"istio-nodeagent get nodes":                                    "no",
		"istio-nodeagent create tokenreviews.authentication.k8s.io":    "no",
	} {
		words := strings.Fields(question)
		if got := allowed(t, s, words); got != (want == "yes") {
			t.Errorf("%s: %v, want %s", question, got, want)
		}
	}
	uninstall(t, s)
}

// allowed asks the API server for a right: account, verb, resource[.group][/name].
func allowed(t *testing.T, s *kubeapi.Server, words []string) bool {
	t.Helper()
	resource, name, _ := strings.Cut(words[2], "/")
	attributes := &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: words[1], Name: name}
	attributes.Resource, attributes.Group, _ = strings.Cut(resource, ".")
	if name == "token" {
		attributes.Name, attributes.Subresource = "", name
	}
	review, err := s.Client().AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "system:serviceaccount:" + namespace + ":" + words[0], ResourceAttributes: attributes},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

// uninstall plays the Job: while it fails nothing is deleted.
func uninstall(t *testing.T, s *kubeapi.Server) {
	t.Helper()
	helm := testreq.Tool(t, "kube/helm", "run make kube (9 minutes, once)")
	run := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), helm, "uninstall", "istio-auth", "--namespace", namespace, "--timeout=60s")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	jobs := s.Client().BatchV1().Jobs(namespace)
	end := func(conditions string) chan error {
		done := make(chan error, 1)
		now, err := jobs.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		// The Job of the run before may still be there: only a new one counts.
		watch, err := jobs.Watch(t.Context(), metav1.ListOptions{ResourceVersion: now.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer watch.Stop()
			for event := range watch.ResultChan() {
				if event.Type != "ADDED" {
					continue
				}
				now := metav1.Now().UTC().Format("2006-01-02T15:04:05Z")
				patch := strings.ReplaceAll(`{"status":{"startTime":"NOW",`+conditions+`}}`, "NOW", now)
				_, err := jobs.Patch(t.Context(), "istio-auth-uninstall", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}, "status")
				done <- err
				return
			}
		}()
		return done
	}
	failed := end(`"failed":1,"uncountedTerminatedPods":{},"conditions":[{"type":"FailureTarget","status":"True","lastTransitionTime":"NOW"},{"type":"Failed","status":"True","lastTransitionTime":"NOW","reason":"BackoffLimitExceeded"}]`)
	out, err := run()
	if patched := <-failed; patched != nil {
		t.Fatal(patched)
	}
	t.Logf("%s", out)
	if err == nil {
		t.Fatalf("uninstalled while the check fails: %s", out)
	}
	if _, err := s.Client().AppsV1().DaemonSets(namespace).Get(t.Context(), "istio-nodeagent", metav1.GetOptions{}); err != nil {
		t.Fatalf("the check failed, and the agent is gone: %v", err)
	}
	succeeded := end(`"succeeded":1,"completionTime":"NOW","uncountedTerminatedPods":{},"conditions":[{"type":"SuccessCriteriaMet","status":"True","lastTransitionTime":"NOW"},{"type":"Complete","status":"True","lastTransitionTime":"NOW"}]`)
	out, err = run()
	if patched := <-succeeded; patched != nil || err != nil {
		t.Fatalf("%v %v: %s", patched, err, out)
	}
	if _, err := s.Client().StorageV1().CSIDrivers().Get(t.Context(), "csi.istio-auth.io", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the driver is still there: %v", err)
	}
	if _, err := s.Client().CoreV1().PersistentVolumeClaims(namespace).Get(t.Context(), "istio-ca", metav1.GetOptions{}); err != nil {
		t.Errorf("the root's volume is gone: %v", err)
	}
}
