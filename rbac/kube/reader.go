package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/access"
)

// A reader holds the last good version of each object, by kind and name.
type reader map[string]entry

type entry struct {
	uid, version string         // of the object that was read last
	objects      access.Objects // one, or what stands in for it
	good         bool           // objects is a version of the object
	err          error
}

// read turns objects into the model, in order. Objects that have not changed are
// not read again.
func (r reader) read(objects []any) (access.Objects, error) {
	seen := map[string]bool{}
	var all access.Objects
	var bad []error
	for _, object := range objects {
		u, ok := object.(*unstructured.Unstructured)
		if !ok {
			bad = append(bad, fmt.Errorf("an object of type %T", object))
			continue
		}
		key := u.GetKind() + " " + u.GetNamespace() + "/" + u.GetName()
		seen[key] = true
		e := r[key]
		if uid, version := string(u.GetUID()), u.GetResourceVersion(); e.uid != uid || e.version != version {
			e = e.next(u)
			r[key] = e
		}
		all.Add(e.objects)
		if e.err != nil {
			bad = append(bad, e.err)
		}
	}
	for key := range r {
		if !seen[key] {
			delete(r, key)
		}
	}
	all.Sort()
	slices.SortFunc(bad, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return all, errors.Join(bad...)
}

// next is the entry after a change of its object.
func (e entry) next(u *unstructured.Unstructured) entry {
	n := entry{uid: string(u.GetUID()), version: u.GetResourceVersion()}
	objects, err := read(u)
	bad := &BadObject{Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName(), Err: err}
	switch {
	case err == nil:
		n.objects, n.good = objects, true
	case e.good:
		// Also where the object was deleted and made anew in between.
		n.objects, n.good = e.objects, true
		bad.Replaced = "last-good"
		n.err = bad
	default:
		n.objects, bad.Replaced = standIn(u)
		n.err = bad
	}
	return n
}

func read(u *unstructured.Unstructured) (access.Objects, error) {
	data, err := u.MarshalJSON()
	if err != nil {
		return access.Objects{}, fmt.Errorf("reading the object: %w", err)
	}
	objects, err := access.Read(u.GetNamespace()+"/"+u.GetName(), data)
	if err != nil {
		return access.Objects{}, err
	}
	if n := len(objects.Keys()); n != 1 {
		return access.Objects{}, fmt.Errorf("%d objects in one", n)
	}
	return objects, nil
}

// standIn is what is in force for a bad object of which no good version is
// known, and the word for it.
func standIn(u *unstructured.Unstructured) (access.Objects, string) {
	var o access.Objects
	policy := func(prefix string, action rbac.Action, rules ...rbac.Rule) {
		o.Policies = []rbac.Policy{{Namespace: u.GetNamespace(), Name: prefix + short(u.GetName()), Action: action, Selector: selector(u), Rules: rules}}
	}
	switch kind := u.GetKind(); {
	case kind == access.RoleKind:
		return o, "none"
	case kind == access.GrantKind:
		policy(access.GrantPrefix, rbac.Allow)
		return o, "allow-none"
	case kind == peerKind:
		// Without a time it is older than all others of its scope.
		o.Peers = []rbac.PeerAuthentication{{Namespace: u.GetNamespace(), Name: u.GetName(), Selector: selector(u), Mode: rbac.Strict}}
		return o, "strict"
	case kind == requestKind && !tellsClaims(u.Object["spec"]):
		return o, "none"
	case kind == requestKind:
		policy(access.RequestPrefix, rbac.Deny, rbac.Rule{})
	case kind == access.RuleKind:
		policy(access.RulePrefix, rbac.Deny, rbac.Rule{})
	case access.IsReserved(u.GetName()):
		policy(access.PolicyPrefix, rbac.Deny, rbac.Rule{})
	default:
		o.Policies = []rbac.Policy{{Namespace: u.GetNamespace(), Name: u.GetName(), Action: rbac.Deny, Selector: selector(u), Rules: []rbac.Rule{{}}}}
	}
	return o, "deny-all"
}

// short is a name with room for a prefix: an agent refuses a set of which one
// name is too long, or is there twice, and would go on with what it had. No good
// object of our kinds has a name as long as what comes of a longer one.
func short(name string) string {
	const most = 200
	if len(name) <= most {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:most-20] + "x" + hex.EncodeToString(sum[:16])
}

// selector is that of a bad object, where that much of it can be read. Otherwise
// the object may have selected its whole namespace.
func selector(u *unstructured.Unstructured) map[string]string {
	selector, _, err := unstructured.NestedMap(u.Object, "spec", "selector")
	if err != nil || len(selector) != 1 {
		return nil
	}
	if labels, ok, err := unstructured.NestedStringMap(selector, "matchLabels"); ok && err == nil {
		return labels
	}
	return nil
}

// tellsClaims tells whether a RequestAuthentication may have meant headers for
// the application: a key of it begins as outputClaimToHeaders and
// outputPayloadToHeader do, whatever else is wrong with it.
func tellsClaims(value any) bool {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			if strings.HasPrefix(strings.ToLower(key), "out") || tellsClaims(inner) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(value, tellsClaims)
	}
	return false
}
