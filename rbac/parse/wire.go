package parse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
)

// Wire reads one object that [JSON], [RequestJSON] or [PeerJSON] wrote, as a
// manager sends it: all that the model can say, and more than an author may.
// Never hand it what an author wrote. It refuses what it does not understand; it
// does not look for an author's slips, and it is quick. Errors are [Error]s,
// without positions.
func Wire(data []byte) (Objects, error) {
	if len(data) > MaxWire {
		return Objects{}, &Error{Reason: "too-long", Detail: fmt.Sprintf("%d bytes, at most %d", len(data), MaxWire)}
	}
	o, err := wireObject(data)
	if err == nil {
		return o, nil
	}
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Reason: "bad-json", Detail: err.Error()}
	}
	return Objects{}, e
}

// beginning is that of every canonical form, before its kind.
const beginning = `{"apiVersion":"` + version + `","kind":"`

func wireObject(data []byte) (Objects, error) {
	rest, ok := bytes.CutPrefix(data, []byte(beginning))
	if !ok {
		return Objects{}, bad("apiVersion", "wrong-kind", "want %s, and the kind", version)
	}
	kind, _, _ := bytes.Cut(rest, []byte(`"`))
	switch string(kind) {
	case policyKind:
		o, err := strictly[policyJSON](policyKind, data)
		if err != nil {
			return Objects{}, err
		}
		p, err := wirePolicy(o)
		return Objects{Policies: []rbac.Policy{p}}, err
	case requestKind:
		o, err := strictly[requestJSON](requestKind, data)
		if err != nil {
			return Objects{}, err
		}
		a, err := wireRequest(o)
		return Objects{Requests: []rbac.RequestAuthentication{a}}, err
	case peerKind:
		o, err := strictly[peerJSON](peerKind, data)
		if err != nil {
			return Objects{}, err
		}
		a, err := wirePeer(o)
		return Objects{Peers: []rbac.PeerAuthentication{a}}, err
	}
	return Objects{}, bad("kind", "wrong-kind", "%.80q", kind)
}

