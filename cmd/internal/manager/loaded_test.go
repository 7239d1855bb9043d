package manager

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/distribute"
	"github.com/istio-auth/istio-auth/rbac/jwks"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

// TestGrantsAreResolved: with roles of the configured root namespace, and what
// is unresolved is told beside what is in force.
func TestGrantsAreResolved(t *testing.T) {
	read, err := access.Read("test", []byte(`apiVersion: istio-auth.io/v1alpha1
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
		objects:  &objects{keeper: &jwks.Keeper{}},
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
	r.loaded(read, refused)
	if !told {
		t.Error("nothing was told")
	}
}

// TestKeysComeAndGoOut: what is read first is published when the keys have come,
// or have been waited for; what is read later, with the keys of the moment, and
// again when they have come. Keys that their author gave are left alone.
func TestKeysComeAndGoOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const uri, inline = "https://issuer.test/keys", `{"keys":[]}`
		set, err := jwks.Parse([]byte(aKeySet))
		if err != nil {
			t.Fatal(err)
		}
		o := &objects{keeper: &jwks.Keeper{Log: slog.New(slog.DiscardHandler), Source: fetched(func(asked string) (jwks.Set, error) {
			if time.Sleep(time.Second); asked != uri {
				t.Errorf("asked %s", asked)
			}
			return set, nil
		})}}
		var published []string
		r := &run{objects: o, deps: Deps{Log: slog.New(slog.DiscardHandler)}}
		publish := func() {
			err := o.publish(func(_ []rbac.Policy, requests []rbac.RequestAuthentication) error {
				published = append(published, requests[0].Rules[0].Keys+" "+requests[0].Rules[1].Keys)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		publish() // nothing is known yet: nothing is said
		o.take(nil, []rbac.RequestAuthentication{{Namespace: "shop", Name: "r", Rules: []rbac.TokenRule{{Issuer: "a", KeysURI: uri}, {Issuer: "b", Keys: inline}}}})
		publish()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.objects.keeper.Run(ctx) }()
		<-o.keeper.Changed()
		publish()
		stop()
		<-done
		if want := []string{set.JSON() + " " + inline}; !slices.Equal(published, want) {
			t.Errorf("published %q, want %q", published, want)
		}
		if o.requests[0].Rules[0].Keys != "" {
			t.Error("what was read has been changed")
		}

		// An issuer that does not answer is waited for, and not for ever; one that
		// is named later holds nobody up.
		published = nil
		o = &objects{keeper: &jwks.Keeper{}} // asks nobody
		late := []rbac.RequestAuthentication{{Namespace: "shop", Name: "r", Rules: []rbac.TokenRule{{Issuer: "a", KeysURI: uri}, {Issuer: "b"}}}}
		o.take(nil, late)
		publish()
		if time.Sleep(firstKeys - 1); !o.unsettled() || len(published) > 0 {
			t.Errorf("published %q before the first keys were waited for", published)
		}
		time.Sleep(2)
		publish()
		late[0].Rules[1].KeysURI = uri + "/other"
		o.take(nil, late)
		publish()
		if len(published) != 2 || o.unsettled() {
			t.Errorf("published %q", published)
		}
	})
}

// TestKeysThatAreTooMany: a set that no agent takes would keep all else from its
// workloads, so that the issuers' tokens are rejected instead.
func TestKeysThatAreTooMany(t *testing.T) {
	read := rbac.RequestAuthentication{Namespace: "shop", Name: "r", Rules: make([]rbac.TokenRule, 64)}
	rules := make([]rbac.TokenRule, 64)
	for i := range rules {
		rules[i].Keys = strings.Repeat("\"", parse.MaxWire/128)
	}
	if got := fitting(read, rules[:16]); got.Rules[0].Keys == "" || len(parse.RequestJSON(got)) > parse.MaxWire {
		t.Error("16 fit")
	}
	if got := fitting(read, rules); got.Rules[0].Keys != "" {
		t.Error("64 are too many")
	}
}

// TestTheLogIsToldOnce: what is wrong with policies, however much, and whenever
// others change.
func TestTheLogIsToldOnce(t *testing.T) {
	var log bytes.Buffer
	r := &run{deps: Deps{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))}}
	for range 100 {
		r.report(nil, errors.New(strings.Repeat("bad ", 1<<20)))
	}
	if n := log.Len(); n == 0 || n > 10<<10 {
		t.Errorf("%d bytes", n)
	}
	r.report(nil, nil)
	r.report(nil, errors.New("bad"))
	if !strings.HasSuffix(log.String(), "err=bad\n") {
		t.Error("what comes again is told again")
	}
}

// TestWhoseAccountAnIssuerIsOn: many addresses of one namespace are on its own, and
// one that it shares is on that of who has fewer.
func TestWhoseAccountAnIssuerIsOn(t *testing.T) {
	var many []rbac.TokenRule
	for _, uri := range []string{"https://a", "https://b", "https://shared"} {
		many = append(many, rbac.TokenRule{KeysURI: uri, Timeout: time.Minute})
	}
	got := uses([]rbac.RequestAuthentication{
		{Namespace: "flood", Name: "x", Rules: many},
		{Namespace: "flood", Name: "y", Rules: many},
		{Namespace: "shop", Name: "x", Rules: []rbac.TokenRule{{KeysURI: "https://shared", Timeout: time.Second}, {KeysURI: "https://inline", Keys: "{}"}}},
	})
	want := map[string]jwks.Use{"https://a": {Timeout: time.Minute, Owner: "flood"}, "https://b": {Timeout: time.Minute, Owner: "flood"}, "https://shared": {Timeout: time.Minute, Owner: "shop"}}
	if !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

type fetched func(uri string) (jwks.Set, error)

func (f fetched) Fetch(_ context.Context, uri string, _ time.Duration) (jwks.Set, error) {
	return f(uri)
}

const aKeySet = `{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"a"}]}`
