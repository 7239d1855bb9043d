package ca

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/bundle"
)

// publishFile writes the bundle to a file, now and at each change.
func publishFile(ctx context.Context, authority *ca.Authority, path string) error {
	return eachBundle(ctx, authority, func(b bundle.Versioned) error {
		if err := writeAtomically(path, pemOf(b.Bundle)); err != nil {
			return fmt.Errorf("writing the trust bundle: %w", err)
		}
		return nil
	})
}

// publishConfigMap fills the one ConfigMap that agents and manager mount for
// first trust, and looks every so often whether it still says so: emptied by
// mistake, it would keep every new agent waiting. Errors are told and tried
// again: without it no agent starts.
func publishConfigMap(ctx context.Context, authority *ca.Authority, client kubernetes.Interface, where ConfigMap, log *slog.Logger) error {
	const first, again = 250 * time.Millisecond, 30 * time.Second
	for wait := first; ; {
		current, changed := authority.Bundle().Current()
		err := updateConfigMap(ctx, client, where, current)
		if ctx.Err() != nil {
			return nil
		}
		pause := again
		if err != nil {
			log.Warn("publishing the trust bundle", "configmap", where.Namespace+"/"+where.Name, "err", err)
			pause, wait = wait, min(2*wait, again)
		} else {
			wait = first
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(pause):
		}
	}
}

func updateConfigMap(ctx context.Context, client kubernetes.Interface, where ConfigMap, b bundle.Versioned) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	objects := client.CoreV1().ConfigMaps(where.Namespace)
	// The chart creates it: we may update it, and nothing else of its kind.
	object, err := objects.Get(ctx, where.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	data := map[string]string{"bundle.pem": string(pemOf(b.Bundle)), "sequence": strconv.FormatUint(b.Sequence, 10)}
	if maps.Equal(object.Data, data) {
		return nil
	}
	object.Data = data
	_, err = objects.Update(ctx, object, metav1.UpdateOptions{})
	return err
}

// eachBundle calls do with the bundle now in force, and with each that follows.
func eachBundle(ctx context.Context, authority *ca.Authority, do func(bundle.Versioned) error) error {
	for {
		current, changed := authority.Bundle().Current()
		if err := do(current); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func pemOf(b *x509bundle.Bundle) []byte {
	var text []byte
	for _, root := range b.X509Authorities() {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})...)
	}
	return text
}
