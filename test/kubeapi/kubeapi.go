// Package kubeapi runs a real kube-apiserver with its etcd in tests.
//
// There is no kubelet and no scheduler: a test plays the node by creating pods
// that name one. It is for what an API server alone decides: tokens, their
// review, admission, RBAC, custom resources. A whole node is test/node.
//
// Most packages share one server, by a TestMain of one line that calls [Main],
// and [Shared]; a test that needs its own calls [Start].
package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/istio-auth/istio-auth/test/child"
	"github.com/istio-auth/istio-auth/test/kubeapi/pki"
	"github.com/istio-auth/istio-auth/test/testreq"
)

// how is what a developer does to get Kubernetes.
const how = "run make kube (9 minutes, once)"

// Config is how a server starts. The zero value is an API server and etcd with
// Kubernetes' own defaults, and Node and RBAC authorization.
type Config struct {
	// Controllers are the controllers that a kube-controller-manager runs, such
	// as "serviceaccount-controller". Empty means that none is started: then
	// namespaces stay Terminating, and no service account "default" appears.
	Controllers []string

	// Args are arguments for kube-apiserver. One that is named like one of the
	// harness's replaces it.
	Args []string
}

// A Server is a running API server. Its methods may be called at once.
type Server struct {
	// URL is where it listens, on loopback. It is the tokens' issuer too.
	URL string

	// Authority signs its serving certificate and the certificates of its
	// clients and webhooks.
	Authority *pki.Authority

	bin       string
	dir       string
	processes []*child.Process // in the order of their start
	admin     *rest.Config
	client    *kubernetes.Clientset
}

// Start starts a server, waits until it is ready, and stops it when the test
// ends. It takes some three seconds.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	bin := filepath.Dir(testreq.Tool(t, "kube/kubeall", how))
	s, err := start(t.Context(), bin, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.log())
		}
		s.stop()
	})
	return s
}

// start is Start without a test.
func start(ctx context.Context, bin string, c Config) (*Server, error) {
	dir, err := os.MkdirTemp("", "kubeapi")
	if err != nil {
		return nil, fmt.Errorf("making the server's folder: %w", err)
	}
	s := &Server{bin: bin, dir: dir}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := s.run(ctx, c); err != nil {
		s.stop()
		return nil, fmt.Errorf("starting Kubernetes: %w", err)
	}
	return s, nil
}

// run starts the processes and waits for them.
func (s *Server) run(ctx context.Context, c Config) error {
	port, release, err := reserve()
	if err != nil {
		return err
	}
	defer release()
	s.URL = fmt.Sprintf("https://127.0.0.1:%d", port)
	if err := s.files(); err != nil {
		return err
	}
	// The socket's path is relative, since a long folder would not fit in it.
	etcd, err := s.start("etcd", "--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=unix://etcd.sock", "--advertise-client-urls=http://127.0.0.1:0",
		"--name=test", "--initial-cluster=test=http://127.0.0.1:0",
		"--listen-peer-urls=http://127.0.0.1:0", "--initial-advertise-peer-urls=http://127.0.0.1:0")
	if err != nil {
		return err
	}
	api, err := s.start("kube-apiserver", replace([]string{
		"--etcd-servers=unix://etcd.sock",
		"--bind-address=127.0.0.1", "--permit-port-sharing", fmt.Sprintf("--secure-port=%d", port),
		"--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file=server.crt", "--tls-private-key-file=server.key", "--client-ca-file=ca.crt",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--service-account-issuer=" + s.URL, "--api-audiences=" + s.URL,
		"--service-account-key-file=token.pub", "--service-account-signing-key-file=token.key",
		"--profiling=false",
	}, c.Args)...)
	if err != nil {
		return err
	}
	err = api.Until(ctx, func(ctx context.Context) error {
		select {
		case <-etcd.Done():
			return errors.New("etcd ended: " + etcd.Output())
		default:
			return s.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		}
	})
	if err != nil || len(c.Controllers) == 0 {
		return err
	}
	_, err = s.start("kube-controller-manager", "--kubeconfig=admin.conf", "--authentication-kubeconfig=admin.conf", "--authorization-kubeconfig=admin.conf",
		"--secure-port=0", "--leader-elect=false", "--controllers="+strings.Join(c.Controllers, ","),
		"--root-ca-file=ca.crt", "--service-account-private-key-file=token.key")
	return err
}

