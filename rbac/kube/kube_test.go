package kube_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/kube"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/test/kubeapi"
	"github.com/istio-auth/istio-auth/test/testreq"
)

func TestMain(m *testing.M) { kubeapi.Main(m, kubeapi.Config{}) }

// A reading is one call of emit.
type reading struct {
	access.Objects
	err error
}

// texts are the policies as canonical JSON.
func (r reading) texts() string {
	var all []string
	for _, p := range r.Policies {
		all = append(all, string(parse.JSON(p)))
	}
	return strings.Join(all, "\n")
}

type cluster struct {
	*kubeapi.Server
	namespace string
	client    dynamic.Interface
	readings  chan reading
	last      reading
}

// start installs the definitions.
func start(t *testing.T, s *kubeapi.Server) *cluster {
	t.Helper()
	s.Kubectl(t, "apply", "--server-side", "-f", filepath.Join(testreq.Tree(t), "deploy", "chart", "crds"))
	s.Kubectl(t, "wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
	client, err := dynamic.NewForConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{Server: s, namespace: s.Namespace(t), client: client}
}

// watch starts a Watch; stop ends it and waits.
func (c *cluster) watch(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	c.readings = make(chan reading, 100)
	go func() {
		done <- kube.Watch(ctx, kube.Config{Client: c.client}, func(o access.Objects, err error) { c.readings <- reading{o, err} })
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// until waits for a reading that fits.
func (c *cluster) until(t *testing.T, what string, fits func(reading) bool) reading {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case c.last = <-c.readings:
			if fits(c.last) {
				return c.last
			}
		case <-deadline:
			t.Fatalf("no reading that %s; the last one: %v\n%s", what, c.last.err, c.last.texts())
		}
	}
}

// apply creates or replaces a policy.
func (c *cluster) apply(t *testing.T, name, spec string) {
	t.Helper()
	c.applyKind(t, "AuthorizationPolicy", name, spec)
}

func (c *cluster) applyKind(t *testing.T, kind, name, spec string) {
	t.Helper()
	resource := kube.Resources[kind]
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": resource.GroupVersion().String(), "kind": kind,
		"metadata": map[string]any{"namespace": c.namespace, "name": name},
	}}
	var body map[string]any
	if err := yaml.Unmarshal([]byte(spec), &body); err != nil {
		t.Fatal(err)
	}
	u.Object["spec"] = body
	_, err := c.client.Resource(resource).Namespace(c.namespace).Apply(t.Context(), name, u, metav1.ApplyOptions{FieldManager: "test", Force: true})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) remove(t *testing.T, name string) {
	t.Helper()
	c.removeKind(t, "AuthorizationPolicy", name)
}

