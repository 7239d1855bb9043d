package rbactest

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
)

// A Case is one question: do these policies of this workload let this call in?
type Case struct {
	Set      int // the caller's number for the policies
	Target   rbac.Target
	Tokens   bool // whether the workload takes the tokens of [Authentications]
	Policies []rbac.Policy
	Call     Call
}

// Case makes policies and a workload for them, whose peers the calls that follow
// mostly are. The call is zero: see [Generator.Call].
func (g *Generator) Case() Case {
	c := Case{Policies: g.Policies(), Target: g.Target()}
	g.workload = c.Target
	c.Tokens = g.features.has(Tokens) && g.chance(90)
	return c
}

// Selected is what applies to the workload, whose tokens keys verify.
func (c Case) Selected(keys string) rbac.Set {
	set := rbac.Select(c.Policies, c.Target)
	if c.Tokens {
		set = set.WithTokens(Authentications(keys), c.Target)
	}
	return set
}

// Request is the call as policy sees it. A token that the workload does not
// look at is none. The error is as of [Call.Request].
func (c Case) Request() (rbac.Request, error) {
	req, err := c.Call.Request()
	if !c.Tokens {
		req.Token = nil
	}
	return req, err
}

// String is the case as JSON, which can be run again.
func (c Case) String() string {
	data, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return fmt.Sprintf("%#v: %v", struct{ Case }{c}, err)
	}
	return string(data)
}

// What a case is in JSON. Attributes and patterns are as authors write them.
type (
	caseJSON struct {
		Policies  []policyJSON           `json:"policies"`
		Aliases   []spiffeid.TrustDomain `json:"aliases,omitempty"`
		Foreign   []spiffeid.TrustDomain `json:"foreign,omitempty"`
		Plaintext bool                   `json:"plaintext,omitempty"`
		Providers []string               `json:"providers,omitempty"`
		Tokens    bool                   `json:"tokens,omitempty"`
		Call      Call                   `json:"call"`
	}
	policyJSON struct {
		Namespace string            `json:"namespace"`
		Name      string            `json:"name"`
		Action    rbac.Action       `json:"action"`
		Word      string            `json:"word"` // the action, for people
		Provider  string            `json:"provider,omitempty"`
		Selector  map[string]string `json:"selector,omitempty"`
		DryRun    bool              `json:"dryRun,omitempty"`
		Istio     bool              `json:"istio,omitempty"`
		Rules     []ruleJSON        `json:"rules,omitempty"`
	}
	ruleJSON struct {
		From       [][]testJSON    `json:"from,omitempty"`
		To         [][]testJSON    `json:"to,omitempty"`
		When       []testJSON      `json:"when,omitempty"`
		Expression *expressionJSON `json:"expression,omitempty"`
	}
	testJSON struct {
		Attribute string   `json:"attribute"`
		In        []string `json:"in,omitempty"`
		NotIn     []string `json:"notIn,omitempty"`
	}
	expressionJSON struct {
		All     []expressionJSON `json:"all,omitzero"`
		Any     []expressionJSON `json:"any,omitzero"`
		Test    *testJSON        `json:"test,omitempty"`
		Compare *compareJSON     `json:"compare,omitempty"`
	}
	compareJSON struct {
		Left  string    `json:"left"`
		How   rbac.Kind `json:"how"`
		Lead  string    `json:"lead,omitempty"`
		Right string    `json:"right"`
		Trail string    `json:"trail,omitempty"`
		Not   bool      `json:"not,omitempty"`
	}
)

// MarshalJSON writes all but Set, and of the target what [Target] has not.
func (c Case) MarshalJSON() ([]byte, error) {
	out := caseJSON{
		Aliases: c.Target.Aliases, Foreign: c.Target.Foreign, Plaintext: c.Target.Plaintext, Providers: c.Target.Providers,
		Tokens: c.Tokens, Call: c.Call,
	}
	for _, p := range c.Policies {
		q := policyJSON{p.Namespace, p.Name, p.Action, p.Action.String(), p.Provider, p.Selector, p.DryRun, p.IstioCompat, nil}
		for _, r := range p.Rules {
			rule := ruleJSON{When: each(r.When, writeTest)}
			rule.From = each(r.From, func(c rbac.Clause) []testJSON { return each(c, writeTest) })
			rule.To = each(r.To, func(c rbac.Clause) []testJSON { return each(c, writeTest) })
			if r.Expression != nil {
				e := writeExpression(*r.Expression)
				rule.Expression = &e
			}
			q.Rules = append(q.Rules, rule)
		}
		out.Policies = append(out.Policies, q)
	}
	return json.Marshal(out)
}

