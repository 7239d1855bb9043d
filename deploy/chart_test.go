package deploy_test

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/istio-auth/istio-auth/deploy"
	"github.com/istio-auth/istio-auth/test/testreq"
)

var update = flag.Bool("update", false, "rewrite the golden files and the CRDs")

const namespace = "istio-auth-system"

// render is what the chart becomes with these values ("ca.istio.enabled=true").
func render(t *testing.T, values ...string) (string, error) {
	t.Helper()
	helm := testreq.Tool(t, "kube/helm", "run make kube (9 minutes, once)")
	args := []string{"template", "istio-auth", "chart", "--namespace", namespace}
	for _, v := range values {
		args = append(args, "--set-json", v)
	}
	cmd := exec.CommandContext(t.Context(), helm, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	err := cmd.Run()
	if err != nil {
		return bad.String(), err
	}
	return out.String(), nil
}

// objects are the documents of a rendered chart.
func objects(t *testing.T, text string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for doc := range strings.SplitSeq(text, "\n---") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if o["kind"] != nil {
			all = append(all, o)
		}
	}
	if len(all) == 0 {
		t.Fatal("the chart has no objects")
	}
	return all
}

// at is the value below keys, nil where there is none.
func at(o any, keys ...string) any {
	for _, key := range keys {
		m, _ := o.(map[string]any)
		o = m[key]
	}
	return o
}

func list(o any) []any { l, _ := o.([]any); return l }

// goldens are the values of each golden file.
var goldens = map[string][]string{
	"default": nil,
	"all": {
		`trustDomain="td.test"`, `rootNamespace="root"`, `image={"registry":"r.test/x","tag":"1.2.3","pullSecrets":["s"]}`, `namespace.create=true`,
		`ca.istio.enabled=true`, `ca.life.workload="10s"`, `ca.persistence.enabled=false`, `manager.replicas=2`, `uninstall.check=false`,
		`agent.kubeletDir="/var/lib/k"`, `agent.nodeSelector={"a":"b"}`, `agent.tolerations=[]`, `logLevel="debug"`,
	},
}

func TestGolden(t *testing.T) {
	for name, values := range goldens {
		t.Run(name, func(t *testing.T) {
			got, err := render(t, values...)
			if err != nil {
				t.Fatalf("%v: %s", err, got)
			}
			path := filepath.Join("testdata", name+".out.yaml")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got (rewrite with -update):\n%s", diff)
			}
		})
	}
}

// TestValuesAreStrict: what the chart does not know, or cannot mean, it refuses.
func TestValuesAreStrict(t *testing.T) {
	table := []struct {
		value string
		ok    bool
	}{
		{`trustDomain="td.test"`, true},
		{`image.tag="v1@sha256:` + strings.Repeat("a", 64) + `"`, true},
		{`ca.life.workload="1h30m"`, true},
		{`trustdomain="td.test"`, false},
		{`trustDomain=""`, false},
		{`trustDomain="spiffe://td"`, false},
		{`trustDomain="TD"`, false},
		{`trustDomain=null`, false},
		{`rootNamespace="a/b"`, false},
		{`rootNamespace=""`, false},
		{`image.tag="a b"`, false},
		{`image.registry=""`, false},
		{`image.registry="r.test/"`, false},
		{`image.pullPolicy="Sometimes"`, false},
		{`image.digest="x"`, false},
		{`image.pullSecrets="s"`, false},
		{`ca.life.workload=3600`, false},
		{`ca.life.workload="1d"`, false},
		{`ca.life.workload=""`, false},
		{`ca.replicas=2`, false},
		{`ca.istio.audiences=[]`, false},
		{`ca.istio.enabled="true"`, false},
		{`ca.persistence.size="1G"`, false},
		{`manager.replicas=0`, false},
		{`manager.replicas=1.5`, false},
		{`agent.kubeletDir="var/lib/kubelet"`, false},
		{`agent.kubeletDir="/var/lib/kubelet/"`, false},
		{`agent.runDir="/"`, false},
		{`agent.hostNetwork=true`, false},
		{`agent.tolerations={}`, false},
		{`uninstall.force=true`, false},
		{`logLevel="trace"`, false},
		{`extra={}`, false},
	}
	if got, want := len(table), 33; got != want {
		t.Fatalf("%d rows, want %d", got, want)
	}
	for _, row := range table {
		if out, err := render(t, row.value); (err == nil) != row.ok {
			t.Errorf("%s: accepted %v, want %v\n%.300s", row.value, err == nil, row.ok, out)
		}
	}
}

