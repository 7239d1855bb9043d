package csi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/nodeagent/store"
)

var td = spiffeid.RequireTrustDomainFromString("example.org")

const (
	uid1  = "5f3c0000-0000-4000-8000-000000000001"
	uid2  = "5f3c0000-0000-4000-8000-000000000002"
	jwt1  = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYXJ0In0.c2lnbmF0dXJl"
	jwt2  = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYXJ0Mn0.c2lnbmF0dXJl"
	audID = "workload.istio-auth.example.org"
)

// agent is Workloads with real sockets, as the node agent makes them.
type agent struct {
	runDir string

	mu      sync.Mutex // guards what follows
	addErr  error
	added   []nodeagent.Workload
	removed []string
	open    map[string]net.Listener
}

func (a *agent) Add(_ context.Context, w nodeagent.Workload) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.addErr != nil {
		return a.addErr
	}
	a.added = append(a.added, w)
	if a.open[w.Pod.UID] != nil {
		return nil
	}
	path := filepath.Join(PodDir(a.runDir, w.Pod.UID), SocketName)
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as after a kill
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, w.Pod.UID)
			c.Close()
		}
	}()
	if a.open == nil {
		a.open = map[string]net.Listener{}
	}
	a.open[w.Pod.UID] = l
	return nil
}

func (a *agent) Remove(_ context.Context, uid string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.removed = append(a.removed, uid)
	if l := a.open[uid]; l != nil {
		l.Close()
		delete(a.open, uid)
	}
	return nil
}

func (a *agent) calls() (added, removed int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.added), len(a.removed)
}

func (a *agent) lastToken() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.added) == 0 {
		return ""
	}
	return a.added[len(a.added)-1].Token.Reveal()
}

// die closes all sockets and leaves their names, as a kill does.
func (a *agent) die() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, l := range a.open {
		l.Close()
		delete(a.open, uid)
	}
}

// memory is a State.
type memory struct {
	mu      sync.Mutex
	records map[string]store.Record
	putErr  error
	puts    int
}

func (m *memory) Put(r store.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts++
	if m.putErr != nil {
		return m.putErr
	}
	if m.records == nil {
		m.records = map[string]store.Record{}
	}
	m.records[r.Workload.Pod.UID] = r
	return nil
}

func (m *memory) Delete(uid string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, uid)
	return nil
}

func (m *memory) Load() ([]store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []store.Record
	for _, r := range m.records {
		list = append(list, r)
	}
	return list, nil
}

// mounts is a Mounter without a kernel: what is mounted is a table of the source's
// identity by target.
type mounts struct {
	mu       sync.Mutex
	table    map[string]os.FileInfo
	mountErr error
	mounted  int // calls of Mount
}

func (m *mounts) Mount(source, target string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mounted++
	if m.mountErr != nil {
		return m.mountErr
	}
	info, err := os.Lstat(source)
	if err != nil {
		return err
	}
	if m.table[target] != nil {
		return errors.New("mounted twice")
	}
	if m.table == nil {
		m.table = map[string]os.FileInfo{}
	}
	m.table[target] = info
	return os.MkdirAll(target, 0o750)
}

func (m *mounts) Unmount(target string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.table, target)
	return os.RemoveAll(target)
}

func (m *mounts) Mounted(source, target string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	info, err := os.Lstat(source)
	return err == nil && m.table[target] != nil && os.SameFile(info, m.table[target]), nil
}

// A rig is a driver with a kubelet's folder and everything around it.
type rig struct {
	*Driver
	agent  *agent
	state  *memory
	mounts *mounts
	logged *bytes.Buffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	run := filepath.Join(dir, "run")
	r := &rig{agent: &agent{runDir: run}, state: &memory{}, mounts: &mounts{}, logged: &bytes.Buffer{}}
	r.Driver = r.driver(filepath.Join(dir, "kubelet"), run)
	if err := os.MkdirAll(filepath.Join(r.KubeletDir, "pods"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.agent.die)
	return r
}

func (r *rig) driver(kubelet, run string) *Driver {
	return &Driver{
		TrustDomain: td, Workloads: r.agent, State: r.state, Mounter: r.mounts, Node: "n1", Version: "v0",
		KubeletDir: kubelet, RunDir: run,
		Log: slog.New(slog.NewJSONHandler(r.logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// restart is what a killed agent's successor does.
func (r *rig) restart(t *testing.T) {
	t.Helper()
	r.agent.die()
	r.agent = &agent{runDir: r.RunDir}
	t.Cleanup(r.agent.die)
	r.Driver = r.driver(r.KubeletDir, r.RunDir)
	if err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	if err := r.restore(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// request is what a kubelet 1.37 sends.
func (r *rig) request(t *testing.T, uid, volume, token string, life time.Duration) *csi.NodePublishVolumeRequest {
	t.Helper()
	target := filepath.Join(r.KubeletDir, "pods", uid, "volumes", "kubernetes.io~csi", volume, "mount")
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		t.Fatal(err)
	}
	return request(target, uid, token, time.Now().Add(life))
}

func request(target, uid, token string, expires time.Time) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId:   "csi-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		TargetPath: target,
		Readonly:   true,
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
		VolumeContext: map[string]string{
			podName: "cart-1", podNamespace: "shop", podUID: uid, podAccount: "cart", ephemeralKey: "true",
		},
		Secrets: map[string]string{tokensKey: tokens(audID, token, expires)},
	}
}

func tokens(audience, token string, expires time.Time) string {
	return fmt.Sprintf(`{%q:{"token":%q,"expirationTimestamp":%q}}`, audience, token, expires.UTC().Format(time.RFC3339))
}

func (r *rig) put(t *testing.T, req *csi.NodePublishVolumeRequest) {
	t.Helper()
	if _, err := (nodeService{d: r.Driver}).NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) take(t *testing.T, target string) {
	t.Helper()
	req := &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-1", TargetPath: target}
	if _, err := (nodeService{d: r.Driver}).NodeUnpublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// ask reads what the pod's socket says, through its host folder.
func (r *rig) ask(uid string) string { return dial(filepath.Join(PodDir(r.RunDir, uid), SocketName)) }

func dial(path string) string {
	// By way of its folder: the kubelet's paths are longer than a socket's may be.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err.Error()
	}
	defer dir.Close()
	c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	var b bytes.Buffer
	b.ReadFrom(c)
	return b.String()
}

func pod1() attest.Pod {
	return attest.Pod{Namespace: "shop", Name: "cart-1", UID: uid1, ServiceAccount: "cart"}
}
