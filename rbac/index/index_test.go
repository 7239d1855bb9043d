package index_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/index"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// TestAgrees: on generated cases with every feature, the verdict is eval's to
// the last field.
func TestAgrees(t *testing.T) {
	const want = 200_000
	g := rbactest.New(21, rbactest.Everything)
	seen := map[string]int{}
	for n := 0; n < want; {
		c := g.Case()
		set := c.Selected("{}")
		x, dry := index.New(set), index.New(set)
		trial, ok := set.Trial()
		if ok {
			dry = index.New(trial)
		}
		for range 25 {
			c.Call = g.Call(c.Policies)
			req, err := c.Request()
			if err != nil {
				continue
			}
			if n++; n%1000 == 0 {
				req.Method = "get"
			}
			v := agree(t, x, set, req, c)
			if ok {
				agree(t, dry, trial, req, c)
			}
			seen[string(v.Reason)]++
			if len(v.Ask) > 1 {
				seen["asks two"]++
			}
			if v.Audit != "" {
				seen["is marked"]++
			}
			if req.Protocol == rbac.TCP && v.Rule != "" {
				seen["by a rule of a connection"]++
			}
		}
	}
	for what, least := range map[string]int{"allow-rule": 4000, "deny-rule": 4000, "no-allow-match": 4000, "no-allow": 4000, "no-provider": 500, "no-identity": 500, "bad-path": 500, "no-method": 20, "asks two": 200, "is marked": 1000, "by a rule of a connection": 500} {
		if seen[what] < least {
			t.Errorf("%s: %d times, want %d at least", what, seen[what], least)
		}
	}
}

func agree(t *testing.T, x *index.Index, set rbac.Set, req rbac.Request, about fmt.Stringer) eval.Verdict {
	t.Helper()
	got, want := x.Decide(req), eval.Decide(set, req)
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v: %v", got, want, about)
	}
	return got
}

// TestAgreesOnManyPolicies: so many of them, generated, that rules are chosen
// among by their rarest traits, and lists that are looked up.
func TestAgreesOnManyPolicies(t *testing.T) {
	g := rbactest.New(22, rbactest.Everything)
	for range 12 {
		c := g.Case()
		for len(c.Policies) < 150 {
			for _, p := range g.Policies() {
				p.Name = fmt.Sprintf("%s-%d", p.Name, len(c.Policies))
				c.Policies = append(c.Policies, p)
			}
		}
		for i := range c.Policies[:100] { // mostly refused, or everything is
			if c.Policies[i].Action != rbac.Allow && len(c.Policies[i].Rules) > 1 {
				c.Policies[i].Rules = c.Policies[i].Rules[:1]
			}
		}
		var allows []rbac.Policy
		for _, p := range c.Policies {
			if p.Action == rbac.Allow || g.IntN(20) == 0 {
				allows = append(allows, long(t, p))
			}
		}
		set, fewer := c.Selected("{}"), rbac.Select(allows, c.Target)
		x, y := index.New(set), index.New(fewer)
		for range 300 {
			c.Call = g.Call(c.Policies)
			if req, err := c.Request(); err == nil {
				agree(t, x, set, req, c)
				agree(t, y, fewer, req, c)
			}
		}
	}
}

// long has more values in each test that has one, so that they are looked up.
func long(t *testing.T, p rbac.Policy) rbac.Policy {
	p.Rules = append([]rbac.Rule{}, p.Rules...)
	for i, rule := range p.Rules {
		p.Rules[i].From, p.Rules[i].To = longer(t, rule.From), longer(t, rule.To)
	}
	return p
}

