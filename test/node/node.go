// Package node runs a real Kubernetes node with its control plane in tests:
// kubelet, containerd, kube-proxy and all, on this machine, without Docker and
// without a virtual machine.
//
// The node lives in namespaces and cgroups of its own, and leaves nothing
// behind: no process, mount, interface, rule or cgroup. A test runs outside of
// them and reaches in with [Node.Client], [Node.Kubectl], [Node.Exec] and
// [Node.Dial], by IP addresses. There is no way out of the cluster: images are
// loaded by [Node.Load], and its DNS knows the cluster's services alone.
//
// By hand: go run ./test/node/ianode. Start at [Start]. An API server alone is
// started sooner by test/kubeapi.
package node

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Name is the node's name.
const Name = "node-1"

// A Node is a running node. Its methods may be called at once.
type Node struct {
	tree    string // the repository
	root    string // the unpacked packages
	run     string // all that the node writes
	lock    *os.File
	space   *space
	daemons []daemon
	config  *rest.Config
	client  *kubernetes.Clientset
	names   *names // the DNS; nil until it serves
}

// Up starts a node with the tools of the repository at tree. A tree runs one
// node at a time: a second one waits for the end of the first, or of ctx. It
// needs root, and returns an error wrapping [ErrCgroups] where the machine's
// cgroups do not serve. The caller ends the node with [Node.Down].
func Up(ctx context.Context, tree string) (*Node, error) {
	n := place(tree)
	if err := n.acquire(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := n.up(ctx); err != nil {
		err = fmt.Errorf("starting the node: %w%s", err, n.report(context.WithoutCancel(ctx)))
		return nil, errors.Join(err, n.Down())
	}
	return n, nil
}

// Attach finds the node that another process runs, for commands inside it.
func Attach(tree string) (*Node, error) {
	n := place(tree)
	var err error
	n.space, err = loadSpace(filepath.Join(n.run, "space"))
	return n, err
}

func place(tree string) *Node {
	dir := filepath.Join(tree, ".tools", "node")
	return &Node{tree: tree, root: filepath.Join(dir, "root"), run: filepath.Join(dir, "run")}
}

// cgroup is the name of the tree's cgroup in each hierarchy. Two trees may run
// a node at once; what is left of a tree's killed one is found again.
func (n *Node) cgroup() string {
	info, err := os.Stat(n.tree)
	if err != nil {
		return "istio-auth-node"
	}
	return fmt.Sprintf("istio-auth-node-%d", info.Sys().(*syscall.Stat_t).Ino)
}

// acquire waits for the tree's lock.
func (n *Node) acquire(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(n.run), 0o755); err != nil {
		return fmt.Errorf("making the node's folder: %w", err)
	}
	lock, err := os.OpenFile(n.run+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("locking the node: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			n.lock = lock
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return errors.Join(fmt.Errorf("locking the node: %w", err), lock.Close())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("another process runs this tree's node: %w", ctx.Err()), lock.Close())
		}
	}
}

