package parse

import (
	"fmt"
	"strings"

	"github.com/istio-auth/istio-auth/rbac"
)

// The attributes that a condition may name, by kind. Headers and claims, which
// are named with brackets, stand apart.
var conditionKinds = []rbac.AttributeKind{
	rbac.Principal, rbac.Namespace, rbac.ServiceAccount, rbac.TrustDomain, rbac.SourceIP, rbac.RemoteIP,
	rbac.DestinationIP, rbac.DestinationPort, rbac.ServerName, rbac.RequestPrincipal, rbac.Audience, rbac.Presenter,
}

const (
	headersKey = "request.headers"
	claimsKey  = "request.auth.claims"

	envoyKeys = "experimental.envoy.filters."
)

// instead says what became of a key that authors still find in old pages, or
// reach for because an operation has it.
var instead = map[string]string{
	"source.user":           "use source.principal",
	"source.name":           "use source.serviceAccount",
	"source.labels":         "labels of a peer are not known; use source.serviceAccount",
	"destination.labels":    "use the policy's selector",
	"destination.name":      "use the policy's selector",
	"destination.namespace": "put the policy into that namespace",
	"destination.user":      "use the policy's selector",
	"request.method":        "use to.operation.methods",
	"request.host":          "use to.operation.hosts",
	"request.path":          "use to.operation.paths",
	"request.url_path":      "use to.operation.paths",
}

// conditionKey reads the key of a condition. Errors are [rbac.Refusal]s.
func conditionKey(key string) (rbac.Attribute, error) {
	for _, kind := range conditionKinds {
		if a := rbac.Attr(kind); a.String() == key {
			return a, nil
		}
	}
	head, rest := key, ""
	if bracket := strings.IndexByte(key, '['); bracket >= 0 {
		head, rest = key[:bracket], key[bracket:]
	}
	switch {
	case head == headersKey:
		names, ok := brackets(rest)
		if !ok || len(names) != 1 {
			return rbac.Attribute{}, &rbac.Refusal{Reason: "bad-key", Detail: fmt.Sprintf("%.80q: want request.headers[name]", key)}
		}
		return rbac.HeaderAttr(names[0])
	case head == claimsKey:
		names, ok := brackets(rest)
		if !ok {
			return rbac.Attribute{}, &rbac.Refusal{Reason: "bad-key", Detail: fmt.Sprintf("%.80q: want request.auth.claims[name], or [name][name] for what is nested", key)}
		}
		return rbac.ClaimAttr(names...)
	case strings.HasPrefix(key, envoyKeys):
		return rbac.Attribute{}, &rbac.Refusal{Reason: "not-supported", Detail: fmt.Sprintf("%.80q: what other filters leave behind is not ours to read, and whether they ran cannot be told; it is not supported", key)}
	case instead[head] != "":
		return rbac.Attribute{}, &rbac.Refusal{Reason: "removed-key", Detail: fmt.Sprintf("%.80q is no key of a condition: %s", key, instead[head])}
	}
	refusal := &rbac.Refusal{Reason: "unknown-key", Detail: fmt.Sprintf("there is no key %.80q", key)}
	if near := nearestKey(head); near != "" {
		refusal.Detail += "; did you mean " + near + "?"
	}
	return rbac.Attribute{}, refusal
}

// brackets cuts "[a][b]" into its names.
func brackets(s string) ([]string, bool) {
	var names []string
	for s != "" {
		inner, rest, closed := strings.Cut(strings.TrimPrefix(s, "["), "]")
		if s[0] != '[' || !closed || inner == "" || strings.Contains(inner, "[") {
			return nil, false
		}
		names = append(names, inner)
		s = rest
	}
	return names, len(names) > 0
}

// nearestKey is the key that was meant. Case is no difference here.
func nearestKey(key string) string {
	known := []string{headersKey + "[name]", claimsKey + "[name]"}
	compare := map[string]string{headersKey: known[0], claimsKey: known[1]}
	for _, kind := range conditionKinds {
		name := rbac.Attr(kind).String()
		compare[strings.ToLower(name)] = name
	}
	var words []string
	for word := range compare {
		words = append(words, word)
	}
	return compare[nearest(strings.ToLower(key), words)]
}
