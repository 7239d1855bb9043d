package k8stoken

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	authv1 "k8s.io/api/authentication/v1"

	"github.com/istio-auth/istio-auth/attest"
)

// The claims of a pod-bound token, as TokenReview tells them (Kubernetes
// KEP-4193). Each must be there exactly once.
const (
	extraPodName      = "authentication.kubernetes.io/pod-name"
	extraPodUID       = "authentication.kubernetes.io/pod-uid"
	extraNodeName     = "authentication.kubernetes.io/node-name"
	extraNodeUID      = "authentication.kubernetes.io/node-uid"
	extraCredentialID = "authentication.kubernetes.io/credential-id"
)

const (
	userPrefix  = "system:serviceaccount:"
	groupPrefix = "system:serviceaccounts:"
)

// interpret judges the API server's answer about a token that was reviewed for
// audiences. The identity that comes out is whose the token is: a workload's by
// form, before anybody looked whether the pod lives or what it may become.
func interpret(td spiffeid.TrustDomain, status authv1.TokenReviewStatus, audiences []string) (attest.Identity, error) {
	if !status.Authenticated {
		return attest.Identity{}, attest.Refuse("token-not-authenticated", "the API server: %.200q", status.Error)
	}
	if status.Error != "" {
		return attest.Identity{}, attest.Refuse("token-review-error", "authenticated, and yet: %.200q", status.Error)
	}
	// A server that knows no audiences answers without any, for any token that is
	// good for itself; so an empty list is no consent.
	switch {
	case len(status.Audiences) == 0:
		return attest.Identity{}, attest.Refuse("token-audience-missing", "the API server confirmed no audience")
	case len(status.Audiences) > 1:
		return attest.Identity{}, attest.Refuse("token-audience-several", "%d audiences, want one", len(status.Audiences))
	case status.Audiences[0] == "" || !slices.Contains(audiences, status.Audiences[0]):
		return attest.Identity{}, attest.Refuse("token-audience-other", "%.200q", status.Audiences[0])
	}
	namespace, account, err := serviceAccount(status.User)
	if err != nil {
		return attest.Identity{}, err
	}
	claims := map[string]string{}
	for _, key := range []string{extraPodName, extraPodUID, extraNodeName, extraNodeUID, extraCredentialID} {
		if claims[key], err = extra(status.User, key); err != nil {
			return attest.Identity{}, err
		}
	}
	if id, ok := strings.CutPrefix(claims[extraCredentialID], "JTI="); !ok || !isUUID(id) {
		return attest.Identity{}, attest.Refuse("token-credential-id", "%.200q", claims[extraCredentialID])
	}
	return attest.NewWorkload(td,
		attest.Node{Name: claims[extraNodeName], UID: claims[extraNodeUID]},
		attest.Pod{Namespace: namespace, Name: claims[extraPodName], UID: claims[extraPodUID], ServiceAccount: account})
}

// serviceAccount reads system:serviceaccount:<namespace>:<name>, and wants the
// group that goes with the namespace: an OIDC provider may name its users at
// will, and the groups are asked separately.
func serviceAccount(user authv1.UserInfo) (namespace, account string, err error) {
	rest, ok := strings.CutPrefix(user.Username, userPrefix)
	if !ok {
		return "", "", attest.Refuse("token-username", "%.400q is no service account", user.Username)
	}
	namespace, account, ok = strings.Cut(rest, ":")
	if !ok || namespace == "" || account == "" || strings.Contains(account, ":") {
		return "", "", attest.Refuse("token-username", "%.400q has not four parts", user.Username)
	}
	found := false
	for _, group := range user.Groups {
		of, ok := strings.CutPrefix(group, groupPrefix)
		if ok && of != namespace {
			return "", "", attest.Refuse("token-group", "%.400q beside namespace %q", group, namespace)
		}
		found = found || ok
	}
	if !found {
		return "", "", attest.Refuse("token-group", "not in %s%s", groupPrefix, namespace)
	}
	return namespace, account, nil
}

func extra(user authv1.UserInfo, key string) (string, error) {
	values := user.Extra[key]
	switch {
	case len(values) == 0:
		return "", attest.Refuse("token-claim-missing", "%s: a token that is bound to no scheduled pod", key)
	case len(values) > 1:
		return "", attest.Refuse("token-claim-several", "%s has %d values", key, len(values))
	}
	return values[0], nil
}

// isUUID tells whether s is written as RFC 9562 §4 has it, in lower case.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		hex := '0' <= s[i] && s[i] <= '9' || 'a' <= s[i] && s[i] <= 'f'
		if hyphen != (s[i] == '-') || !hyphen && !hex {
			return false
		}
	}
	return true
}
