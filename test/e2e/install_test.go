package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istio-auth/istio-auth/test/node"
	"github.com/istio-auth/istio-auth/test/testreq"
)

// system is the namespace that README installs into, name the release's there.
const (
	system = "istio-auth-system"
	name   = "istio-auth"
)

var td = spiffeid.RequireTrustDomainFromString("cluster.local")

// identity is the ID of a service account.
func identity(namespace, account string) spiffeid.ID {
	return spiffeid.RequireFromSegments(td, "ns", namespace, "sa", account)
}

func TestMain(m *testing.M) { node.Main(m) }

// release is the one release of the chart on the shared node. Tests run one
// after the other.
var release struct {
	images map[string]string // short name -> the name by which pods ask for it
	set    []string          // nil: not installed
}

// stateVolume is for the CA's state. The node has no provisioner, as a cluster has.
const stateVolume = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: istio-ca}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: ` + system + `, name: istio-ca}
  local: {path: /var/lib/istio-ca}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [` + node.Name + `]}]}]}}
`

// prepare is the shared node with the images loaded.
func prepare(t *testing.T) *node.Node {
	t.Helper()
	n := node.Shared(t)
	if release.images == nil {
		began, images := time.Now(), map[string]string{}
		for _, image := range []string{"istio-ca", "istio-manager", "istio-nodeagent", "istio-auth", "envoy", "demo"} {
			images[image] = n.Load(t, image)
		}
		n.Exec(t, "mkdir", "--parents", "/var/lib/istio-ca")
		n.Apply(t, stateVolume)
		release.images = images
		t.Logf("images loaded in %v", since(began))
	}
	return n
}

// install makes the release what the chart and these values say, and returns
// once all of it is ready. Values that are not given are the chart's.
func install(t *testing.T, set ...string) *node.Node {
	t.Helper()
	n := prepare(t)
	registry, tag, ok := strings.Cut(release.images["istio-ca"], "/istio-ca:")
	if !ok {
		t.Fatalf("an image is named %q", release.images["istio-ca"])
	}
	set = append([]string{"image.registry=" + registry, "image.tag=" + tag}, set...)
	if slices.Equal(set, release.set) {
		return n
	}
	began := time.Now()
	release.set = nil
	n.Helm(t, "upgrade", name, "deploy/chart", "--install", "--namespace="+system, "--create-namespace",
		"--wait", "--timeout=100s", "--set="+strings.Join(set, ","))
	release.set = set
	t.Logf("chart installed in %v with %v", since(began), set[2:])
	return n
}

func since(t time.Time) time.Duration { return time.Since(t).Round(time.Millisecond) }

// within asks ready every so often until it answers nil, for at most d.
func within(t *testing.T, d time.Duration, what string, ready func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waiting %v for %s: %v", d, what, err)
		}
	}
}

// running is the one pod of an app that runs and is not on its way out.
func running(t *testing.T, n *node.Node, namespace, app string) *corev1.Pod {
	t.Helper()
	pods, err := n.Client().CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		t.Fatal(err)
	}
	pods.Items = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning
	})
	if len(pods.Items) != 1 {
		t.Fatalf("%d pods of %s/%s run, want one", len(pods.Items), namespace, app)
	}
	return &pods.Items[0]
}

// address is the cluster IP of a service of ours with a port.
func address(t *testing.T, n *node.Node, service string, port int) string {
	t.Helper()
	s, err := n.Client().CoreV1().Services(system).Get(t.Context(), service, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s:%d", s.Spec.ClusterIP, port)
}

// reasonOf finds why the CA refused, in its log: what a caller is told is a
// reference and no more.
func reasonOf(t *testing.T, n *node.Node, refused error) string {
	t.Helper()
	for line := range strings.Lines(n.Kubectl(t, "--namespace="+system, "logs", "deployment/istio-ca", "--tail=200")) {
		var entry struct{ Ref, Reason string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Ref != "" && strings.Contains(refused.Error(), entry.Ref) {
			return entry.Reason
		}
	}
	t.Errorf("the CA's log does not have the reference of: %v", refused)
	return ""
}

// example reads a manifest of deploy/examples for another namespace, with the
// names of the images that were loaded.
func example(t *testing.T, file, namespace string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testreq.Tree(t), "deploy", "examples", file))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), "shop", namespace)
	for _, image := range []string{"envoy", "demo"} {
		text = strings.ReplaceAll(text, "istio-auth.local/"+image+":devel", release.images[image])
	}
	return text
}
