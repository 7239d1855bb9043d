// Package kube reads policies from a Kubernetes API server.
//
// It follows the AuthorizationPolicies of security.istio.io/v1, reads each as
// strictly as a file, and hands on whole sets. Start at [Watch].
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// Policies is the resource that is read. It wants the rights get, list and
// watch, in all namespaces.
var Policies = schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"}

// settle is how long changes are gathered before a set is handed on, so that
// what is applied together takes effect together.
const settle = 50 * time.Millisecond

// Config is what Watch reads from.
type Config struct {
	Client dynamic.Interface
	// Log is told when the API server cannot be read. Nil discards.
	Log *slog.Logger
}

// A BadObject is an object that was refused.
type BadObject struct {
	Namespace, Name string
	// Replaced says what is in force instead: "last-good", or "deny-all" for an
	// object of which no good version has been seen.
	Replaced string
	Err      error // of package parse
}

func (b *BadObject) Error() string {
	return fmt.Sprintf("policy %s/%s (in force: %s): %v", b.Namespace, b.Name, b.Replaced, b.Err)
}

// Unwrap gives the error beneath.
func (b *BadObject) Unwrap() error { return b.Err }

// Watch calls emit with all policies once they have been listed, and again on
// each change, until ctx ends; it returns nil then. While the API server cannot
// be read nothing is emitted: what is in force stays.
//
// The error of an emit joins a [*BadObject] for each object that was refused.
// Its last good version stays among the policies. Where there is none, as for a
// new object or after a restart, a policy of its name denies everything that it
// may have selected: to leave it out could let in whom it was to keep out.
func Watch(ctx context.Context, c Config, emit func([]rbac.Policy, error)) error {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	informer := dynamicinformer.NewFilteredDynamicInformer(c.Client, Policies, "", 0, cache.Indexers{}, nil).Informer()
	wake := make(chan struct{}, 1)
	changed := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	if err := informer.SetTransform(slim); err != nil {
		return fmt.Errorf("watching policies: %w", err)
	}
	err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		log.WarnContext(ctx, "policies cannot be read; what is in force stays", "err", err)
	})
	if err != nil {
		return fmt.Errorf("watching policies: %w", err)
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() }, UpdateFunc: func(any, any) { changed() }, DeleteFunc: func(any) { changed() },
	}); err != nil {
		return fmt.Errorf("watching policies: %w", err)
	}
	done := make(chan struct{})
	go func() { defer close(done); informer.RunWithContext(ctx) }()
	defer func() { <-done }()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	r := reader{}
	for {
		emit(r.read(informer.GetStore().List()))
		select {
		case <-wake:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return nil
		}
	}
}

// slim drops what says nothing about the policy and may be long: a policy's
// limit is for what its author wrote.
func slim(object any) (any, error) {
	if u, ok := object.(*unstructured.Unstructured); ok {
		u.SetManagedFields(nil)
		if annotations := u.GetAnnotations(); annotations != nil {
			delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
			u.SetAnnotations(annotations)
		}
		unstructured.RemoveNestedField(u.Object, "status")
	}
	return object, nil
}

// A reader holds the last good version of each object.
type reader map[string]entry

type entry struct {
	uid, version string // of the object that was read last
	policy       rbac.Policy
	good         bool // policy is a version of the object
	err          error
}

// read turns objects into policies, in order. Objects that have not changed are
// not read again.
func (r reader) read(objects []any) ([]rbac.Policy, error) {
	seen := map[string]bool{}
	var policies []rbac.Policy
	var bad []error
	for _, object := range objects {
		u, ok := object.(*unstructured.Unstructured)
		if !ok {
			bad = append(bad, fmt.Errorf("an object of type %T", object))
			continue
		}
		key := u.GetNamespace() + "/" + u.GetName()
		seen[key] = true
		e := r[key]
		if uid, version := string(u.GetUID()), u.GetResourceVersion(); e.uid != uid || e.version != version {
			e = e.next(u)
			r[key] = e
		}
		policies = append(policies, e.policy)
		if e.err != nil {
			bad = append(bad, e.err)
		}
	}
	for key := range r {
		if !seen[key] {
			delete(r, key)
		}
	}
	slices.SortFunc(policies, rbac.Policy.Compare)
	slices.SortFunc(bad, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return policies, errors.Join(bad...)
}

// next is the entry after a change of its object.
func (e entry) next(u *unstructured.Unstructured) entry {
	n := entry{uid: string(u.GetUID()), version: u.GetResourceVersion()}
	policy, err := read(u)
	switch {
	case err == nil:
		n.policy, n.good = policy, true
	case e.good:
		// Also where the object was deleted and made anew in between.
		n.policy, n.good = e.policy, true
		n.err = &BadObject{Namespace: u.GetNamespace(), Name: u.GetName(), Replaced: "last-good", Err: err}
	default:
		n.policy = denyAll(u)
		n.err = &BadObject{Namespace: u.GetNamespace(), Name: u.GetName(), Replaced: "deny-all", Err: err}
	}
	return n
}

func read(u *unstructured.Unstructured) (rbac.Policy, error) {
	data, err := u.MarshalJSON()
	if err != nil {
		return rbac.Policy{}, fmt.Errorf("reading the object: %w", err)
	}
	policies, err := parse.Policies(u.GetNamespace()+"/"+u.GetName(), data)
	if err != nil {
		return rbac.Policy{}, err
	}
	if len(policies) != 1 {
		return rbac.Policy{}, fmt.Errorf("%d policies in one object", len(policies))
	}
	return policies[0], nil
}

// denyAll denies everything that a bad object may have selected: by its
// selector, where that much of it can be read, otherwise its whole namespace.
func denyAll(u *unstructured.Unstructured) rbac.Policy {
	p := rbac.Policy{Namespace: u.GetNamespace(), Name: u.GetName(), Action: rbac.Deny, Rules: []rbac.Rule{{}}}
	selector, _, err := unstructured.NestedMap(u.Object, "spec", "selector")
	if err != nil || len(selector) != 1 {
		return p
	}
	if labels, ok, err := unstructured.NestedStringMap(selector, "matchLabels"); ok && err == nil {
		p.Selector = labels
	}
	return p
}
