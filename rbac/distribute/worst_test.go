package distribute_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// list is n values of a format, in YAML.
func list(n int, format string) string {
	values := make([]string, n)
	for i := range values {
		values[i] = fmt.Sprintf("%q", fmt.Sprintf(format, i))
	}
	return "[" + strings.Join(values, ", ") + "]"
}

// worst are specs of policies that are as large as an object may be, or have as
// many rules, in the shapes that cost the most to compile and to prove.
func worst() map[string]string {
	var negations, suffixes, mixed, claims []string
	for i := range 512 {
		negations = append(negations, fmt.Sprintf(`{to: [{operation: {notPaths: ["*/%d", "/x/%d*"], notHosts: ["*.h%d"]}}]}`, i, i, i))
		suffixes = append(suffixes, fmt.Sprintf(`{to: [{operation: {paths: ["*/%d"], notPaths: ["/s/%d*"]}}]}`, i, i))
		claims = append(claims, fmt.Sprintf(`{when: [{key: "request.auth.claims[c%d]", values: ["*%d", "%d*"]}]}`, i%40, i, i))
		mixed = append(mixed, fmt.Sprintf(`{from: [{source: {principals: ["td.test/ns/n%d/*"]}}], to: [{operation: {paths: ["/p/%d*"], notHosts: ["*h%d"]}}]}`, i, i, i))
	}
	rules := func(list []string) string { return "rules: [" + strings.Join(list, ", ") + "]" }
	return map[string]string{
		"product": fmt.Sprintf(`rules: [{from: [{source: {principals: %s}}], to: [{operation: {paths: %s, hosts: %s}}], when: [{key: "request.headers[x-env]", values: %s}]}]`,
			list(200, "td.test/ns/n/sa/client-of-mine-%d"), list(200, "/services/of/mine/%d/*"), list(200, "host-%d.test"), list(200, "value-%d")),
		"sums of products": fmt.Sprintf(`rules: [{from: [%s], to: [%s]}]`,
			repeat(128, `{source: {principals: ["td.test/ns/n%d/*"], notNamespaces: ["m%d"]}}`), repeat(128, `{operation: {paths: ["/a/%d*"], notHosts: ["*.h%d"]}}`)),
		"negations": rules(negations), "suffixes": rules(suffixes), "mixed": rules(mixed), "claims": rules(claims),
	}
}

// repeat is n elements of a format that has the number twice.
func repeat(n int, format string) string {
	elements := make([]string, n)
	for i := range elements {
		elements[i] = fmt.Sprintf(format, i, i)
	}
	return strings.Join(elements, ", ")
}

// TestTheWorstDelaysNobodyElse is issue 4's "done when" 5 and FM-34, from the
// manager to the filters: policies of one namespace that are as large and as hard
// as the language has them, each for two workloads, ALLOW and DENY. None of them
// is begun with before fifty others have what is theirs, first and then changed;
// if anybody waited for them, all would wait for ever. Then they are compiled and
// proved in earnest: each is in force, or refused by a code, and the workload
// keeps what it had.
func TestTheWorstDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	const others = 50
	w := &watched{versions: map[string]int{}, reasons: map[string]string{}, changed: make(chan struct{})}
	m, f := newManager(), distribute.NewFilters(domain, w.observe)
	release := make(chan struct{})
	open := sync.OnceFunc(func() { close(release) })
	f.Before(func(set rbac.Set) {
		for _, p := range append(set.Allow(), set.Deny()...) {
			if p.Namespace == "tenant" && p.Name == "worst" {
				<-release
			}
		}
	})
	var workloads []distribute.Workload
	add := func(namespace, name string, labels map[string]string) {
		p := attest.Pod{Namespace: namespace, Name: name, UID: "uid-" + name, ServiceAccount: "x"}
		f.Add(p)
		workloads = append(workloads, distribute.Workload{Pod: p, Labels: labels})
	}
	var good, hard, changed []rbac.Policy
	read := func(text string) []rbac.Policy {
		p, err := parse.Policies("test", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	n := 0
	for _, action := range []string{"ALLOW", "DENY"} {
		for name, spec := range worst() {
			tenant := fmt.Sprint("worst-", n)
			n++
			for i := range 2 {
				add("tenant", fmt.Sprint(tenant, "-", i), map[string]string{"app": tenant, "n": fmt.Sprint(i)})
			}
			good = append(good, read(policy("tenant", tenant, fmt.Sprintf(`{selector: {matchLabels: {app: %s}}, rules: [{}]}`, tenant)))...)
			p := read(policy("tenant", "worst", fmt.Sprintf(`{action: %s, selector: {matchLabels: {app: %s}}, %s}`, action, tenant, spec)))
			if size := len(parse.JSON(p[0])); size < 16<<10 || size > parse.MaxObject {
				t.Errorf("%s: %d bytes", name, size)
			}
			t.Logf("%s: %s %s, %d bytes, %d rules", tenant, action, name, len(parse.JSON(p[0])), len(p[0].Rules))
			hard = append(hard, p...)
		}
	}
	for i := range others {
		namespace := fmt.Sprint("other-", i)
		add(namespace, namespace, nil)
		good = append(good, read(policy(namespace, "p", allowA))...)
		changed = append(changed, read(policy(namespace, "q", `{action: DENY, rules: [{to: [{operation: {paths: ["/b"]}}]}]}`))...)
	}
	set := func(lists ...[]rbac.Policy) {
		var all []rbac.Policy
		for _, list := range lists {
			all = append(all, list...)
		}
		if err := m.Set(all, nil); err != nil {
			t.Fatal(err)
		}
	}
	set(good)
	if err := m.SetNode("a", workloads); err != nil {
		t.Fatal(err)
	}
	m.start()
	defer follow(t, m, f)()
	defer open() // the client waits for what it has begun
	w.until(t, "all have what is good", func() bool { return len(w.versions) == len(workloads) })
	set(good, hard)
	set(good, hard, changed)
	w.until(t, "the others have what has changed", func() bool {
		have := 0
		for i := range others {
			if w.versions[fmt.Sprint("other-", i)] > 1 {
				have++
			}
		}
		return have == others
	})
	if n := len(w.reasons); n != 0 {
		t.Errorf("refused before their turn: %v", w.reasons)
	}
	open()
	w.until(t, "each of the worst is in force, or refused", func() bool {
		told := 0
		for i := range n {
			for j := range 2 {
				if name := fmt.Sprint("worst-", i, "-", j); w.versions[name] > 1 || w.reasons[name] != "" {
					told++
				}
			}
		}
		return told == 2*n
	})
	for name, reason := range w.reasons {
		t.Logf("%s is refused: %s", name, reason)
		if reason != "not-proved" && reason != "does-not-compile" || w.versions[name] != 1 {
			t.Errorf("%s: %s, after %d answers", name, reason, w.versions[name])
		}
	}
}

// watched counts what is applied, by pod, and keeps the refusals.
type watched struct {
	mu       sync.Mutex
	versions map[string]int
	reasons  map[string]string
	changed  chan struct{}
}

func (w *watched) observe(e distribute.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Kind {
	case distribute.Applied:
		w.versions[e.Pod.Name]++
	case distribute.Refused:
		w.reasons[e.Pod.Name] = e.Reason
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// until waits for what must come. Its time limit is for what never does.
func (w *watched) until(t *testing.T, what string, yes func() bool) {
	t.Helper()
	never := time.After(4 * time.Minute)
	for {
		w.mu.Lock()
		done, changed := yes(), w.changed
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-never:
			t.Fatalf("it never comes that %s: applied %v, refused %v", what, w.versions, w.reasons)
		}
	}
}
