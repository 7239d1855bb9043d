package compile_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestCompilerKeepsUp: whatever changes between one set and the next, a Compiler
// writes what it would write from nothing, also where somebody changes a policy
// in place.
func TestCompilerKeepsUp(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var policies []rbac.Policy
	for i, shape := range rbactest.Shapes() {
		for _, p := range shape.Policies(20, 1) {
			p.Name += string(rune('a' + i))
			policies = append(policies, p)
		}
	}
	target := rbactest.Target()
	var c compile.Compiler
	for round := range 80 {
		i := r.IntN(len(policies))
		switch r.IntN(7) {
		case 0: // in place
			rules := policies[i].Rules
			j := r.IntN(len(policies))
			if len(rules) > 0 && len(policies[j].Rules) > 0 {
				rules[0] = policies[j].Rules[0]
			}
		case 1:
			policies[i].Rules = append(policies[i].Rules[:len(policies[i].Rules):len(policies[i].Rules)], policies[r.IntN(len(policies))].Rules...)
		case 2:
			policies[i].Action = []rbac.Action{rbac.Allow, rbac.Deny, rbac.Custom, rbac.Audit}[r.IntN(4)]
		case 3:
			policies = append(policies[:i], policies[i+1:]...)
		case 4:
			policies[i].DryRun = !policies[i].DryRun
		case 5:
			target.Plaintext = !target.Plaintext
		case 6:
			target.Aliases = append([]spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("old.test")}, target.Aliases...)[:r.IntN(2)]
		}
		set := rbac.Select(policies, target)
		kept, err := c.HTTP(set)
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := compile.HTTP(set)
		if err != nil || !bytes.Equal(kept.Value, fresh.Value) {
			t.Fatalf("round %d: other bytes than from nothing, %v", round, err)
		}
		tcp, err := c.TCP(set)
		if err != nil {
			t.Fatal(err)
		}
		if fresh, err := compile.TCP(set); err != nil || !bytes.Equal(tcp.Value, fresh.Value) {
			t.Fatalf("round %d: other bytes than from nothing for TCP, %v", round, err)
		}
	}
}