func each[V, W any](list []V, f func(V) W) []W {
	var out []W
	for _, v := range list {
		out = append(out, f(v))
	}
	return out
}

func writeTest(t rbac.Test) testJSON {
	return testJSON{t.Attribute.String(), each(t.In, rbac.Pattern.String), each(t.NotIn, rbac.Pattern.String)}
}

func writeExpression(e rbac.Expression) expressionJSON {
	switch e.Op {
	case rbac.All:
		return expressionJSON{All: append([]expressionJSON{}, each(e.Terms, writeExpression)...)}
	case rbac.Any:
		return expressionJSON{Any: append([]expressionJSON{}, each(e.Terms, writeExpression)...)}
	case rbac.Compare:
		c := e.Comparison
		return expressionJSON{Compare: &compareJSON{c.Left.String(), c.How, c.Lead, c.Right.String(), c.Trail, c.Not}}
	}
	t := writeTest(e.Test)
	return expressionJSON{Test: &t}
}

// UnmarshalJSON reads what MarshalJSON has written.
func (c *Case) UnmarshalJSON(data []byte) error {
	var in caseJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*c = Case{Target: Target(), Tokens: in.Tokens, Call: in.Call}
	c.Target.Aliases, c.Target.Foreign, c.Target.Plaintext, c.Target.Providers = in.Aliases, in.Foreign, in.Plaintext, in.Providers
	var r reader
	for _, q := range in.Policies {
		p := rbac.Policy{Namespace: q.Namespace, Name: q.Name, Action: q.Action, Provider: q.Provider, Selector: q.Selector, DryRun: q.DryRun, IstioCompat: q.Istio}
		for _, rule := range q.Rules {
			clause := func(list []testJSON) rbac.Clause { return each(list, r.test) }
			out := rbac.Rule{From: each(rule.From, clause), To: each(rule.To, clause), When: clause(rule.When)}
			if rule.Expression != nil {
				e := r.expression(*rule.Expression)
				out.Expression = &e
			}
			p.Rules = append(p.Rules, out)
		}
		c.Policies = append(c.Policies, p)
	}
	return r.err
}

// A reader keeps its first error.
type reader struct{ err error }

func (r *reader) attribute(s string) rbac.Attribute {
	for kind := rbac.Principal; kind <= rbac.Claim; kind++ {
		if a := rbac.Attr(kind); s == a.String() && a != (rbac.Attribute{}) {
			return a
		}
	}
	name, isHeader := strings.CutPrefix(s, "request.headers[")
	path, isClaim := strings.CutPrefix(s, "request.auth.claims[")
	var a rbac.Attribute
	err := fmt.Errorf("no attribute is %q", s)
	switch {
	case isHeader:
		a, err = rbac.HeaderAttr(strings.TrimSuffix(name, "]"))
	case isClaim:
		a, err = rbac.ClaimAttr(strings.Split(strings.TrimSuffix(path, "]"), "][")...)
	}
	r.keep(err)
	return a
}

func (r *reader) keep(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) test(t testJSON) rbac.Test {
	out := rbac.Test{Attribute: r.attribute(t.Attribute)}
	parse := func(s string) rbac.Pattern {
		p, err := rbac.ParseValue(out.Attribute, s, Namespace)
		r.keep(err)
		return p
	}
	out.In, out.NotIn = each(t.In, parse), each(t.NotIn, parse)
	return out
}

func (r *reader) expression(e expressionJSON) rbac.Expression {
	switch {
	case e.All != nil:
		return rbac.Expression{Op: rbac.All, Terms: each(e.All, r.expression)}
	case e.Any != nil:
		return rbac.Expression{Op: rbac.Any, Terms: each(e.Any, r.expression)}
	case e.Test != nil:
		return rbac.Expression{Op: rbac.Matches, Test: r.test(*e.Test)}
	case e.Compare != nil:
		c := e.Compare
		return rbac.Expression{Op: rbac.Compare, Comparison: rbac.Comparison{
			Left: r.attribute(c.Left), How: c.How, Lead: c.Lead, Right: r.attribute(c.Right), Trail: c.Trail, Not: c.Not,
		}}
	}
	r.keep(fmt.Errorf("an expression of nothing"))
	return rbac.Expression{}
}
