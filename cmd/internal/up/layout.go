package up

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

//go:embed sample/*.yaml
var samples embed.FS

// The node and namespace of the demonstration.
const (
	nodeName  = "localhost"
	namespace = "demo"
)

// A layout is where everything of a run lives.
type layout struct {
	dir     string // kept: policies, the CA's state, configuration and logs
	runtime string // gone afterwards: sockets, whose paths must be short
	base    int    // the first port
	demo    bool   // the demonstration's workloads, and not the user's
}

// Ports, as offsets from the base.
const (
	portCA = iota
	portManager
	portWeb          // where the demonstration's client calls its sidecar
	portOrdersMTLS   // where others reach the orders service's sidecar
	portOrders       // the orders service itself
	portWebStatus    // /ready and /stats/prometheus of the client's sidecar
	portOrdersStatus // the same of the server's
	ports
)

// names of the ports, for whoever finds one taken.
var portNames = [ports]string{"the CA", "the manager", "the client's sidecar", "the server's sidecar", "the sample service", "the client sidecar's status", "the server sidecar's status"}

func (l layout) address(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(l.base+port))
}

func (l layout) policies() string { return filepath.Join(l.dir, "policies") }
func (l layout) state() string    { return filepath.Join(l.dir, "state") }

// registry is the user's own file, or the one that we write anew for each
// demonstration: never one in place of the other.
func (l layout) registry() string {
	if l.demo {
		return filepath.Join(l.state(), "demo-workloads.yaml")
	}
	return filepath.Join(l.dir, "workloads.yaml")
}

func (l layout) token() string { return filepath.Join(l.runtime, "join-token") }

// checkPorts finds every port that is taken before anything has started.
func (l layout) checkPorts(ctx context.Context) error {
	last := portManager
	if l.demo {
		last = ports - 1
	}
	taken := ""
	for p := portCA; p <= last; p++ {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", l.address(p))
		if err != nil {
			if inner, ok := errors.AsType[*net.OpError](err); ok {
				err = inner.Err // its address is in our line already
			}
			taken += fmt.Sprintf("\n  %s, for %s: %v", l.address(p), portNames[p], err)
			continue
		}
		listener.Close()
	}
	if taken == "" {
		return nil
	}
	return fmt.Errorf("ports are taken; stop what holds them, or choose others with --port-base:%s", taken)
}

// maxSocket is the most bytes that the path of a Unix socket may have, without
// the NUL at its end.
const maxSocket = 107

// checkSockets says so where the sockets' paths would not fit, which otherwise
// is but an invalid argument, somewhere.
func (l layout) checkSockets() error {
	longest := filepath.Join(l.runtime, "workloads", "orders", "agent.sock")
	if len(longest) <= maxSocket {
		return nil
	}
	return fmt.Errorf("%s is too long for a socket's path (%d bytes, at most %d): set TMPDIR to a shorter directory", longest, len(longest), maxSocket)
}

// prepare makes the directories, and the sample policies where there is no
// policy directory yet: a user's edits are never overwritten.
func (l layout) prepare() error {
	if err := os.MkdirAll(l.state(), 0o700); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	_, err := os.Stat(l.policies())
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(l.policies(), 0o755); err != nil {
		return fmt.Errorf("making the policy directory: %w", err)
	}
	if !l.demo {
		return nil
	}
	return fs.WalkDir(samples, "sample", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := samples.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(l.policies(), filepath.Base(path)), data, 0o644)
	})
}

// A sample is one workload of the demonstration.
type sample struct{ name, binary string }

// registerSamples writes the registry of the demonstration's workloads. Each
// has an Envoy of its own path, since a process is known by user and executable.
func (l layout) registerSamples(envoy string) ([]sample, error) {
	var all []sample
	text := "# Written by istio-auth up.\nworkloads:\n"
	for _, name := range []string{"web", "orders"} {
		s := sample{name: name, binary: filepath.Join(l.dir, "envoy", name, "envoy-"+name)}
		if err := os.MkdirAll(filepath.Dir(s.binary), 0o755); err != nil {
			return nil, fmt.Errorf("making Envoy's directory: %w", err)
		}
		if err := linkOrCopy(envoy, s.binary); err != nil {
			return nil, fmt.Errorf("placing Envoy: %w", err)
		}
		real, err := filepath.EvalSymlinks(s.binary) // as the kernel names it
		if err != nil {
			return nil, fmt.Errorf("placing Envoy: %w", err)
		}
		s.binary = real
		text += fmt.Sprintf("- {name: %s, node: %s, uid: %d, executable: %q, namespace: %s, serviceAccount: %s, labels: {app: %s}}\n",
			name, nodeName, os.Getuid(), real, namespace, name, name)
		all = append(all, s)
	}
	if err := os.WriteFile(l.registry(), []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("writing the registry: %w", err)
	}
	return all, nil
}

// linkOrCopy makes to the same file as from, or, across file systems, like it.
func linkOrCopy(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// emptyRegistry is what the bare daemons start with; the user fills it.
func (l layout) emptyRegistry() error {
	if _, err := os.Stat(l.registry()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := "# Workloads of this host. The file is read when istio-auth up starts.\n" +
		"# - {name: web, node: " + nodeName + ", uid: 1000, executable: /usr/bin/envoy, namespace: demo, serviceAccount: web, labels: {app: web}}\nworkloads: []\n"
	return os.WriteFile(l.registry(), []byte(text), 0o644)
}
