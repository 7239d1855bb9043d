package node_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istio-auth/istio-auth/test/envoy"
	"github.com/istio-auth/istio-auth/test/node"
)

// web is a deployment under the strictest pod security, behind a service, whose
// pods have a token for us.
const web = `
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: demo}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: demo}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 1
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: demo
        image: %s
        resources: {limits: {cpu: 500m, memory: 64Mi}}
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: token, mountPath: /var/run/token}]
      volumes:
      - name: token
        projected: {sources: [{serviceAccountToken: {path: token, audience: istio-auth, expirationSeconds: 600}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {clusterIP: 10.96.7.7, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// TestNode starts a node, runs pods, and compares the machine before and after.
func TestNode(t *testing.T) {
	before := snapshot(t)
	before["cgroups"] = "" // a killed run's are swept by the next
	t.Run("run", testRun)
	after := snapshot(t)
	for what, was := range before {
		if is := after[what]; is != was {
			t.Errorf("%s changed from\n%s\nto\n%s", what, was, is)
		}
	}
	if left := processes(t); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
}

func testRun(t *testing.T) {
	n := node.Start(t)
	n.Apply(t, fmt.Sprintf(web, n.Load(t, "demo")))
	n.Kubectl(t, "--namespace=demo", "rollout", "status", "deployment/web", "--timeout=60s")

	t.Run("service", func(t *testing.T) {
		var asked struct{ Host, Path string }
		n.Until(t, "the service", func() error { // kube-proxy follows readiness within a second
			resp, err := n.HTTP().Get("http://10.96.7.7/hello")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			return json.NewDecoder(resp.Body).Decode(&asked)
		})
		if !strings.HasPrefix(asked.Host, "web-") || asked.Path != "/hello" {
			t.Errorf("answered %+v", asked)
		}
	})
	t.Run("pod to service", func(t *testing.T) {
		out := n.Kubectl(t, "--namespace=demo", "exec", "deployment/web", "--", "/demo", "get", "http://web.demo.svc/from-a-pod")
		if !strings.Contains(out, "/from-a-pod") {
			t.Errorf("got %s", out)
		}
		if logs := n.Kubectl(t, "--namespace=demo", "logs", "--selector=app=web"); !strings.Contains(logs, "/from-a-pod") {
			t.Errorf("the logs do not tell: %s", logs)
		}
	})
	t.Run("API server to service", func(t *testing.T) { // the way of a webhook's call
		if out := n.Kubectl(t, "get", "--raw", "/api/v1/namespaces/demo/services/web:80/proxy/from-the-api"); !strings.Contains(out, "from-the-api") {
			t.Errorf("got %s", out)
		}
	})
	t.Run("token", func(t *testing.T) { testToken(t, n) })
	t.Run("refused exec", func(t *testing.T) {
		_, err := n.TryKubectl(t, "--namespace=demo", "exec", "deployment/web", "--", "/demo", "get", "http://other.demo.svc/")
		if failed, ok := errors.AsType[*node.CommandError](err); !ok || !strings.Contains(failed.Stderr, "no such host") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("helm", func(t *testing.T) {
		if got := n.Helm(t, "list", "--all-namespaces", "--output=json"); strings.TrimSpace(got) != "[]" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("cgroup", func(t *testing.T) { testCgroup(t, n) })
	t.Run("agent", func(t *testing.T) { testAgent(t, n) })
	t.Run("envoy", func(t *testing.T) { testEnvoy(t, n) })
	t.Run("visible", func(t *testing.T) { testVisible(t, n) })
}

// testToken: the kubelet's token is bound to pod and node, for our audience.
func testToken(t *testing.T, n *node.Node) {
	token := n.Kubectl(t, "--namespace=demo", "exec", "deployment/web", "--", "/demo", "cat", "/var/run/token/token")
	claims, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	review, err := n.Client().AuthenticationV1().TokenReviews().Create(t.Context(), &authv1.TokenReview{
		Spec: authv1.TokenReviewSpec{Token: token, Audiences: []string{"istio-auth"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	extra := review.Status.User.Extra
	if got := extra["authentication.kubernetes.io/node-name"]; !review.Status.Authenticated || !slices.Equal(got, []string{node.Name}) {
		t.Errorf("reviewed as %+v; claims %s", review.Status, claims)
	}
}

// testCgroup: a process of a pod tells its pod by its cgroup, as on every node.
// The pods ask for what they are limited to, which makes them Guaranteed, and
// the only class that has no folder of its own.
func testCgroup(t *testing.T, n *node.Node) {
	pods, err := n.Client().CoreV1().Pods("demo").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := n.Exec(t, "sh", "-c", "cat /proc/[0-9]*/cgroup")
	for _, pod := range pods.Items {
		if want := "/kubepods/pod" + string(pod.UID) + "/"; !strings.Contains(all, want) {
			t.Errorf("no process in a cgroup below %s", want)
		}
	}
}

// agent has the rights of our node agent: root, the machine's processes, and
// mounts that reach the kubelet's folder.
const agent = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: kube-system}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostPID: true
      terminationGracePeriodSeconds: 1
      containers:
      - name: agent
        image: %s
        securityContext: {privileged: true, runAsUser: 0}
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        volumeMounts:
        - {name: kubelet, mountPath: /var/lib/kubelet, mountPropagation: Bidirectional}
        - {name: sockets, mountPath: /run/istio-auth}
      volumes:
      - {name: kubelet, hostPath: {path: /var/lib/kubelet, type: Directory}}
      - {name: sockets, hostPath: {path: /run/istio-auth, type: DirectoryOrCreate}}
`

