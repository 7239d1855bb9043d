package distribute_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/distribute"
)

// TestAPodThatComesAgain: who is removed and added again before anybody looks has
// its policies again, though the manager has told them.
func TestAPodThatComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newManager(), distribute.NewFilters(domain, nil)
		f.Add(pod("web"))
		if err := errors.Join(m.Set(policies(t, policy("shop", "p", allowA)), nil), m.SetNode("a", []distribute.Workload{{Pod: pod("web")}})); err != nil {
			t.Fatal(err)
		}
		m.start()
		stop := run(t, m, f)
		synctest.Wait()
		for i := range 3 {
			f.Remove("uid-web")
			source := f.Add(pod("web"))
			synctest.Wait()
			if offered(t, source) == nil {
				t.Errorf("nothing, the time %d", i)
			}
		}
		stop()
	})
}

// TestAStreamDoesNotWaitForTheLast: while what one stream brought is built, for
// however long, the next one brings other pods theirs.
func TestAStreamDoesNotWaitForTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, f := newManager(), distribute.NewFilters(domain, nil)
		release := make(chan struct{})
		f.Before(func(set rbac.Set) {
			if len(set.Deny()) > 0 {
				<-release
			}
		})
		other := pod("other")
		other.Namespace = "other"
		slow, quick := f.Add(pod("web")), f.Add(other)
		workloads := []distribute.Workload{{Pod: pod("web")}, {Pod: other}}
		if err := errors.Join(m.Set(policies(t, policy("shop", "p", `{action: DENY, rules: [{}]}`)), nil), m.SetNode("a", workloads)); err != nil {
			t.Fatal(err)
		}
		m.start()
		stop := run(t, m, f)
		synctest.Wait()
		before := offered(t, quick)
		m.stop()
		if err := m.Set(policies(t, policy("shop", "p", `{action: DENY, rules: [{}]}`)+policy("other", "p", allowA)), nil); err != nil {
			t.Fatal(err)
		}
		m.start()
		time.Sleep(time.Minute)
		synctest.Wait()
		if now := offered(t, quick); now == nil || now.String() == before.String() {
			t.Error("another pod waits for a stream that has ended")
		}
		close(release)
		synctest.Wait()
		if offered(t, slow) == nil {
			t.Error("what the first stream brought is lost")
		}
		stop()
	})
}

// TestRefusedOnce: what cannot be built is found out once, for all pods and as
// often as the manager says it again.
func TestRefusedOnce(t *testing.T) {
	f := distribute.NewFilters(domain, nil)
	built := 0
	f.Before(func(rbac.Set) { built++ })
	text := `{rules: [` + strings.Repeat("{}, ", 3) + `{}]}`
	for i := range 3 {
		p := pod(fmt.Sprint("web-", i))
		p.ServiceAccount = "x"
		f.Add(p)
		f.FailBuilds(errors.New("cannot"))
		var r *distribute.Refusal
		for range 2 {
			if err := f.Apply(p.UID, "v1", wire(t, message(t, p, policy("shop", "p", text)))); !errors.As(err, &r) || r.Reason != "does-not-compile" {
				t.Fatal(err)
			}
		}
	}
	if built > 1 {
		t.Errorf("built %d times", built)
	}
}
