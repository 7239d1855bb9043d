package parse

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/istio-auth/istio-auth/rbac"
)

// JSON is the canonical source of a policy: an AuthorizationPolicy object on one
// line, keys in order, and nothing that says nothing. [Wire] reads it back as an
// equal policy, and so does [Policies] for one that authors can write. It can be
// longer than what an author wrote, but never longer than [MaxObject] for a
// policy that Policies has returned.
//
// What authors cannot write (an expression, and a clause of other attributes, or
// in another order, than theirs) stands in fields that Wire alone takes.
func JSON(p rbac.Policy) []byte {
	m := metadataJSON{Namespace: p.Namespace, Name: p.Name, Annotations: map[string]string{}}
	if p.DryRun {
		m.Annotations[dryRun] = "true"
	}
	if p.IstioCompat {
		m.Annotations[compat] = istioCompat
	}
	spec := policyJSON{Action: p.Action.String(), attachmentJSON: attachmentOf(p.Selector, p.Targets)}
	if p.Provider != "" {
		spec.Provider = &providerJSON{p.Provider}
	}
	w := writer{own: p.Namespace, anyDomain: p.IstioCompat}
	for _, r := range p.Rules {
		spec.Rules = append(spec.Rules, w.rule(r))
	}
	return marshal(policyKind, m, spec)
}

// RequestJSON is the canonical source of a RequestAuthentication, likewise. Keys
// that were fetched stand beside the URI that they came from, which Wire takes
// and authors cannot write.
func RequestJSON(a rbac.RequestAuthentication) []byte {
	spec := requestJSON{attachmentJSON: attachmentOf(a.Selector, a.Targets)}
	for _, t := range a.Rules {
		rule := tokenJSON{
			Issuer: t.Issuer, Audiences: t.Audiences, Keys: t.Keys, KeysURI: t.KeysURI, Forward: t.Forward,
			PayloadHeader: t.PayloadHeader,
		}
		if t.Timeout != 0 {
			rule.Timeout = t.Timeout.String()
		}
		for _, l := range t.Locations {
			switch {
			case l.Header != "":
				rule.Headers = append(rule.Headers, tokenHeaderJSON{l.Header, l.Prefix})
			case l.Param != "":
				rule.Params = append(rule.Params, l.Param)
			case l.Cookie != "":
				rule.Cookies = append(rule.Cookies, l.Cookie)
			}
		}
		for _, c := range t.ClaimHeaders {
			rule.ClaimHeaders = append(rule.ClaimHeaders, claimHeaderJSON{c.Claim, c.Header})
		}
		spec.Rules = append(spec.Rules, rule)
	}
	return marshal(requestKind, metadataJSON{Namespace: a.Namespace, Name: a.Name}, spec)
}

// PeerJSON is the canonical source of a PeerAuthentication, likewise.
func PeerJSON(a rbac.PeerAuthentication) []byte {
	m := metadataJSON{Namespace: a.Namespace, Name: a.Name}
	if !a.Created.IsZero() {
		m.Created = a.Created.UTC().Format(time.RFC3339Nano)
	}
	spec := peerJSON{}
	if len(a.Selector) > 0 {
		spec.Selector = &selectorJSON{a.Selector}
	}
	if a.Mode != rbac.Unset {
		spec.TLS = &modeJSON{a.Mode.String()}
	}
	for _, port := range slices.Sorted(maps.Keys(a.Ports)) {
		if spec.Ports == nil {
			spec.Ports = map[string]modeJSON{}
		}
		spec.Ports[strconv.Itoa(int(port))] = modeJSON{a.Ports[port].String()}
	}
	return marshal(peerKind, m, spec)
}