// TestRights (DP-02): the rights of each service account are these, and no
// other rule, aggregation or subject gives more.
func TestRights(t *testing.T) {
	want := map[string][]string{
		"istio-ca": {
			"authentication.k8s.io/tokenreviews: create",
			"/pods: get list watch",
			"/nodes: get",
			namespace + ": /configmaps istio-auth-bundle: get update",
		},
		"istio-manager": {
			"security.istio.io/authorizationpolicies,requestauthentications,peerauthentications: get list watch",
			"istio-auth.io/accessroles,accessgrants,accessrules: get list watch",
			"/pods: get list watch",
		},
		"istio-auth-uninstall": {"/pods: list"},
	}
	for _, values := range [][]string{nil, {"ca.istio.enabled=true", "manager.replicas=3", "namespace.create=true"}} {
		text, err := render(t, values...)
		if err != nil {
			t.Fatal(text)
		}
		got := map[string][]string{}
		all := objects(t, text)
		for _, binding := range all {
			kind, _ := binding["kind"].(string)
			if kind != "ClusterRoleBinding" && kind != "RoleBinding" {
				continue
			}
			role := find(t, all, at(binding, "roleRef", "kind").(string), at(binding, "roleRef", "name").(string))
			if role["aggregationRule"] != nil {
				t.Errorf("%v aggregates", at(role, "metadata", "name"))
			}
			for _, subject := range list(binding["subjects"]) {
				if at(subject, "kind") != "ServiceAccount" || at(subject, "namespace") != namespace {
					t.Errorf("rights for %v", subject)
				}
				account := at(subject, "name").(string)
				for _, rule := range list(role["rules"]) {
					got[account] = append(got[account], describe(t, kind, rule))
				}
			}
		}
		for _, rights := range []map[string][]string{got, want} {
			for account := range rights {
				slices.Sort(rights[account])
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("values %q: -want +got\n%s", values, diff)
		}
	}
}

func find(t *testing.T, all []map[string]any, kind, name string) map[string]any {
	t.Helper()
	for _, o := range all {
		if o["kind"] == kind && at(o, "metadata", "name") == name {
			return o
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return nil
}

// describe writes a rule down, all of it.
func describe(t *testing.T, kind string, rule any) string {
	t.Helper()
	for key := range rule.(map[string]any) {
		if !slices.Contains([]string{"apiGroups", "resources", "resourceNames", "verbs"}, key) {
			t.Errorf("a rule with %s", key)
		}
	}
	join := func(key, by string) string {
		var words []string
		for _, w := range list(at(rule, key)) {
			words = append(words, w.(string))
		}
		return strings.Join(words, by)
	}
	text := join("apiGroups", ",") + "/" + join("resources", ",")
	if names := join("resourceNames", ","); names != "" {
		text += " " + names
	}
	if kind == "RoleBinding" {
		text = namespace + ": " + text
	}
	return text + ": " + join("verbs", " ")
}

// TestPods: what each pod gets of the node and of the cluster.
func TestPods(t *testing.T) {
	text, err := render(t)
	if err != nil {
		t.Fatal(text)
	}
	audiences := map[string][]string{}
	for _, o := range objects(t, text) {
		pod := at(o, "spec", "template", "spec")
		if pod == nil {
			continue
		}
		name := at(o, "metadata", "name").(string)
		if at(pod, "automountServiceAccountToken") != false {
			t.Errorf("%s: a token is mounted by itself", name)
		}
		for _, key := range []string{"hostNetwork", "hostPID", "hostIPC", "initContainers"} {
			if at(pod, key) != nil {
				t.Errorf("%s: %s", name, key)
			}
		}
		var hostPaths []string
		for _, v := range list(at(pod, "volumes")) {
			if path, ok := at(v, "hostPath", "path").(string); ok {
				hostPaths = append(hostPaths, path)
			}
			for _, s := range list(at(v, "projected", "sources")) {
				if token := at(s, "serviceAccountToken"); token != nil {
					audience, _ := at(token, "audience").(string)
					audiences[name] = append(audiences[name], audience)
				}
			}
			if at(v, "csi") != nil {
				t.Errorf("%s: mounts our own volume", name)
			}
		}
		containers := list(at(pod, "containers"))
		if len(containers) != 1 {
			t.Fatalf("%s: %d containers", name, len(containers))
		}
		security := at(containers[0], "securityContext")
		if at(security, "readOnlyRootFilesystem") != true {
			t.Errorf("%s: its root file system can be written", name)
		}
		agent := name == "istio-nodeagent"
		if got := at(security, "privileged") == true; got != agent {
			t.Errorf("%s: privileged %v", name, got)
		}
		var want []string
		if agent {
			want = []string{"/var/lib/kubelet/plugins/csi.istio-auth.io", "/var/lib/kubelet/plugins_registry", "/var/lib/kubelet/pods", "/run/istio-auth"}
		}
		if diff := cmp.Diff(want, hostPaths); diff != "" {
			t.Errorf("%s: paths of the node: %s", name, diff)
		}
	}
	// The empty audience is the API server's own.
	want := map[string][]string{
		"istio-ca": {""}, "istio-manager": {"", "agent.istio-auth.cluster.local"},
		"istio-nodeagent": {"agent.istio-auth.cluster.local"}, "istio-auth-uninstall": {""},
	}
	if diff := cmp.Diff(want, audiences); diff != "" {
		t.Errorf("audiences: %s", diff)
	}
}

// TestDriver: the kubelet gives us the pod's own token of our audience alone.
func TestDriver(t *testing.T) {
	text, err := render(t)
	if err != nil {
		t.Fatal(text)
	}
	driver := find(t, objects(t, text), "CSIDriver", "csi.istio-auth.io")
	want := map[string]any{
		"volumeLifecycleModes": []any{"Ephemeral"}, "attachRequired": false, "podInfoOnMount": true, "fsGroupPolicy": "None",
		"tokenRequests":                []any{map[string]any{"audience": "workload.istio-auth.cluster.local", "expirationSeconds": 600.0}},
		"serviceAccountTokenInSecrets": true, "requiresRepublish": true,
	}
	got, _ := driver["spec"].(map[string]any)
	for key, value := range got {
		if n, ok := value.(int64); ok {
			got[key] = float64(n)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// keepUnknown lets the API server keep the fields of a spec that it does not
// know. Otherwise it drops them, with a warning that few clients show, and of
// "form:" in place of "from:" stays a rule that matches everybody: what is not
// known must reach the manager, which refuses it.
func keepUnknown(definition string) string {
	var out strings.Builder
	spec, free := -1, -1 // how far the spec is indented, and a map of any keys in it
	for line := range strings.Lines(definition) {
		out.WriteString(line)
		indent := len(line) - len(strings.TrimLeft(line, " "))
		word := strings.TrimSpace(line)
		if indent <= spec && word != "" {
			spec = -1
		}
		switch {
		case word == "spec:" && spec < 0 && indent > 4:
			spec = indent
		case word == "additionalProperties:":
			free = indent
		case word == "type: object" && spec >= 0 && indent == free:
			free = -1
		case word == "type: object" && spec >= 0:
			out.WriteString(strings.Repeat(" ", indent) + "x-kubernetes-preserve-unknown-fields: true\n")
		}
	}
	return out.String()
}

// TestCRD: the definitions are those of istio.io/api, of the version in go.mod,
// but that it keeps what it does not know.
func TestCRD(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "istio.io/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "kubernetes", "customresourcedefinitions.gen.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"authorizationpolicies", "requestauthentications", "peerauthentications"} {
		name += ".security.istio.io"
		want := ""
		for doc := range strings.SplitSeq(string(all), "\n---\n") {
			if strings.Contains(doc, "\n  name: "+name+"\n") {
				want = keepUnknown(strings.TrimSpace(doc) + "\n")
			}
		}
		if want == "" {
			t.Fatal("istio.io/api has no " + name)
		}
		path := filepath.Join("chart", "crds", name+".yaml")
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("-want +got (rewrite with -update):\n%s", diff)
		}
	}
}

// TestEmbedded: programs hold the whole chart.
func TestEmbedded(t *testing.T) {
	err := filepath.WalkDir("chart", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if got, err := deploy.Chart.ReadFile(filepath.ToSlash(path)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
