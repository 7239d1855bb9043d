package parse_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac/parse"
)

// inSpec are specs that are refused, and those of a kind that are not: what,
// why ("" accepts), and where.
var inSpec = []struct{ name, spec, reason, at string }{
	// Values of each field.
	{"a host with a port", "{rules: [{to: [{operation: {hosts: [\"a:80\"]}}]}]}", "bad-host", "4:43"},
	{"a host with a path", "{rules: [{to: [{operation: {notHosts: [a/b]}}]}]}", "bad-host", "4:46"},
	{"a host", "{rules: [{to: [{operation: {hosts: [a, \"*.B\", \"c:*\"]}}]}]}", "", ""},
	{"a port as a number", "{rules: [{to: [{operation: {ports: [80]}}]}]}", "wrong-type", "4:43"},
	{"port zero", "{rules: [{to: [{operation: {ports: [\"0\"]}}]}]}", "bad-port", "4:43"},
	{"a port with a star", "{rules: [{to: [{operation: {notPorts: [\"8*\"]}}]}]}", "bad-port", "4:46"},
	{"a port too large", "{rules: [{to: [{operation: {ports: [\"65536\"]}}]}]}", "bad-port", "4:43"},
	{"an address", "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}", "", ""},
	{"no address", "{rules: [{from: [{source: {notIpBlocks: [10.0.0]}}]}]}", "bad-ip", "4:48"},
	{"bits beyond the length", "{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.1/8]}}]}]}", "bad-ip", "4:51"},
	{"an address in the other family", "{rules: [{from: [{source: {notRemoteIpBlocks: [\"::ffff:10.0.0.1\"]}}]}]}", "bad-ip", "4:54"},
	{"a request principal without a slash", "{rules: [{from: [{source: {requestPrincipals: [a]}}]}]}", "bad-request-principal", "4:54"},
	{"an issuer alone", "{rules: [{from: [{source: {notRequestPrincipals: [\"https://a.test\"]}}]}]}", "bad-request-principal", "4:57"},
	{"any request principal", "{rules: [{from: [{source: {requestPrincipals: [\"*\"]}}]}]}", "", ""},
	{"a trust domain in upper case", "{rules: [{from: [{source: {trustDomains: [A]}}]}]}", "bad-trust-domain", "4:49"},
	{"a trust domain with a scheme", "{rules: [{from: [{source: {notTrustDomains: [\"spiffe://a\"]}}]}]}", "bad-trust-domain", "4:52"},
	{"an encoded path", "{rules: [{to: [{operation: {paths: [\"/a%20b\"]}}]}]}", "encoded-path", "4:43"},
	{"a path template", "{rules: [{to: [{operation: {paths: [\"/a/{*}\", \"/{**}\"]}}]}]}", "", ""},
	{"a template that goes on", "{rules: [{to: [{operation: {paths: [\"/{**}/a\"]}}]}]}", "bad-template", "4:43"},
	{"a template within a segment", "{rules: [{to: [{operation: {paths: [\"/a{*}\"]}}]}]}", "bad-template", "4:43"},
	{"a template with a star", "{rules: [{to: [{operation: {notPaths: [\"/*/{*}\"]}}]}]}", "bad-template", "4:46"},

	// Conditions.
	{"a condition", "{rules: [{when: [{key: source.ip, values: [10.0.0.1]}]}]}", "", ""},
	{"when empty", "{rules: [{when: []}]}", "empty-value", "4:17"},
	{"a condition of nothing", "{rules: [{when: [{}]}]}", "empty-value", "4:24"},
	{"no key", "{rules: [{when: [{values: [a]}]}]}", "missing-field", "4:24"},
	{"an empty key", "{rules: [{when: [{key: \"\", values: [a]}]}]}", "empty-value", "4:25"},
	{"no values", "{rules: [{when: [{key: source.ip}]}]}", "missing-field", "4:24"},
	{"empty values", "{rules: [{when: [{key: source.ip, values: []}]}]}", "empty-value", "4:41"},
	{"empty notValues", "{rules: [{when: [{key: source.ip, notValues: []}]}]}", "empty-value", "4:41"},
	{"an empty value", "{rules: [{when: [{key: source.ip, values: [\"\"]}]}]}", "empty-value", "4:50"},
	{"an unknown key of a condition", "{rules: [{when: [{key: source.user.agent, values: [a]}]}]}", "unknown-key", "4:25"},
	{"a key in another case", "{rules: [{when: [{key: source.IP, values: [a]}]}]}", "unknown-key", "4:25"},
	{"a key of an Envoy filter", "{rules: [{when: [{key: \"experimental.envoy.filters.network.mysql_proxy[a.b]\", values: [\"[select]\"]}]}]}", "not-supported", "4:25"},
	{"destination.labels", "{rules: [{when: [{key: \"destination.labels[version]\", values: [a]}]}]}", "removed-key", "4:25"},
	{"destination.name", "{rules: [{when: [{key: destination.name, values: [a]}]}]}", "removed-key", "4:25"},
	{"destination.namespace", "{rules: [{when: [{key: destination.namespace, values: [a]}]}]}", "removed-key", "4:25"},
	{"destination.user", "{rules: [{when: [{key: destination.user, values: [a]}]}]}", "removed-key", "4:25"},
	{"request.path", "{rules: [{when: [{key: request.path, values: [/a]}]}]}", "removed-key", "4:25"},
	{"a key for any trust domain", "{rules: [{when: [{key: source.namespace of any trust domain, values: [a]}]}]}", "unknown-key", "4:25"},
	{"no header", "{rules: [{when: [{key: request.headers, values: [a]}]}]}", "bad-key", "4:25"},
	{"an empty header", "{rules: [{when: [{key: \"request.headers[]\", values: [a]}]}]}", "bad-key", "4:25"},
	{"two headers", "{rules: [{when: [{key: \"request.headers[a][b]\", values: [a]}]}]}", "bad-key", "4:25"},
	{"a header that is left open", "{rules: [{when: [{key: \"request.headers[a\", values: [a]}]}]}", "bad-key", "4:25"},
	{"a header with more behind it", "{rules: [{when: [{key: \"request.headers[a]x\", values: [a]}]}]}", "bad-key", "4:25"},
	{"a header in two brackets", "{rules: [{when: [{key: \"request.headers[[a]]\", values: [a]}]}]}", "bad-key", "4:25"},
	{"a pseudo header", "{rules: [{when: [{key: \"request.headers[:path]\", values: [/a]}]}]}", "bad-header", "4:25"},
	{"the header host", "{rules: [{when: [{key: \"request.headers[Host]\", values: [a]}]}]}", "bad-header", "4:25"},
	{"a header with an underscore", "{rules: [{when: [{key: \"request.headers[a_b]\", values: [a]}]}]}", "bad-header", "4:25"},
	{"a header's value with a comma", "{rules: [{when: [{key: \"request.headers[a]\", values: [\"a,b\"]}]}]}", "bad-header-value", "4:61"},
	{"no claim", "{rules: [{when: [{key: request.auth.claims, values: [a]}]}]}", "bad-key", "4:25"},
	{"an empty claim", "{rules: [{when: [{key: \"request.auth.claims[a][]\", values: [a]}]}]}", "bad-key", "4:25"},
	{"a claim with a dot for brackets", "{rules: [{when: [{key: \"request.auth.claims.a\", values: [a]}]}]}", "unknown-key", "4:25"},
	{"a claim with text between", "{rules: [{when: [{key: \"request.auth.claims[a].[b]\", values: [a]}]}]}", "bad-key", "4:25"},
	{"nine claims deep", "{rules: [{when: [{key: \"request.auth.claims[a][b][c][d][e][f][g][h][i]\", values: [a]}]}]}", "bad-claim", "4:25"},
	{"eight claims deep", "{rules: [{when: [{key: \"request.auth.claims[a][b][c][d][e][f][g][h]\", values: [a]}]}]}", "", ""},
	{"a server name with a port", "{rules: [{when: [{key: connection.sni, values: [\"a:443\"]}]}]}", "bad-sni", "4:55"},
	{"a value that cannot be seen", "{rules: [{when: [{key: \"request.auth.claims[a]\", values: [\"a\\u202eb\"]}]}]}", "bad-character", "4:65"},
	{"513 conditions", "{rules: [{when: [" + strings.TrimSuffix(strings.Repeat("{key: source.ip, values: [10.0.0.1]},", 513), ",") + "]}]}", "too-many", "4:17"},

	// Actions.
	{"CUSTOM", "{action: CUSTOM, provider: {name: a}, rules: [{}]}", "", ""},
	{"CUSTOM without provider", "{action: CUSTOM, rules: [{}]}", "missing-provider", "4:8"},
	{"CUSTOM without rules", "{action: CUSTOM, provider: {name: a}}", "no-rules", "4:1"},
	{"an empty provider", "{action: CUSTOM, provider: {}, rules: [{}]}", "empty-value", "4:24"},
	{"a provider with a slash", "{action: CUSTOM, provider: {name: a/b}, rules: [{}]}", "bad-name", "4:35"},
	{"a long provider", "{action: CUSTOM, provider: {name: " + strings.Repeat("a", 64) + "}, rules: [{}]}", "bad-name", "4:35"},
	{"a provider for ALLOW", "{action: ALLOW, provider: {name: a}}", "conflict", "4:23"},
	{"a provider for no action", "{provider: {name: a}}", "conflict", "4:8"},
	{"CUSTOM by principal", "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {principals: [\"*\"]}}]}]}", "not-in-custom", "4:71"},
	{"CUSTOM by notNamespace", "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {notNamespaces: [a]}}]}]}", "not-in-custom", "4:71"},
	{"CUSTOM by account", "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {serviceAccounts: [a]}}]}]}", "not-in-custom", "4:71"},
	{"CUSTOM by trust domain", "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {trustDomains: [a]}}]}]}", "not-in-custom", "4:71"},
	{"CUSTOM by request principal", "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {requestPrincipals: [\"*\"]}}]}]}", "not-in-custom", "4:71"},
	{"CUSTOM by address", "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {ipBlocks: [10.0.0.1]}}]}]}", "", ""},
	{"CUSTOM by a condition on the namespace", "{action: CUSTOM, provider: {name: a}, rules: [{when: [{key: source.namespace, values: [a]}]}]}", "not-in-custom", "4:62"},
	{"CUSTOM by a claim", "{action: CUSTOM, provider: {name: a}, rules: [{when: [{key: \"request.auth.claims[a]\", values: [a]}]}]}", "not-in-custom", "4:62"},
	{"CUSTOM by a header", "{action: CUSTOM, provider: {name: a}, rules: [{when: [{key: \"request.headers[a]\", values: [a]}]}]}", "", ""},
	{"AUDIT", "{action: AUDIT, rules: [{}]}", "", ""},
	{"AUDIT without rules", "{action: AUDIT}", "no-rules", "4:1"},

	// Targets.
	{"targetRef", "{targetRef: {kind: Service, name: a}}", "", ""},
	{"targetRefs", "{targetRefs: [{kind: Service, name: a}]}", "", ""},
	{"both of them", "{targetRef: {kind: Service, name: a}, targetRefs: [{kind: Service, name: a}]}", "conflict", "4:8"},
	{"targetRefs with a selector", "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]}", "conflict", "4:8"},
	{"targetRef with a selector", "{targetRef: {kind: Service, name: a}, selector: {matchLabels: {a: b}}}", "conflict", "4:45"},
	{"17 targetRefs", "{targetRefs: [" + strings.TrimSuffix(strings.Repeat("{kind: Service, name: a},", 17), ",") + "]}", "too-many", "4:8"},
	{"empty targetRefs", "{targetRefs: []}", "empty-value", "4:8"},
	{"a target of nothing", "{targetRefs: [{}]}", "empty-value", "4:21"},
	{"a target of another kind", "{targetRefs: [{kind: Pod, name: a}]}", "unknown-value", "4:22"},
	{"a gateway of no group", "{targetRefs: [{kind: Gateway, name: a}]}", "unknown-value", "4:21"},
	{"a service of another group", "{targetRefs: [{kind: Service, group: apps, name: a}]}", "unknown-value", "4:21"},
	{"a target without a kind", "{targetRefs: [{name: a}]}", "missing-field", "4:21"},
	{"a target without a name", "{targetRefs: [{kind: Service}]}", "missing-field", "4:21"},
	{"a target's name with a slash", "{targetRefs: [{kind: Service, name: a/b}]}", "bad-name", "4:37"},
	{"a target in another namespace", "{targetRefs: [{kind: Service, name: a, namespace: b}]}", "not-supported", "4:46"},

	// Empty: what an author left empty must not match everything.
	{"nothing", "", "wrong-type", "4:1"},
	{"null", "null", "wrong-type", "4:1"},
	{"rules null", "{rules: null}", "wrong-type", "4:8"},
	{"no rules allow nothing", "{rules: []}", "", ""},
	{"no rules deny nothing", "{action: DENY, rules: []}", "deny-nothing", "4:1"},
	{"no rules field denies nothing", "{action: DENY}", "deny-nothing", "4:1"},
	{"a null rule", "{rules: [null]}", "wrong-type", "4:16"},
	{"an empty rule", "{rules: [{}]}", "", ""},
	{"empty from", "{rules: [{from: []}]}", "empty-value", "4:17"},
	{"from null", "{rules: [{from: null}]}", "wrong-type", "4:17"},
	{"from of nothing", "{rules: [{from: [{}]}]}", "empty-value", "4:24"},
	{"an empty source", "{rules: [{from: [{source: {}}]}]}", "empty-value", "4:25"},
	{"source null", "{rules: [{from: [{source: null}]}]}", "wrong-type", "4:25"},
	{"empty to", "{rules: [{to: []}]}", "empty-value", "4:17"},
	{"to of nothing", "{rules: [{to: [{}]}]}", "empty-value", "4:22"},
	{"an empty operation", "{rules: [{to: [{operation: {}}]}]}", "empty-value", "4:23"},
	{"empty principals", "{rules: [{from: [{source: {principals: []}}]}]}", "empty-value", "4:34"},
	{"empty paths", "{rules: [{to: [{operation: {paths: []}}]}]}", "empty-value", "4:35"},
	{"an empty principal", "{rules: [{from: [{source: {principals: [\"\"]}}]}]}", "empty-value", "4:47"},
	{"an empty namespace", "{rules: [{from: [{source: {namespaces: [\"\"]}}]}]}", "empty-value", "4:47"},
	{"an empty account", "{rules: [{from: [{source: {serviceAccounts: [\"\"]}}]}]}", "empty-value", "4:52"},
	{"an empty method", "{rules: [{to: [{operation: {methods: [\"\"]}}]}]}", "empty-value", "4:45"},
	{"an empty path", "{rules: [{to: [{operation: {paths: [\"\"]}}]}]}", "empty-value", "4:43"},
	{"a null path", "{rules: [{to: [{operation: {paths: [~]}}]}]}", "wrong-type", "4:43"},
	{"an empty selector", "{selector: {}}", "empty-value", "4:8"},
	{"empty matchLabels", "{selector: {matchLabels: {}}}", "empty-value", "4:19"},

	// Types, and words that YAML takes for others.
	{"a list for a mapping", "[]", "wrong-type", "4:1"},
	{"a string for a mapping", "ALLOW", "wrong-type", "4:1"},
	{"a mapping for a list", "{rules: {from: []}}", "wrong-type", "4:8"},
	{"a string for a list", "{rules: [{to: [{operation: {methods: GET}}]}]}", "wrong-type", "4:35"},
	{"a number for a string", "{selector: {matchLabels: {version: 1}}}", "wrong-type", "4:33"},
	{"a boolean for a string", "{rules: [{to: [{operation: {methods: [true]}}]}]}", "wrong-type", "4:45"},
	{"a date for a string", "{rules: [{to: [{operation: {paths: [2026-01-01]}}]}]}", "wrong-type", "4:43"},
	{"a mapping for a string", "{rules: [{to: [{operation: {paths: [{a: b}]}}]}]}", "wrong-type", "4:43"},
	{"action as a number", "{action: 1}", "wrong-type", "4:8"},
	{"an unknown action", "{action: PERMIT}", "unknown-value", "4:8"},
	{"an action in lower case", "{action: allow}", "unknown-value", "4:8"},
	{"an action with a blank", "{action: \"ALLOW \"}", "unknown-value", "4:8"},

	// Keys.
	{"an unknown key", "{rule: []}", "unknown-field", "4:8"},
	{"a key in snake case", "{rules: [{from: [{source: {not_principals: [a]}}]}]}", "unknown-field", "4:34"},
	{"a key of another level", "{rules: [{source: {}}]}", "unknown-field", "4:17"},
	{"source in to", "{rules: [{to: [{source: {namespaces: [a]}}]}]}", "unknown-field", "4:23"},
	{"a duplicate key", "{action: DENY, action: ALLOW}", "duplicate-key", "4:22"},
	{"a duplicate label", "{selector: {matchLabels: {a: b, a: c}}}", "duplicate-key", "4:39"},
	{"a number as a key", "{1: 2}", "bad-key", "4:8"},
	{"a list as a key", "{? [a] : b}", "bad-key", "4:10"},
	{"a merge key", "{<<: {action: DENY}}", "bad-key", "4:8"},

	// What lets a text mean more than it shows.
	{"an anchor", "&a {}", "alias", "4:7"},
	{"an alias", "{rules: [&a {}, *a]}", "alias", "4:16"},
	{"a tag", "!!map {}", "tag", "4:7"},
	{"a tagged string", "{action: !!str DENY}", "tag", "4:16"},
	{"a binary", "{action: !!binary REVOWQ==}", "tag", "4:16"},
	{"a star without quotes", "{rules: [{from: [{source: {principals: [*]}}]}]}", "bad-yaml", "4"},
	{"a tab", "\n\trules: []", "bad-yaml", "5"},
	{"an open bracket", "{rules: [", "bad-yaml", "4"},
	{"deep nesting", strings.Repeat("[", 40) + strings.Repeat("]", 40), "too-deep", "4:39"},

	// Labels.
	{"a label with a star", "{selector: {matchLabels: {app: \"w*\"}}}", "bad-label", "4:33"},
	{"a label key with a star", "{selector: {matchLabels: {\"a*\": w}}}", "bad-label", "4:33"},
	{"an empty label key", "{selector: {matchLabels: {\"\": w}}}", "bad-label", "4:33"},
	{"a label with a blank", "{selector: {matchLabels: {app: \"a b\"}}}", "bad-label", "4:33"},
	{"a long label", "{selector: {matchLabels: {app: " + strings.Repeat("a", 64) + "}}}", "bad-label", "4:33"},
	{"a label", "{selector: {matchLabels: {app: " + strings.Repeat("a", 63) + "}}}", "", ""},

	// Sources.
	{"accounts with principals", "{rules: [{from: [{source: {serviceAccounts: [a], principals: [\"*\"]}}]}]}", "conflict", "4:25"},
	{"accounts with not namespaces", "{rules: [{from: [{source: {serviceAccounts: [a], notNamespaces: [a]}}]}]}", "conflict", "4:25"},
	{"17 accounts", "{rules: [{from: [{source: {serviceAccounts: [" + strings.TrimSuffix(strings.Repeat("a,", 17), ",") + "]}}]}]}", "too-many", "4:34"},
	{"16 accounts", "{rules: [{from: [{source: {serviceAccounts: [" + strings.TrimSuffix(strings.Repeat("a,", 16), ",") + "]}}]}]}", "", ""},
	{"an account with a star", "{rules: [{from: [{source: {serviceAccounts: [\"a/*\"]}}]}]}", "bad-service-account", "4:52"},
	{"a principal with its scheme", "{rules: [{from: [{source: {principals: [\"spiffe://td/ns/a/sa/b\"]}}]}]}", "bad-principal", "4:47"},

	// Sizes.
	{"513 rules", "{rules: [" + strings.TrimSuffix(strings.Repeat("{},", 513), ",") + "]}", "too-many", "4:8"},
	{"512 rules", "{rules: [" + strings.TrimSuffix(strings.Repeat("{},", 512), ",") + "]}", "", ""},
	{"513 sources", "{rules: [{from: [" + strings.TrimSuffix(strings.Repeat("{source: {namespaces: [a]}},", 513), ",") + "]}]}", "too-many", "4:17"},
	{"513 operations", "{rules: [{to: [" + strings.TrimSuffix(strings.Repeat("{operation: {paths: [/]}},", 513), ",") + "]}]}", "too-many", "4:17"},
	{"a large object", "{} #" + strings.Repeat("x", parse.MaxObject), "too-long", "1"},
	{"a large canonical form", "{rules: [{to: [{operation: {paths: [" + strings.TrimSuffix(strings.Repeat("/,", 30000), ",") + "]}}]}]}", "too-long", "1:1"},
}

