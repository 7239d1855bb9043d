// Package clients shows stock clients an agent's socket: the libraries with
// which applications fetch their identity.
package clients

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	spiffe "github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"

	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/nodeagent/workloadapi"
	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/sdstest"
	"github.com/istio-auth/istio-auth/sds/secret"
	"github.com/istio-auth/istio-auth/test/testreq"
)

var id = spiffeid.RequireFromString("spiffe://td.test/ns/default/sa/python")

// An identity is what a client says that it got.
type identity struct {
	ID         string   `json:"id"`
	Chain      []string `json:"chain"`
	Roots      []string `json:"roots"`
	KeyMatches bool     `json:"key_matches"`
}

func identityOf(u nodeagent.Update) identity {
	digests := func(certs []*x509.Certificate) []string {
		var out []string
		for _, c := range certs {
			sum := sha256.Sum256(c.Raw)
			out = append(out, hex.EncodeToString(sum[:]))
		}
		return out
	}
	i := identity{ID: u.SVID.ID.String(), Chain: digests(u.SVID.Certificates), Roots: digests(u.Bundle.X509Authorities()), KeyMatches: true}
	slices.Sort(i.Roots)
	return i
}

// An agent is a workload's socket as the agent makes it: secrets for Envoy and
// the Workload API side by side.
type agent struct {
	ca, next *sdstest.Authority
	secrets  *secret.Source
	api      *workloadapi.Server
	socket   *sdstest.Socket
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{secrets: &secret.Source{}, api: &workloadapi.Server{}}
	for _, ca := range []**sdstest.Authority{&a.ca, &a.next} {
		var err error
		if *ca, err = sdstest.NewAuthority(id.TrustDomain()); err != nil {
			t.Fatal(err)
		}
	}
	envoy := &sds.Server{Sources: func(context.Context) ([]sds.Source, error) { return []sds.Source{a.secrets}, nil }}
	var err error
	a.socket, err = sdstest.Serve(func(g *grpc.Server) { envoy.Register(g); a.api.Register(g) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.socket.Close() })
	return a
}

// publish gives the workload a new certificate; others are added to its bundle.
func (a *agent) publish(t *testing.T, others ...*sdstest.Authority) nodeagent.Update {
	t.Helper()
	svid, err := a.ca.SVID(id, sdstest.Leaf{})
	if err != nil {
		t.Fatal(err)
	}
	u := nodeagent.Update{SVID: svid, Bundle: a.ca.Bundle(others...)}
	if err := a.secrets.Set(secret.Material{SVID: u.SVID, Bundle: u.Bundle}); err != nil {
		t.Fatal(err)
	}
	if err := a.api.Publish(u); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestGoSPIFFE(t *testing.T) {
	a := newAgent(t)
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	first := a.publish(t)
	source, err := spiffe.NewX509Source(ctx, spiffe.WithClientOptions(spiffe.WithAddr("unix://"+a.socket.Path)))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	got := func() identity {
		svid, err := source.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := source.GetX509BundleForTrustDomain(id.TrustDomain())
		if err != nil {
			t.Fatal(err)
		}
		return identityOf(nodeagent.Update{SVID: svid, Bundle: bundle})
	}
	if diff := cmp.Diff(identityOf(first), got()); diff != "" {
		t.Errorf("at first (-want +got):\n%s", diff)
	}
	second := a.publish(t, a.next)
	select {
	case <-source.Updated():
	case <-ctx.Done():
		t.Fatal("no update")
	}
	if diff := cmp.Diff(identityOf(second), got()); diff != "" {
		t.Errorf("after the renewal (-want +got):\n%s", diff)
	}
}

func TestPython(t *testing.T) {
	python := venv(t)
	a := newAgent(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	first := a.publish(t)
	script := exec.CommandContext(ctx, python, filepath.Join("testdata", "fetch.py"), "unix://"+a.socket.Path, id.TrustDomain().Name())
	var problems strings.Builder
	script.Stderr = &problems
	stdin, err := script.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := script.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	expect := func(when string, u nodeagent.Update) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("%s: the client ended: %v\n%s", when, script.Wait(), problems.String())
		}
		var got identity
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
			t.Fatalf("%s: %q: %v", when, lines.Text(), err)
		}
		if diff := cmp.Diff(identityOf(u), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	expect("fetched once", first)
	expect("from the source", first)
	expect("after a renewal and a new root", a.publish(t, a.next))
	expect("after another", a.publish(t))
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := script.Wait(); err != nil {
		t.Errorf("%v\n%s", err, problems.String())
	}
}

// venv returns the interpreter of a virtual environment with the pinned client.
// It is made once, below .tools, under a name that changes with the pins.
func venv(t *testing.T) string {
	t.Helper()
	interpreter, err := exec.LookPath("python3")
	if err != nil {
		testreq.Missing(t, "python3: install it, with its venv module")
	}
	requirements := filepath.Join("testdata", "requirements.txt")
	pins, err := os.ReadFile(requirements)
	if err != nil {
		t.Fatal(err)
	}
	version, err := exec.CommandContext(t.Context(), interpreter, "-V").Output()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append(pins, version...))
	tools := filepath.Join(testreq.Tree(t), ".tools")
	if err := os.MkdirAll(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(tools, "python-"+hex.EncodeToString(sum[:6]))
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close() // and with it the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(dir, "bin", "python")
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return python
	}
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	out, err := exec.CommandContext(ctx, "/bin/sh", filepath.Join("testdata", "venv.sh"), dir, requirements).CombinedOutput()
	switch {
	case err == nil:
		return python
	case strings.Contains(string(out), "DO NOT MATCH"):
		t.Fatalf("the packages are not the pinned ones:\n%s", out)
	}
	t.Logf("%v\n%s", err, out)
	testreq.Missing(t, "Python's spiffe package: it takes python3 with venv and pip, and a network the first time")
	return ""
}
