package distribute_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/rbac/distribute/policypb"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// message is what a manager says of a pod.
func message(t testing.TB, p attest.Pod, yaml string) *policypb.WorkloadPolicies {
	t.Helper()
	m := &policypb.WorkloadPolicies{PodUid: p.UID, Namespace: p.Namespace, ServiceAccount: p.ServiceAccount, RootNamespace: "root", TrustDomain: domain.Name()}
	if yaml != "" {
		for _, q := range policies(t, yaml) {
			m.Policies = append(m.Policies, &policypb.Policy{Namespace: q.Namespace, Name: q.Name, Source: parse.JSON(q)})
		}
	}
	return m
}

func wire(t testing.TB, m proto.Message) []byte {
	t.Helper()
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

const allowA = `{rules: [{to: [{operation: {paths: ["/a"]}}]}]}`

// offered is the filter on a pod's socket, nil for silence.
func offered(t *testing.T, p *distribute.PodFilter) *corev3.TypedExtensionConfig {
	t.Helper()
	snapshot, _ := p.Current()
	r := snapshot.Resources[distribute.FilterName]
	if snapshot.Complete {
		t.Errorf("complete %v, %d resources", snapshot.Complete, len(snapshot.Resources))
	}
	if r == nil {
		return nil
	}
	c := &corev3.TypedExtensionConfig{}
	if err := r.Body.UnmarshalTo(c); err != nil {
		t.Fatal(err)
	}
	return c
}

// recorder keeps events as "kind pod version reason policies".
type recorder []string

func (r *recorder) observe(e distribute.Event) {
	*r = append(*r, fmt.Sprintf("%v %s %s %s %d", e.Kind, e.Pod.Name, e.Version, e.Reason, e.Policies))
}

func TestFilters(t *testing.T) {
	var events recorder
	f := distribute.NewFilters(domain, events.observe)
	web, cart := f.Add(pod("web")), f.Add(pod("cart"))
	if f.Add(pod("web")) != web {
		t.Error("another source for the same pod")
	}
	if offered(t, web) != nil {
		t.Fatal("something is said while nothing is known")
	}
	apply := func(p attest.Pod, version, yaml string) {
		t.Helper()
		if err := f.Apply(p.UID, version, wire(t, message(t, p, yaml))); err != nil {
			t.Fatal(err)
		}
	}
	// Known to be none is a filter, and not the default.
	apply(pod("web"), "v1", "")
	none, err := compile.HTTP(rbac.Select(nil, rbac.Target{Namespace: "shop", TrustDomain: domain}))
	if err != nil {
		t.Fatal(err)
	}
	if got := offered(t, web); got == nil || got.Name != "istio-auth.rbac" || !proto.Equal(got.TypedConfig, none) {
		t.Errorf("offered %v", got)
	}
	if offered(t, cart) != nil {
		t.Error("another pod is told too")
	}
	// One set is compiled once, whatever the pods.
	apply(pod("web"), "v2", policy("shop", "p", allowA))
	apply(pod("cart"), "v2", policy("shop", "p", allowA))
	a, changed := web.Current()
	b, _ := cart.Current()
	if a.Resources[distribute.FilterName] != b.Resources[distribute.FilterName] {
		t.Error("one set was compiled twice")
	}
	// The same set in a new version of the message changes nothing for Envoy.
	m := message(t, pod("web"), policy("shop", "p", allowA))
	m.RootNamespace = "elsewhere"
	if err := f.Apply("uid-web", "v3", wire(t, m)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
		t.Error("Envoy is sent what it has")
	default:
	}
	if w, c := f.Version("uid-web"), f.Version("uid-cart"); w != "v3" || c != "v2" {
		t.Errorf("versions %q and %q", w, c)
	}
	web.Acknowledged(distribute.FilterName, a.Resources[distribute.FilterName].Version)
	web.Rejected(distribute.FilterName, "old", "no")
	f.Remove("uid-web")
	f.Remove("uid-web")
	if pods, _ := f.Pods(); len(pods) != 1 || f.Version("uid-web") != "" {
		t.Errorf("pods %q", pods)
	}
	apply(pod("web"), "v9", "") // is of no interest any more
	want := recorder{"applied web v1  0", "applied web v2  1", "applied cart v2  1", "applied web v3  1", "enforced web v3  1", "rejected web  envoy-rejected 0"}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Error(diff)
	}
}

// TestCompiledIsForgotten: a filter that nobody has is not kept.
func TestCompiledIsForgotten(t *testing.T) {
	f := distribute.NewFilters(domain, nil)
	for i := range 100 {
		p := pod("web")
		f.Add(p)
		f.Add(pod("cart"))
		text := policy("shop", fmt.Sprint("p", i), allowA)
		for _, p := range []attest.Pod{p, pod("cart")} {
			if err := f.Apply(p.UID, fmt.Sprint("v", i), wire(t, message(t, p, text))); err != nil {
				t.Fatal(err)
			}
		}
		if n := f.Compiled(); n != 1 {
			t.Fatalf("%d filters after %d changes", n, i)
		}
	}
	f.Remove("uid-web")
	f.Remove("uid-cart")
	if n := f.Compiled(); n != 0 {
		t.Fatalf("%d filters for nobody", n)
	}
}