func (c *cluster) removeKind(t *testing.T, kind, name string) {
	t.Helper()
	if err := c.client.Resource(kube.Resources[kind]).Namespace(c.namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

const (
	good = `{rules: [{to: [{operation: {paths: ["/a"]}}]}]}`
	// The API server takes this; we refuse it.
	unsupported = `{selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {paths: ["a"]}}]}]}`
)

// TestWatch follows real objects of a real API server, with no more rights than
// the manager has.
func TestWatch(t *testing.T) {
	s := kubeapi.Shared(t)
	c := start(t, s)
	stop := c.watch(t)
	c.until(t, "is empty", func(r reading) bool { return r.err == nil && len(r.Policies) == 0 })

	c.apply(t, "p", good)
	before := c.until(t, "has the policy", func(r reading) bool { return len(r.Policies) == 1 })
	if before.err != nil || before.Policies[0].Key() != c.namespace+"/p" || !strings.Contains(before.texts(), `"/a"`) {
		t.Fatalf("%v %s", before.err, before.texts())
	}

	// A bad version leaves the last good one, a bad newcomer denies what it selects.
	c.apply(t, "p", unsupported)
	c.apply(t, "q", unsupported)
	r := c.until(t, "refuses both", func(r reading) bool {
		return r.err != nil && len(r.Policies) == 2 && strings.Contains(r.err.Error(), "/p") && strings.Contains(r.err.Error(), "/q")
	})
	if got := string(parse.JSON(r.Policies[0])); got != before.texts() {
		t.Errorf("the last good one: %s", got)
	}
	deny := r.Policies[1]
	if deny.Action != rbac.Deny || len(deny.Rules) != 1 || len(deny.Rules[0].From)+len(deny.Rules[0].To) != 0 || deny.Selector["app"] != "web" {
		t.Errorf("in place of a newcomer: %+v", deny)
	}
	var bad *kube.BadObject
	if !errors.As(r.err, &bad) || bad.Replaced != "last-good" || !errors.Is(r.err, parse.ErrRefused) {
		t.Errorf("the error: %v", r.err)
	}

	// After a restart nobody knows a good version: closed, not open.
	stop()
	stop = c.watch(t)
	defer func() { stop() }()
	r = c.until(t, "has both", func(r reading) bool { return len(r.Policies) == 2 })
	if r.Policies[0].Action != rbac.Deny {
		t.Errorf("after a restart: %s", r.texts())
	}
	c.apply(t, "p", good)
	c.remove(t, "q")
	r = c.until(t, "is good again", func(r reading) bool { return r.err == nil && len(r.Policies) == 1 })
	if r.texts() != before.texts() {
		t.Errorf("got %s", r.texts())
	}
	// What kubectl notes down does not count against the limit.
	paths := make([]string, 1200)
	for i := range paths {
		paths[i] = `"/` + strings.Repeat("x", 40) + `"`
	}
	c.apply(t, "p", `{rules: [{to: [{operation: {paths: [`+strings.Join(paths, ",")+`]}}]}]}`)
	c.until(t, "has the long policy", func(r reading) bool { return r.err == nil && len(r.texts()) > 50_000 })
	c.remove(t, "p")
	c.until(t, "is empty", func(r reading) bool { return r.err == nil && len(r.Policies) == 0 })
}

// TestATypoReachesUs: the API server keeps the fields that it does not know, so
// that they are refused. Dropped, each of these would leave a policy that lets in
// more, or denies something else, than its author wrote.
func TestATypoReachesUs(t *testing.T) {
	s := kubeapi.Shared(t)
	c := start(t, s)
	stop := c.watch(t)
	defer stop()
	specs := []string{
		`{selectors: {matchLabels: {app: web}}, rules: [{}]}`,
		`{selector: {matchLabels: {app: web}, labels: {app: web}}, rules: [{}]}`,
		`{rules: [{form: [{source: {principals: [td/ns/a/sa/b]}}]}]}`,
		`{rules: [{from: [{source: {namespaces: [a]}, sources: {}}]}]}`,
		`{rules: [{from: [{source: {namespaces: [a], notPrincipal: [td/ns/a/sa/b]}}]}]}`,
		`{rules: [{to: [{operation: {methods: [GET]}, operations: {}}]}]}`,
		`{action: DENY, rules: [{to: [{operation: {paths: ["/a"], method: [GET]}}]}]}`,
	}
	for i, spec := range specs {
		c.apply(t, fmt.Sprint("typo-", i), spec)
	}
	r := c.until(t, "has all", func(r reading) bool { return len(r.Policies) == len(specs) })
	for i, p := range r.Policies {
		if p.Action != rbac.Deny || len(p.Rules) != 1 || len(p.Rules[0].To) != 0 {
			t.Errorf("%s: in force %s", specs[i], parse.JSON(p))
		}
		c.remove(t, p.Name)
	}
	if n := strings.Count(fmt.Sprint(r.err), "there is no field"); n != len(specs) {
		t.Errorf("%d refused for an unknown field, want %d: %v", n, len(specs), r.err)
	}
}

// TestAllKinds follows an object of each kind from good to bad, and through a
// restart.
func TestAllKinds(t *testing.T) {
	c := start(t, kubeapi.Shared(t))
	stop := c.watch(t)
	c.until(t, "is empty", func(r reading) bool { return r.err == nil && len(r.Keys()) == 0 })
	kinds := []struct{ kind, good, bad string }{
		{"AuthorizationPolicy", good, unsupported},
		{"AccessGrant", "{roleRef: {name: x}, subjects: [{namespaces: [a]}]}", "{roleRef: {name: x}, subjects: [{namespaces: [A]}]}"},
		{"AccessRule", "{action: DENY, expression: 'source.namespace == \"a\"'}", "{action: DENY, expression: 'source.namespace == \"A\"'}"},
		{"PeerAuthentication", "{mtls: {mode: PERMISSIVE}}", "{mtl: {mode: PERMISSIVE}}"},
		{"AccessRole", "{permissions: [{operations: [{methods: [GET]}]}]}", "{permissions: [{operations: [{methods: [get]}]}]}"},
		{"RequestAuthentication", "{jwtRules: [{issuer: i, jwksUri: https://idp.test/keys}]}", "{jwtRules: [{issuer: i, jwksUri: https://idp.test/keys, audience: [a]}]}"},
	}
	keys := func(r reading) string { return strings.ReplaceAll(strings.Join(r.Keys(), ", "), c.namespace, "%s") }
	for _, k := range kinds {
		c.applyKind(t, k.kind, "x", k.good)
	}
	const all = "AuthorizationPolicy %s/accessrule.x, AuthorizationPolicy %s/x, RequestAuthentication %s/x, PeerAuthentication %s/x, AccessRole %s/x, AccessGrant %s/x"
	r := c.until(t, "has all", func(r reading) bool { return len(r.Keys()) == len(kinds) })
	if got := keys(r); got != all || r.err != nil || r.Peers[0].Created.IsZero() {
		t.Errorf("got %s (%v)", got, r.err)
	}
	policies, err := access.Resolve(r.Objects, "")
	if len(policies) != 3 || err != nil {
		t.Errorf("resolved: %v %v", policies, err)
	}

	for _, k := range kinds {
		c.applyKind(t, k.kind, "x", k.bad)
	}
	r = c.until(t, "refuses all", func(r reading) bool {
		return r.err != nil && strings.Count(r.err.Error(), "in force: last-good") == len(kinds)
	})
	if got := keys(r); got != all {
		t.Errorf("the last good ones: %s", got)
	}

	stop()
	stop = c.watch(t)
	defer func() { stop() }()
	r = c.until(t, "has what is left", func(r reading) bool { return r.err != nil && strings.Count(r.err.Error(), "in force: ") == len(kinds) })
	want := "AuthorizationPolicy %s/accessgrant.x, AuthorizationPolicy %s/accessrule.x, AuthorizationPolicy %s/x, PeerAuthentication %s/x"
	if got := keys(r); got != want || r.Peers[0].Mode != rbac.Strict || r.Policies[0].Action != rbac.Allow || len(r.Policies[0].Rules) != 0 || r.Policies[1].Action != rbac.Deny {
		t.Errorf("after a restart: %s\n%s", got, r.texts())
	}
	for _, k := range kinds {
		c.removeKind(t, k.kind, "x")
	}
	c.until(t, "is empty", func(r reading) bool { return r.err == nil && len(r.Keys()) == 0 })
}

// TestWatchWithoutRights says nothing: what is in force stays.
func TestWatchWithoutRights(t *testing.T) {
	s := kubeapi.Shared(t)
	client, err := dynamic.NewForConfig(s.As(t, "stranger"))
	if err != nil {
		t.Fatal(err)
	}
	refused := make(told, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- kube.Watch(ctx, kube.Config{Client: client, Log: slog.New(slog.NewTextHandler(refused, nil))}, func(o access.Objects, err error) {
			t.Errorf("a reading without rights: %v %v", o, err)
		})
	}()
	for range 2 {
		if line := <-refused; !strings.Contains(line, "forbidden") {
			t.Errorf("the log: %s", line)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// told is a log of which somebody waits for each line.
type told chan string

func (l told) Write(line []byte) (int, error) {
	select {
	case l <- string(line):
	default:
	}
	return len(line), nil
}
