package extauthz_test

import (
	"context"
	"errors"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/extauthz"
)

var domain = spiffeid.RequireTrustDomainFromString("td.test")

func everything(context.Context) (rbac.Set, error) {
	return rbac.Select(nil, rbac.Target{Namespace: "shop", TrustDomain: domain}), nil
}

// TestAnswers: yes where eval allows, and for no other reason.
func TestAnswers(t *testing.T) {
	denyAll := rbac.Select([]rbac.Policy{{Namespace: "shop", Name: "d", Action: rbac.Deny, Rules: []rbac.Rule{{}}}}, rbac.Target{Namespace: "shop", TrustDomain: domain})
	broken := errors.New("broken")
	for name, row := range map[string]struct {
		sets   func(context.Context) (rbac.Set, error)
		code   codes.Code
		reason eval.Reason
		err    error
	}{
		"allowed":   {everything, codes.OK, eval.NoAllow, nil},
		"denied":    {func(context.Context) (rbac.Set, error) { return denyAll, nil }, codes.PermissionDenied, eval.DenyRule, nil},
		"unknown":   {func(context.Context) (rbac.Set, error) { return rbac.Set{}, nil }, codes.PermissionDenied, eval.UnknownSet, nil},
		"an error":  {func(ctx context.Context) (rbac.Set, error) { s, _ := everything(ctx); return s, broken }, codes.PermissionDenied, "", broken},
		"by nobody": {nil, codes.PermissionDenied, "", nil},
	} {
		var seen extauthz.Answer
		server := &extauthz.Server{Sets: row.sets, Observe: func(a extauthz.Answer) { seen = a }}
		answer, err := server.Check(t.Context(), question(t))
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status.Code != int32(row.code) || seen.Verdict.Reason != row.reason || row.err != nil && !errors.Is(seen.Err, row.err) {
			t.Errorf("%s: %v, seen %+v", name, answer, seen)
		}
		if denied := answer.GetDeniedResponse(); (denied != nil) != (row.code != codes.OK) || denied != nil && denied.Body != "RBAC: access denied" {
			t.Errorf("%s: a stranger is told %v", name, answer)
		}
	}
}
