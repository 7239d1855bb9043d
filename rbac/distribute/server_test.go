package distribute_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/rbac/distribute/policypb"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

var domain = spiffeid.RequireTrustDomainFromString("td.test")

func agentID(node string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://td.test/istio-auth/node/" + node + "/uid-of-" + node)
}

// pod is shop/<name> of service account <name>.
func pod(name string) attest.Pod {
	return attest.Pod{Namespace: "shop", Name: name, UID: "uid-" + name, ServiceAccount: name}
}

func policies(t testing.TB, yaml string) []rbac.Policy {
	t.Helper()
	p, err := parse.Policies("test.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func policy(namespace, name, spec string) string {
	return fmt.Sprintf("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: %s, name: %s}\nspec: %s\n", namespace, name, spec)
}

var mixed = policy("shop", "all", `{rules: [{to: [{operation: {paths: ["/a"]}}]}]}`) +
	policy("shop", "cart", `{selector: {matchLabels: {app: cart}}, action: DENY, rules: [{to: [{operation: {paths: ["/b"]}}]}]}`) +
	policy("root", "mesh", `{action: DENY, rules: [{to: [{operation: {paths: ["/c"]}}]}]}`) +
	policy("other", "other", `{rules: [{}]}`)

// told is what a node's agent is told: for each pod, the policies' names.
func told(t *testing.T, s *distribute.NodeSource) map[string][]string {
	t.Helper()
	snapshot, _ := s.Current()
	if snapshot.Complete {
		t.Error("a snapshot that says what does not exist")
	}
	got := map[string][]string{}
	for uid, r := range snapshot.Resources {
		m := &policypb.WorkloadPolicies{}
		if err := proto.Unmarshal(r.Body.Value, m); err != nil {
			t.Fatal(err)
		}
		if r.Name != uid || m.PodUid != uid || r.Body.TypeUrl != distribute.PoliciesType {
			t.Errorf("resource %q of type %s for pod %q under %q", r.Name, r.Body.TypeUrl, m.PodUid, uid)
		}
		got[uid] = []string{}
		for _, p := range m.Policies {
			got[uid] = append(got[uid], p.Namespace+"/"+p.Name)
		}
	}
	return got
}

func source(t *testing.T, s *distribute.Server, node string) *distribute.NodeSource {
	t.Helper()
	src, err := s.Source(agentID(node))
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func TestServer(t *testing.T) {
	s := distribute.NewServer(distribute.Mesh{TrustDomain: domain, RootNamespace: "root"})
	a, b := source(t, s, "a"), source(t, s, "b")
	want := func(what string, src *distribute.NodeSource, want map[string][]string) {
		t.Helper()
		if diff := cmp.Diff(want, told(t, src)); diff != "" {
			t.Errorf("%s: -want +got\n%s", what, diff)
		}
	}
	silence := map[string][]string{}
	workloads := []distribute.Workload{
		{Pod: pod("cart"), Labels: map[string]string{"app": "cart"}},
		{Pod: pod("web"), Labels: map[string]string{"app": "web"}},
	}
	if err := s.SetNode("a", workloads); err != nil {
		t.Fatal(err)
	}
	want("policies not known", a, silence)
	if err := s.Set(nil, nil); err != nil {
		t.Fatal(err)
	}
	want("no policies", a, map[string][]string{"uid-cart": {}, "uid-web": {}})
	want("another node", b, silence)

	_, changed := a.Current()
	before, _ := a.Current()
	if err := s.Set(policies(t, mixed), nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody is woken")
	}
	want("policies", a, map[string][]string{
		"uid-cart": {"root/mesh", "shop/all", "shop/cart"},
		"uid-web":  {"root/mesh", "shop/all"},
	})
	after, changed := a.Current()
	if before.Resources["uid-web"].Version == after.Resources["uid-web"].Version {
		t.Error("other policies of the same version")
	}

	// What says the same wakes nobody, whatever the order it comes in.
	again := policies(t, mixed)
	again[0], again[2] = again[2], again[0]
	if err := errors.Join(s.Set(again, nil), s.SetNode("a", []distribute.Workload{workloads[1], workloads[0]})); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
		t.Error("woken by nothing")
	default:
	}

	// A label changes; a pod goes.
	relabelled := []distribute.Workload{{Pod: pod("web"), Labels: map[string]string{"app": "cart"}}}
	if err := s.SetNode("a", relabelled); err != nil {
		t.Fatal(err)
	}
	want("relabelled", a, map[string][]string{"uid-web": {"root/mesh", "shop/all", "shop/cart"}})
	s.RemoveNode("a")
	want("the node is gone", a, silence)
	want("another node, still", b, silence)
}

// TestSource: whose the workloads are, is in the certificate.
func TestSource(t *testing.T) {
	s := distribute.NewServer(distribute.Mesh{TrustDomain: domain, RootNamespace: "root"})
	for text, ok := range map[string]bool{
		"spiffe://td.test/istio-auth/node/a/uid":    true,
		"spiffe://other.test/istio-auth/node/a/uid": false,
		"spiffe://td.test/ns/shop/sa/web":           false,
		"spiffe://td.test/istio-auth/manager":       false,
		"spiffe://td.test/istio-auth/node/a":        false,
		"spiffe://td.test/istio-auth/node/a/b/c":    false,
		"spiffe://td.test":                          false,
	} {
		_, err := s.Source(spiffeid.RequireFromString(text))
		if (err == nil) != ok || err != nil && !errors.Is(err, distribute.ErrNotAgent) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := s.Source(spiffeid.ID{}); !errors.Is(err, distribute.ErrNotAgent) {
		t.Errorf("no identity: %v", err)
	}
}

// TestBadWorkload: one that cannot be told leaves the others as they should be.
func TestBadWorkload(t *testing.T) {
	s := distribute.NewServer(distribute.Mesh{TrustDomain: domain, RootNamespace: "root"})
	a := source(t, s, "a")
	if err := s.Set(nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.SetNode("a", []distribute.Workload{{Pod: attest.Pod{Name: "odd"}}, {Pod: pod("web")}}); err == nil {
		t.Error("a pod without UID is no error")
	}
	if diff := cmp.Diff(map[string][]string{"uid-web": {}}, told(t, a)); diff != "" {
		t.Error(diff)
	}
}

// TestTooMuchForOneWorkload: what one namespace's authors write, however much,
// delays nobody else; their own workloads stay as they were, and are told what is
// the mesh's all the same.
func TestTooMuchForOneWorkload(t *testing.T) {
	s := distribute.NewServer(distribute.Mesh{TrustDomain: domain, RootNamespace: "root"})
	a := source(t, s, "a")
	other := attest.Pod{Namespace: "other", Name: "o", UID: "uid-o", ServiceAccount: "o"}
	text := policy("shop", "p", "{}")
	if err := errors.Join(s.Set(policies(t, text), nil), s.SetNode("a", []distribute.Workload{{Pod: pod("web")}, {Pod: other}})); err != nil {
		t.Fatal(err)
	}
	long := `{rules: [{to: [{operation: {paths: [` + strings.Repeat("/a,", parse.MaxObject/6) + `/b]}}]}]}`
	all := policies(t, text)
	flood := policies(t, policy("shop", "flood", long))[0]
	for i := range 3 * distribute.MaxSize / parse.MaxObject {
		flood.Name = fmt.Sprint("flood-", i)
		all = append(all, flood)
	}
	flood.Rules = nil
	few := policies(t, policy("shop", "many", "{}"))
	for i := range distribute.MaxPolicies {
		flood.Name = fmt.Sprint("flood-", i)
		few = append(few, flood)
	}
	for _, all := range [][]rbac.Policy{all, few} {
		if err := s.Set(append(all, policies(t, policy("other", "q", "{}"))...), nil); err == nil {
			t.Error("no error")
		}
		if diff := cmp.Diff(map[string][]string{"uid-web": {"shop/p"}, "uid-o": {"other/q"}}, told(t, a)); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		if err := s.Set(append(all, policies(t, policy("root", "mesh", "{}"))...), nil); err == nil {
			t.Error("no error")
		}
		if diff := cmp.Diff(map[string][]string{"uid-web": {"root/mesh", "shop/p"}, "uid-o": {"root/mesh"}}, told(t, a)); diff != "" {
			t.Errorf("with the mesh's: -want +got\n%s", diff)
		}
	}
}