func bad(field, reason, format string, args ...any) error {
	return &Error{Field: field, Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// strictly reads one object of known fields.
func strictly[Spec any](kind string, data []byte) (objectJSON[Spec], error) {
	var o objectJSON[Spec]
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return o, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return o, errors.New("more after the end")
	}
	m := o.Metadata
	switch {
	case o.APIVersion != version || o.Kind != kind:
		return o, bad("kind", "wrong-kind", "%.80q %.80q, and it begins otherwise", o.APIVersion, o.Kind)
	case o.Spec == nil:
		return o, bad("spec", "missing-field", "missing")
	case !rbac.IsNamespace(m.Namespace):
		return o, bad("metadata.namespace", "bad-name", "%.80q", m.Namespace)
	case !rbac.IsPolicyName(m.Name):
		return o, bad("metadata.name", "bad-name", "%.80q", m.Name)
	case o.Kind != policyKind && len(m.Annotations) > 0:
		return o, bad("metadata.annotations", "unknown-annotation", "%d of them", len(m.Annotations))
	case o.Kind != peerKind && m.Created != "":
		return o, bad("metadata.creationTimestamp", "unknown-field", "%.80q", m.Created)
	}
	return o, nil
}

func wirePolicy(o objectJSON[policyJSON]) (rbac.Policy, error) {
	spec := *o.Spec
	p := rbac.Policy{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}
	for _, action := range []rbac.Action{rbac.Allow, rbac.Deny, rbac.Audit, rbac.Custom} {
		if action.String() == spec.Action {
			p.Action = action
		}
	}
	if p.Action == 0 {
		return rbac.Policy{}, bad("spec.action", "unknown-value", "%.80q", spec.Action)
	}
	if spec.Provider != nil {
		p.Provider = spec.Provider.Name
	}
	if (p.Action == rbac.Custom) != isProvider(p.Provider) || p.Action != rbac.Custom && p.Provider != "" {
		return rbac.Policy{}, bad("spec.provider", "bad-name", "%.80q for action %s", p.Provider, p.Action)
	}
	for key, value := range o.Metadata.Annotations {
		switch {
		case key == dryRun && value == "true":
			p.DryRun = true
		case key == compat && value == istioCompat:
			p.IstioCompat = true
		default:
			return rbac.Policy{}, bad("metadata.annotations", "unknown-annotation", "%.80q: %.80q", key, value)
		}
	}
	p.Selector, p.Targets = spec.read()
	r := wireReading{reading{at: &positions{}, own: p.Namespace, anyDomain: p.IstioCompat}}
	for i, rule := range spec.Rules {
		read, err := r.rule(rule, element("spec.rules", i))
		if err != nil {
			return rbac.Policy{}, err
		}
		p.Rules = append(p.Rules, read)
	}
	return p, nil
}

func (a attachmentJSON) read() (map[string]string, []rbac.TargetRef) {
	var targets []rbac.TargetRef
	for _, t := range a.Targets {
		targets = append(targets, rbac.TargetRef(t))
	}
	if a.Selector == nil || len(a.Selector.MatchLabels) == 0 {
		return nil, targets
	}
	return a.Selector.MatchLabels, targets
}

// A wireReading reads rules of the canonical form.
type wireReading struct{ reading }

func (r wireReading) rule(rule ruleJSON, field string) (rbac.Rule, error) {
	var read rbac.Rule
	for i, from := range rule.From {
		c, err := r.clauseOf(from.Source, from.Tests, sourceFields, element(field+".from", i))
		if err != nil {
			return rbac.Rule{}, err
		}
		read.From = append(read.From, c)
	}
	for i, to := range rule.To {
		c, err := r.clauseOf(to.Operation, to.Tests, operationFields, element(field+".to", i))
		if err != nil {
			return rbac.Rule{}, err
		}
		read.To = append(read.To, c)
	}
	if rule.When != nil && rule.Tests != nil {
		return rbac.Rule{}, bad(field+".tests", "conflict", "both when and tests")
	}
	var err error
	if rule.When != nil {
		read.When, err = r.conditions(rule.When, field+".when")
	} else {
		read.When, err = r.tests(rule.Tests, field+".tests")
	}
	if err != nil || rule.Expression == nil {
		return read, err
	}
	e, err := r.expression(*rule.Expression, field+".expression", 0)
	read.Expression = &e
	return read, err
}

// clauseOf reads fields, or tests.
func (r wireReading) clauseOf(v values, tests []testJSON, fields []field, at string) (rbac.Clause, error) {
	switch {
	case tests != nil && v != nil:
		return nil, bad(at, "conflict", "both fields and tests")
	case tests != nil:
		c, err := r.tests(tests, at)
		if c == nil {
			c = rbac.Clause{}
		}
		return c, err
	case len(v) == 0:
		return nil, bad(at, "empty-value", "neither fields nor tests")
	}
	for name, texts := range v {
		if !slices.ContainsFunc(fields, func(f field) bool { return f.name == name || negated(f.name) == name }) {
			return nil, bad(join(at, name), "unknown-field", "%.80q", name)
		}
		if len(texts) == 0 {
			return nil, bad(join(at, name), "empty-value", "no values")
		}
	}
	return r.clause(at, fields, v)
}

// conditions reads keys as authors write them.
func (r wireReading) conditions(list []testJSON, field string) (rbac.Clause, error) {
	anyDomain := r.anyDomain || slices.ContainsFunc(list, func(t testJSON) bool {
		return t.Key == rbac.Attr(rbac.TrustDomain).String() && len(t.In) > 0
	})
	var clause rbac.Clause
	for i, t := range list {
		a, err := conditionKey(t.Key)
		if err != nil {
			return nil, r.placed(element(field, i), err)
		}
		if anyDomain {
			a = ofAnyDomain(a)
		}
		test, err := r.testOf(a, t, element(field, i))
		if err != nil {
			return nil, err
		}
		clause = append(clause, test)
	}
	return clause, nil
}

// tests reads keys as attributes call themselves.
func (r wireReading) tests(list []testJSON, field string) (rbac.Clause, error) {
	var clause rbac.Clause
	for i, t := range list {
		a, err := attributeOf(t.Key)
		if err != nil {
			return nil, r.placed(element(field, i), err)
		}
		test, err := r.testOf(a, t, element(field, i))
		if err != nil {
			return nil, err
		}
		clause = append(clause, test)
	}
	return clause, nil
}

func (r wireReading) testOf(a rbac.Attribute, t testJSON, field string) (rbac.Test, error) {
	test := rbac.Test{Attribute: a}
	var err error
	if test.In, err = r.values(field+".values", t.In, a); err != nil {
		return rbac.Test{}, err
	}
	test.NotIn, err = r.values(field+".notValues", t.NotIn, a)
	return test, err
}

// attributeOf is the attribute whose String is key. Errors are [rbac.Refusal]s.
func attributeOf(key string) (rbac.Attribute, error) {
	for kind := rbac.Principal; kind <= rbac.Claim; kind++ {
		if a := rbac.Attr(kind); a.Kind() == kind && a.String() == key {
			return a, nil
		}
	}
	return conditionKey(key)
}

func (r wireReading) expression(in expressionJSON, field string, depth int) (rbac.Expression, error) {
	if depth > maxDepth {
		return rbac.Expression{}, bad(field, "too-deep", "nested deeper than %d levels", maxDepth)
	}
	e := rbac.Expression{Op: wordOf(opWords, in.Op), Source: in.Source}
	branches := e.Op == rbac.All || e.Op == rbac.Any
	if e.Op == 0 || !branches && len(in.Terms) > 0 || (e.Op == rbac.Matches) != (in.Test != nil) || (e.Op == rbac.Compare) != (in.Comparison != nil) {
		return rbac.Expression{}, bad(field, "bad-expression", "%.80q with other parts", in.Op)
	}
	for i, term := range in.Terms {
		t, err := r.expression(term, element(field+".terms", i), depth+1)
		if err != nil {
			return rbac.Expression{}, err
		}
		e.Terms = append(e.Terms, t)
	}
	if in.Test != nil {
		c, err := r.tests([]testJSON{*in.Test}, field+".test")
		if err != nil {
			return rbac.Expression{}, err
		}
		e.Test = c[0]
	}
	if in.Comparison != nil {
		var err error
		if e.Comparison, err = r.comparison(*in.Comparison, field+".comparison"); err != nil {
			return rbac.Expression{}, err
		}
	}
	return e, nil
}

func (r wireReading) comparison(in comparisonJSON, field string) (rbac.Comparison, error) {
	c := rbac.Comparison{How: wordOf(howWords, in.How), Lead: in.Lead, Trail: in.Trail, Not: in.Not}
	if c.How == 0 {
		return rbac.Comparison{}, bad(field+".how", "unknown-value", "%.80q", in.How)
	}
	var err error
	if c.Left, err = attributeOf(in.Left); err != nil {
		return rbac.Comparison{}, r.placed(field+".left", err)
	}
	if c.Right, err = attributeOf(in.Right); err != nil {
		return rbac.Comparison{}, r.placed(field+".right", err)
	}
	return c, nil
}

// wordOf is the value that is called word, or zero.
func wordOf[V comparable](words map[V]string, word string) V {
	for v := range maps.Keys(words) {
		if words[v] == word {
			return v
		}
	}
	var none V
	return none
}

func wireRequest(o objectJSON[requestJSON]) (rbac.RequestAuthentication, error) {
	spec := *o.Spec
	a := rbac.RequestAuthentication{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}
	a.Selector, a.Targets = spec.read()
	for i, t := range spec.Rules {
		field := element("spec.jwtRules", i)
		if t.Issuer == "" {
			return rbac.RequestAuthentication{}, bad(field+".issuer", "missing-field", "missing")
		}
		rule := rbac.TokenRule{
			Issuer: t.Issuer, Audiences: t.Audiences, Keys: t.Keys, KeysURI: t.KeysURI, Forward: t.Forward,
			PayloadHeader: t.PayloadHeader,
		}
		if t.Timeout != "" {
			var err error
			if rule.Timeout, err = time.ParseDuration(t.Timeout); err != nil || rule.Timeout <= 0 {
				return rbac.RequestAuthentication{}, bad(field+".timeout", "bad-duration", "%.80q", t.Timeout)
			}
		}
		for _, h := range t.Headers {
			rule.Locations = append(rule.Locations, rbac.TokenLocation{Header: h.Name, Prefix: h.Prefix})
		}
		for _, name := range t.Params {
			rule.Locations = append(rule.Locations, rbac.TokenLocation{Param: name})
		}
		for _, name := range t.Cookies {
			rule.Locations = append(rule.Locations, rbac.TokenLocation{Cookie: name})
		}
		if slices.Contains(rule.Locations, rbac.TokenLocation{}) {
			return rbac.RequestAuthentication{}, bad(field, "empty-value", "a place for tokens without a name")
		}
		for _, c := range t.ClaimHeaders {
			rule.ClaimHeaders = append(rule.ClaimHeaders, rbac.ClaimHeader{Header: c.Header, Claim: c.Claim})
		}
		a.Rules = append(a.Rules, rule)
	}
	return a, nil
}

func wirePeer(o objectJSON[peerJSON]) (rbac.PeerAuthentication, error) {
	spec := *o.Spec
	a := rbac.PeerAuthentication{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}
	if o.Metadata.Created != "" {
		var err error
		if a.Created, err = time.Parse(time.RFC3339, o.Metadata.Created); err != nil {
			return rbac.PeerAuthentication{}, bad("metadata.creationTimestamp", "bad-time", "%.80q", o.Metadata.Created)
		}
	}
	if spec.Selector != nil && len(spec.Selector.MatchLabels) > 0 {
		a.Selector = spec.Selector.MatchLabels
	}
	mode := func(m modeJSON, field string) (rbac.Mode, error) {
		for mode := rbac.Unset; mode <= rbac.Strict; mode++ {
			if mode.String() == m.Mode {
				return mode, nil
			}
		}
		return 0, bad(field, "unknown-value", "%.80q", m.Mode)
	}
	if spec.TLS != nil {
		var err error
		if a.Mode, err = mode(*spec.TLS, "spec.mtls.mode"); err != nil {
			return rbac.PeerAuthentication{}, err
		}
	}
	for text, m := range spec.Ports {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return rbac.PeerAuthentication{}, bad(byPort, "bad-port", "%.80q", text)
		}
		if a.Ports == nil {
			a.Ports = map[uint16]rbac.Mode{}
		}
		if a.Ports[uint16(port)], err = mode(m, join(byPort, text)); err != nil {
			return rbac.PeerAuthentication{}, err
		}
	}
	return a, nil
}