// TestApplyRefuses: whatever is refused leaves the last good one, and says why.
func TestApplyRefuses(t *testing.T) {
	good := policy("shop", "p", allowA)
	edit := func(f func(*policypb.WorkloadPolicies)) func(testing.TB) []byte {
		return func(t testing.TB) []byte {
			m := message(t, pod("web"), good)
			f(m)
			return wire(t, m)
		}
	}
	source := func(text string) func(testing.TB) []byte {
		return edit(func(m *policypb.WorkloadPolicies) { m.Policies[0].Source = []byte(text) })
	}
	request := rbac.RequestAuthentication{Namespace: "shop", Name: "r", Rules: []rbac.TokenRule{{Issuer: "https://issuer.test"}}}
	with := func(source []byte) func(testing.TB) []byte {
		return edit(func(m *policypb.WorkloadPolicies) {
			m.Requests = []*policypb.Policy{{Namespace: "shop", Name: "r", Source: source}}
		})
	}
	const head = `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"p","namespace":"shop"},"spec":`
	table := map[string]struct {
		body   func(testing.TB) []byte
		reason string
	}{
		"good":                 {edit(func(m *policypb.WorkloadPolicies) { m.Policies = nil }), ""},
		"root policy":          {edit(func(m *policypb.WorkloadPolicies) { *m = *message(t, pod("web"), policy("root", "p", allowA)) }), ""},
		"garbage":              {func(testing.TB) []byte { return []byte("\xff\xff") }, "malformed"},
		"nothing":              {func(testing.TB) []byte { return nil }, "wrong-pod"},
		"truncated":            {func(t testing.TB) []byte { b := edit(func(*policypb.WorkloadPolicies) {})(t); return b[:len(b)-1] }, "malformed"},
		"field of the future":  {func(t testing.TB) []byte { return append(wire(t, message(t, pod("web"), good)), 0x78, 1) }, "unknown-field"},
		"policy of the future": {edit(func(m *policypb.WorkloadPolicies) { m.Policies[0].ProtoReflect().SetUnknown([]byte{0x78, 1}) }), "unknown-field"},
		"another pod":          {edit(func(m *policypb.WorkloadPolicies) { m.PodUid = "uid-cart" }), "wrong-pod"},
		"no namespace":         {edit(func(m *policypb.WorkloadPolicies) { m.Namespace = "" }), "wrong-workload"},
		"another namespace":    {edit(func(m *policypb.WorkloadPolicies) { m.Namespace, m.RootNamespace = "other", "shop" }), "wrong-workload"},
		"another account":      {edit(func(m *policypb.WorkloadPolicies) { m.ServiceAccount = "admin" }), "wrong-workload"},
		"another trust domain": {edit(func(m *policypb.WorkloadPolicies) { m.TrustDomain = "other.test" }), "wrong-trust-domain"},
		"no trust domain":      {edit(func(m *policypb.WorkloadPolicies) { m.TrustDomain = "" }), "wrong-trust-domain"},
		"foreign policy":       {edit(func(m *policypb.WorkloadPolicies) { *m = *message(t, pod("web"), policy("other", "p", allowA)) }), "does-not-apply"},
		"twice":                {edit(func(m *policypb.WorkloadPolicies) { m.Policies = append(m.Policies, m.Policies[0]) }), "duplicate-policy"},
		"misnamed":             {edit(func(m *policypb.WorkloadPolicies) { m.Policies[0].Name = "q" }), "misnamed-policy"},
		"two in one":           {source(string(parse.JSON(policies(t, good)[0])) + string(parse.JSON(policies(t, good)[0]))), "bad-policy"},
		"selector":             {source(string(parse.JSON(policies(t, policy("shop", "p", `{selector: {matchLabels: {a: b}}, rules: [{}]}`))[0]))), "selector-left"},
		"no source":            {source(""), "bad-policy"},
		"no JSON":              {source("{"), "bad-policy"},
		"YAML":                 {source(good), "bad-policy"},
		"unknown key":          {source(head + `{"action":"ALLOW","rulez":[]}}`), "bad-policy"},
		"unknown action":       {source(head + `{"action":"ALLOWED"}}`), "bad-policy"},
		"unknown attribute":    {source(head + `{"action":"DENY","rules":[{"tests":[{"key":"source.mood","values":["x"]}]}]}}`), "bad-policy"},
		"another kind":         {source(string(parse.RequestJSON(request))), "bad-policy"},
		"good request":         {with(parse.RequestJSON(request)), ""},
		"request of the root": {edit(func(m *policypb.WorkloadPolicies) {
			r := request
			r.Namespace = "root"
			m.Requests = []*policypb.Policy{{Namespace: "root", Name: "r", Source: parse.RequestJSON(r)}}
		}), ""},
		"misnamed request": {edit(func(m *policypb.WorkloadPolicies) {
			m.Requests = []*policypb.Policy{{Namespace: "shop", Name: "x", Source: parse.RequestJSON(request)}}
		}), "misnamed-policy"},
		"foreign request": {edit(func(m *policypb.WorkloadPolicies) {
			r := request
			r.Namespace = "other"
			m.Requests = []*policypb.Policy{{Namespace: "other", Name: "r", Source: parse.RequestJSON(r)}}
		}), "does-not-apply"},
		"request twice": {edit(func(m *policypb.WorkloadPolicies) {
			r := &policypb.Policy{Namespace: "shop", Name: "r", Source: parse.RequestJSON(request)}
			m.Requests = []*policypb.Policy{r, r}
		}), "duplicate-policy"},
		"no request":      {with([]byte("{}")), "bad-policy"},
		"policy, request": {with(parse.JSON(policies(t, good)[0])), "bad-policy"},
		"bad alias":       {edit(func(m *policypb.WorkloadPolicies) { m.Aliases = []string{"Cluster.Local"} }), "bad-trust-domain"},
		"bad foreign":     {edit(func(m *policypb.WorkloadPolicies) { m.Foreign = []string{"a/b"} }), "bad-trust-domain"},
		"good alias":      {edit(func(m *policypb.WorkloadPolicies) { m.Aliases = []string{"cluster.local"} }), ""},
		"too large": {edit(func(m *policypb.WorkloadPolicies) {
			m.Policies[0].Source = append(m.Policies[0].Source, bytes.Repeat([]byte{' '}, distribute.MaxSize)...)
		}), "too-large"},
		"too many": {edit(func(m *policypb.WorkloadPolicies) {
			for len(m.Policies) <= distribute.MaxPolicies {
				m.Policies = append(m.Policies, &policypb.Policy{Name: "p"}) // small enough
			}
		}), "too-many-policies"},
	}
	if got, want := len(table), 37; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	for name, row := range table {
		t.Run(name, func(t *testing.T) {
			var events recorder
			f := distribute.NewFilters(domain, events.observe)
			web := f.Add(pod("web"))
			if err := f.Apply("uid-web", "good", wire(t, message(t, pod("web"), good))); err != nil {
				t.Fatal(err)
			}
			before := offered(t, web)
			err := f.Apply("uid-web", "next", row.body(t))
			reason := ""
			if r, ok := errors.AsType[*distribute.Refusal](err); ok {
				reason = r.Reason
			} else if err != nil {
				t.Fatalf("no Refusal: %v", err)
			}
			if reason != row.reason {
				t.Fatalf("got %q, want %q (%v)", reason, row.reason, err)
			}
			if row.reason == "" {
				return
			}
			if !proto.Equal(before, offered(t, web)) || f.Version("uid-web") != "good" {
				t.Error("the last good one is gone")
			}
			if want := "refused web next " + reason + " 0"; len(events) != 2 || events[1] != want {
				t.Errorf("events %q, want %q", events, want)
			}
		})
	}
}

