package rbac_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

func domain(name string) spiffeid.TrustDomain { return spiffeid.RequireTrustDomainFromString(name) }

func domainList(names ...string) (list []spiffeid.TrustDomain) {
	for _, name := range names {
		list = append(list, domain(name))
	}
	return list
}

// worlds are trust domains whose names begin, end and hold one another.
func worlds() []rbac.Domains {
	return []rbac.Domains{
		{Own: domain("td")},
		{Own: domain("td"), Aliases: domainList("cluster.local")},
		{Own: domain("td"), Foreign: domainList("atd", "td.x")},
		{Own: domain("a.td"), Aliases: domainList("td", "b.td"), Foreign: domainList("c.td", "t")},
		{Own: domain("ns"), Aliases: domainList("sa"), Foreign: domainList("n", "s")},
		{Own: domain("td"), Aliases: domainList("td", "x"), Foreign: domainList("x", "y")}, // named twice
		{},
	}
}

func TestDomains(t *testing.T) {
	d := worlds()[3]
	for name, want := range map[string][]string{
		"spiffe://a.td/ns/a/sa/b":      {"a.td/ns/a/sa/b", "td/ns/a/sa/b", "b.td/ns/a/sa/b"},
		"spiffe://b.td/ns/a/sa/b":      {"a.td/ns/a/sa/b", "td/ns/a/sa/b", "b.td/ns/a/sa/b"},
		"spiffe://c.td/ns/a/sa/b":      {"c.td/ns/a/sa/b"},
		"spiffe://d.td/ns/a/sa/b":      nil,
		"spiffe://a.td/istio-auth/ca":  nil,
		"spiffe://c.td/ns/a/sa/b/c":    nil,
		"spiffe://td/ns/A/sa/b":        nil,
		"spiffe://t.d/ns/a/sa/b":       nil,
		"spiffe://td/ns/a/sa/b.c":      {"a.td/ns/a/sa/b.c", "td/ns/a/sa/b.c", "b.td/ns/a/sa/b.c"},
		"spiffe://td/ns/td/sa/ns-sa-a": {"a.td/ns/td/sa/ns-sa-a", "td/ns/td/sa/ns-sa-a", "b.td/ns/td/sa/ns-sa-a"},
	} {
		if got := d.Names(spiffeid.RequireFromString(name)); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := d.Names(spiffeid.ID{}); got != nil {
		t.Errorf("nobody is called %q", got)
	}
	if d.IsOurs(spiffeid.TrustDomain{}) || (rbac.Domains{}).IsOurs(spiffeid.TrustDomain{}) || d.IsOurs(domain("c.td")) || !d.IsOurs(domain("b.td")) {
		t.Error("what is ours is not")
	}
	if got, want := len(d.Accepted()), 5; got != want {
		t.Errorf("%d accepted, want %d", got, want)
	}
	if got := (rbac.Domains{}).Names(spiffeid.RequireFromString("spiffe://td/ns/a/sa/b")); got != nil {
		t.Errorf("without domains it is called %q", got)
	}
}

// TestExpand: a workload is called by a pattern exactly where its ID is one of
// those that the pattern expands to.
func TestExpand(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	name := func() string {
		return pick("td", "a.td", "b.td", "c.td", "t", "atd", "td.x", "ns", "sa", "n", "s", "x", "cluster.local", "other")
	}
	workload := func() string {
		return name() + "/ns/" + pick("a", "b", "ns", "sa", "td", "a-td") + "/sa/" + pick("a", "b", "ns", "sa", "td", "a.td")
	}
	asked, matched := 0, 0
	for range 6000 {
		text := workload()
		_, path, _ := strings.Cut(text, "/")
		switch cut := r.IntN(len(text) + 1); r.IntN(8) {
		case 0, 1:
			text = text[:cut] + "*"
		case 2, 3:
			text = "*" + text[cut:]
		case 4:
			text = "*" + text // reaches into the trust domain
		case 5:
			text = "*" + text[r.IntN(strings.IndexByte(text, '/')+1):]
		}
		p, err := rbac.ParseValue(rbac.Attr(rbac.Principal), text, "own")
		if err != nil {
			continue
		}
		for _, d := range worlds() {
			expanded := d.Expand(p)
			for range 8 {
				id := spiffeid.RequireFromString("spiffe://" + pick(workload(), name()+"/"+path))
				names := d.Names(id)
				if len(names) == 0 {
					continue
				}
				whole := strings.TrimPrefix(id.String(), "spiffe://")
				want := slices.ContainsFunc(names, p.Match)
				got := slices.ContainsFunc(expanded, func(q rbac.Pattern) bool { return q.Match(whole) })
				if asked++; want {
					matched++
				}
				if got != want {
					t.Fatalf("%+v: %s is called %q, which %s matches: %v; by its ID and %v: %v", d, id, names, p, want, expanded, got)
				}
			}
		}
	}
	if asked < 50_000 || matched < asked/10 || matched > asked*9/10 {
		t.Errorf("asked %d times, matched %d", asked, matched)
	}
	for _, kind := range []rbac.Kind{rbac.Template, rbac.Network, rbac.Pair} {
		for _, q := range worlds()[3].Expand(pattern(t, rbac.Attr(rbac.Principal), "td/ns/a/sa/*")) {
			if q.Kind() == kind {
				t.Errorf("expands to a pattern of kind %d", kind)
			}
		}
	}
	if got := worlds()[3].Expand(rbac.Pattern{}); len(got) != 0 {
		t.Errorf("none expands to %v", got)
	}
}
