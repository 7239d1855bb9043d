package manager

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/distribute"
)

// TestGrantsAreResolved: with roles of the configured root namespace, and what
// is unresolved is told beside what is in force.
func TestGrantsAreResolved(t *testing.T) {
	objects, err := access.Read("test", []byte(`apiVersion: istio-auth.io/v1alpha1
kind: AccessRole
metadata: {name: reader, namespace: root}
spec: {permissions: [{operations: [{methods: [GET]}]}]}
---
apiVersion: istio-auth.io/v1alpha1
kind: AccessGrant
metadata: {name: good, namespace: demo}
spec: {roleRef: {name: reader, namespace: root}, subjects: [{serviceAccounts: [web]}]}
---
apiVersion: istio-auth.io/v1alpha1
kind: AccessGrant
metadata: {name: lost, namespace: demo}
spec: {roleRef: {name: reader}, subjects: [{serviceAccounts: [web]}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("a source that was refused")
	told := false
	r := &run{
		config:   Config{RootNamespace: "root"},
		policies: distribute.NewServer(distribute.Mesh{TrustDomain: td, RootNamespace: "root"}),
		deps: Deps{Log: slog.New(slog.DiscardHandler), Loaded: func(all []rbac.Policy, bad error) {
			told = true
			if len(all) != 2 || len(all[0].Rules) != 1 || len(all[1].Rules) != 0 {
				t.Errorf("in force: %+v", all)
			}
			var u *access.Unresolved
			if !errors.Is(bad, refused) || !errors.As(bad, &u) || u.Name != "lost" || u.Reason != "missing-role" {
				t.Errorf("told: %v", bad)
			}
		}},
	}
	r.loaded(objects, refused)
	if !told {
		t.Error("nothing was told")
	}
}