func testAgent(t *testing.T, n *node.Node) {
	n.Apply(t, fmt.Sprintf(agent, n.Load(t, "demo")))
	n.Kubectl(t, "--namespace=kube-system", "rollout", "status", "daemonset/agent", "--timeout=60s")
	out := n.Kubectl(t, "--namespace=kube-system", "exec", "daemonset/agent", "--", "/demo", "ls", "/var/lib/kubelet/plugins_registry", "/run/istio-auth")
	if got, want := out, "d--------- \nd--------- \n"; got != want {
		t.Errorf("the agent sees %q, want two empty folders", got)
	}
	if out := n.Exec(t, "ls", "-d", "/run/istio-auth"); out != "/run/istio-auth\n" {
		t.Errorf("the node sees %q", out)
	}
}

func testEnvoy(t *testing.T, n *node.Node) {
	image := n.Load(t, "envoy")
	n.Kubectl(t, "run", "envoy", "--image="+image, "--restart=Never", "--", "--version")
	n.Kubectl(t, "wait", "pod/envoy", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
	if out := n.Kubectl(t, "logs", "envoy"); !strings.Contains(out, "/"+envoy.Version+"/") {
		t.Errorf("got %s", out)
	}
}

// testVisible: what the comparison of before and after looks for is there
// while the node runs. Otherwise it would find nothing, always.
func testVisible(t *testing.T, n *node.Node) {
	if rules := n.Exec(t, "iptables-save"); !strings.Contains(rules, "KUBE-SERVICES") {
		t.Error("kube-proxy has written no rules")
	}
	if info, err := os.Stat(n.Path("/run/containerd/containerd.sock")); err != nil || info.Mode()&os.ModeSocket == 0 {
		t.Errorf("containerd's socket: %v, %v", info, err)
	}
	if len(processes(t)) == 0 {
		t.Error("no process is in a cgroup of the node")
	}
	if snapshot(t)["cgroups"] == "" {
		t.Error("the node has no cgroup")
	}
}

// snapshot is what a node could change of the machine, as text.
func snapshot(t *testing.T) map[string]string {
	t.Helper()
	seen := map[string]string{}
	for _, file := range []string{
		"/proc/self/mountinfo", "/proc/net/dev_snmp6", "/proc/net/route", "/proc/net/ip_tables_names", "/proc/net/fib_trie",
		"/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom", "/proc/sys/kernel/panic", "/proc/sys/kernel/panic_on_oops",
		"/proc/sys/kernel/keys/root_maxkeys", "/proc/sys/kernel/keys/root_maxbytes",
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/netfilter/nf_conntrack_max",
		"/proc/sys/kernel/hostname", "/etc/hosts",
	} {
		data, err := os.ReadFile(file)
		if err != nil {
			data = []byte("none")
		}
		seen[file] = string(data)
	}
	for _, dir := range []string{"/sys/class/net", "/etc/cni", "/opt/cni", "/var/lib/kubelet", "/var/lib/containerd", "/run/containerd", "/var/log/pods", "/dev/shm"} {
		var names []string
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		seen[dir] = fmt.Sprint(names, err)
	}
	cgroups, err := filepath.Glob("/sys/fs/cgroup/*/istio-auth-node-*")
	deeper, err2 := filepath.Glob("/sys/fs/cgroup/*/*/*/istio-auth-node-*")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	seen["cgroups"] = strings.Join(append(cgroups, deeper...), "\n")
	return seen
}

// processes is the command lines of all in a node's cgroups, this machine's
// whole process tree over.
func processes(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, dir := range dirs {
		if groups, err := os.ReadFile(dir + "/cgroup"); err == nil && strings.Contains(string(groups), "/istio-auth-node-") {
			name, _ := os.ReadFile(dir + "/cmdline")
			found = append(found, string(name))
		}
	}
	return found
}
