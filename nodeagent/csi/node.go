package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/nodeagent"
	"github.com/istio-auth/istio-auth/nodeagent/store"
)

// unpublish checks a request to unpublish, and returns the pod's UID.
func (r rules) unpublish(req *csi.NodeUnpublishVolumeRequest) (uid string, err error) {
	if err := checkID(req.GetVolumeId()); err != nil {
		return "", err
	}
	if uid, err = r.target(req.GetTargetPath()); err != nil {
		return "", err
	}
	return uid, r.uid(uid)
}

// uid checks a UID alone.
func (r rules) uid(uid string) error {
	_, err := nodeagent.ExpectedID(r.trustDomain, attest.Pod{Namespace: "any", Name: "any", UID: uid, ServiceAccount: "any"})
	return err
}

// A pod is what the driver knows of one: its record, which has targets while it is
// published. Calls about one pod run one after the other.
type pod struct {
	turn   chan struct{} // of depth one: holds a value while a call is at work
	record store.Record
}

// lock waits for the pod's turn; unlock gives it back, and forgets a pod that has
// no volume.
func (d *Driver) lock(ctx context.Context, uid string) (*pod, error) {
	for {
		d.mu.Lock()
		p := d.pods[uid]
		if p == nil {
			p = &pod{turn: make(chan struct{}, 1)}
			d.pods[uid] = p
		}
		d.mu.Unlock()
		select {
		case p.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		d.mu.Lock()
		current := d.pods[uid] == p
		d.mu.Unlock()
		if current {
			return p, nil
		}
		<-p.turn // forgotten while we waited
	}
}

func (d *Driver) unlock(uid string, p *pod) {
	d.mu.Lock()
	if len(p.record.Targets) == 0 {
		delete(d.pods, uid)
	}
	d.mu.Unlock()
	<-p.turn
}

// publish gives the pod its folder with a listening socket in it. Where the token
// and the mount are as they were, it does nothing.
func (d *Driver) publish(ctx context.Context, v volume) error {
	p, err := d.lock(ctx, v.pod.UID)
	if err != nil {
		return err
	}
	defer d.unlock(v.pod.UID, p)

	source := PodDir(d.RunDir, v.pod.UID)
	mounted, err := d.mounter.Mounted(source, v.target)
	if err != nil {
		return fmt.Errorf("looking at the volume: %w", err)
	}
	known := slices.Contains(p.record.Targets, v.target)
	// Two volumes of one pod may come with tokens in either order: the later end wins.
	newer := v.token.expires.After(p.record.Expires)
	if mounted && known && !newer && p.record.Workload.Pod == v.pod {
		return nil
	}
	if !newer {
		v.token = boundToken{p.record.Workload.Token, p.record.Expires}
	}
	if err := d.add(ctx, v, source, mounted); err != nil {
		if len(p.record.Targets) == 0 && !mounted {
			// Nothing was published: leave nothing behind. The kubelet tries again. But the
			// folder of a volume that is mounted, known to us or not, is a living pod's.
			err = errors.Join(err, d.drop(context.WithoutCancel(ctx), v.pod.UID))
		}
		return err
	}
	p.record.Workload = nodeagent.Workload{Pod: v.pod, Token: v.token.token}
	p.record.Expires = v.token.expires
	if !known {
		p.record.Targets = append(slices.Clone(p.record.Targets), v.target)
		slices.Sort(p.record.Targets)
	}
	d.remember(p.record)
	return nil
}

// add makes the folder, tells the agent, and mounts.
func (d *Driver) add(ctx context.Context, v volume, source string, mounted bool) error {
	// Workloads of any user look for the socket: 0755 here, 0700 above.
	if err := os.Mkdir(source, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the pod's folder: %w", err)
	}
	if err := os.Chmod(source, 0o755); err != nil { // whatever the umask
		return fmt.Errorf("making the pod's folder: %w", err)
	}
	if err := d.Workloads.Add(ctx, nodeagent.Workload{Pod: v.pod, Token: v.token.token}); err != nil {
		return fmt.Errorf("adding the workload: %w", err)
	}
	if mounted {
		return nil
	}
	// Something else may be there: a mount of a folder that was removed.
	if err := d.mounter.Unmount(v.target); err != nil {
		return fmt.Errorf("clearing the volume: %w", err)
	}
	if err := d.mounter.Mount(source, v.target); err != nil {
		return fmt.Errorf("mounting the volume: %w", err)
	}
	return nil
}

// unpublish takes the volume away, and with the pod's last one the pod. A volume
// that is not there is no error.
func (d *Driver) unpublish(ctx context.Context, uid, target string) error {
	p, err := d.lock(ctx, uid)
	if err != nil {
		return err
	}
	defer d.unlock(uid, p)

	if err := d.mounter.Unmount(target); err != nil {
		return fmt.Errorf("unmounting the volume: %w", err)
	}
	rest := slices.DeleteFunc(slices.Clone(p.record.Targets), func(t string) bool { return t == target })
	if len(rest) > 0 {
		p.record.Targets = rest
		d.remember(p.record)
		return nil
	}
	if err := d.drop(ctx, uid); err != nil {
		return err
	}
	p.record = store.Record{}
	return nil
}

// drop forgets a pod: the agent first, whose socket is in the folder. Each step
// may have been done before.
func (d *Driver) drop(ctx context.Context, uid string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := d.Workloads.Remove(ctx, uid); err != nil {
		return fmt.Errorf("removing the workload: %w", err)
	}
	root, err := os.OpenRoot(filepath.Join(d.RunDir, "pods"))
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.RemoveAll(uid); err != nil {
		return fmt.Errorf("removing the pod's folder: %w", err)
	}
	if d.State != nil {
		if err := d.State.Delete(uid); err != nil {
			return err
		}
	}
	return nil
}

// remember writes the record down. A pod must not wait for a full tmpfs: without
// a record, a restart of ours waits for the kubelet's next call.
func (d *Driver) remember(r store.Record) {
	if d.State == nil {
		return
	}
	if err := d.State.Put(r); err != nil {
		d.Log.Error("the workload is served, but a restart of the agent will not know it", "pod_uid", r.Workload.Pod.UID, "err", err)
	}
}
