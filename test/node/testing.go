package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/test/testreq"
)

// require ends the test where the machine lacks what a node needs, and returns
// the repository.
func require(t testing.TB) string {
	t.Helper()
	testreq.Root(t)
	testreq.Tool(t, "kube/kubeall", "run make kube (9 minutes, once)")
	testreq.Tool(t, "node/root/.complete", "run make node-deps")
	tree := testreq.Tree(t)
	if archive := filepath.Join(tree, "dist", "images", "pause.tar"); !exists(archive) {
		testreq.Missing(t, archive+": run make images")
	}
	if _, err := hierarchies(); errors.Is(err, ErrCgroups) {
		testreq.Missing(t, err.Error())
	}
	return tree
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Start starts a node and ends it with the test; it takes some ten seconds.
// Where another test process runs one it waits for it; a package uses either
// Start, in one test at a time, or [Shared]. What is left of the
// node after its end fails the test.
func Start(t testing.TB) *Node {
	t.Helper()
	tree := require(t)
	one.Lock()
	shared := one.node
	one.Unlock()
	if shared != nil {
		t.Fatal("node.Start: this process runs the shared node already, and a tree runs one at a time")
	}
	n, err := Up(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.report(context.WithoutCancel(t.Context())))
		}
		if err := n.Down(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// one is the node of this test process.
var one struct {
	sync.Mutex // guards what follows
	managed    bool
	node       *Node
	err        error
}

// Main runs a package's tests, ends the node that [Shared] may have started, and
// exits. It is the body of TestMain.
func Main(m *testing.M) {
	one.Lock()
	one.managed = true
	one.Unlock()
	code := m.Run()
	one.Lock()
	defer one.Unlock()
	if one.node != nil {
		if code != 0 {
			os.Stderr.WriteString(one.node.report(context.Background()) + "\n")
		}
		if err := one.node.Down(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// Shared is the node of the whole test process, started at the first call. The
// package's TestMain must call [Main].
func Shared(t testing.TB) *Node {
	t.Helper()
	tree := require(t)
	one.Lock()
	defer one.Unlock()
	if !one.managed {
		t.Fatal("node.Shared: the package has no TestMain that calls node.Main")
	}
	if one.node == nil && one.err == nil {
		one.node, one.err = Up(context.Background(), tree) // outlives this test
	}
	if one.err != nil {
		t.Fatal(one.err)
	}
	return one.node
}

// Exec runs a command inside the node and returns what it writes to standard
// output. A failure fails the test; [Node.Command] is for commands that may
// fail, or that need an input.
func (n *Node) Exec(t testing.TB, args ...string) string {
	t.Helper()
	out, err := n.try(t, "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (n *Node) try(t testing.TB, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := n.Command(t.Context(), args...)
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), &CommandError{Args: args, Stdout: stdout.String(), Stderr: stderr.String(), Err: err}
	}
	return stdout.String(), nil
}

// A CommandError is a command inside the node that failed.
type CommandError struct {
	Args           []string
	Stdout, Stderr string
	Err            error
}

// Error has the command and all that it wrote.
func (e *CommandError) Error() string {
	return strings.Join(e.Args, " ") + ": " + e.Err.Error() + "\n" + e.Stdout + e.Stderr
}

// Unwrap gives the [os/exec.ExitError].
func (e *CommandError) Unwrap() error { return e.Err }

// Kubectl runs kubectl as the admin and returns its output.
func (n *Node) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	return n.Exec(t, append([]string{"kubectl"}, args...)...)
}

// TryKubectl is Kubectl where the command may fail; its error is then a
// [*CommandError].
func (n *Node) TryKubectl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return n.try(t, "", append([]string{"kubectl"}, args...)...)
}

// Apply gives manifests to kubectl apply.
func (n *Node) Apply(t testing.TB, manifests string) {
	t.Helper()
	if _, err := n.try(t, manifests, "kubectl", "apply", "--filename", "-"); err != nil {
		t.Fatal(err)
	}
}

// Helm runs helm as the admin and returns its output.
func (n *Node) Helm(t testing.TB, args ...string) string {
	t.Helper()
	return n.Exec(t, append([]string{"helm"}, args...)...)
}

// Load loads an image that make images has written, by its short name, and
// returns the name by which pods ask for it.
func (n *Node) Load(t testing.TB, image string) string {
	t.Helper()
	archive := n.archive(image)
	if !exists(archive) {
		testreq.Missing(t, archive+": run make images")
	}
	return n.LoadArchive(t, archive)
}

// LoadArchive loads an image from an OCI archive of deploy/images.
func (n *Node) LoadArchive(t testing.TB, path string) string {
	t.Helper()
	name, err := n.load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// Until asks ready again and again until it answers nil, for a minute at most;
// then the test fails with its last answer. It fails at once when a daemon of
// the node ends.
func (n *Node) Until(t testing.TB, what string, ready func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.until(ctx, what, ready); err != nil {
		t.Fatal(err)
	}
}
