package extauthz_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

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

// TestTooLate: who has stopped waiting is not let in, whatever comes out.
func TestTooLate(t *testing.T) {
	for name, row := range map[string]struct {
		timeout, takes time.Duration
		code           codes.Code
	}{
		"in time":            {0, 900 * time.Millisecond, codes.OK},
		"late":               {0, 1001 * time.Millisecond, codes.PermissionDenied},
		"by a shorter time":  {time.Millisecond, 2 * time.Millisecond, codes.PermissionDenied},
		"nobody can be late": {time.Hour, time.Minute, codes.OK},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := &extauthz.Server{Timeout: row.timeout, Sets: func(ctx context.Context) (rbac.Set, error) {
				time.Sleep(row.takes)
				return everything(ctx)
			}}
			answer, err := server.Check(t.Context(), question(t))
			if err != nil || answer.Status.Code != int32(row.code) {
				t.Errorf("%s: %v, %v", name, answer, err)
			}
			if reason := answer.DynamicMetadata.Fields[extauthz.ReasonKey].GetStringValue(); row.code != codes.OK && reason != extauthz.TooLate {
				t.Errorf("%s: refused for %s", name, reason)
			}
		})
	}
}

// TestBounds: of very many comparisons, those that are told are true, and the
// rest is not known.
func TestBounds(t *testing.T) {
	header, err := rbac.HeaderAttr("x-b")
	if err != nil {
		t.Fatal(err)
	}
	long := make([]byte, 1000)
	for i := range long {
		long[i] = 'x'
	}
	for name, row := range map[string]struct {
		lead string
		want int
	}{
		"many":          {"", 1000},
		"many and long": {string(long), 124},
	} {
		var rules []rbac.Rule
		for i := range 3000 {
			rules = append(rules, rbac.Rule{Expression: &rbac.Expression{Op: rbac.Compare, Comparison: rbac.Comparison{
				Left: rbac.Attr(rbac.Path), How: rbac.Exact, Lead: row.lead + strconv.Itoa(i), Right: header,
			}}})
		}
		set := rbac.Select([]rbac.Policy{{Namespace: "shop", Name: "d", Action: rbac.Deny, Rules: rules}}, rbac.Target{Namespace: "shop", TrustDomain: domain})
		answer, err := (&extauthz.Server{Sets: func(context.Context) (rbac.Set, error) { return set, nil }}).Check(t.Context(), question(t))
		if err != nil || answer.Status.Code != int32(codes.OK) {
			t.Fatalf("%s: %v, %v", name, answer, err)
		}
		if yes, no := len(names(answer, extauthz.YesKey)), len(names(answer, extauthz.NoKey)); yes != 0 || no != row.want {
			t.Errorf("%s: %d hold, %d do not, want %d", name, yes, no, row.want)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	claim, err := rbac.ClaimAttr("sub")
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{10, 1000} {
		var policies []rbac.Policy
		for i := range n {
			policies = append(policies, rbac.Policy{Namespace: "shop", Name: strconv.Itoa(i), Action: rbac.Allow, Rules: []rbac.Rule{{
				Expression: &rbac.Expression{Op: rbac.Compare, Comparison: rbac.Comparison{Left: rbac.Attr(rbac.Path), How: rbac.Prefix, Lead: "/" + strconv.Itoa(i) + "/", Right: claim}},
			}}})
		}
		set := rbac.Select(append(policies, rbac.Policy{Namespace: "shop", Name: "z", Action: rbac.Allow, Rules: []rbac.Rule{{}}}), rbac.Target{Namespace: "shop", TrustDomain: domain})
		server := &extauthz.Server{Sets: func(context.Context) (rbac.Set, error) { return set, nil }}
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			q := question(b)
			for b.Loop() {
				if a, _ := server.Check(b.Context(), q); a.Status.Code != int32(codes.OK) {
					b.Fatal(a)
				}
			}
		})
	}
}
