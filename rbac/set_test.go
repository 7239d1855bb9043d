package rbac_test

import (
	"fmt"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

func TestSelect(t *testing.T) {
	policy := func(namespace, name string, action rbac.Action, labels ...string) rbac.Policy {
		p := rbac.Policy{Namespace: namespace, Name: name, Action: action}
		for i := 0; i < len(labels); i += 2 {
			if p.Selector == nil {
				p.Selector = map[string]string{}
			}
			p.Selector[labels[i]] = labels[i+1]
		}
		return p
	}
	policies := []rbac.Policy{
		policy("shop", "z", rbac.Allow),
		policy("shop", "a", rbac.Allow, "app", "web"),
		policy("shop", "other", rbac.Allow, "app", "api"),
		policy("shop", "more", rbac.Allow, "app", "web", "version", "2"),
		policy("shop", "missing", rbac.Deny, "zone", ""),
		policy("root", "mesh", rbac.Deny),
		policy("root", "some", rbac.Deny, "app", "web"),
		policy("root", "none", rbac.Deny, "app", "api"),
		policy("else", "where", rbac.Deny),
		policy("shop", "nothing", 0),
	}
	target := rbac.Target{Namespace: "shop", Labels: map[string]string{"app": "web", "version": "1"}, RootNamespace: "root", TrustDomain: spiffeid.RequireTrustDomainFromString("td.test")}
	set := rbac.Select(policies, target)
	keys := func(policies []rbac.Policy) (list []string) {
		for _, p := range policies {
			list = append(list, p.Key())
		}
		return list
	}
	if got, want := fmt.Sprint(keys(set.Deny()), keys(set.Allow())), "[root/mesh root/some] [shop/a shop/z]"; got != want {
		t.Errorf("selected %s, want %s", got, want)
	}
	if set.IsZero() || set.None() {
		t.Error("the set says that it is unknown, or none")
	}
	none := rbac.Select(nil, target)
	if none.IsZero() || !none.None() {
		t.Error("no policies are known to be none")
	}
	target.RootNamespace = ""
	if got := rbac.Select(policies, target); len(got.Deny()) != 0 {
		t.Errorf("without a root namespace, got %v", keys(got.Deny()))
	}
	for _, bad := range []rbac.Target{{}, {Namespace: "shop"}, {TrustDomain: target.TrustDomain}} {
		if got := rbac.Select(policies, bad); !got.IsZero() || got.None() {
			t.Errorf("%+v selects a known set", bad)
		}
	}
	digests := map[[32]byte]bool{set.Digest(): true, none.Digest(): true, (rbac.Set{}).Digest(): true}
	if len(digests) != 3 {
		t.Error("a set, none and unknown have one digest")
	}
}

// TestTrial: what a dry run would do is in the trial, and nothing else is.
func TestTrial(t *testing.T) {
	target := rbac.Target{Namespace: "shop", TrustDomain: domain("td.test"), Providers: []string{"b", "a", "b"}, Plaintext: true}
	policies := []rbac.Policy{
		{Namespace: "shop", Name: "z", Action: rbac.Deny},
		{Namespace: "shop", Name: "a", Action: rbac.Deny, DryRun: true},
		{Namespace: "shop", Name: "c", Action: rbac.Custom, Provider: "a"},
		{Namespace: "shop", Name: "d", Action: rbac.Audit, DryRun: true},
		{Namespace: "shop", Name: "gateway", Action: rbac.Deny, Targets: []rbac.TargetRef{{Kind: "Gateway", Name: "g"}}},
		{Namespace: "shop", Name: "no", Action: rbac.Custom + 1},
	}
	names := func(s rbac.Set) (list []string) {
		for action := rbac.Allow; action <= rbac.Custom; action++ {
			for _, p := range s.Policies(action) {
				list = append(list, p.Action.String()+" "+p.Name)
			}
		}
		return list
	}
	set := rbac.Select(policies, target)
	if got, want := fmt.Sprint(names(set)), "[DENY z CUSTOM c]"; got != want {
		t.Errorf("enforced: %s, want %s", got, want)
	}
	trial, ok := set.Trial()
	if got, want := fmt.Sprint(names(trial), ok), "[DENY a DENY z AUDIT d CUSTOM c] true"; got != want {
		t.Errorf("the trial: %s, want %s", got, want)
	}
	if _, again := trial.Trial(); again {
		t.Error("a trial has a trial")
	}
	if !trial.Plaintext() || trial.TrustDomain() != target.TrustDomain || fmt.Sprint(trial.Providers()) != "[a b]" {
		t.Error("a trial is of another workload")
	}
	if only := rbac.Select(policies[1:2], target); only.None() || len(only.Deny()) != 0 {
		t.Error("a set with a dry run alone is none, or enforces it")
	}
	if same, ok := rbac.Select(policies[:1], target).Trial(); ok || len(same.Deny()) != 1 {
		t.Error("a set without a dry run has a trial")
	}
	if _, ok := (rbac.Set{}).Trial(); ok {
		t.Error("the zero set has a trial")
	}
}

func TestWithTokens(t *testing.T) {
	target := rbac.Target{Namespace: "shop", RootNamespace: "root", Labels: map[string]string{"app": "web"}, TrustDomain: domain("td.test")}
	rule := func(issuer, keys string) rbac.TokenRule { return rbac.TokenRule{Issuer: issuer, Keys: keys} }
	all := []rbac.RequestAuthentication{
		{Namespace: "shop", Name: "z", Rules: []rbac.TokenRule{rule("b", "z"), rule("a", "z")}},
		{Namespace: "shop", Name: "a", Selector: target.Labels, Rules: []rbac.TokenRule{rule("b", "a")}},
		{Namespace: "root", Name: "a", Rules: []rbac.TokenRule{rule("b", "root")}},
		{Namespace: "shop", Name: "api", Selector: map[string]string{"app": "api"}, Rules: []rbac.TokenRule{rule("x", "x")}},
		{Namespace: "else", Name: "a", Rules: []rbac.TokenRule{rule("x", "x")}},
		{Namespace: "shop", Name: "g", Targets: []rbac.TargetRef{{Kind: "Gateway"}}, Rules: []rbac.TokenRule{rule("x", "x")}},
	}
	set := rbac.Select(nil, target).WithTokens(all, target)
	var got []string
	for _, r := range set.Tokens() {
		got = append(got, r.Issuer+r.Keys)
	}
	if want := "[az broot ba bz]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if set.None() || rbac.Select(nil, target).WithTokens(all, target).Digest() != set.Digest() {
		t.Error("the set is none, or another each time")
	}
	if unknown := (rbac.Set{}).WithTokens(all, target); !unknown.IsZero() || len(unknown.Tokens()) != 0 {
		t.Error("of the unknown set something is known")
	}
}
