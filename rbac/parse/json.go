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
	for _, s := range r.From {
		source := map[string]any{}
		put(source, "principals", texts(s.Principals))
		put(source, "notPrincipals", texts(s.NotPrincipals))
		put(source, "namespaces", texts(s.Namespaces))
		put(source, "notNamespaces", texts(s.NotNamespaces))
		put(source, "serviceAccounts", accounts(s.ServiceAccounts, own))
		put(source, "notServiceAccounts", accounts(s.NotServiceAccounts, own))
		from = append(from, map[string]any{"source": source})
	}
	for _, o := range r.To {
		operation := map[string]any{}
		put(operation, "methods", texts(o.Methods))
		put(operation, "notMethods", texts(o.NotMethods))
		put(operation, "paths", texts(o.Paths))
		put(operation, "notPaths", texts(o.NotPaths))
		to = append(to, map[string]any{"operation": operation})
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

func texts(values []rbac.Pattern) []any {
	var list []any
	for _, v := range values {
		list = append(list, v.String())
	}
	return list
}

// accounts writes those of the policy's own namespace without it.
func accounts(values []rbac.ServiceAccount, own string) []any {
	var list []any
	for _, a := range values {
		if a.Namespace() == own {
			list = append(list, a.Name())
			continue
		}
		list = append(list, a.String())
	}
	return list
}
