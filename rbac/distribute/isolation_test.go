package distribute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/distribute/policypb"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/sds/stream"
)

// aPod is a pod of a namespace, and what a manager says of it: one policy, and
// white space that makes it so large.
func aPod(t *testing.T, namespace, name string, size int) (attest.Pod, []byte) {
	t.Helper()
	p := attest.Pod{Namespace: namespace, Name: name, UID: "uid-" + name, ServiceAccount: "x"}
	source := parse.JSON(rbac.Policy{Namespace: namespace, Name: name, Action: rbac.Allow})
	m := &policypb.WorkloadPolicies{PodUid: p.UID, Namespace: namespace, ServiceAccount: "x", TrustDomain: "td.test"}
	m.Policies = append(m.Policies, &policypb.Policy{Namespace: namespace, Name: name, Source: source})
	for i := 0; proto.Size(m) < size; i++ {
		source := parse.JSON(rbac.Policy{Namespace: namespace, Name: fmt.Sprint("more-", i), Action: rbac.Allow})
		source = append(source, bytes.Repeat([]byte{' '}, min(size, 50<<10))...)
		m.Policies = append(m.Policies, &policypb.Policy{Namespace: namespace, Name: fmt.Sprint("more-", i), Source: source})
	}
	body, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return p, body
}

// TestAHeavySetDelaysNobodyElse (issue 4, FM-34): while the worst set of one
// namespace is compiled, for however long, all others get their policies,
// also by the same response; a second heavy one waits, and is not starved.
func TestAHeavySetDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFilters(spiffeid.RequireTrustDomainFromString("td.test"), nil)
		release := make(chan struct{})
		f.build = func(_ *builder, set rbac.Set) ([]*stream.Resource, error) {
			if slices.ContainsFunc(set.Allow(), func(p rbac.Policy) bool { return p.Namespace == "tenant" }) {
				<-release
			}
			return []*stream.Resource{{Name: FilterName, Version: fmt.Sprint(set.Len())}}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		r := &run{Client: Client{Answers: f, Log: slog.New(slog.DiscardHandler)}}
		a := newApplier(ctx, ctx, r)
		response := &discoveryv3.DeltaDiscoveryResponse{Nonce: "1"}
		add := func(namespace, name string, size int) {
			p, body := aPod(t, namespace, name, size)
			f.Add(p)
			response.Resources = append(response.Resources, resourceOf(p.UID, "v1", body))
		}
		add("tenant", "heavy", 300<<10)
		add("tenant", "heavier", 900<<10)
		for i := range 50 {
			add("shop", fmt.Sprint("light-", i), 0)
		}
		go func() {
			for range a.replies {
			}
		}()
		a.take(response)
		synctest.Wait()
		if n := len(f.Save()); n != 50 {
			t.Errorf("%d pods have policies while a heavy set is compiled, want 50", n)
		}
		close(release)
		a.wait()
		if n := len(f.Save()); n != 52 {
			t.Errorf("%d pods have policies in the end, want 52", n)
		}
		cancel()
		close(a.replies)
	})
}

// TestChangesOfALargeSetGoOutTogether: of ten changes within a tenth of a second,
// two are compiled at the most; all are answered.
func TestChangesOfALargeSetGoOutTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFilters(spiffeid.RequireTrustDomainFromString("td.test"), nil)
		built := 0
		f.build = func(_ *builder, set rbac.Set) ([]*stream.Resource, error) {
			built++
			return []*stream.Resource{{Name: FilterName, Version: fmt.Sprint(built)}}, nil
		}
		p, body := aPod(t, "shop", "web", 600<<10)
		f.Add(p)
		a := newApplier(t.Context(), t.Context(), &run{Client: Client{Answers: f, Log: slog.New(slog.DiscardHandler)}})
		answered := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range a.replies {
				answered++
			}
		}()
		for i := range 10 {
			a.take(&discoveryv3.DeltaDiscoveryResponse{Nonce: fmt.Sprint(i), Resources: []*discoveryv3.Resource{resourceOf(p.UID, fmt.Sprint("v", i), body)}})
		}
		a.wait()
		close(a.replies)
		<-done
		if built > 2 || answered != 10 || f.Version(p.UID) != "v9" {
			t.Errorf("built %d times, answered %d of 10, at version %s", built, answered, f.Version(p.UID))
		}
	})
}

// TestOneNamespaceHasItsShare: what its workloads on a node have in all is
// bounded, equal sets counted once, and others have theirs.
func TestOneNamespaceHasItsShare(t *testing.T) {
	f := NewFilters(spiffeid.RequireTrustDomainFromString("td.test"), nil)
	f.build = func(_ *builder, set rbac.Set) ([]*stream.Resource, error) {
		return []*stream.Resource{{Name: FilterName, Version: fmt.Sprint(set.Len())}}, nil
	}
	apply := func(namespace, name string, size int) error {
		p, body := aPod(t, namespace, name, size)
		f.Add(p)
		return f.Apply(p.UID, "v1", body)
	}
	var refused error
	n := 0
	for refused == nil && n < 20 {
		n++
		refused = apply("tenant", fmt.Sprint("w", n), 7<<20)
	}
	var r *Refusal
	if n != MaxNamespace/(7<<20)+1 || !errors.As(refused, &r) || r.Reason != "namespace-too-large" {
		t.Errorf("set %d: %v", n, refused)
	}
	if err := apply("shop", "web", 7<<20); err != nil {
		t.Errorf("another namespace: %v", err)
	}
	// What replaces another takes its place.
	if _, body := aPod(t, "tenant", "w1", 6<<20); f.Apply("uid-w1", "v2", body) != nil {
		t.Error("a change is refused where it makes less")
	}
	if err := apply("tenant", "late", 7<<20); err == nil {
		t.Fatal("too much is taken")
	}
	_, changed := f.Pods()
	f.mu.Lock()
	f.release(f.pods["uid-w2"].current.filter, "tenant")
	f.pods["uid-w2"].current = answer{}
	f.mu.Unlock()
	select {
	case <-changed:
	default:
		t.Error("who was refused is not asked for again when there is room")
	}
	f.Remove("uid-w1")
	if err := apply("tenant", "again", 7<<20); err != nil {
		t.Errorf("after one has gone: %v", err)
	}
}

func resourceOf(name, version string, body []byte) *discoveryv3.Resource {
	return &discoveryv3.Resource{Name: name, Version: version, Resource: anyOf(body)}
}

func anyOf(body []byte) *anypb.Any { return &anypb.Any{TypeUrl: PoliciesType, Value: body} }
