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
	// What the language has and this version does not: refused, never ignored.
	{"hosts", "{rules: [{to: [{operation: {hosts: [a]}}]}]}", "not-supported", "4:35"},
	{"notHosts", "{rules: [{to: [{operation: {notHosts: [a]}}]}]}", "not-supported", "4:35"},
	{"ports", "{rules: [{to: [{operation: {ports: [\"80\"]}}]}]}", "not-supported", "4:35"},
	{"notPorts", "{rules: [{to: [{operation: {notPorts: [\"80\"]}}]}]}", "not-supported", "4:35"},
	{"ipBlocks", "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}", "not-supported", "4:34"},
	{"notIpBlocks", "{rules: [{from: [{source: {notIpBlocks: [10.0.0.0/8]}}]}]}", "not-supported", "4:34"},
	{"remoteIpBlocks", "{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]}", "not-supported", "4:34"},
	{"notRemoteIpBlocks", "{rules: [{from: [{source: {notRemoteIpBlocks: [10.0.0.0/8]}}]}]}", "not-supported", "4:34"},
	{"requestPrincipals", "{rules: [{from: [{source: {requestPrincipals: [\"*\"]}}]}]}", "not-supported", "4:34"},
	{"notRequestPrincipals", "{rules: [{from: [{source: {notRequestPrincipals: [\"*\"]}}]}]}", "not-supported", "4:34"},
	{"trustDomains", "{rules: [{from: [{source: {trustDomains: [a]}}]}]}", "not-supported", "4:34"},
	{"when", "{rules: [{when: [{key: source.ip, values: [a]}]}]}", "not-supported", "4:17"},
	{"CUSTOM", "{action: CUSTOM, rules: [{}]}", "not-supported", "4:8"},
	{"AUDIT", "{action: AUDIT, rules: [{}]}", "not-supported", "4:8"},
	{"provider", "{action: ALLOW, provider: {name: a}}", "not-supported", "4:23"},
	{"targetRef", "{targetRef: {kind: Service, name: a}}", "not-supported", "4:8"},
	{"targetRefs", "{targetRefs: [{kind: Service, name: a}]}", "not-supported", "4:8"},
	{"a path template", "{rules: [{to: [{operation: {paths: [\"/a/{*}\"]}}]}]}", "not-supported", "4:43"},
	{"a deep path template", "{rules: [{to: [{operation: {paths: [\"/a/{**}\"]}}]}]}", "not-supported", "4:43"},
	{"an encoded path", "{rules: [{to: [{operation: {paths: [\"/a%20b\"]}}]}]}", "not-supported", "4:43"},

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
	{"another kind", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n", "wrong-kind", "2:1"},
	{"another group", "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\n", "wrong-kind", "1:1"},
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
	{"a dry run", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: b, annotations: {istio.io/dry-run: \"true\"}}\nspec: {}", "not-supported", "3:49"},
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
	if got, want := len(rows), 129; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			policies, err := parse.Policies("x", []byte(r.text))
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
			if reason != r.reason || at != r.at || (err == nil) != (len(policies) > 0) {
				t.Errorf("read %d policies, %q at %q (%v); want %q at %q", len(policies), reason, at, err, r.reason, r.at)
			}
		})
	}
}

func TestErrorNamesTheField(t *testing.T) {
	_, err := parse.Policies("shop.yaml", []byte(header("a")+"spec: {rules: [{from: [{source: {principal: [a]}}]}]}\n"))
	want := `shop.yaml:4:34: spec.rules[0].from[0].source.principal: there is no field "principal" here; did you mean principals?`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
