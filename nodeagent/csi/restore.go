package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/nodeagent/store"
)

// restore brings back the sockets of pods whose volume is still mounted, without
// waiting for the kubelet, and takes away what pods that are gone left behind.
//
// The folder of a living pod is never removed, record or not: what is mounted in
// the pod is that very folder, and a new one of the same name would be another.
func (d *Driver) restore(ctx context.Context) error {
	var records []store.Record
	if d.State != nil {
		var err error
		if records, err = d.State.Load(); err != nil {
			d.Log.Error("some of the last agent's workloads are not known; the kubelet will tell of them", "err", err)
		}
	}
	restored := 0
	for _, r := range records {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if d.revive(ctx, r) {
			restored++
		}
	}
	if err := d.sweep(ctx); err != nil {
		return err
	}
	d.Log.Info("workloads restored", "restored", restored, "known", len(records))
	return nil
}

// revive adds one pod of the last agent's, and reports whether it lives.
func (d *Driver) revive(ctx context.Context, r store.Record) bool {
	uid := r.Workload.Pod.UID
	log := d.Log.With("pod_uid", uid)
	source := PodDir(d.RunDir, uid)
	r.Targets = slices.DeleteFunc(slices.Clone(r.Targets), func(target string) bool {
		of, err := d.rules.target(target)
		if err != nil || of != uid {
			return true
		}
		mounted, err := d.mounter.Mounted(source, target)
		return err != nil || !mounted
	})
	if len(r.Targets) == 0 {
		// Gone, or never finished. The folder stays until sweep knows which.
		if d.State != nil {
			if err := d.State.Delete(uid); err != nil {
				log.Error("forgetting a pod", "err", err)
			}
		}
		return false
	}
	if !time.Now().Before(r.Expires) {
		// The CA would refuse it. A newer one comes with the kubelet's next call.
		r.Workload.Token, r.Expires = attest.Token{}, time.Time{}
	}
	if err := d.Workloads.Add(ctx, r.Workload); err != nil {
		log.Error("a workload did not come back; the kubelet will tell of it", "err", err)
		return false
	}
	d.mu.Lock()
	d.pods[uid] = &pod{turn: make(chan struct{}, 1), record: r}
	d.mu.Unlock()
	return true
}

// sweep removes the folders of pods that the kubelet has no folder for any more.
func (d *Driver) sweep(ctx context.Context) error {
	folders, err := os.ReadDir(filepath.Join(d.RunDir, "pods"))
	if err != nil {
		return fmt.Errorf("looking for what pods left: %w", err)
	}
	for _, f := range folders {
		uid := f.Name()
		if err := d.rules.uid(uid); err != nil {
			d.Log.Warn("not a pod's folder: left alone", "path", PodDir(d.RunDir, uid))
			continue
		}
		_, err := os.Lstat(filepath.Join(d.rules.kubeletDir, "pods", uid))
		if !errors.Is(err, fs.ErrNotExist) {
			continue // it lives, or cannot be seen
		}
		if err := d.drop(ctx, uid); err != nil {
			d.Log.Error("removing what a pod left", "pod_uid", uid, "err", err)
		}
	}
	return nil
}
