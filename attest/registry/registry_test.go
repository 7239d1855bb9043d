package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/attest/registry"
)

func example(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/workloads.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParse(t *testing.T) {
	r, err := registry.Parse(example(t))
	if err != nil {
		t.Fatal(err)
	}
	uids := map[string]string{}
	for _, w := range r.All() {
		uids[w.Pod.Name] = w.Pod.UID
	}
	// The digests are what every agent and CA of a mesh must agree on: a change
	// here cuts every workload on a host off until all of them are updated.
	db := registry.Workload{Pod: attest.Pod{Namespace: "shop", Name: "db", UID: "4a013ee9bff12f9db4744e0cc87ac24c", ServiceAccount: "db"},
		Node: "host-1", UserID: 0, Executable: "/opt/db/bin/db server", Labels: nil}
	web := registry.Workload{Pod: attest.Pod{Namespace: "shop", Name: "web", UID: "389de27a184612daf1c3d1f5df733d5f", ServiceAccount: "web"},
		Node: "host-1", UserID: 1000, Executable: "/usr/bin/web", Labels: map[string]string{"app": "web", "example.org/tier": "front"}}
	web2 := registry.Workload{Pod: attest.Pod{Namespace: "shop", Name: "web-2", UID: "006781d60a37af2ffc8be8fe69514485", ServiceAccount: "web"},
		Node: "host-2.example", UserID: 4294967294, Executable: "/usr/bin/web", Labels: map[string]string{}}
	if diff := cmp.Diff([]registry.Workload{db, web, web2}, r.All()); diff != "" {
		t.Errorf("all, want - got +:\n%s", diff)
	}
	if diff := cmp.Diff([]registry.Workload{db, web}, r.OnNode("host-1")); diff != "" {
		t.Errorf("on host-1, want - got +:\n%s", diff)
	}
	if got := r.OnNode("host-3"); len(got) != 0 {
		t.Errorf("on host-3: %v, want none", got)
	}
	again, err := registry.Parse(example(t))
	if diff := cmp.Diff(r.All(), again.All()); diff != "" || err != nil {
		t.Errorf("read twice, %v:\n%s", err, diff)
	}
	empty, err := registry.Parse([]byte("workloads: []\n"))
	if err != nil || len(empty.All()) != 0 {
		t.Errorf("an empty list: %v, %v", empty.All(), err)
	}
	for name, none := range map[string]*registry.Registry{"nil": nil, "zero": {}} {
		_, looked := none.Lookup("host-1", web.Pod)
		_, matched := none.Match("host-1", 1000, "/usr/bin/web")
		if none.All() != nil && len(none.All()) != 0 || len(none.OnNode("host-1")) != 0 || looked || matched {
			t.Errorf("the %s registry has workloads", name)
		}
	}
}

func TestLookups(t *testing.T) {
	r, err := registry.Parse(example(t))
	if err != nil {
		t.Fatal(err)
	}
	web := r.OnNode("host-1")[1]
	for _, c := range []struct {
		name, node string
		user       uint32
		executable string
		want       string
	}{
		{"web", "host-1", 1000, "/usr/bin/web", "web"},
		{"root's", "host-1", 0, "/opt/db/bin/db server", "db"},
		{"the same program on another host", "host-2.example", 4294967294, "/usr/bin/web", "web-2"},
		{"another user", "host-1", 1001, "/usr/bin/web", ""},
		{"root for another user", "host-1", 0, "/usr/bin/web", ""},
		{"another host's user", "host-1", 4294967294, "/usr/bin/web", ""},
		{"another program", "host-1", 1000, "/usr/bin/web2", ""},
		{"a longer path", "host-1", 1000, "/usr/bin/web ", ""},
		{"a path that is not clean", "host-1", 1000, "/usr/bin/../bin/web", ""},
		{"no path", "host-1", 1000, "", ""},
		{"another host", "host-3", 1000, "/usr/bin/web", ""},
		{"no host", "", 1000, "/usr/bin/web", ""},
	} {
		got, ok := r.Match(c.node, c.user, c.executable)
		if got.Pod.Name != c.want || ok != (c.want != "") {
			t.Errorf("match %s: got %q, %t, want %q", c.name, got.Pod.Name, ok, c.want)
		}
	}
	for _, c := range []struct {
		name, node string
		pod        attest.Pod
		want       bool
	}{
		{"web", "host-1", attest.Pod{Name: "web", UID: web.Pod.UID}, true},
		{"with a namespace that is not looked at", "host-1", attest.Pod{Namespace: "x", Name: "web", UID: web.Pod.UID, ServiceAccount: "y"}, true},
		{"another host", "host-2.example", attest.Pod{Name: "web", UID: web.Pod.UID}, false},
		{"another UID", "host-1", attest.Pod{Name: "web", UID: web.Pod.UID[1:]}, false},
		{"no UID", "host-1", attest.Pod{Name: "web"}, false},
		{"another's UID", "host-1", attest.Pod{Name: "db", UID: web.Pod.UID}, false},
		{"nothing", "host-1", attest.Pod{}, false},
	} {
		got, ok := r.Lookup(c.node, c.pod)
		if ok != c.want || ok && got.Pod != web.Pod {
			t.Errorf("lookup %s: got %v, %t, want %t", c.name, got, ok, c.want)
		}
	}
}

// TestUID: the UID is another as soon as the entry means another process or
// identity, and the same when only its labels change.
func TestUID(t *testing.T) {
	uid := func(line string) string {
		t.Helper()
		r, err := registry.Parse([]byte("workloads: [{" + line + "}]"))
		if err != nil {
			t.Fatal(err)
		}
		return r.All()[0].Pod.UID
	}
	const base = "name: a, node: b, uid: 1, executable: /c, namespace: d, serviceAccount: e"
	seen := map[string]bool{uid(base): true}
	for _, change := range [][2]string{{"name: a", "name: aa"}, {"node: b", "node: bb"}, {"uid: 1", "uid: 11"}, {"/c", "/cc"}, {"namespace: d", "namespace: dd"}, {"Account: e", "Account: ee"}} {
		if u := uid(strings.Replace(base, change[0], change[1], 1)); seen[u] {
			t.Errorf("%s: the UID is one that was there before", change[1])
		} else {
			seen[u] = true
		}
	}
	if !seen[uid(base+", labels: {a: b}")] {
		t.Error("a label changes the UID")
	}
}

// A row is a file that is refused or, where want is "", read.
type row struct{ name, want, text string }

func rows() (rows []row) {
	add := func(name, want, text string) { rows = append(rows, row{name, want, text}) }
	const base = "name: web, node: host-1, uid: 1000, executable: /usr/bin/web, namespace: shop, serviceAccount: web"
	entry := func(lines ...string) string { return "workloads: [{" + strings.Join(lines, "}, {") + "}]\n" }
	with := func(name, want, old, new string) {
		text := strings.Replace(base, old, new, 1)
		if text == base {
			panic(name + " changes nothing")
		}
		add(name, want, entry(text))
	}
	add("good", "", entry(base))
	add("good, as JSON", "", `{"workloads":[{"name":"web","node":"host-1","uid":1000,"executable":"/usr/bin/web","namespace":"shop","serviceAccount":"web","labels":{"a":""}}]}`)
	add("empty", "registry-empty", "")
	add("a comment alone", "registry-empty", "# nothing\n")
	add("an empty object", "registry-empty", "{}")
	add("null", "registry-null", "null")
	add("null workloads", "registry-null", "workloads: ~")
	add("workloads without a value", "registry-null", "workloads:\n")
	for name, text := range map[string]string{
		"a list": "[]", "a string": "workloads", "workloads as an object": "workloads: {}", "workloads as a string": "workloads: x", "an entry as a string": "workloads: [x]",
		"unknown key": "workloads: []\nx: y", "upper case key": "Workloads: []", "a key twice": "workloads: []\nworkloads: []", "a tab": "workloads:\n\t- name: x",
		"half": entry(base)[:40], "a brace": "{", "not UTF-8": "workloads: [] # \xff", "a NUL": "workloads: []\x00", "UTF-16": "\xff\xfew\x00", "a tag": "workloads: !x []", "a standard tag": "workloads: !!seq []",
		"a binary tag": "workloads: [{name: !!binary d2Vi}]", "deep": "workloads: " + strings.Repeat("[", 20) + strings.Repeat("]", 20), "very deep": strings.Repeat("[", 20_000), "an escape of a terminal": "workloads: []\x1b[2J",
	} {
		add(name, "registry-yaml", text)
	}
	add("an anchor", "registry-alias", "workloads: &x []")
	add("an alias", "registry-alias", "workloads: [&x {name: a}, *x]")
	add("a merge", "registry-alias", "workloads: [{<<: {name: web}}]")
	add("laughs", "registry-alias", "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nworkloads: []")
	add("a second document", "registry-several-documents", "workloads: []\n---\nworkloads: []")
	add("an empty second document", "registry-several-documents", "workloads: []\n---\n")
	add("garbage behind the document", "registry-several-documents", "workloads: []\n...\n}")
	add("one byte too many", "registry-too-large", entry(base)+strings.Repeat("#", registry.MaxSize-len(entry(base))+1))
	add("as large as may be", "", entry(base)+strings.Repeat("#", registry.MaxSize-len(entry(base))))

	for _, c := range []struct{ key, old, reason string }{
		{"name", "name: web", "bad-pod-name"}, {"node", "node: host-1", "bad-node-name"}, {"namespace", "namespace: shop", "bad-namespace"}, {"serviceAccount", "serviceAccount: web", "bad-service-account"},
	} {
		with(c.key+" missing", c.reason, c.old, "labels: {}")
		for name, value := range map[string]string{"empty": `""`, "upper case": "Web", "a space": `"a b"`, "a slash": "a/b", "dots": `".."`, "a NUL": `"a\0"`, "a newline": `"a\n"`, "underscore": "a_b", "not ASCII": "wéb", "254 bytes": strings.Repeat("x", 254)} {
			with(c.key+" "+name, c.reason, c.old, c.key+": "+value)
		}
		with(c.key+" null", "registry-null", c.old, c.key+": ~")
		with(c.key+" as a list", "registry-yaml", c.old, c.key+": [a]")
		with(c.key+" as an object", "registry-yaml", c.old, c.key+": {a: b}")
		with(c.key+" twice", "registry-yaml", c.old, c.old+", "+c.old)
	}
	with("namespace with a dot", "bad-namespace", "shop", "a.b")
	with("namespace of 64 bytes", "bad-namespace", "shop", strings.Repeat("x", 64))
	with("name that looks like a number", "", "name: web", "name: 123")

	with("uid missing", "bad-uid", "uid: 1000, ", "")
	with("uid null", "registry-null", "uid: 1000", "uid: ~")
	for name, value := range map[string]string{"empty": `""`, "a string": `"1000"`, "a name": "root", "negative": "-1", "a fraction": "1000.0", "an exponent": "1e3", "octal": "01750", "octal of YAML 1.2": "0o1750", "hexadecimal": "0x3e8",
		"binary": "0b1", "a sign": "+1000", "an underscore": "1_000", "sexagesimal": "1:40", "the id that means nobody changes": "4294967295", "33 bits": "4294967296", "very large": "99999999999999999999", "true": "true", "a list": "[1000]"} {
		with("uid as "+name, "registry-yaml", "uid: 1000", "uid: "+value)
	}
	with("uid of root", "", "uid: 1000", "uid: 0")
	with("uid as large as may be", "", "uid: 1000", "uid: 4294967294")

	with("executable missing", "bad-executable", "executable: /usr/bin/web, ", "")
	for name, value := range map[string]string{"empty": `""`, "relative": "usr/bin/web", "dotted": "./web", "root": "/", "a trailing slash": "/usr/bin/web/", "two slashes": "//usr/bin/web", "two slashes inside": "/usr//bin/web",
		"a dot": "/usr/./bin/web", "dots": "/usr/../bin/web", "dots at the end": "/usr/bin/..", "a NUL": `"/usr\0"`, "a newline": `"/usr\n"`, "DEL": `"/usr\x7f"`, "a file that is gone": `"/usr/bin/web (deleted)"`, "4096 bytes": "/" + strings.Repeat("x", 4095), "a home": "~/web", "a URL": "'file:///usr/bin/web'", "Windows": `'C:\web'`} {
		with("executable "+name, "bad-executable", "executable: /usr/bin/web", "executable: "+value)
	}
	with("executable null", "registry-null", "executable: /usr/bin/web", "executable: ~")
	with("executable of 4095 bytes", "", "/usr/bin/web", "/"+strings.Repeat("x", 4094))
	with("executable with a space", "", "/usr/bin/web", "/usr/bin/we b")

	for name, value := range map[string]string{"an empty key": `"": a`, "a space in a key": `"a b": a`, "a slash too many": "a/b/c: d", "an empty prefix": "/a: b", "an empty name": "a/: b", "prefix in upper case": "A/b: c", "key with a hyphen first": "-a: b", "key with a dot last": "a.: b",
		"a space in a value": `a: "b c"`, "value with a hyphen first": "a: -b", "value with a slash": "a: b/c", "value not ASCII": "a: é", "key of 64 bytes": strings.Repeat("x", 64) + ": a", "value of 64 bytes": "a: " + strings.Repeat("x", 64), "a newline in a value": `a: "b\n"`} {
		add("labels: "+name, "bad-label", entry(base+", labels: {"+value+"}"))
	}
	var many []string
	for i := range 65 {
		many = append(many, fmt.Sprintf("k%d: v", i))
	}
	add("labels: 65", "bad-label", entry(base+", labels: {"+strings.Join(many, ", ")+"}"))
	add("labels: 64", "", entry(base+", labels: {"+strings.Join(many[:64], ", ")+"}"))
	add("labels: a key twice", "registry-yaml", entry(base+", labels: {a: b, a: c}"))
	add("labels: null", "registry-null", entry(base+", labels: ~"))
	add("labels: a null value", "registry-null", entry(base+", labels: {a: ~}"))
	add("labels: a list", "registry-yaml", entry(base+", labels: [a]"))
	add("labels: every good form", "", entry(base+`, labels: {a: b, A.b_c-d: "", example.org/a: B.c_d-e, n: 1, t: true}`))

	add("an unknown key", "registry-yaml", entry(base+", group: 1000"))
	add("a key in upper case", "registry-yaml", entry(base+", Labels: {}"))
	add("an empty entry", "bad-node-name", entry(""))
	add("a null entry", "registry-null", "workloads: [~]")
	other := strings.NewReplacer("name: web,", "name: web-2,", "uid: 1000", "uid: 1001").Replace(base)
	add("two entries", "", entry(base, other))
	add("one entry twice", "registry-duplicate-name", entry(base, base))
	add("a name twice on two nodes", "registry-duplicate-name", entry(base, strings.Replace(base, "host-1", "host-2", 1)))
	add("a process twice", "registry-duplicate-process", entry(base, strings.Replace(base, "name: web,", "name: web-2,", 1)))
	add("a process on two nodes", "", entry(base, strings.NewReplacer("name: web,", "name: web-2,", "host-1", "host-2").Replace(base)))
	add("a bad entry behind a good one", "bad-namespace", entry(base, strings.Replace(other, "shop", "Shop", 1)))
	return rows
}

func TestRefusals(t *testing.T) {
	rows := rows()
	if got, want := len(rows), 176; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	names := map[string]bool{}
	for _, row := range rows {
		if names[row.name] {
			t.Errorf("%s: twice", row.name)
		}
		names[row.name] = true
		got, err := registry.Parse([]byte(row.text))
		if attest.Reason(err) != row.want || (err == nil) != (row.want == "") || (got == nil) != (err != nil) || err != nil && !errors.Is(err, attest.ErrRefused) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
		if err != nil && len(err.Error()) > 2000 {
			t.Errorf("%s: an error of %d bytes", row.name, len(err.Error()))
		}
	}
}

// FuzzParse: what is read has only entries that make identities, found again by
// every look-up.
func FuzzParse(f *testing.F) {
	f.Add(example(f))
	td := spiffeid.RequireTrustDomainFromString("mesh.example")
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := registry.Parse(data)
		if err != nil {
			if attest.Reason(err) == "" || r != nil {
				t.Fatalf("refused without a reason: %v", err)
			}
			return
		}
		nodes := map[string]int{}
		for _, w := range r.All() {
			nodes[w.Node]++
			if _, err := attest.NewWorkload(td, attest.Node{Name: w.Node, UID: "u"}, w.Pod); err != nil {
				t.Fatalf("%+v makes no identity: %v", w, err)
			}
			a, ok1 := r.Match(w.Node, w.UserID, w.Executable)
			b, ok2 := r.Lookup(w.Node, w.Pod)
			if !ok1 || !ok2 || a.Pod != w.Pod || b.Pod != w.Pod || bytes.ContainsRune([]byte(w.Executable), 0) || w.Executable[0] != '/' {
				t.Fatalf("%+v is not found again", w)
			}
		}
		for _, node := range slices.Sorted(maps.Keys(nodes)) {
			if got := len(r.OnNode(node)); got != nodes[node] {
				t.Fatalf("%d workloads on %s, want %d", got, node, nodes[node])
			}
		}
	})
}