func longer(t *testing.T, clauses []rbac.Clause) (out []rbac.Clause) {
	for _, c := range clauses {
		var tests rbac.Clause
		for _, test := range c {
			for i := range 12 {
				text := fmt.Sprintf("filler-%d", i)
				switch test.Attribute.Kind() {
				case rbac.Path:
					text = "/" + text
				case rbac.Principal:
					text = "td.test/ns/" + text + "/sa/x"
				case rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP, rbac.DestinationPort, rbac.Method:
					continue
				}
				p, err := rbac.ParseValue(test.Attribute, text, "shop")
				if err != nil {
					continue
				}
				if len(test.In) > 0 {
					test.In = append(test.In[:len(test.In):len(test.In)], p)
				}
				if len(test.NotIn) > 0 {
					test.NotIn = append(test.NotIn[:len(test.NotIn):len(test.NotIn)], p)
				}
			}
			tests = append(tests, test)
		}
		out = append(out, tests)
	}
	return out
}

// TestShapes: the shapes of 10,000 policies that people write, with requests
// that meet the last of them and none, and nothing is allocated.
func TestShapes(t *testing.T) {
	for _, shape := range rbactest.Shapes() {
		policies := shape.Policies(10_000, 3)
		set := rbac.Select(policies, rbactest.Target())
		x := index.New(set)
		last, none := shape.Requests(10_000, 3)
		for name, req := range map[string]rbac.Request{"last": last, "none": none} {
			v := x.Decide(req)
			if v.Allowed != (name == "last") || name == "last" && v.Rule != "shop/policy-09999/0" {
				t.Errorf("%s, %s: got %+v", shape, name, v)
			}
			agree(t, x, set, req, shapeName(shape))
			if n := testing.AllocsPerRun(100, func() { x.Decide(req) }); n != 0 {
				t.Errorf("%s, %s: %v allocations", shape, name, n)
			}
			for _, path := range []string{strings.ToUpper(req.Path), req.Path + "/x", "/v2/x/00001"} {
				req.Path = path
				agree(t, x, set, req, shapeName(shape))
			}
		}
	}
}

type shapeName rbactest.Shape

func (s shapeName) String() string { return string(s) }

// TestNothingAllocated: one rule of every attribute, asked by a request that has
// all of them, as people write such requests.
func TestNothingAllocated(t *testing.T) {
	g := rbactest.New(23, rbactest.Everything&^(rbactest.Comparisons|rbactest.Customs))
	measured := 0
	for measured < 300 {
		c := g.Case()
		c.Call = g.Call(c.Policies)
		req, err := c.Request()
		if err != nil || rbac.FoldPath(req.Path) != req.Path || strings.ToLower(req.Host) != req.Host || strings.ToLower(req.ServerName) != req.ServerName {
			continue
		}
		measured++
		x := index.New(c.Selected("{}"))
		if n := testing.AllocsPerRun(3, func() { x.Decide(req) }); n != 0 {
			t.Fatalf("%v allocations: %v", n, c)
		}
	}
}

func TestZero(t *testing.T) {
	last, _ := rbactest.ByPrincipal.Requests(1, 1)
	for _, x := range []*index.Index{{}, index.New(rbac.Set{})} {
		if got := x.Decide(last); got.Allowed || got.Reason != eval.UnknownSet {
			t.Errorf("got %+v", got)
		}
	}
	none := index.New(rbac.Select(nil, rbactest.Target()))
	if got := none.Decide(last); !got.Allowed || got.Reason != eval.NoAllow {
		t.Errorf("where nothing applies: got %+v", got)
	}
	if got := none.Decide(rbac.Request{}); got.Allowed {
		t.Errorf("the zero request: got %+v", got)
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, shape := range rbactest.Shapes() {
		for _, n := range []int{10, 1000, 10_000} {
			x := index.New(rbac.Select(shape.Policies(n, 3), rbactest.Target()))
			last, none := shape.Requests(n, 3)
			for name, req := range map[string]rbac.Request{"last": last, "none": none} {
				b.Run(fmt.Sprintf("%s/%d/%s", shape, n, name), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						x.Decide(req)
					}
				})
			}
		}
	}
}

func BenchmarkNew(b *testing.B) {
	for _, shape := range rbactest.Shapes() {
		set := rbac.Select(shape.Policies(10_000, 3), rbactest.Target())
		b.Run(string(shape), func(b *testing.B) {
			for b.Loop() {
				index.New(set)
			}
		})
	}
}
