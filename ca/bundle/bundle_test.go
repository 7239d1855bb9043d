package bundle_test

import (
	"crypto/x509"
	"errors"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	. "github.com/istio-auth/istio-auth/ca/bundle"
	"github.com/istio-auth/istio-auth/ca/catest"
)

var td = spiffeid.RequireTrustDomainFromString("mesh.test")

func of(roots ...*x509.Certificate) *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(td, roots)
}

// TestSet: what replaces a bundle, and what never does.
func TestSet(t *testing.T) {
	a, b := catest.New(t, td), catest.New(t, td)
	foreign := catest.New(t, spiffeid.RequireTrustDomainFromString("other.test"))
	leaf := a.SVID(t, spiffeid.RequireFromPath(td, "/ns/a/sa/b"), 1e9).Certificates[0]
	table := []struct {
		name string
		set  Versioned
		want error // nil with refused: any
		no   bool  // refused
	}{
		{"newer", Versioned{6, of(b.Root)}, nil, false},
		{"much newer", Versioned{1 << 63, of(a.Root, b.Root)}, nil, false},
		{"newer, the same content", Versioned{6, of(a.Root)}, nil, false},
		{"newer, nobody is trusted", Versioned{6, of()}, nil, false},
		{"the same", Versioned{5, of(a.Root)}, nil, false},
		{"the same sequence, more", Versioned{5, of(a.Root, b.Root)}, ErrFork, true},
		{"the same sequence, others", Versioned{5, of(b.Root)}, ErrFork, true},
		{"the same sequence, nobody", Versioned{5, of()}, ErrFork, true},
		{"older", Versioned{4, of(b.Root)}, ErrOlder, true},
		{"older, the same content", Versioned{4, of(a.Root)}, ErrOlder, true},
		{"sequence 0", Versioned{0, of(a.Root)}, nil, true},
		{"no bundle", Versioned{6, nil}, nil, true},
		{"another trust domain", Versioned{6, foreign.Bundle()}, ErrTrustDomain, true},
		{"a leaf as a root", Versioned{6, of(a.Root, leaf)}, ErrNotAuthority, true},
	}
	for _, r := range table {
		k, err := NewKeeper(Versioned{5, of(a.Root)})
		if err != nil {
			t.Fatal(err)
		}
		_, replaced := k.Current()
		err = k.Set(r.set)
		if (err != nil) != r.no || r.want != nil && !errors.Is(err, r.want) {
			t.Errorf("%s: %v, want %v", r.name, err, r.want)
		}
		now, _ := k.Current()
		changed := now.Sequence != 5
		if want := !r.no && r.set.Sequence > 5; changed != want {
			t.Errorf("%s: replaced %v, want %v", r.name, changed, want)
		}
		select {
		case <-replaced:
			if !changed {
				t.Errorf("%s: told of a change that was none", r.name)
			}
		default:
			if changed {
				t.Errorf("%s: not told of the change", r.name)
			}
		}
	}
	for _, first := range []Versioned{{}, {0, of(a.Root)}, {1, nil}, {1, of(leaf)}} {
		if _, err := NewKeeper(first); err == nil {
			t.Errorf("began with %v", first)
		}
	}
}

// TestApart: what goes in and what comes out is the caller's own copy.
func TestApart(t *testing.T) {
	a, b := catest.New(t, td), catest.New(t, td)
	given := of(a.Root)
	k, err := NewKeeper(Versioned{1, given})
	if err != nil {
		t.Fatal(err)
	}
	given.AddX509Authority(b.Root)
	got, _ := k.Current()
	got.Bundle.AddX509Authority(b.Root)
	source, err := k.GetX509BundleForTrustDomain(td)
	if err != nil {
		t.Fatal(err)
	}
	if source.HasX509Authority(b.Root) {
		t.Error("a caller has put a root into the bundle")
	}
	source.RemoveX509Authority(a.Root)
	if now, _ := k.Current(); !now.Bundle.HasX509Authority(a.Root) {
		t.Error("a caller has taken a root out of the bundle")
	}
	if _, err := k.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("other.test")); !errors.Is(err, ErrTrustDomain) {
		t.Errorf("another trust domain's: %v", err)
	}
}

// TestFollow: readers who wait for each change end at the newest, never see one
// that is older than the last, and are never left waiting.
func TestFollow(t *testing.T) {
	root := catest.New(t, td).Root
	k, err := NewKeeper(Versioned{1, of(root)})
	if err != nil {
		t.Fatal(err)
	}
	const last = 500
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for seen := uint64(0); seen < last; {
				now, replaced := k.Current()
				if now.Sequence <= seen {
					t.Errorf("%d after %d", now.Sequence, seen)
				}
				if seen = now.Sequence; seen < last {
					<-replaced
				}
			}
		})
	}
	for _, offset := range []uint64{0, 1} { // two writers, one of them always behind
		group.Go(func() {
			for n := 2 + offset; n <= last; n += 2 {
				if err := k.Set(Versioned{n, of(root)}); err != nil && !errors.Is(err, ErrOlder) {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}
