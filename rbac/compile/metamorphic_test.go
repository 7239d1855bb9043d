package compile_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/interpret"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// A change makes another case of one, with what must hold between the two
// verdicts. It is false where there is nothing of a case to change.
type change struct {
	name string
	make func(g *rbactest.Generator, r *rand.Rand, c rbactest.Case) (rbactest.Case, bool)
	ok   func(before, after eval.Verdict) bool
}

// neverMore: what was refused stays refused, and whom had to be asked must be.
func neverMore(before, after eval.Verdict) bool { return before.Allowed || !after.Allowed }

// alike: the same is decided.
func alike(before, after eval.Verdict) bool {
	return before.Allowed == after.Allowed && (!before.Allowed || fmt.Sprint(before.Ask) == fmt.Sprint(after.Ask)) && before.Reason == after.Reason
}

// changes are the properties of THREATS 4.4 and PC-05.
var changes = []change{
	{"one DENY policy more never allows more", addPolicy(rbac.Deny), neverMore},
	{"one CUSTOM policy more never allows more", addPolicy(rbac.Custom), neverMore},
	{"one AUDIT policy more changes nothing", addPolicy(rbac.Audit), alike},
	{"one dry run more changes nothing", func(g *rbactest.Generator, r *rand.Rand, c rbactest.Case) (rbactest.Case, bool) {
		more := g.Policies()[0]
		more.Name, more.DryRun = "more", true
		c.Policies = append(slices.Clone(c.Policies), more)
		return c, true
	}, alike},
	{"one ALLOW rule less never allows more", func(_ *rbactest.Generator, r *rand.Rand, c rbactest.Case) (rbactest.Case, bool) {
		c.Policies = slices.Clone(c.Policies)
		for i, p := range c.Policies {
			if p.Action == rbac.Allow && len(p.Rules) > 0 {
				at := r.IntN(len(p.Rules))
				c.Policies[i].Rules = slices.Delete(slices.Clone(p.Rules), at, at+1)
				return c, true
			}
		}
		return c, false
	}, neverMore},
	{"names and order change nothing", func(_ *rbactest.Generator, r *rand.Rand, c rbactest.Case) (rbactest.Case, bool) {
		c.Policies = slices.Clone(c.Policies)
		r.Shuffle(len(c.Policies), func(i, j int) { c.Policies[i], c.Policies[j] = c.Policies[j], c.Policies[i] })
		for i := range c.Policies {
			p := &c.Policies[i]
			p.Name = fmt.Sprintf("n%d", i)
			p.Rules = slices.Clone(p.Rules)
			r.Shuffle(len(p.Rules), func(i, j int) { p.Rules[i], p.Rules[j] = p.Rules[j], p.Rules[i] })
		}
		return c, true
	}, func(before, after eval.Verdict) bool {
		slices.Sort(before.Ask) // in the order of policies
		slices.Sort(after.Ask)
		return alike(before, after)
	}},
	{"an alias for the peer's trust domain changes nothing", func(_ *rbactest.Generator, r *rand.Rand, c rbactest.Case) (rbactest.Case, bool) {
		domains := rbac.Domains{Own: c.Target.TrustDomain, Aliases: c.Target.Aliases}
		if !domains.IsOurs(c.Call.Peer.TrustDomain()) || len(c.Target.Aliases) == 0 {
			return c, false
		}
		family := domains.Family()
		id, err := spiffeid.FromPath(family[r.IntN(len(family))], c.Call.Peer.Path())
		c.Call.Peer = id
		return c, err == nil
	}, alike},
	{"a byte of a literal becomes a dot, and only that byte", dotted, alike},
}

func addPolicy(action rbac.Action) func(*rbactest.Generator, *rand.Rand, rbactest.Case) (rbactest.Case, bool) {
	return func(g *rbactest.Generator, _ *rand.Rand, c rbactest.Case) (rbactest.Case, bool) {
		for {
			for _, more := range g.Policies() {
				if more.Action == action && !more.DryRun {
					more.Name = "more"
					c.Policies = append(slices.Clone(c.Policies), more)
					return c, true
				}
			}
		}
	}
}

