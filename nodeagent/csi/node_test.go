package csi

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestPublish(t *testing.T) {
	r := newRig(t)
	req := r.request(t, uid1, "identity", jwt1, time.Hour)
	r.put(t, req)
	if got := r.ask(uid1); got != uid1 {
		t.Errorf("the socket says %q", got)
	}
	if w := r.agent.added[0]; w.Pod != pod1() || w.Token.Reveal() != jwt1 {
		t.Errorf("added %+v", w)
	}
	if ok, _ := r.mounts.Mounted(PodDir(r.RunDir, uid1), req.TargetPath); !ok {
		t.Error("not mounted")
	}
	for path, want := range map[string]os.FileMode{PodDir(r.RunDir, uid1): 0o755, filepath.Join(r.RunDir, "pods"): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if got := r.state.records[uid1]; got.Workload.Token.Reveal() != jwt1 || len(got.Targets) != 1 || got.Targets[0] != req.TargetPath {
		t.Errorf("remembered %+v", got)
	}
}

// The kubelet calls at every sync. What is the same costs nothing: no word to the
// agent, none to the store, no mount.
func TestRepublish(t *testing.T) {
	r := newRig(t)
	req := r.request(t, uid1, "identity", jwt1, time.Hour)
	for range 100 {
		r.put(t, req)
	}
	if added, _ := r.agent.calls(); added != 1 || r.mounts.mounted != 1 || r.state.puts != 1 {
		t.Errorf("added %d, mounted %d, remembered %d times; want once", added, r.mounts.mounted, r.state.puts)
	}
	// A newer token goes to the agent and the store; nothing is mounted.
	newer := r.request(t, uid1, "identity", jwt2, 2*time.Hour)
	r.put(t, newer)
	r.put(t, newer)
	if added, _ := r.agent.calls(); added != 2 || r.agent.lastToken() != jwt2 || r.mounts.mounted != 1 || r.state.puts != 2 {
		t.Errorf("added %d, mounted %d, remembered %d times", added, r.mounts.mounted, r.state.puts)
	}
	// An older one that was overtaken does not come back.
	r.put(t, req)
	if r.agent.lastToken() != jwt2 {
		t.Error("an older token replaced a newer one")
	}
}

func TestRepublishMountsAgainWhatIsGone(t *testing.T) {
	r := newRig(t)
	req := r.request(t, uid1, "identity", jwt1, time.Hour)
	r.put(t, req)
	r.mounts.Unmount(req.TargetPath)
	r.put(t, req)
	if ok, _ := r.mounts.Mounted(PodDir(r.RunDir, uid1), req.TargetPath); !ok {
		t.Error("not mounted again")
	}
}

func TestUnpublish(t *testing.T) {
	r := newRig(t)
	req := r.request(t, uid1, "identity", jwt1, time.Hour)
	r.put(t, req)
	for range 3 {
		r.take(t, req.TargetPath)
	}
	if len(r.mounts.table) != 0 || len(r.state.records) != 0 || len(r.agent.open) != 0 || len(r.pods) != 0 {
		t.Errorf("left: %v, %v, %v, %v", r.mounts.table, r.state.records, r.agent.open, r.pods)
	}
	if _, err := os.Lstat(PodDir(r.RunDir, uid1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pod's folder is still there: %v", err)
	}
	r.put(t, req)
	if got := r.ask(uid1); got != uid1 {
		t.Errorf("published again, the socket says %q", got)
	}
}

// A pod may have two volumes of ours. The workload goes with the last.
func TestTwoVolumes(t *testing.T) {
	r := newRig(t)
	a, b := r.request(t, uid1, "a", jwt1, time.Hour), r.request(t, uid1, "b", jwt1, time.Hour)
	r.put(t, a)
	r.put(t, b)
	r.take(t, a.TargetPath)
	if got := r.ask(uid1); got != uid1 {
		t.Errorf("after one of two volumes went, the socket says %q", got)
	}
	if got := r.state.records[uid1].Targets; len(got) != 1 || got[0] != b.TargetPath {
		t.Errorf("remembered %v", got)
	}
	r.take(t, b.TargetPath)
	if len(r.agent.open) != 0 || len(r.state.records) != 0 {
		t.Error("the workload stayed after its last volume")
	}
}

func TestPublishFails(t *testing.T) {
	for name, spoil := range map[string]func(r *rig) (mend func()){
		"the agent": func(r *rig) func() {
			r.agent.addErr = errors.New("no more files")
			return func() { r.agent.addErr = nil }
		},
		"the mount": func(r *rig) func() {
			r.mounts.mountErr = errors.New("EPERM")
			return func() { r.mounts.mountErr = nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			mend := spoil(r)
			req := r.request(t, uid1, "identity", jwt1, time.Hour)
			_, err := (nodeService{d: r.Driver}).NodePublishVolume(t.Context(), req)
			if status.Code(err) != codes.Internal {
				t.Errorf("got %v, want Internal", err)
			}
			if _, err := os.Lstat(PodDir(r.RunDir, uid1)); !errors.Is(err, os.ErrNotExist) || len(r.agent.open) != 0 || len(r.pods) != 0 || len(r.state.records) != 0 {
				t.Errorf("left behind: %v, %v, %v", err, r.agent.open, r.pods)
			}
			mend()
			r.put(t, req)
			if got := r.ask(uid1); got != uid1 {
				t.Errorf("the socket says %q", got)
			}
		})
	}
}

// A full tmpfs costs the restart, not the pod.
func TestStateFails(t *testing.T) {
	r := newRig(t)
	r.state.putErr = errors.New("no space left on device")
	r.put(t, r.request(t, uid1, "identity", jwt1, time.Hour))
	if got := r.ask(uid1); got != uid1 {
		t.Errorf("the socket says %q", got)
	}
	if !strings.Contains(r.logged.String(), `"level":"ERROR"`) {
		t.Error("said nothing")
	}
}

// The kubelet's calls about many pods come at once, and about one pod in any order.
func TestStorm(t *testing.T) {
	r := newRig(t)
	reqs := []func(){}
	for _, uid := range []string{uid1, uid2} {
		for _, volume := range []string{"a", "b"} {
			req := r.request(t, uid, volume, jwt1, time.Hour)
			for range 20 {
				reqs = append(reqs, func() { r.put(t, req) }, func() { r.take(t, req.TargetPath) })
			}
		}
	}
	var wg sync.WaitGroup
	for _, f := range reqs {
		wg.Go(f)
	}
	wg.Wait()
	for _, uid := range []string{uid1, uid2} {
		for _, volume := range []string{"a", "b"} {
			r.take(t, r.request(t, uid, volume, jwt1, time.Hour).TargetPath)
		}
	}
	if len(r.mounts.table)+len(r.state.records)+len(r.agent.open)+len(r.pods) != 0 {
		t.Errorf("left: %v, %v, %v, %v", r.mounts.table, r.state.records, r.agent.open, r.pods)
	}
}

// The agent is killed while pods run: its successor opens their sockets in the very
// folders that are mounted in them, before the kubelet says a word.
func TestRestart(t *testing.T) {
	r := newRig(t)
	a, b := r.request(t, uid1, "identity", jwt1, time.Hour), r.request(t, uid2, "identity", jwt2, time.Hour)
	r.put(t, a)
	r.put(t, b)
	before, err := os.Stat(PodDir(r.RunDir, uid1))
	if err != nil {
		t.Fatal(err)
	}
	r.restart(t)
	if got := r.ask(uid1) + r.ask(uid2); got != uid1+uid2 {
		t.Errorf("the sockets say %q", got)
	}
	after, err := os.Stat(PodDir(r.RunDir, uid1))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the pod's folder is another: its volume shows the old one (%v)", err)
	}
	for _, w := range r.agent.added {
		if w.Token.IsZero() {
			t.Errorf("pod %s came back without its token", w.Pod.UID)
		}
	}
	r.put(t, a)
	if added, _ := r.agent.calls(); added != 2 {
		t.Errorf("the kubelet's next call was not idle")
	}
	r.take(t, a.TargetPath)
	r.take(t, b.TargetPath)
	if len(r.mounts.table)+len(r.state.records)+len(r.agent.open)+len(r.pods) != 0 {
		t.Error("something is left")
	}
}

// An expired token is not asked with.
func TestRestartWithAnExpiredToken(t *testing.T) {
	r := newRig(t)
	r.put(t, r.request(t, uid1, "identity", jwt1, time.Hour))
	record := r.state.records[uid1]
	record.Expires = time.Now().Add(-time.Second)
	r.state.records[uid1] = record
	r.restart(t)
	if got := r.ask(uid1); got != uid1 {
		t.Errorf("the socket says %q", got)
	}
	if got := r.agent.lastToken(); got != "" {
		t.Error("came back with an expired token")
	}
	r.put(t, r.request(t, uid1, "identity", jwt2, time.Hour))
	if got := r.agent.lastToken(); got != jwt2 {
		t.Error("the kubelet's token did not replace it")
	}
}

// The state is lost (another node image, a tmpfs that was unmounted): the folders of
// living pods stay, and the kubelet's next call finds the mount in place.
func TestRestartWithoutState(t *testing.T) {
	r := newRig(t)
	req := r.request(t, uid1, "identity", jwt1, time.Hour)
	r.put(t, req)
	r.state.records = nil
	r.restart(t)
	if _, err := os.Lstat(PodDir(r.RunDir, uid1)); err != nil {
		t.Fatalf("the living pod's folder was removed: %v", err)
	}
	r.agent.addErr = errors.New("not now")
	if _, err := (nodeService{d: r.Driver}).NodePublishVolume(t.Context(), req); err == nil {
		t.Fatal("no error")
	}
	r.agent.addErr = nil
	r.put(t, req)
	if got := r.ask(uid1); got != uid1 || r.mounts.mounted != 1 {
		t.Errorf("the socket says %q, mounted %d times; want once", got, r.mounts.mounted)
	}
}

// While the agent was away pods went: the kubelet removed their folders, or had
// not finished publishing.
func TestRestartAfterPodsWent(t *testing.T) {
	r := newRig(t)
	gone, half := r.request(t, uid1, "identity", jwt1, time.Hour), r.request(t, uid2, "identity", jwt1, time.Hour)
	r.put(t, gone)
	r.put(t, half)
	r.mounts.Unmount(gone.TargetPath)
	if err := os.RemoveAll(filepath.Join(r.KubeletDir, "pods", uid1)); err != nil {
		t.Fatal(err)
	}
	r.mounts.Unmount(half.TargetPath)
	stray := filepath.Join(r.RunDir, "pods", "Not_A_UID")
	if err := os.Mkdir(stray, 0o700); err != nil {
		t.Fatal(err)
	}
	r.restart(t)
	if added, _ := r.agent.calls(); added != 0 {
		t.Errorf("%d workloads came back, want none", added)
	}
	if _, err := os.Lstat(PodDir(r.RunDir, uid1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the pod that went is still there: %v", err)
	}
	if _, err := os.Lstat(PodDir(r.RunDir, uid2)); err != nil {
		t.Errorf("the folder of the pod that the kubelet still has is gone: %v", err)
	}
	if _, err := os.Lstat(stray); err != nil {
		t.Errorf("a folder that is not ours is gone: %v", err)
	}
	if len(r.state.records) != 0 {
		t.Errorf("remembered %v", r.state.records)
	}
}

func TestPrepareRefuses(t *testing.T) {
	for name, spoil := range map[string]func(r *rig) error{
		"no kubelet":            func(r *rig) error { return os.RemoveAll(r.KubeletDir) },
		"a run folder for all":  func(r *rig) error { return os.Chmod(r.RunDir, 0o777) },
		"pods' folders for all": func(r *rig) error { return os.Chmod(filepath.Join(r.RunDir, "pods"), 0o755) },
		"a link": func(r *rig) error {
			pods := filepath.Join(r.RunDir, "pods")
			return errors.Join(os.Remove(pods), os.Symlink("/tmp", pods))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if err := spoil(r); err != nil {
				t.Fatal(err)
			}
			if err := r.driver(r.KubeletDir, r.RunDir).Run(t.Context()); err == nil {
				t.Error("started")
			}
		})
	}
}
