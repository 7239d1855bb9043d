package jwks_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/istio-auth/istio-auth/rbac/jwks"
)

// issuers is a source whose sets change.
type issuers struct {
	mu    sync.Mutex
	sets  map[string]string // a document; empty: out of reach
	asked map[string][]time.Time
}

func (i *issuers) set(uri, document string) { i.mu.Lock(); i.sets[uri] = document; i.mu.Unlock() }

func (i *issuers) Fetch(_ context.Context, uri string, _ time.Duration) (jwks.Set, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked[uri] = append(i.asked[uri], time.Now())
	if i.sets[uri] == "" {
		return jwks.Set{}, errors.New("out of reach")
	}
	return jwks.Parse([]byte(i.sets[uri]))
}

// keep runs a keeper of the addresses in a bubble.
func keep(t *testing.T, test func(*testing.T, *jwks.Keeper, *issuers)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		source := &issuers{sets: map[string]string{}, asked: map[string][]time.Time{}}
		k := &jwks.Keeper{Source: source, Log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		test(t, k, source)
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ends with %v", err)
		}
	})
}

// ids are the kids that the keeper has, in order.
func ids(t *testing.T, k *jwks.Keeper, uri string) string {
	t.Helper()
	text := k.Keys(uri)
	if text == "" {
		return ""
	}
	set, err := jwks.Load(text)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, key := range set.Keys() {
		list = append(list, key.ID)
	}
	return strings.Join(list, " ")
}

// told: the keeper has said that something changed. It is not waited for: a loop
// with timers never comes to rest.
func told(t *testing.T, k *jwks.Keeper) {
	t.Helper()
	select {
	case <-k.Changed():
	default:
		t.Error("nobody was told of a change")
	}
}

func use(uris ...string) map[string]jwks.Use {
	all := map[string]jwks.Use{}
	for _, uri := range uris {
		all[uri] = jwks.Use{}
	}
	return all
}

// TestKeeperRollover is JW-07: a token that the old key signed right before the
// change is good until it expires, and the new key is good once it was seen.
func TestKeeperRollover(t *testing.T) {
	keep(t, func(t *testing.T, k *jwks.Keeper, source *issuers) {
		older, newer := document(edJWK().with("kid", "a")), document(edJWK().with("kid", "b"))
		source.set("u", older)
		k.Use(use("u"))
		synctest.Wait()
		if got := ids(t, k, "u"); got != "a" {
			t.Fatalf("got %q at once", got)
		}
		time.Sleep(48 * time.Hour)
		source.set("u", newer)
		changedAt := time.Now()
		time.Sleep(6 * time.Minute)
		if got := ids(t, k, "u"); got != "a b" {
			t.Errorf("got %q after the change", got)
		}
		// The last moment at which such a token may be used, without the skew.
		time.Sleep(time.Until(changedAt.Add(jwks.TokenLife - 6*time.Minute)))
		if got := ids(t, k, "u"); got != "a b" {
			t.Errorf("got %q when the last token expires", got)
		}
		time.Sleep(7 * time.Minute)
		if got := ids(t, k, "u"); got != "b" {
			t.Errorf("got %q after it", got)
		}
	})
}

// TestKeeperOutage: an issuer that is out of reach keeps its keys for a day.
func TestKeeperOutage(t *testing.T) {
	keep(t, func(t *testing.T, k *jwks.Keeper, source *issuers) {
		source.set("u", document(edJWK().with("kid", "a")))
		k.Use(use("u", "never"))
		synctest.Wait()
		if k.Keys("never") != "" || k.Keys("unknown") != "" {
			t.Error("there are keys that nobody gave")
		}
		source.set("u", "")
		time.Sleep(23 * time.Hour)
		if got := ids(t, k, "u"); got != "a" {
			t.Errorf("got %q after 23 hours", got)
		}
		if s := k.States(); len(s) != 2 || s[1].URI != "u" || s[1].Failures < 100 || s[1].Keys != 1 || s[1].Reason == "" || !s[0].Success.IsZero() {
			t.Errorf("got %+v", s)
		}
		told(t, k)
		time.Sleep(61 * time.Minute)
		if k.Keys("u") != "" {
			t.Error("the keys are kept for more than a day")
		}
		told(t, k)
		source.set("u", document(edJWK().with("kid", "b")))
		time.Sleep(6 * time.Minute)
		if got := ids(t, k, "u"); got != "b" {
			t.Errorf("got %q when it is back", got)
		}
		if s := k.States(); s[1].Failures != 0 || s[1].Reason != "" || s[1].Success.IsZero() {
			t.Errorf("got %+v", s)
		}
	})
}

