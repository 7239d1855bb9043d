package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istio-auth/istio-auth/mesh"
	"github.com/istio-auth/istio-auth/test/node"
)

// A shop is deploy/examples in a namespace of its own: client and stranger
// call server, each through its sidecar.
type shop struct {
	n         *node.Node
	namespace string
}

// openShop deploys the examples and returns when every pod is ready. Its pods
// are gone when the test ends.
func openShop(t *testing.T, n *node.Node, namespace string, life time.Duration) *shop {
	t.Helper()
	began := time.Now()
	s := &shop{n, namespace}
	t.Cleanup(func() { s.close(t) })
	n.Until(t, "the namespace", func() error { // one of a run before may be on its way out
		_, err := n.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
		return err
	})
	for _, account := range []string{"server", "client", "stranger"} {
		config := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: account + "-envoy"},
			Data:       map[string]string{"envoy.yaml": s.bootstrap(t, account, life)},
		}
		if _, err := n.Client().CoreV1().ConfigMaps(namespace).Create(t.Context(), config, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n.Apply(t, example(t, "policies.yaml", namespace))
	n.Apply(t, example(t, "shop.yaml", namespace))
	s.ready(t)
	t.Logf("shop %s open after %v", namespace, since(began))
	return s
}

func (s *shop) ready(t *testing.T) {
	t.Helper()
	s.kubectl(t, "rollout", "status", "deployment", "--timeout=60s")
}

func (s *shop) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return s.n.Kubectl(t, append([]string{"--namespace=" + s.namespace}, args...)...)
}

// close deletes the namespace and waits until no pod of it is left.
func (s *shop) close(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if t.Failed() {
		for _, app := range []string{"server", "client", "stranger"} {
			out, _ := s.n.Command(ctx, "kubectl", "--namespace="+s.namespace, "logs", "deployment/"+app, "--container=envoy", "--tail=20").CombinedOutput()
			t.Logf("Envoy of %s wrote:\n%s", app, out)
		}
		out, _ := s.n.Command(ctx, "kubectl", "--namespace="+system, "logs", "daemonset/istio-nodeagent", "--tail=40").CombinedOutput()
		t.Logf("the agent wrote:\n%s", out)
	}
	err := s.n.Client().CoreV1().Namespaces().Delete(ctx, s.namespace, metav1.DeleteOptions{})
	for err == nil && ctx.Err() == nil {
		var pods *corev1.PodList
		if pods, err = s.n.Client().CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{}); err == nil && len(pods.Items) == 0 {
			return
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		t.Errorf("closing %s: %v", s.namespace, err)
	}
}

// bootstrap is what README says: istio-auth envoy bootstrap, with these flags.
func (s *shop) bootstrap(t *testing.T, account string, life time.Duration) string {
	t.Helper()
	sidecar := mesh.Sidecar{
		Workload: identity(s.namespace, account), CertificateLife: life,
		AgentSocket: "/run/istio-auth/agent.sock", RuntimeDir: "/run/envoy", StatusAddress: "0.0.0.0:15021",
	}
	if account == "server" {
		sidecar.Inbound = mesh.Inbound{Listen: "0.0.0.0:15006", App: "127.0.0.1:8080"}
	} else {
		sidecar.Outbound = []mesh.Upstream{{
			Name: "server", Listen: "127.0.0.1:15001", Address: "server." + s.namespace + ".svc.cluster.local:15006",
			Servers: []spiffeid.ID{identity(s.namespace, "server")},
		}}
	}
	config, err := mesh.YAML(sidecar)
	if err != nil {
		t.Fatal(err)
	}
	return string(config)
}

// ask has the application of a pod call the server through both sidecars. It
// returns the status, such as "200 OK".
func (s *shop) ask(t *testing.T, account, path string) string {
	t.Helper()
	out, err := s.n.TryKubectl(t, "--namespace="+s.namespace, "exec", "deployment/"+account, "--container=app",
		"--", "/demo", "get", "http://127.0.0.1:15001"+path)
	status, _, _ := strings.Cut(out, "\n")
	if status == "" {
		return fmt.Sprintf("no answer: %v", err)
	}
	return status
}

// An entry is a line of a sidecar's access log.
type entry struct {
	Direction, Peer, Path, Details, TLS, Failure string
	Code                                         int
}

// logged finds the entry for which is holds; Envoy writes within a second.
func (s *shop) logged(t *testing.T, account, what string, is func(entry) bool) entry {
	t.Helper()
	var found entry
	within(t, 20*time.Second, "the access log of "+account+" to have "+what, func() error {
		logs := s.kubectl(t, "logs", "deployment/"+account, "--container=envoy")
		for line := range strings.Lines(logs) {
			var e entry
			if json.Unmarshal([]byte(line), &e) == nil && is(e) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("it has:\n%s", logs)
	})
	return found
}

// source is the identity of a pod, as go-spiffe gets it from the pod's socket.
func source(t *testing.T, n *node.Node, pod *corev1.Pod) *workloadapi.X509Source {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	socket := n.Path("/run/istio-auth/pods/" + string(pod.UID) + "/agent.sock")
	s, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+socket)))
	if err != nil {
		logs := n.Kubectl(t, "--namespace="+system, "logs", "daemonset/istio-nodeagent", "--tail=30")
		t.Fatalf("fetching the identity of %s: %v; the agent wrote:\n%s", pod.Name, err, logs)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// metrics reads numbers in the text format of Prometheus, by name with labels.
func metrics(n *node.Node, url string) (map[string]float64, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	resp, err := n.HTTP().Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	values := map[string]float64{}
	for scan := bufio.NewScanner(io.LimitReader(resp.Body, 4<<20)); scan.Scan(); {
		line := scan.Text()
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if v, err := strconv.ParseFloat(line[i+1:], 64); err == nil {
				values[line[:i]] = v
			}
		}
	}
	if len(values) == 0 {
		return nil, errors.New("no metrics")
	}
	return values, nil
}