// The canonical form. Keys of an object stand in the order of the alphabet.
type (
	objectJSON[Spec any] struct {
		APIVersion string       `json:"apiVersion"`
		Kind       string       `json:"kind"`
		Metadata   metadataJSON `json:"metadata"`
		Spec       *Spec        `json:"spec"`
	}
	metadataJSON struct {
		Annotations map[string]string `json:"annotations,omitempty"`
		Created     string            `json:"creationTimestamp,omitempty"`
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
	}
	selectorJSON struct {
		MatchLabels map[string]string `json:"matchLabels"`
	}
	targetJSON struct {
		Group string `json:"group,omitempty"`
		Kind  string `json:"kind"`
		Name  string `json:"name"`
	}
	attachmentJSON struct {
		Selector *selectorJSON `json:"selector,omitempty"`
		Targets  []targetJSON  `json:"targetRefs,omitempty"`
	}
	providerJSON struct {
		Name string `json:"name"`
	}
	policyJSON struct {
		Action   string        `json:"action"`
		Provider *providerJSON `json:"provider,omitempty"`
		Rules    []ruleJSON    `json:"rules,omitempty"`
		attachmentJSON
	}
	// Expression and Tests are for Wire alone.
	ruleJSON struct {
		Expression *expressionJSON `json:"expression,omitempty"`
		From       []fromJSON      `json:"from,omitempty"`
		Tests      []testJSON      `json:"tests,omitzero"`
		To         []toJSON        `json:"to,omitempty"`
		When       []testJSON      `json:"when,omitempty"`
	}
	fromJSON struct {
		Source values     `json:"source,omitempty"`
		Tests  []testJSON `json:"tests,omitzero"`
	}
	toJSON struct {
		Operation values     `json:"operation,omitempty"`
		Tests     []testJSON `json:"tests,omitzero"`
	}
	testJSON struct {
		Key   string   `json:"key"`
		NotIn []string `json:"notValues,omitempty"`
		In    []string `json:"values,omitempty"`
	}
	expressionJSON struct {
		Comparison *comparisonJSON  `json:"comparison,omitempty"`
		Op         string           `json:"op"`
		Source     string           `json:"source,omitempty"`
		Terms      []expressionJSON `json:"terms,omitempty"`
		Test       *testJSON        `json:"test,omitempty"`
	}
	comparisonJSON struct {
		How   string `json:"how"`
		Lead  string `json:"lead,omitempty"`
		Left  string `json:"left"`
		Not   bool   `json:"not,omitempty"`
		Right string `json:"right"`
		Trail string `json:"trail,omitempty"`
	}
	requestJSON struct {
		Rules []tokenJSON `json:"jwtRules,omitempty"`
		attachmentJSON
	}
	tokenJSON struct {
		Audiences     []string          `json:"audiences,omitempty"`
		Forward       bool              `json:"forwardOriginalToken,omitempty"`
		Cookies       []string          `json:"fromCookies,omitempty"`
		Headers       []tokenHeaderJSON `json:"fromHeaders,omitempty"`
		Params        []string          `json:"fromParams,omitempty"`
		Issuer        string            `json:"issuer"`
		Keys          string            `json:"jwks,omitempty"`
		KeysURI       string            `json:"jwksUri,omitempty"`
		ClaimHeaders  []claimHeaderJSON `json:"outputClaimToHeaders,omitempty"`
		PayloadHeader string            `json:"outputPayloadToHeader,omitempty"`
		Timeout       string            `json:"timeout,omitempty"`
	}
	tokenHeaderJSON struct {
		Name   string `json:"name"`
		Prefix string `json:"prefix,omitempty"`
	}
	claimHeaderJSON struct {
		Claim  string `json:"claim"`
		Header string `json:"header"`
	}
	peerJSON struct {
		TLS      *modeJSON           `json:"mtls,omitempty"`
		Ports    map[string]modeJSON `json:"portLevelMtls,omitempty"`
		Selector *selectorJSON       `json:"selector,omitempty"`
	}
	modeJSON struct {
		Mode string `json:"mode"`
	}
)

// The words of an expression.
var (
	opWords  = map[rbac.Op]string{rbac.All: "all", rbac.Any: "any", rbac.Matches: "matches", rbac.Compare: "compare"}
	howWords = map[rbac.Kind]string{rbac.Exact: "exact", rbac.Prefix: "prefix", rbac.Suffix: "suffix"}
)

// version is that of the canonical form.
const version = group + "/v1"