// TestSaveRestore: a restart without a manager costs nobody their policies.
func TestSaveRestore(t *testing.T) {
	f := distribute.NewFilters(domain, nil)
	web := f.Add(pod("web"))
	if err := f.Apply("uid-web", "v1", wire(t, message(t, pod("web"), policy("shop", "p", allowA)))); err != nil {
		t.Fatal(err)
	}
	kept, err := json.Marshal(f.Save())
	if err != nil {
		t.Fatal(err)
	}
	var back []distribute.Answer
	if err := json.Unmarshal(kept, &back); err != nil {
		t.Fatal(err)
	}
	g := distribute.NewFilters(domain, nil)
	again := g.Add(pod("web"))
	g.Add(attest.Pod{UID: "x"})
	if err := g.Restore(append(back, distribute.Answer{Pod: "x", Version: "y", Body: []byte("\xff")})); err == nil {
		t.Error("an answer that nobody understands is no error")
	}
	a, _ := web.Current()
	b, _ := again.Current()
	if diff := cmp.Diff(a.Resources[distribute.FilterName].Version, b.Resources[distribute.FilterName].Version); diff != "" {
		t.Error(diff)
	}
	if got := g.Version("uid-web"); got != "v1" {
		t.Errorf("version %q", got)
	}
}

func FuzzApply(f *testing.F) {
	f.Add(wire(f, message(f, pod("web"), policy("shop", "p", allowA))))
	f.Add(wire(f, message(f, pod("web"), "")))
	f.Add([]byte{})
	f.Add([]byte("\x0a\x07uid-web\x12\x04shop"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var events recorder
		filters := distribute.NewFilters(domain, events.observe)
		web := filters.Add(pod("web"))
		err := filters.Apply("uid-web", "v", body)
		if _, ok := errors.AsType[*distribute.Refusal](err); err != nil && !ok {
			t.Fatalf("%v is no Refusal", err)
		}
		if (offered(t, web) != nil) != (err == nil) {
			t.Fatalf("offered %v after %v", offered(t, web), err)
		}
		if len(events) != 1 {
			t.Fatalf("events %q", events)
		}
	})
}
