package parse

import (
	"encoding/json"
	"fmt"

	"github.com/istio-auth/istio-auth/rbac"
)

// JSON is the canonical source of a policy: an AuthorizationPolicy object on one
// line, keys in order, and nothing that says nothing. [Policies] reads it back
// as an equal policy. It can be longer than what an author wrote, but never
// longer than [MaxObject] for a policy that Policies has returned.
func JSON(p rbac.Policy) []byte {
	spec := map[string]any{"action": p.Action.String()}
	if len(p.Selector) > 0 {
		spec["selector"] = map[string]any{"matchLabels": p.Selector}
	}
	var rules []any
	for _, r := range p.Rules {
		rules = append(rules, ruleJSON(r, p.Namespace))
	}
	put(spec, "rules", rules)
	data, err := json.Marshal(map[string]any{
		"apiVersion": apiVersion,
		"kind":       kind,
		"metadata":   map[string]any{"name": p.Name, "namespace": p.Namespace},
		"spec":       spec,
	})
	if err != nil {
		panic(fmt.Sprintf("parse: strings and maps of strings that are no JSON: %v", err)) // cannot be
	}
	return data
}

func ruleJSON(r rbac.Rule, own string) map[string]any {
	rule := map[string]any{}
	var from, to []any
	for _, c := range r.From {
		from = append(from, map[string]any{"source": clauseJSON(c, own)})
	}
	for _, c := range r.To {
		to = append(to, map[string]any{"operation": clauseJSON(c, own)})
	}
	put(rule, "from", from)
	put(rule, "to", to)
	return rule
}

// put leaves out what is empty.
func put(m map[string]any, key string, list []any) {
	if len(list) > 0 {
		m[key] = list
	}
}

// fieldNames are those of the tests that are fields of sources and operations.
var fieldNames = map[rbac.AttributeKind]string{
	rbac.Principal: "principals", rbac.Namespace: "namespaces", rbac.ServiceAccount: "serviceAccounts",
	rbac.Method: "methods", rbac.Path: "paths",
}

func clauseJSON(c rbac.Clause, own string) map[string]any {
	fields := map[string]any{}
	for _, test := range c {
		name := fieldNames[test.Attribute.Kind()]
		put(fields, name, texts(test.In, own))
		put(fields, negated(name), texts(test.NotIn, own))
	}
	return fields
}

// texts writes service accounts of the policy's own namespace without it.
func texts(values []rbac.Pattern, own string) []any {
	var list []any
	for _, v := range values {
		text := v.String()
		if namespace, account := v.Halves(); namespace.Kind() == rbac.Exact && namespace.Text() == own && account.Kind() == rbac.Exact {
			text = account.Text()
		}
		list = append(list, text)
	}
	return list
}