func marshal[Spec any](kind string, m metadataJSON, spec Spec) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(objectJSON[Spec]{version, kind, m, &spec}); err != nil {
		panic(fmt.Sprintf("parse: strings that are no JSON: %v", err)) // cannot be
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func attachmentOf(selector map[string]string, targets []rbac.TargetRef) attachmentJSON {
	var a attachmentJSON
	if len(selector) > 0 {
		a.Selector = &selectorJSON{selector}
	}
	for _, t := range targets {
		a.Targets = append(a.Targets, targetJSON(t))
	}
	return a
}

// A writer writes the rules of one policy.
type writer struct {
	own       string
	anyDomain bool
}

func (w writer) rule(r rbac.Rule) ruleJSON {
	var rule ruleJSON
	for _, c := range r.From {
		source, ok := w.fields(c, sourceFields)
		if !ok {
			rule.From = append(rule.From, fromJSON{Tests: w.tests(c)})
			continue
		}
		rule.From = append(rule.From, fromJSON{Source: source})
	}
	for _, c := range r.To {
		operation, ok := w.fields(c, operationFields)
		if !ok {
			rule.To = append(rule.To, toJSON{Tests: w.tests(c)})
			continue
		}
		rule.To = append(rule.To, toJSON{Operation: operation})
	}
	switch {
	case w.canCondition(r.When):
		rule.When = w.tests(r.When)
		for i, test := range r.When {
			rule.When[i].Key = authorKey(test.Attribute)
		}
	case len(r.When) > 0:
		rule.Tests = w.tests(r.When)
	}
	if r.Expression != nil {
		rule.Expression = new(w.expression(*r.Expression))
	}
	return rule
}

// fields writes a clause as an author would. It is false where none could: the
// tests are not those of fields, or not in their order.
func (w writer) fields(c rbac.Clause, fields []field) (values, bool) {
	any := w.anyDomain || namesDomain(c)
	v := values{}
	next := 0
	for _, test := range c {
		i := slices.IndexFunc(fields[next:], func(f field) bool {
			a := rbac.Attr(f.kind)
			if any {
				a = ofAnyDomain(a)
			}
			return a == test.Attribute
		})
		if i < 0 || len(test.In)+len(test.NotIn) == 0 {
			return nil, false
		}
		f := fields[next+i]
		next += i + 1
		v.put(f.name, w.texts(test.In))
		v.put(negated(f.name), w.texts(test.NotIn))
	}
	return v, len(v) > 0
}

func (v values) put(name string, texts []string) {
	if len(texts) > 0 {
		v[name] = texts
	}
}

// namesDomain tells whether a clause names a trust domain.
func namesDomain(c rbac.Clause) bool {
	return slices.ContainsFunc(c, func(t rbac.Test) bool {
		return t.Attribute.Kind() == rbac.TrustDomain && len(t.In) > 0
	})
}

// canCondition tells whether an author could write c as conditions.
func (w writer) canCondition(c rbac.Clause) bool {
	any := w.anyDomain || namesDomain(c)
	return !slices.ContainsFunc(c, func(t rbac.Test) bool {
		a, err := conditionKey(authorKey(t.Attribute))
		if any {
			a = ofAnyDomain(a)
		}
		return err != nil || a != t.Attribute || len(t.In)+len(t.NotIn) == 0
	})
}

// authorKey is the key that an author writes for a.
func authorKey(a rbac.Attribute) string {
	switch a.Kind() {
	case rbac.AnyNamespace:
		a = rbac.Attr(rbac.Namespace)
	case rbac.AnyServiceAccount:
		a = rbac.Attr(rbac.ServiceAccount)
	}
	return a.String()
}

// tests is never nil.
func (w writer) tests(c rbac.Clause) []testJSON {
	list := make([]testJSON, 0, len(c))
	for _, t := range c {
		list = append(list, w.test(t))
	}
	return list
}

func (w writer) test(t rbac.Test) testJSON {
	return testJSON{Key: t.Attribute.String(), In: w.texts(t.In), NotIn: w.texts(t.NotIn)}
}

// texts writes service accounts of the policy's own namespace without it.
func (w writer) texts(patterns []rbac.Pattern) []string {
	var list []string
	for _, p := range patterns {
		text := p.String()
		if namespace, account := p.Halves(); namespace.Kind() == rbac.Exact && namespace.Text() == w.own && account.Kind() == rbac.Exact {
			text = account.Text()
		}
		list = append(list, text)
	}
	return list
}

func (w writer) expression(e rbac.Expression) expressionJSON {
	out := expressionJSON{Op: opWords[e.Op], Source: e.Source}
	for _, term := range e.Terms {
		out.Terms = append(out.Terms, w.expression(term))
	}
	switch e.Op {
	case rbac.Matches:
		out.Test = new(w.test(e.Test))
	case rbac.Compare:
		c := e.Comparison
		out.Comparison = &comparisonJSON{
			Left: c.Left.String(), How: howWords[c.How], Lead: c.Lead, Right: c.Right.String(), Trail: c.Trail, Not: c.Not,
		}
	}
	return out
}
