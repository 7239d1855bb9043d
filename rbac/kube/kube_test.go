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
	"github.com/istio-auth/istio-auth/rbac/kube"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/test/kubeapi"
	"github.com/istio-auth/istio-auth/test/testreq"
)

func TestMain(m *testing.M) { kubeapi.Main(m, kubeapi.Config{}) }

// A reading is one call of emit.
type reading struct {
	policies []rbac.Policy
	err      error
}

// texts are the policies as canonical JSON.
func (r reading) texts() string {
	var all []string
	for _, p := range r.policies {
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

// watch starts a Watch; stop ends it and waits.
func (c *cluster) watch(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	c.readings = make(chan reading, 100)
	go func() {
		done <- kube.Watch(ctx, kube.Config{Client: c.client}, func(p []rbac.Policy, err error) { c.readings <- reading{p, err} })
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
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
		"metadata": map[string]any{"namespace": c.namespace, "name": name},
	}}
	var body map[string]any
	if err := yaml.Unmarshal([]byte(spec), &body); err != nil {
		t.Fatal(err)
	}
	u.Object["spec"] = body
	_, err := c.client.Resource(kube.Policies).Namespace(c.namespace).Apply(t.Context(), name, u, metav1.ApplyOptions{FieldManager: "test", Force: true})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) remove(t *testing.T, name string) {
	t.Helper()
	if err := c.client.Resource(kube.Policies).Namespace(c.namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

const (
	good = `{rules: [{to: [{operation: {paths: ["/a"]}}]}]}`
	// The API server knows this; we do not enforce it yet.
	unsupported = `{selector: {matchLabels: {app: web}}, rules: [{when: [{key: "request.headers[x]", values: [z]}]}]}`
)

// TestWatch follows real objects of a real API server, with no more rights than
// the manager has.
func TestWatch(t *testing.T) {
	s := kubeapi.Shared(t)
	crds := filepath.Join(testreq.Tree(t), "deploy", "chart", "crds")
	s.Kubectl(t, "apply", "--server-side", "-f", crds)
	s.Kubectl(t, "wait", "--for=condition=Established", "crd/authorizationpolicies.security.istio.io", "--timeout=20s")
	client, err := dynamic.NewForConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Server: s, namespace: s.Namespace(t), client: client}
	stop := c.watch(t)
	c.until(t, "is empty", func(r reading) bool { return r.err == nil && len(r.policies) == 0 })

	c.apply(t, "p", good)
	before := c.until(t, "has the policy", func(r reading) bool { return len(r.policies) == 1 })
	if before.err != nil || before.policies[0].Key() != c.namespace+"/p" || !strings.Contains(before.texts(), `"/a"`) {
		t.Fatalf("%v %s", before.err, before.texts())
	}

	// A bad version leaves the last good one, a bad newcomer denies what it selects.
	c.apply(t, "p", unsupported)
	c.apply(t, "q", unsupported)
	r := c.until(t, "refuses both", func(r reading) bool {
		return r.err != nil && len(r.policies) == 2 && strings.Contains(r.err.Error(), "/p") && strings.Contains(r.err.Error(), "/q")
	})
	if got := (reading{policies: r.policies[:1]}).texts(); got != before.texts() {
		t.Errorf("the last good one: %s", got)
	}
	deny := r.policies[1]
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
	r = c.until(t, "has both", func(r reading) bool { return len(r.policies) == 2 })
	if r.policies[0].Action != rbac.Deny {
		t.Errorf("after a restart: %s", r.texts())
	}
	c.apply(t, "p", good)
	c.remove(t, "q")
	r = c.until(t, "is good again", func(r reading) bool { return r.err == nil && len(r.policies) == 1 })
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
	c.until(t, "is empty", func(r reading) bool { return r.err == nil && len(r.policies) == 0 })
}

// TestATypoReachesUs: the API server keeps the fields that it does not know, so
// that they are refused. Dropped, each of these would leave a policy that lets in
// more, or denies something else, than its author wrote.
func TestATypoReachesUs(t *testing.T) {
	s := kubeapi.Shared(t)
	s.Kubectl(t, "apply", "--server-side", "-f", filepath.Join(testreq.Tree(t), "deploy", "chart", "crds"))
	s.Kubectl(t, "wait", "--for=condition=Established", "crd/authorizationpolicies.security.istio.io", "--timeout=20s")
	client, err := dynamic.NewForConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Server: s, namespace: s.Namespace(t), client: client}
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
	r := c.until(t, "has all", func(r reading) bool { return len(r.policies) == len(specs) })
	for i, p := range r.policies {
		if p.Action != rbac.Deny || len(p.Rules) != 1 || len(p.Rules[0].To) != 0 {
			t.Errorf("%s: in force %s", specs[i], parse.JSON(p))
		}
		c.remove(t, p.Name)
	}
	if n := strings.Count(fmt.Sprint(r.err), "there is no field"); n != len(specs) {
		t.Errorf("%d refused for an unknown field, want %d: %v", n, len(specs), r.err)
	}
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
		done <- kube.Watch(ctx, kube.Config{Client: client, Log: slog.New(slog.NewTextHandler(refused, nil))}, func(p []rbac.Policy, err error) {
			t.Errorf("a reading without rights: %v %v", p, err)
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
