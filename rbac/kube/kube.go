// Package kube reads policies, and all other objects that say what policy is,
// from a Kubernetes API server.
//
// It reads each object as strictly as a file, and hands on whole sets. What stands
// in for an object that it cannot read is said at [Watch]. Start there.
package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/istio-auth/istio-auth/rbac/access"
)

// Resources are what is read, by kind. They want the rights get, list and watch,
// in all namespaces.
var Resources = map[string]schema.GroupVersionResource{
	policyKind:       {Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"},
	requestKind:      {Group: "security.istio.io", Version: "v1", Resource: "requestauthentications"},
	peerKind:         {Group: "security.istio.io", Version: "v1", Resource: "peerauthentications"},
	access.RoleKind:  {Group: "istio-auth.io", Version: "v1alpha1", Resource: "accessroles"},
	access.GrantKind: {Group: "istio-auth.io", Version: "v1alpha1", Resource: "accessgrants"},
	access.RuleKind:  {Group: "istio-auth.io", Version: "v1alpha1", Resource: "accessrules"},
}

const (
	policyKind  = "AuthorizationPolicy"
	requestKind = "RequestAuthentication"
	peerKind    = "PeerAuthentication"
)

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
	Kind, Namespace, Name string
	// Replaced says what is in force instead: "last-good", or where no good version
	// has been seen, what [Watch] says.
	Replaced string
	Err      error // of package parse
}

func (b *BadObject) Error() string {
	return fmt.Sprintf("%s %s/%s (in force: %s): %v", b.Kind, b.Namespace, b.Name, b.Replaced, b.Err)
}

// Unwrap gives the error beneath.
func (b *BadObject) Unwrap() error { return b.Err }

// Watch calls emit with all objects once every kind has been listed, and again on
// each change, until ctx ends; it returns nil then. While the API server cannot
// be read, or has no definition of one of the kinds, nothing is emitted: what is
// in force stays.
//
// The error of an emit joins a [*BadObject] for each object that was refused.
// Its last good version stays among the objects. Where there is none, as for a
// new object or after a restart, what stands in for it is closed, since to leave
// it out could let in whom it was to keep out:
//
//   - deny-all, for an AuthorizationPolicy and an AccessRule: everything is refused
//     that it may have selected.
//   - allow-none, for an AccessGrant: it is a grant that allows nothing.
//   - none, for an AccessRole: grants of it allow nothing.
//   - strict, for a PeerAuthentication: what it may have selected takes mutual TLS
//     only, whatever younger ones of the same scope say.
//   - none, for a RequestAuthentication: tokens of its issuers are not verified,
//     and make nobody an end user. Rules that want one allow nobody, and rules that
//     deny whoever is none deny all. A rule that denies some end users alone does
//     not see them, as it does not where they send no token. But where it may have
//     told claims to the application in headers, it is deny-all: it also drops what
//     clients send under these names.
func Watch(ctx context.Context, c Config, emit func(access.Objects, error)) error {
	w := &watch{log: c.Log, wake: make(chan struct{}, 1)}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	var running sync.WaitGroup
	defer running.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var informers []cache.SharedIndexInformer
	for kind, resource := range Resources {
		informer, err := w.informer(c.Client, kind, resource)
		if err != nil {
			return fmt.Errorf("watching %s: %w", kind, err)
		}
		informers = append(informers, informer)
		running.Go(func() { informer.RunWithContext(ctx) })
	}
	for _, informer := range informers {
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			return nil
		}
	}
	r := reader{}
	for {
		var objects []any
		for _, informer := range informers {
			objects = append(objects, informer.GetStore().List()...)
		}
		emit(r.read(objects))
		select {
		case <-w.wake:
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

// A watch is one call of Watch.
type watch struct {
	log  *slog.Logger
	wake chan struct{} // has something in it after a change
}

// informer follows one kind.
func (w *watch) informer(client dynamic.Interface, kind string, resource schema.GroupVersionResource) (cache.SharedIndexInformer, error) {
	informer := dynamicinformer.NewFilteredDynamicInformer(client, resource, "", 0, cache.Indexers{}, nil).Informer()
	changed := func() {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	if err := informer.SetTransform(slim); err != nil {
		return nil, err
	}
	err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		w.log.WarnContext(ctx, "policies cannot be read; what is in force stays", "kind", kind, "err", err)
	})
	if err != nil {
		return nil, err
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() }, UpdateFunc: func(any, any) { changed() }, DeleteFunc: func(any) { changed() },
	})
	return informer, err
}

// slim drops what says nothing about policy and may be long: an object's limit is
// for what its author wrote.
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
