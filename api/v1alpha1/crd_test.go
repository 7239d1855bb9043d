package v1alpha1_test

import (
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/istio-auth/istio-auth/api/v1alpha1"
	"github.com/istio-auth/istio-auth/test/kubeapi"
	"github.com/istio-auth/istio-auth/test/testreq"
)

func TestMain(m *testing.M) { kubeapi.Main(m, kubeapi.Config{}) }

// What is in a spec beside what a row is about.
const (
	role  = "roleRef: {name: r}"
	users = "endUsers: {issuer: https://idp.test}"
	web   = "subjects: [{serviceAccounts: [web]}]"
)

// rows are specs, and what an API server with our definitions says of them:
// nothing, or something that its answer has.
var rows = []struct{ kind, spec, refusal string }{
	{"AccessRole", `permissions: [{operations: [{methods: [GET]}]}]`, ""},
	{"AccessRole", `permissions: [{when: [{key: "request.headers[x]", values: [a]}]}]`, ""},
	{"AccessRole", `permissions: [{expression: 'source.namespace == "a"'}]`, ""},
	{"AccessRole", `permissions: [{operations: [{hosts: [a], notHosts: [a], ports: ["80"], notPorts: ["80"], methods: [GET], notMethods: [GET], paths: [/a], notPaths: [/a]}], when: [{key: k, values: [a], notValues: [b]}], expression: x}, {operations: [{paths: [/]}]}]`, ""},
	{"AccessRole", `permissions: [{operation: [{methods: [GET]}], expression: x}]`, ""}, // a typo is for us to refuse
	{"AccessRole", `{}`, "spec.permissions: Required value"},
	{"AccessRole", `permissions: []`, "at least 1 item"},
	{"AccessRole", `permissions: [{}]`, "a permission needs operations, when or expression"},
	{"AccessRole", `permissions: [{operation: [{methods: [GET]}]}]`, "a permission needs"},
	{"AccessRole", `permissions: [{operations: []}]`, "at least 1 item"},
	{"AccessRole", `permissions: [{operations: [{}]}]`, "an operation needs"},
	{"AccessRole", `permissions: [{operations: [{method: [GET]}]}]`, "an operation needs"},
	{"AccessRole", `permissions: [{operations: [{methods: []}]}]`, "at least 1 item"},
	{"AccessRole", `permissions: [{operations: [{methods: [""]}]}]`, "at least 1 char"},
	{"AccessRole", `permissions: [{operations: [{methods: GET}]}]`, "must be of type array"},
	{"AccessRole", `permissions: [{operations: [{ports: [80]}]}]`, "must be of type string"},
	{"AccessRole", `permissions: [{operations: [{paths: ["` + strings.Repeat("x", 8193) + `"]}]}]`, "may not be more than 8192"},
	{"AccessRole", `permissions: [{when: []}]`, "at least 1 item"},
	{"AccessRole", `permissions: [{when: [{key: k}]}]`, "a condition needs values or notValues"},
	{"AccessRole", `permissions: [{when: [{values: [a]}]}]`, "key: Required value"},
	{"AccessRole", `permissions: [{when: [{key: "", values: [a]}]}]`, "at least 1 char"},
	{"AccessRole", `permissions: [{expression: ""}]`, "at least 1 char"},
	{"AccessRole", `permissions: [{expression: "` + strings.Repeat("x", 4097) + `"}]`, "may not be more than 4096"},
	{"AccessRole", `permissions: [` + strings.Repeat(`{expression: x},`, 65) + `]`, "must have at most 64 items"},
	{"AccessRole", `permissions: [{expression: 1}]`, "must be of type string"},
	{"AccessRole", `permissions: {}`, "must be of type array"},

	{"AccessGrant", role + "\n" + web, ""},
	{"AccessGrant", `{roleRef: {name: r, namespace: istio-system}, subjects: [{serviceAccounts: [web]}, {principals: [td/ns/a/sa/b]}, {namespaces: [a]}, {requestPrincipals: [i/s]}], selector: {matchLabels: {app: web}}, expression: x}`, ""},
	{"AccessGrant", role + "\n" + users + "\nsubjects: [{groups: [ops]}]", ""},
	{"AccessGrant", role + "\n" + users + "\nsubjects: [{serviceAccounts: [web], groups: [ops]}, {namespaces: [a]}]", ""},
	{"AccessGrant", role + "\nendUsers: {issuer: i, groupsClaim: roles}\nsubjects: [{groups: [ops]}]", ""},
	{"AccessGrant", role + "\nsubjects: [{serviceAccounts: [web], requestPrincipals: [i/s]}]", ""},
	{"AccessGrant", web, "spec.roleRef: Required value"},
	{"AccessGrant", role, "spec.subjects: Required value"},
	{"AccessGrant", role + "\nsubjects: []", "at least 1 item"},
	{"AccessGrant", role + "\nsubjects: [{}]", "a subject needs a field"},
	{"AccessGrant", role + "\nsubjects: [{serviceAccount: [web]}]", "a subject needs a field"},
	{"AccessGrant", role + "\nsubjects: [{serviceAccounts: []}]", "at least 1 item"},
	{"AccessGrant", role + "\nsubjects: [{serviceAccounts: [web], namespaces: [a]}]", "stand in subjects of their own"},
	{"AccessGrant", role + "\nsubjects: [{serviceAccounts: [web], principals: [a]}]", "stand in subjects of their own"},
	{"AccessGrant", role + "\nsubjects: [{principals: [a], namespaces: [a]}]", "stand in subjects of their own"},
	{"AccessGrant", role + "\n" + users + "\nsubjects: [{requestPrincipals: [i/s], groups: [a]}]", "requestPrincipals and groups"},
	{"AccessGrant", role + "\nsubjects: [{groups: [ops]}]", "endUsers says where groups come from"},
	{"AccessGrant", role + "\n" + users + "\n" + web, "endUsers says where groups come from"},
	{"AccessGrant", role + "\nendUsers: {}\nsubjects: [{groups: [ops]}]", "issuer: Required value"},
	{"AccessGrant", role + "\nendUsers: {issuer: ''}\nsubjects: [{groups: [ops]}]", "at least 1 char"},
	{"AccessGrant", role + "\nendUsers: {issuer: i, groupsClaim: ''}\nsubjects: [{groups: [ops]}]", "at least 1 char"},
	{"AccessGrant", "roleRef: {}\n" + web, "roleRef.name: Required value"},
	{"AccessGrant", "roleRef: {name: ''}\n" + web, "at least 1 char"},
	{"AccessGrant", "roleRef: {name: r, namespace: ''}\n" + web, "at least 1 char"},
	{"AccessGrant", "roleRef: r\n" + web, "must be of type object"},
	{"AccessGrant", role + "\n" + web + "\nselector: {}", "matchLabels: Required value"},
	{"AccessGrant", role + "\n" + web + "\nselector: {matchLabels: {}}", "at least 1 properties"},
	{"AccessGrant", role + "\n" + web + "\nselector: {matchLabels: {a: 1}}", "must be of type string"},
	{"AccessGrant", role + "\n" + web + "\nexpression: ''", "at least 1 char"},
	{"AccessGrant", role + "\nsubjects: [" + strings.Repeat("{namespaces: [a]},", 257) + "]", "must have at most 256 items"},

	{"AccessRule", `{action: DENY, expression: x}`, ""},
	{"AccessRule", `{action: ALLOW, sources: [{namespaces: [a]}], operations: [{methods: [GET]}], when: [{key: k, values: [a]}], selector: {matchLabels: {a: b}}}`, ""},
	{"AccessRule", `{action: AUDIT, sources: [{ipBlocks: [a], notIpBlocks: [a], remoteIpBlocks: [a], notRemoteIpBlocks: [a], trustDomains: [a], notTrustDomains: [a], requestPrincipals: [a], notRequestPrincipals: [a], principals: [a], notPrincipals: [a], namespaces: [a], notNamespaces: [a]}, {serviceAccounts: [a], notServiceAccounts: [a]}]}`, ""},
	{"AccessRule", `expression: x`, "action: Required value"},
	{"AccessRule", `{action: deny, expression: x}`, "Unsupported value"},
	{"AccessRule", `{action: CUSTOM, expression: x}`, "Unsupported value"},
	{"AccessRule", `{action: DENY}`, "a rule needs sources"},
	{"AccessRule", `{action: DENY, sources: [{}]}`, "a source needs a field"},
	{"AccessRule", `{action: DENY, sources: [{namespace: [a]}]}`, "a source needs a field"},
	{"AccessRule", `{action: DENY, sources: []}`, "at least 1 item"},
	{"AccessRule", `{action: DENY, sources: [{serviceAccounts: [a], namespaces: [a]}]}`, "service accounts cannot stand with"},
	{"AccessRule", `{action: DENY, sources: [{notServiceAccounts: [a], notPrincipals: [a]}]}`, "service accounts cannot stand with"},
	{"AccessRule", `{action: DENY, operations: [{}]}`, "an operation needs"},
	{"AccessRule", `{action: DENY, when: [{key: k}]}`, "a condition needs"},
	{"AccessRule", `{action: DENY, expression: x, selector: {}}`, "matchLabels: Required value"},

	{"RequestAuthentication", `jwtRules: [{issuer: https://idp.test, jwks: "{}"}]`, ""},
	{"RequestAuthentication", `jwtRules: [{issuer: https://idp.test, jwksUri: "ftp://x"}]`, "url must have scheme"},
	{"RequestAuthentication", `jwtRules: [{issuer: https://idp.test, jwks: "{}", jwksUri: "https://x"}]`, "only one of jwks or jwksUri"},
	{"RequestAuthentication", `{selector: {matchLabels: {a: b}}, targetRef: {kind: Gateway, name: x}}`, "only one of targetRefs or selector"},
	{"PeerAuthentication", `mtls: {mode: STRICT}`, ""},
	{"PeerAuthentication", `mtls: {mode: strict}`, "Unsupported value"},
	{"PeerAuthentication", `{mtls: {mode: STRICT}, portLevelMtls: {"80": {mode: DISABLE}}}`, "portLevelMtls requires selector"},
	{"AuthorizationPolicy", `action: CUSTOM`, ""},
	{"AuthorizationPolicy", `action: EXTRA`, "Unsupported value"},
}