// dotted replaces one byte of a path in a rule by a dot, and asks for a path that
// has a third byte there: it matched neither before nor after, unless the dot
// means more than itself.
func dotted(_ *rbactest.Generator, r *rand.Rand, c rbactest.Case) (rbactest.Case, bool) {
	c.Policies = slices.Clone(c.Policies)
	for i, p := range c.Policies {
		for j, rule := range p.Rules {
			for k, clause := range rule.To {
				for l, test := range clause {
					for m, pattern := range test.In {
						old := pattern.Text()
						if pattern.Kind() != rbac.Exact || test.Attribute.Kind() != rbac.Path || len(old) < 3 {
							continue
						}
						at := 1 + r.IntN(len(old)-1)
						if b := old[at]; b == '.' || b == '/' {
							continue
						}
						with := old[:at] + "." + old[at+1:]
						p, err := rbac.ParseValue(test.Attribute, with, rbactest.Namespace)
						if err != nil {
							continue
						}
						// A third path, that the dot would match if it meant any byte.
						c.Call.Target = old[:at] + "q" + old[at+1:]
						c.Policies[i].Rules = slices.Clone(c.Policies[i].Rules)
						to := slices.Clone(rule.To)
						to[k] = slices.Clone(clause)
						to[k][l].In = slices.Clone(test.In)
						to[k][l].In[m] = p
						c.Policies[i].Rules[j].To = to
						return c, !c.Call.TCP && old[at] != 'q' && !strings.Contains(with, "..")
					}
				}
			}
		}
	}
	return c, false
}

// TestMetamorphic: what must hold between two sets that differ a little, does,
// by eval, and by the interpreter of the filters of both. Envoy decides some of
// them as eval does.
func TestMetamorphic(t *testing.T) {
	sets := max(*caseCount/100, 1000)
	g := rbactest.New(*firstSeed+1000, rbactest.Features(*features))
	r := rand.New(rand.NewPCG(*firstSeed, 9))
	made, moved := make([]int, len(changes)), make([]int, len(changes))
	var compiler compile.Compiler
	var sample []rbactest.Case // for Envoy
	for i := range sets {
		c := g.Case()
		c.Call = g.Call(c.Policies)
		for j, change := range changes {
			after, ok := change.make(g, r, c)
			before := c
			before.Call.Target = after.Call.Target // where the change is of the target, too
			if !ok || skip(before) || skip(after) {
				continue
			}
			made[j]++
			v, w := verdict(t, before), verdict(t, after)
			if !change.ok(v, w) {
				t.Fatalf("%s: %+v becomes %+v:\n%v\n%v", change.name, v, w, before, after)
			}
			if v.Allowed != w.Allowed {
				moved[j]++
			}
			if len(sample) < 500 {
				before.Set, after.Set = len(sample), len(sample)+1
				sample = append(sample, before, after)
			}
			if i%4 == 0 { // the other two take longer
				filtered := func(c rbactest.Case) eval.Verdict {
					return eval.Verdict{Allowed: filteredBy(t, &compiler, c)}
				}
				// Reasons are compared above.
				if a, b := filtered(before), filtered(after); !change.ok(a, b) {
					t.Fatalf("%s, of filters: %+v becomes %+v:\n%v\n%v", change.name, a, b, before, after)
				}
			}
		}
	}
	for _, m := range decideAll(t, newAuthority(t), sample, new(tally)) {
		t.Errorf("%v\n%v", m, m.input)
	}
	for j, change := range changes {
		t.Logf("%s: %d cases, %d decided otherwise", change.name, made[j], moved[j])
		if made[j] < sets/20 {
			t.Errorf("%s: only %d of %d cases", change.name, made[j], sets)
		}
	}
	if moved[0] == 0 || moved[4] == 0 {
		t.Error("no DENY policy more, or ALLOW rule less, has ever refused anybody: the cases show nothing")
	}
}

func skip(c rbactest.Case) bool {
	_, err := c.Request()
	return err != nil
}

func verdict(t testing.TB, c rbactest.Case) eval.Verdict {
	t.Helper()
	req, err := c.Request()
	if err != nil {
		t.Fatal(err)
	}
	return eval.Decide(c.Selected(""), req)
}

// filteredBy is what the interpreter says of the case's filter.
func filteredBy(t testing.TB, compiler *compile.Compiler, c rbactest.Case) bool {
	t.Helper()
	req, err := c.Request()
	if err != nil {
		t.Fatal(err)
	}
	compiled := compiler.HTTP
	if req.Protocol == rbac.TCP {
		compiled = compiler.TCP
	}
	packed, err := compiled(c.Selected(""))
	if err != nil {
		t.Fatal(err)
	}
	filter, err := interpret.Decode(packed)
	if err != nil {
		t.Fatal(err)
	}
	return filter.Decide(interpret.FromRequest(req)).Allowed
}
