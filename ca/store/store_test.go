package store_test

import (
	"context"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/catest"
	. "github.com/istio-auth/istio-auth/ca/store"
)

var (
	td    = spiffeid.RequireTrustDomainFromString("mesh.test")
	start = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	node  = attest.Node{Name: "node-a", UID: "uid-a"}
)

func openTest(t *testing.T) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

// TestReadsBack: authorities and bundle come back as they were, and in order,
// also after a restart.
func TestReadsBack(t *testing.T) {
	s, dir := openTest(t)
	mesh := catest.New(t, td)
	snap, err := s.Snapshot(t.Context(), td)
	if err != nil || snap.Epoch != 0 || len(snap.Authorities) != 0 || snap.Bundle != (bundle.Versioned{}) {
		t.Fatalf("a new store holds %+v, %v", snap, err)
	}
	epoch, err := s.Apply(t.Context(), 0, Change{
		Add:    []Authority{{Root, Active, mesh.Root}, {Issuer, Prepared, mesh.Issuer}},
		Bundle: bundle.Versioned{Sequence: 1, Bundle: mesh.Bundle()},
	})
	if err != nil || epoch != 1 {
		t.Fatalf("epoch %d, %v", epoch, err)
	}
	if _, err := s.Apply(t.Context(), 1, Change{Retire: []*x509.Certificate{mesh.Issuer}}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if s, err = Open(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	snap, err = s.Snapshot(t.Context(), td)
	if err != nil || snap.Epoch != 2 || len(snap.Authorities) != 2 || snap.Bundle.Sequence != 1 || !snap.Bundle.Bundle.Equal(mesh.Bundle()) {
		t.Fatalf("%+v, %v", snap, err)
	}
	root, issuer := snap.Authorities[0], snap.Authorities[1]
	if root.Role != Root || root.State != Active || !root.Cert.Equal(mesh.Root) {
		t.Errorf("the root came back as %v %v", root.Role, root.State)
	}
	if issuer.Role != Issuer || issuer.State != Retired || !issuer.Cert.Equal(mesh.Issuer) {
		t.Errorf("the issuer came back as %v %v", issuer.Role, issuer.State)
	}
	if _, err := s.Snapshot(t.Context(), spiffeid.RequireTrustDomainFromString("other.test")); !errors.Is(err, ErrInvalid) {
		t.Errorf("as another trust domain's: %v", err)
	}
}

// TestConflicts: of two who read the same epoch one writes; nothing of the
// other's change stays (T5.5).
func TestConflicts(t *testing.T) {
	s, _ := openTest(t)
	mesh, foreign := catest.New(t, td), catest.New(t, spiffeid.RequireTrustDomainFromString("other.test"))
	at := func(n uint64) bundle.Versioned { return bundle.Versioned{Sequence: n, Bundle: mesh.Bundle()} }
	if _, err := s.Apply(t.Context(), 0, Change{Bundle: at(5)}); err != nil {
		t.Fatal(err)
	}
	root := []Authority{{Root, Active, mesh.Root}}
	for name, try := range map[string]func() (Epoch, error){
		"an old epoch":      func() (Epoch, error) { return s.Apply(t.Context(), 0, Change{Add: root}) },
		"an epoch to come":  func() (Epoch, error) { return s.Apply(t.Context(), 2, Change{Add: root}) },
		"the same sequence": func() (Epoch, error) { return s.Apply(t.Context(), 1, Change{Add: root, Bundle: at(5)}) },
		"an older sequence": func() (Epoch, error) { return s.Apply(t.Context(), 1, Change{Add: root, Bundle: at(4)}) },
		"a foreign bundle": func() (Epoch, error) {
			return s.Apply(t.Context(), 1, Change{Add: root, Bundle: bundle.Versioned{Sequence: 6, Bundle: foreign.Bundle()}})
		},
		"retiring a stranger": func() (Epoch, error) {
			return s.Apply(t.Context(), 1, Change{Add: root, Retire: []*x509.Certificate{foreign.Root}})
		},
	} {
		if _, err := try(); !errors.Is(err, ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", name, err)
		}
	}
	if _, err := s.Apply(t.Context(), 1, Change{Add: append(root, root...)}); err == nil {
		t.Error("one authority twice")
	}
	if _, err := s.Apply(t.Context(), 1, Change{Add: []Authority{{"king", Active, mesh.Root}}}); err == nil {
		t.Error("an unknown role")
	}
	snap, err := s.Snapshot(t.Context(), td)
	if err != nil || snap.Epoch != 1 || len(snap.Authorities) != 0 || snap.Bundle.Sequence != 5 {
		t.Errorf("something stayed: %+v, %v", snap, err)
	}
}

// TestOneWriter: sixteen who count up by compare-and-swap lose no step.
func TestOneWriter(t *testing.T) {
	s, _ := openTest(t)
	const each = 10
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for done := 0; done < each; {
				snap, err := s.Snapshot(t.Context(), td)
				if err != nil {
					t.Error(err)
					return
				}
				switch _, err := s.Apply(t.Context(), snap.Epoch, Change{}); {
				case err == nil:
					done++
				case !errors.Is(err, ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if snap, err := s.Snapshot(t.Context(), td); err != nil || snap.Epoch != 16*each {
		t.Errorf("epoch %d, want %d; %v", snap.Epoch, 16*each, err)
	}
}

// DB-02: of sixteen who redeem one token, through two openings of the store,
// exactly one succeeds.
func TestRedeemOnce(t *testing.T) {
	s, dir := openTest(t)
	second, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	for round := range 20 {
		digest := [32]byte{byte(round), 1}
		if err := s.AddJoinToken(t.Context(), digest, node, start.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		won := make(chan attest.Node, 16)
		for n := range 16 {
			store := []*Store{s, second}[n%2]
			group.Go(func() {
				got, err := store.Redeem(t.Context(), digest, start)
				switch {
				case err == nil:
					won <- got
				case attest.Reason(err) != ReasonUnknown:
					t.Errorf("%v, want %s", err, ReasonUnknown)
				}
			})
		}
		group.Wait()
		if len(won) != 1 {
			t.Fatalf("round %d: %d redeemed one token", round, len(won))
		}
		if got := <-won; got != node {
			t.Errorf("redeemed for %v, want %v", got, node)
		}
	}
}

func TestRedeem(t *testing.T) {
	s, _ := openTest(t)
	add := func(n byte, node attest.Node, expires time.Time) error {
		return s.AddJoinToken(t.Context(), [32]byte{n}, node, expires)
	}
	for n := range byte(3) {
		if err := add(n, node, start.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(0, node, start.Add(time.Hour)); err == nil {
		t.Error("one token twice")
	}
	if err := add(9, attest.Node{}, start.Add(time.Hour)); err == nil {
		t.Error("a token for no node")
	}
	redeem := func(n byte, now time.Time) string {
		_, err := s.Redeem(t.Context(), [32]byte{n}, now)
		return attest.Reason(err)
	}
	if got := redeem(0, start.Add(time.Minute-time.Second)); got != "" {
		t.Errorf("in its last second: %s", got)
	}
	if got := redeem(1, start.Add(time.Minute)); got != ReasonExpired {
		t.Errorf("expired: %s", got)
	}
	if got := redeem(1, start); got != ReasonUnknown {
		t.Errorf("expired, and again by a clock that went back: %s", got)
	}
	if got := redeem(7, start); got != ReasonUnknown {
		t.Errorf("never made: %s", got)
	}
	if n, err := s.Sweep(t.Context(), start.Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if got := redeem(2, start); got != ReasonUnknown {
		t.Errorf("swept: %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Redeem(ctx, [32]byte{5}, start); !errors.Is(err, attest.ErrUnavailable) {
		t.Errorf("without an answer: %v, want ErrUnavailable", err)
	}
}

// TestSettings: what durability and strictness rest on is on.
func TestSettings(t *testing.T) {
	s, dir := openTest(t)
	for pragma, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "trusted_schema": "0", "user_version": fmt.Sprint(Version),
	} {
		var got string
		if err := s.DB().QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, want %q; %v", pragma, got, want, err)
		}
	}
	if _, err := s.DB().ExecContext(t.Context(), `UPDATE state SET epoch = 'many'`); err == nil {
		t.Error("a text in a column of numbers")
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, FileName): 0o600, filepath.Join(dir, FileName+"-wal"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, want mode %#o", path, info, want)
		}
	}
}

// TestOpenRefuses: a store that others may read, one from the future, and files
// that are none.
func TestOpenRefuses(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string) error{
		"open to the group": func(_ *testing.T, dir string) error { return os.Chmod(filepath.Join(dir, FileName), 0o640) },
		"an open folder":    func(_ *testing.T, dir string) error { return os.Chmod(dir, 0o755) },
		"not a database": func(_ *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, FileName), make([]byte, 5000), 0o600)
		},
		"from the future": func(t *testing.T, dir string) error {
			db, err := sql.Open("sqlite", filepath.Join(dir, FileName))
			if err != nil {
				return err
			}
			_, err = db.ExecContext(t.Context(), `PRAGMA user_version = 1000`)
			return errors.Join(err, db.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := openTest(t)
			if err := errors.Join(s.Close(), spoil(t, dir)); err != nil {
				t.Fatal(err)
			}
			again, err := Open(t.Context(), dir)
			if err == nil {
				again.Close()
				t.Fatal("opened")
			}
			if name == "from the future" && !errors.Is(err, ErrNewer) {
				t.Errorf("%v, want ErrNewer", err)
			}
		})
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "a?b")); !errors.Is(err, ErrInvalid) {
		t.Errorf("a path with a question mark: %v", err)
	}
}