// TestDefinitions asks a real API server.
func TestDefinitions(t *testing.T) {
	good, bad := 0, 0
	for _, row := range rows {
		if row.refusal == "" {
			good++
		} else {
			bad++
		}
	}
	if good != 17 || bad != 63 {
		t.Errorf("%d good and %d bad rows, want 17 and 63", good, bad)
	}
	s := kubeapi.Shared(t)
	s.Kubectl(t, "apply", "--server-side", "-f", filepath.Join(testreq.Tree(t), "deploy", "chart", "crds"))
	s.Kubectl(t, "wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
	client, err := dynamic.NewForConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	namespace := s.Namespace(t)
	for _, row := range rows {
		answer := create(t, client, namespace, row.kind, "x", row.spec)
		if (answer == "") != (row.refusal == "") || !strings.Contains(answer, row.refusal) {
			t.Errorf("%s %.300s\ngot  %q\nwant %q", row.kind, row.spec, answer, row.refusal)
		}
	}
	for _, kind := range []string{"AccessRole", "AccessGrant", "AccessRule"} {
		spec := map[string]string{"AccessRole": rows[0].spec, "AccessGrant": role + "\n" + web, "AccessRule": "{action: DENY, expression: x}"}[kind]
		if answer := create(t, client, namespace, kind, strings.Repeat("x", 201), spec); !strings.Contains(answer, "at most 200 characters") {
			t.Errorf("a long name of %s: %q", kind, answer)
		}
	}
}

// create asks whether an object would be taken, and returns why not.
func create(t *testing.T, client dynamic.Interface, namespace, kind, name, spec string) string {
	t.Helper()
	version := v1alpha1.GroupVersion
	if !strings.HasPrefix(kind, "Access") {
		version = schema.GroupVersion{Group: "security.istio.io", Version: "v1"}
	}
	var body map[string]any
	if err := yaml.Unmarshal([]byte(spec), &body); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": version.String(), "kind": kind, "metadata": map[string]any{"namespace": namespace, "name": name}, "spec": body,
	}}
	plural := strings.ToLower(kind) + "s"
	if kind == "AuthorizationPolicy" {
		plural = "authorizationpolicies"
	}
	_, err := client.Resource(version.WithResource(plural)).Namespace(namespace).Create(t.Context(), u, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	switch {
	case err == nil:
		return ""
	case !apierrors.IsInvalid(err):
		return "not an answer: " + err.Error()
	}
	return err.Error()
}