// up starts the node, from the namespaces to the service account that a first
// pod needs.
func (n *Node) up(ctx context.Context) error {
	if err := n.sweep(); err != nil {
		return err
	}
	pause := n.archive("pause")
	sandbox, err := reference(pause)
	if err != nil {
		return fmt.Errorf("the pause image (run make images): %w", err)
	}
	if err := os.MkdirAll(n.run, 0o700); err != nil {
		return fmt.Errorf("making the node's folder: %w", err)
	}
	if n.space, err = openSpace(ctx, n.run, n.cgroup(), Name, nodeIP); err != nil {
		return err
	}
	if err := errors.Join(n.space.save(filepath.Join(n.run, "space")), n.files(sandbox)); err != nil {
		return err
	}
	if err := n.controlPlane(); err != nil {
		return err
	}
	if err := n.until(ctx, "containerd", func() error { return n.Command(ctx, "ctr", "version").Run() }); err != nil {
		return err
	}
	if _, err := n.load(ctx, pause); err != nil {
		return err
	}
	if err := n.until(ctx, "the API server", func() error {
		return n.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}); err != nil {
		return err
	}
	dns, err := n.space.listenPacket(ctx, nodeIP+":53")
	if err != nil {
		return fmt.Errorf("starting the DNS: %w", err)
	}
	n.names = serveNames(dns, n.client)
	if err := n.others(); err != nil {
		return err
	}
	if err := n.until(ctx, "the node", func() error { return n.ready(ctx) }); err != nil {
		return err
	}
	return n.until(ctx, "the first service account", func() error {
		_, err := n.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// ready tells whether the node says that it is.
func (n *Node) ready(ctx context.Context) error {
	node, err := n.client.CoreV1().Nodes().Get(ctx, Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
		err = errors.New(c.Message)
	}
	return err
}

// until asks ready again and again until it answers nil. A daemon that ends is
// an error.
func (n *Node) until(ctx context.Context, what string, ready func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		for _, d := range n.daemons {
			select {
			case <-d.process.Done():
				return fmt.Errorf("%s ended: %w", d.name, d.process.Err())
			default:
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
	}
}

// sweep removes what a node whose process was killed has left.
func (n *Node) sweep() error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		if err := removeCgroups([]string{filepath.Join(tree.own, n.cgroup())}); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(n.run); err != nil {
		return fmt.Errorf("removing the last node: %w", err)
	}
	return nil
}

// Down ends the node and removes all that it was. It returns an error where
// something is left.
func (n *Node) Down() error {
	var errs error
	if n.space != nil {
		errs = n.space.close()
	}
	for _, d := range n.daemons {
		d.process.Stop(0)
		d.log.Close()
	}
	n.daemons = nil
	if n.names != nil {
		errs = errors.Join(errs, n.names.close())
	}
	return errors.Join(errs, os.RemoveAll(n.run), n.lock.Close())
}

// report is what helps to see why something failed: the pods, what happened to
// them, and the end of each daemon's log.
func (n *Node) report(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var b strings.Builder
	if n.space != nil && n.space.init != 0 {
		for _, what := range []string{"pods", "events"} {
			out, err := n.Command(ctx, "kubectl", "get", what, "--all-namespaces", "--output=wide").CombinedOutput()
			fmt.Fprintf(&b, "\n=== %s (%v)\n%s", what, err, out)
		}
	}
	for _, d := range n.daemons {
		text := d.process.Output()
		fmt.Fprintf(&b, "\n=== %s wrote:\n%s", d.name, text[max(0, len(text)-2<<10):])
	}
	return b.String()
}

// Command is a command inside the node, with the cluster's tools in its path
// and the admin's kubeconfig. Folders are those of the machine, but for /etc,
// /opt, /run, /var/lib and /var/log.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := n.space.command(ctx, args...)
	cmd.Dir = n.tree
	root := func(path string) string { return filepath.Join(n.root, path) }
	path := []string{filepath.Join(n.tree, ".tools", "kube"), root("usr/sbin"), root("usr/bin"), os.Getenv("PATH"), "/usr/sbin", "/sbin"}
	env := []string{"PATH=" + strings.Join(path, ":"), "KUBECONFIG=" + n.Kubeconfig(), "HOME=" + n.run}
	if libs, _ := filepath.Glob(root("usr/lib/*-linux-gnu")); len(libs) == 1 {
		env = append(env, "LD_LIBRARY_PATH="+libs[0], "XTABLES_LIBDIR="+libs[0]+"/xtables")
	}
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// Kubeconfig is the admin's kubeconfig. Its server's address is inside.
func (n *Node) Kubeconfig() string { return filepath.Join(n.run, "admin.conf") }

// Config is the configuration of a client that may do everything and that
// reaches into the node. The caller may change it.
func (n *Node) Config() *rest.Config { return rest.CopyConfig(n.config) }

// Client is a client that may do everything.
func (n *Node) Client() kubernetes.Interface { return n.client }

// Dial connects to an IP address and port as seen from inside: a pod's, a
// service's, or the node's.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.space.dial(ctx, network, address)
}

// HTTP is a client whose connections begin inside the node.
func (n *Node) HTTP() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: n.Dial}}
}

// Path is where a test finds a file of the node, such as a socket in /run. It
// is good for opening the file itself and not for absolute links on the way.
func (n *Node) Path(inside string) string {
	return fmt.Sprintf("/proc/%d/root%s", n.space.init, inside)
}

// archive is the path of an image of make images.
func (n *Node) archive(name string) string {
	return filepath.Join(n.tree, "dist", "images", name+".tar")
}

// load imports an image and returns the name under which pods find it.
func (n *Node) load(ctx context.Context, archive string) (string, error) {
	name, err := reference(archive)
	if err != nil {
		return "", err
	}
	if out, err := n.Command(ctx, "ctr", "--namespace", "k8s.io", "images", "import", archive).CombinedOutput(); err != nil {
		return "", fmt.Errorf("loading %s: %w\n%s", archive, err, out)
	}
	return name, nil
}

// member reads a file of a tar archive.
func member(archive, name string) ([]byte, error) {
	file, err := os.Open(archive)
	if err != nil {
		return nil, fmt.Errorf("reading an image: %w", err)
	}
	defer file.Close()
	for r := tar.NewReader(file); ; {
		header, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("looking for %s in %s: %w", name, archive, err)
		}
		if header.Name == name {
			return io.ReadAll(io.LimitReader(r, 1<<20))
		}
	}
}