// whole are documents: the same, from their first byte.
var whole = []struct{ name, text, reason, at string }{
	{"nothing", "", "empty", "1"},
	{"comments", "# a\n---\n# b\n", "empty", "1"},
	{"a number", "1", "wrong-type", "1:1"},
	{"a list", "[]", "wrong-type", "1:1"},
	{"another kind", "apiVersion: security.istio.io/v1\nkind: Sidecar\n", "wrong-kind", "2:1"},
	{"another kind of ours", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n", "wrong-kind", "2:1"},
	{"another version", "apiVersion: security.istio.io/v1alpha1\nkind: AuthorizationPolicy\n", "wrong-kind", "1:1"},
	{"the older version", "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: b}\nspec: {}", "", ""},
	{"no apiVersion", "kind: AuthorizationPolicy\n", "missing-field", "1:1"},
	{"no kind", "apiVersion: security.istio.io/v1\n", "missing-field", "1:1"},
	{"no metadata", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nspec: {}\n", "missing-field", "1:1"},
	{"no spec", header("a"), "missing-field", "1:1"},
	{"a name in upper case", header("A") + "spec: {}", "bad-name", "3:12"},
	{"a name with a slash", header("a/b") + "spec: {}", "bad-name", "3:12"},
	{"a name that ends in a dot", header("a.") + "spec: {}", "bad-name", "3:12"},
	{"a name with two dots", header("a..b") + "spec: {}", "bad-name", "3:12"},
	{"a long name", header(strings.Repeat("a", 254)) + "spec: {}", "bad-name", "3:12"},
	{"the longest name", header(strings.Repeat("a", 253)) + "spec: {}", "", ""},
	{"an empty name", header(`""`) + "spec: {}", "empty-value", "3:12"},
	{"a number as a name", header("1") + "spec: {}", "wrong-type", "3:12"},
	{"no name", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: a}\nspec: {}", "missing-field", "3:1"},
	{"no namespace", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {}", "missing-field", "3:1"},
	{"a namespace with a dot", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: a.b}\nspec: {}", "bad-name", "3:21"},
	{"a long namespace", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: " + strings.Repeat("a", 64) + "}\nspec: {}", "bad-name", "3:21"},
	{"unknown metadata", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: b, nmae: c}\nspec: {}", "unknown-field", "3:35"},
	{"a dry run", annotated("istio.io/dry-run: \"true\"") + "spec: {}", "", ""},
	{"no dry run", annotated("istio.io/dry-run: \"false\"") + "spec: {action: AUDIT, rules: [{}]}", "", ""},
	{"a dry run in upper case", annotated("istio.io/dry-run: \"True\"") + "spec: {}", "unknown-value", "3:49"},
	{"a dry run of 1", annotated("istio.io/dry-run: \"1\"") + "spec: {}", "unknown-value", "3:49"},
	{"an empty dry run", annotated("istio.io/dry-run: \"\"") + "spec: {}", "unknown-value", "3:49"},
	{"a dry run as a boolean", annotated("istio.io/dry-run: true") + "spec: {}", "wrong-type", "3:49"},
	{"a dry run of AUDIT", annotated("istio.io/dry-run: \"true\"") + "spec: {action: AUDIT, rules: [{}]}", "not-supported", "3:49"},
	{"a dry run of CUSTOM", annotated("istio.io/dry-run: \"true\"") + "spec: {action: CUSTOM, provider: {name: a}, rules: [{}]}", "not-supported", "3:49"},
	{"a slip in dry run", annotated("istio.io/dryrun: \"true\"") + "spec: {}", "unknown-annotation", "3:49"},
	{"dry run in another case", annotated("istio.io/Dry-Run: \"true\"") + "spec: {}", "unknown-annotation", "3:49"},
	{"another annotation", annotated("example.com/a: b") + "spec: {}", "", ""},
	{"an annotation of ours that is not", annotated("istio-auth.io/mode: a") + "spec: {}", "unknown-annotation", "3:49"},
	{"compat", annotated("istio-auth.io/compat: istio") + "spec: {}", "", ""},
	{"compat with another", annotated("istio-auth.io/compat: linkerd") + "spec: {}", "unknown-value", "3:49"},
	{"annotations as a list", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: b, annotations: []}\nspec: {}", "wrong-type", "3:35"},
	{"a time that is none", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: b, creationTimestamp: yesterday}\nspec: {}", "bad-time", "3:35"},
	{"an unknown field", header("a") + "spec: {}\nspecs: {}\n", "unknown-field", "5:1"},
	{"a policy twice", header("a") + "spec: {}\n---\n" + header("a") + "spec: {}\n", "duplicate-policy", "8:12"},
	{"the second is bad", header("a") + "spec: {}\n---\n" + header("b") + "spec: {rules: [{form: []}]}\n", "unknown-field", "9:17"},
	{"more after the end", header("a") + "spec: {}\n...\nspec: {}\n", "bad-yaml", "5"},
	{"no UTF-8", header("a") + "spec: {} # \xff\n", "not-utf8", ""},
	{"UTF-16", "\xff\xfea\x00", "not-utf8", ""},
	{"a control byte", header("a") + "spec: {} # \x01\n", "bad-yaml", "1"},
	{"a large file", strings.Repeat("#\n", parse.MaxFile/2+1), "too-long", ""},
	{"carriage returns", strings.ReplaceAll(header("a")+"spec: {}\n---\n"+header("b")+"spec: {}\n", "\n", "\r\n"), "", ""},
	{"a marker with text", "--- {}\n", "missing-field", "1:5"},
	{"JSON", `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"a","namespace":"b"},"spec":{}}`, "", ""},
}

// annotated begins a policy with annotations.
func annotated(text string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: b, annotations: {" + text + "}}\n"
}

// TestRefusals: each row is refused for its reason and at its place, or accepted.
func TestRefusals(t *testing.T) {
	type row struct{ name, text, reason, at string }
	var rows []row
	for _, r := range inSpec {
		rows = append(rows, row{"spec/" + r.name, header("a") + "spec: " + r.spec + "\n", r.reason, r.at})
	}
	for _, r := range whole {
		rows = append(rows, row(r))
	}
	if got, want := len(rows), 218; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			policies, err := parse.Policies("x", []byte(r.text))
			judge(t, err, r.reason, r.at)
			if (err == nil) != (len(policies) > 0) {
				t.Errorf("read %d policies, %v", len(policies), err)
			}
		})
	}
}

// judge holds an error to its reason and its place; no reason is no error.
func judge(t *testing.T, err error, wantReason, wantAt string) {
	t.Helper()
	reason, at := "", ""
	var e *parse.Error
	if errors.As(err, &e) {
		reason = e.Reason
		switch {
		case e.Column > 0:
			at = fmt.Sprintf("%d:%d", e.Line, e.Column)
		case e.Line > 0:
			at = fmt.Sprint(e.Line)
		}
	}
	if reason != wantReason || at != wantAt || wantReason == "" && err != nil {
		t.Errorf("got %q at %q (%v), want %q at %q", reason, at, err, wantReason, wantAt)
	}
}

func TestErrorNamesTheField(t *testing.T) {
	_, err := parse.Policies("shop.yaml", []byte(header("a")+"spec: {rules: [{from: [{source: {principal: [a]}}]}]}\n"))
	want := `shop.yaml:4:34: spec.rules[0].from[0].source.principal: there is no field "principal" here; did you mean principals?`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
