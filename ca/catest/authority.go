package catest

import (
	"path/filepath"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/profile"
)

// Start starts the real ca.Authority in a folder of the test, with a real
// journal and its real fsync, and closes it when the test ends. Nothing renews
// it: whoever needs that runs its Run.
func Start(t testing.TB, td spiffeid.TrustDomain, p profile.Profile) *ca.Authority {
	t.Helper()
	a, err := ca.New(t.Context(), ca.Config{
		TrustDomain: td,
		Dir:         filepath.Join(t.TempDir(), "ca"),
		Profile:     p,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("closing the authority: %v", err)
		}
	})
	return a
}