// files writes the certificates, and makes the admin's client.
func (s *Server) files() error {
	var err error
	if s.Authority, err = pki.New("kubeapi"); err != nil {
		return err
	}
	serving, err := s.Authority.Issue(pki.Name{
		User: "kube-apiserver",
		DNS:  []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		IPs:  []string{"127.0.0.1", "10.96.0.1"},
	})
	if err != nil {
		return err
	}
	private, public, err := pki.TokenKey()
	if err != nil {
		return err
	}
	kubeconfig, err := s.Authority.Kubeconfig(s.URL, "admin", "system:masters")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"ca.crt": s.Authority.PEM, "server.crt": serving.Cert, "server.key": serving.Key,
		"token.key": private, "token.pub": public, "admin.conf": kubeconfig,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			return fmt.Errorf("writing the server's files: %w", err)
		}
	}
	if s.admin, err = s.config("admin", "system:masters"); err != nil {
		return err
	}
	s.client, err = kubernetes.NewForConfig(s.admin)
	if err != nil {
		return fmt.Errorf("making the admin's client: %w", err)
	}
	return nil
}

// start starts one of the programs in the server's folder.
func (s *Server) start(name string, args ...string) (*child.Process, error) {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	p, err := child.Start(cmd)
	if err == nil {
		s.processes = append(s.processes, p)
	}
	return p, err
}

// stop ends the processes, last first, and removes what they wrote. Nothing
// they hold is wanted again, so nobody waits for an orderly end.
func (s *Server) stop() {
	for i := len(s.processes) - 1; i >= 0; i-- {
		s.processes[i].Stop(0)
	}
	s.processes = nil
	os.RemoveAll(s.dir)
}

// log is the end of what each process has written.
func (s *Server) log() string {
	var b strings.Builder
	for _, p := range s.processes {
		text := p.Output()
		fmt.Fprintf(&b, "process %d wrote:\n%s\n", p.PID(), text[max(0, len(text)-8<<10):])
	}
	return b.String()
}

// reserve takes a free port of loopback without listening on it. A child that
// permits port sharing can listen there until release is called, and nobody
// else can take it in between.
func reserve() (port int, release func(), err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("reserving a port: %w", err)
	}
	release = func() { unix.Close(fd) }
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	if err == nil {
		var name unix.Sockaddr
		if name, err = unix.Getsockname(fd); err == nil {
			return name.(*unix.SockaddrInet4).Port, release, nil
		}
	}
	release()
	return 0, nil, fmt.Errorf("reserving a port: %w", err)
}

// replace is args with those of more, which replace the ones of the same name:
// given twice, some of the server's flags add up.
func replace(args, more []string) []string {
	given := map[string]bool{}
	for _, arg := range more {
		name, _, _ := strings.Cut(arg, "=")
		given[name] = true
	}
	var out []string
	for _, arg := range args {
		if name, _, _ := strings.Cut(arg, "="); !given[name] {
			out = append(out, arg)
		}
	}
	return append(out, more...)
}

// Config is the configuration of a client that may do everything. The caller
// may change it.
func (s *Server) Config() *rest.Config { return rest.CopyConfig(s.admin) }

// Client is a client that may do everything.
func (s *Server) Client() kubernetes.Interface { return s.client }

// As is the configuration of a client with a certificate for the user and the
// groups: "system:node:n1" in "system:nodes" is a kubelet.
func (s *Server) As(t testing.TB, user string, groups ...string) *rest.Config {
	t.Helper()
	config, err := s.config(user, groups...)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// Bearer is the configuration of a client that presents a token and nothing
// else: a pod's.
func (s *Server) Bearer(token string) *rest.Config {
	return &rest.Config{Host: s.URL, BearerToken: token, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: s.Authority.PEM}}
}

func (s *Server) config(user string, groups ...string) (*rest.Config, error) {
	pair, err := s.Authority.Issue(pki.Name{User: user, Groups: groups})
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host: s.URL,
		QPS:  -1, // the client's own brake would only slow the tests
		TLSClientConfig: rest.TLSClientConfig{
			CAData: s.Authority.PEM, CertData: pair.Cert, KeyData: pair.Key,
		},
	}, nil
}

// Kubeconfig is the path of a kubeconfig file that may do everything. It lives
// as long as the server.
func (s *Server) Kubeconfig() string { return filepath.Join(s.dir, "admin.conf") }

// HTTP is the admin's plain HTTP client, for paths such as /metrics.
func (s *Server) HTTP(t testing.TB) *http.Client {
	t.Helper()
	client, err := rest.HTTPClientFor(s.admin)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Kubectl runs kubectl as the admin and returns its output; a failure fails the
// test.
func (s *Server) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	return s.tool(t, "kubectl", args)
}

// Helm runs helm as [Server.Kubectl] runs kubectl.
func (s *Server) Helm(t testing.TB, args ...string) string {
	t.Helper()
	return s.tool(t, "helm", args)
}

func (s *Server) tool(t testing.TB, name string, args []string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(s.bin, name), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig(), "HOME="+s.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