// TestKeeperPace: each address is asked every five minutes, and after a failure
// sooner; never in step, never more often.
func TestKeeperPace(t *testing.T) {
	keep(t, func(t *testing.T, k *jwks.Keeper, source *issuers) {
		source.set("up", document(edJWK()))
		k.Use(use("up", "down"))
		time.Sleep(24 * time.Hour)
		for range 100 {
			k.Use(use("up", "down")) // is no reason to ask
		}
		synctest.Wait()
		up, down := len(source.asked["up"]), len(source.asked["down"])
		if up < 270 || up > 310 || down < 270 || down > 315 {
			t.Errorf("asked %d and %d times in a day", up, down)
		}
		if source.asked["down"][1].Sub(source.asked["down"][0]) > 12*time.Second {
			t.Error("no second attempt after ten seconds")
		}
		waits := map[time.Duration]bool{}
		for i := 1; i < up; i++ {
			wait := source.asked["up"][i].Sub(source.asked["up"][i-1])
			waits[wait.Round(time.Second)] = true
			if wait < 4*time.Minute || wait > 6*time.Minute {
				t.Errorf("waited %v", wait)
			}
		}
		if len(waits) < 10 {
			t.Errorf("the waits are %v", waits)
		}
	})
}

// TestKeeperForgets: an address that is not in use is not asked, and its keys are
// gone.
func TestKeeperForgets(t *testing.T) {
	keep(t, func(t *testing.T, k *jwks.Keeper, source *issuers) {
		source.set("u", document(edJWK()))
		k.Use(use("u"))
		time.Sleep(time.Hour)
		k.Use(nil)
		before := len(source.asked["u"])
		time.Sleep(time.Hour)
		if got := len(source.asked["u"]); got != before || k.Keys("u") != "" || len(k.States()) != 0 {
			t.Errorf("asked %d times after %d", got, before)
		}
	})
}

// TestKeeperBound: an issuer that has other keys each time does not make the set
// grow without end; the newest are kept.
func TestKeeperBound(t *testing.T) {
	keep(t, func(t *testing.T, k *jwks.Keeper, source *issuers) {
		k.Use(use("u"))
		for i := range 100 {
			var keys []any
			for j := range 16 {
				keys = append(keys, edJWK().with("kid", fmt.Sprintf("%03d-%02d", i, j)))
			}
			source.set("u", document(keys...))
			time.Sleep(7 * time.Minute)
		}
		got := strings.Fields(ids(t, k, "u"))
		if len(got) != 32 || got[0] < "098" {
			t.Errorf("got %d keys: %v", len(got), got)
		}
	})
}

// slow answers each address after as long as it says.
type slow map[string]time.Duration

func (s slow) Fetch(ctx context.Context, uri string, _ time.Duration) (jwks.Set, error) {
	select {
	case <-time.After(s[uri]):
		return jwks.Parse([]byte(document(edJWK())))
	case <-ctx.Done():
		return jwks.Set{}, ctx.Err()
	}
}

// TestOneOwnerDoesNotHoldUpOthers: whatever some name, and however slow it is,
// the addresses of all others are asked at once.
func TestOneOwnerDoesNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, uses := slow{}, map[string]jwks.Use{}
		for i := range 2000 {
			uri := fmt.Sprint("slow-", i)
			source[uri], uses[uri] = time.Minute, jwks.Use{Owner: fmt.Sprint("tenant-", i%2)}
		}
		k := &jwks.Keeper{Source: source, Log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		k.Use(uses)
		synctest.Wait()
		uses["shop"] = jwks.Use{Owner: "shop"}
		k.Use(uses)
		time.Sleep(time.Second)
		if k.Keys("shop") == "" {
			t.Error("one address waits for others'")
		}
		stop()
		<-done
	})
}
