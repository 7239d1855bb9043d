package parse

import (
	"errors"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/jwks"
)

// request reads a RequestAuthentication.
func (d *Document) request() (rbac.RequestAuthentication, error) {
	spec := &securityv1beta1.RequestAuthentication{}
	if err := d.Spec().decode(spec); err != nil {
		return rbac.RequestAuthentication{}, err
	}
	if err := d.noAnnotations(); err != nil {
		return rbac.RequestAuthentication{}, err
	}
	a := rbac.RequestAuthentication{Namespace: d.Namespace, Name: d.Name}
	var err error
	if a.Selector, a.Targets, err = d.attachment(spec); err != nil {
		return rbac.RequestAuthentication{}, err
	}
	if len(spec.GetJwtRules()) == 0 {
		return rbac.RequestAuthentication{}, d.at.missing("spec.jwtRules")
	}
	if err := d.at.limit("spec.jwtRules", len(spec.GetJwtRules()), maxIssuers); err != nil {
		return rbac.RequestAuthentication{}, err
	}
	for i, rule := range spec.GetJwtRules() {
		read, err := d.at.tokenRule(rule, element("spec.jwtRules", i))
		if err != nil {
			return rbac.RequestAuthentication{}, err
		}
		a.Rules = append(a.Rules, read)
	}
	if n := len(RequestJSON(a)); n > MaxObject {
		return rbac.RequestAuthentication{}, d.at.refuse("", "too-long", "an object of %d bytes in its canonical form, at most %d", n, MaxObject)
	}
	return a, nil
}

func (at *positions) tokenRule(rule *securityv1beta1.JWTRule, field string) (rbac.TokenRule, error) {
	t := rbac.TokenRule{
		Issuer: rule.GetIssuer(), Audiences: rule.GetAudiences(), Forward: rule.GetForwardOriginalToken(),
		Keys: rule.GetJwks(), KeysURI: rule.GetJwksUri(), Timeout: rule.GetTimeout().AsDuration(),
	}
	if err := at.issuer(t, field); err != nil {
		return rbac.TokenRule{}, err
	}
	var err error
	if t.Keys != "" {
		if t.Keys, err = at.keys(t.Keys, field+".jwks"); err != nil {
			return rbac.TokenRule{}, err
		}
	}
	if t.Locations, err = at.locations(rule, field); err != nil {
		return rbac.TokenRule{}, err
	}
	if name := rule.GetOutputPayloadToHeader(); name != "" {
		if t.PayloadHeader, err = at.outputHeader(name, field+".outputPayloadToHeader"); err != nil {
			return rbac.TokenRule{}, err
		}
	}
	if err := at.limit(field+".outputClaimToHeaders", len(rule.GetOutputClaimToHeaders()), maxPlaces); err != nil {
		return rbac.TokenRule{}, err
	}
	taken := map[string]bool{t.PayloadHeader: t.PayloadHeader != ""}
	for i, c := range rule.GetOutputClaimToHeaders() {
		here := element(field+".outputClaimToHeaders", i)
		header, err := at.outputHeader(c.GetHeader(), here+".header")
		if err != nil {
			return rbac.TokenRule{}, err
		}
		if taken[header] {
			return rbac.TokenRule{}, at.refuse(here+".header", "conflict", "%s gets something else too", header)
		}
		taken[header] = true
		if c.GetClaim() == "" {
			return rbac.TokenRule{}, at.missing(here + ".claim")
		}
		if _, err := rbac.ClaimAttr(strings.Split(c.GetClaim(), ".")...); err != nil {
			return rbac.TokenRule{}, reading{at: at}.placed(here+".claim", err)
		}
		t.ClaimHeaders = append(t.ClaimHeaders, rbac.ClaimHeader{Header: header, Claim: c.GetClaim()})
	}
	return t, nil
}

// issuer checks who issues the tokens, for whom, and where the keys are.
func (at *positions) issuer(t rbac.TokenRule, field string) error {
	switch {
	case t.Issuer == "":
		return at.missing(field + ".issuer")
	case len(t.Issuer) > maxIssuer:
		return at.refuse(field+".issuer", "too-long", "%d bytes, at most %d", len(t.Issuer), maxIssuer)
	case t.Issuer == "-":
		return at.refuse(field+".issuer", "bad-issuer", "\"-\" is how a missing issuer is written")
	case t.Keys != "" && t.KeysURI != "":
		return at.refuse(field+".jwks", "conflict", "jwks cannot stand with jwksUri")
	}
	if err := at.limit(field+".audiences", len(t.Audiences), maxRules); err != nil {
		return err
	}
	for i, audience := range t.Audiences {
		if len(audience) > maxIssuer {
			return at.refuse(element(field+".audiences", i), "too-long", "%d bytes, at most %d", len(audience), maxIssuer)
		}
	}
	switch {
	case t.KeysURI != "":
		return at.keysURI(t.KeysURI, field+".jwksUri")
	case t.Timeout != 0:
		return at.refuse(field+".timeout", "conflict", "nothing is fetched without jwksUri")
	}
	return nil
}

// keys reads the author's own key set. Of it only what verifies is kept.
func (at *positions) keys(text, field string) (string, error) {
	set, err := jwks.Parse([]byte(text))
	var refusal *jwks.Refusal
	if errors.As(err, &refusal) {
		return "", at.refuse(field, "jwks-"+refusal.Reason, "%s", refusal.Detail)
	}
	return set.JSON(), err
}

// keysURI takes https://host[:port][/path][?query] of visible ASCII.
func (at *positions) keysURI(uri, field string) error {
	rest, secure := strings.CutPrefix(uri, "https://")
	if !secure {
		return at.refuse(field, "not-https", "%.80q: keys are fetched by https only, since whoever can change them on their way can sign tokens", uri)
	}
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, "?")
	switch {
	case len(uri) > maxIssuer:
		return at.refuse(field, "too-long", "%d bytes, at most %d", len(uri), maxIssuer)
	case rbac.FoldHost(host) == "" || strings.HasSuffix(host, ":"):
		return at.refuse(field, "bad-uri", "%.80q: want a host after https://", uri)
	case strings.ContainsAny(rest, "#\\\" <>^`{|}") || strings.ContainsFunc(rest, func(r rune) bool { return r > '~' }):
		return at.refuse(field, "bad-uri", "%.80q: a URI has visible ASCII only, and here no fragment", uri)
	}
	return nil
}

func (at *positions) locations(rule *securityv1beta1.JWTRule, field string) ([]rbac.TokenLocation, error) {
	for _, list := range []struct {
		name string
		n    int
	}{{"fromHeaders", len(rule.GetFromHeaders())}, {"fromParams", len(rule.GetFromParams())}, {"fromCookies", len(rule.GetFromCookies())}} {
		if err := at.limit(join(field, list.name), list.n, maxPlaces); err != nil {
			return nil, err
		}
	}
	var places []rbac.TokenLocation
	for i, h := range rule.GetFromHeaders() {
		here := element(field+".fromHeaders", i)
		if h.GetName() == "" {
			return nil, at.missing(here + ".name")
		}
		a, err := rbac.HeaderAttr(h.GetName())
		if err != nil {
			return nil, reading{at: at}.placed(here+".name", err)
		}
		if prefix := h.GetPrefix(); len(prefix) > maxPrefix || !visible(strings.TrimSuffix(prefix, " "), "") {
			return nil, at.refuse(here+".prefix", "bad-prefix", "%.80q: want visible ASCII, and a blank at the end where one follows", prefix)
		}
		places = append(places, rbac.TokenLocation{Header: a.HeaderName(), Prefix: h.GetPrefix()})
	}
	for i, name := range rule.GetFromParams() {
		if len(name) > maxPlaceName || !visible(name, "&=#?+%") {
			return nil, at.refuse(element(field+".fromParams", i), "bad-param", "%.80q: no name of a query's parameter, as it is written there", name)
		}
		places = append(places, rbac.TokenLocation{Param: name})
	}
	for i, name := range rule.GetFromCookies() {
		if len(name) > maxPlaceName || !visible(name, "()<>@,;:\\\"/[]?={}") {
			return nil, at.refuse(element(field+".fromCookies", i), "bad-cookie", "%.80q: no name of a cookie (RFC 6265 §4.1.1)", name)
		}
		places = append(places, rbac.TokenLocation{Cookie: name})
	}
	return places, nil
}

const (
	maxPrefix    = 64
	maxPlaceName = 256
)

// visible tells whether s has visible ASCII only, and none of but.
func visible(s, but string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(but, r) })
}

// reserved are headers that mean something to proxies: what a token says must
// not become one.
var reserved = map[string]bool{
	"authorization": true, "connection": true, "content-encoding": true, "content-length": true, "cookie": true,
	"expect": true, "forwarded": true, "keep-alive": true, "proxy-authorization": true, "proxy-connection": true,
	"te": true, "trailer": true, "transfer-encoding": true, "upgrade": true, "via": true,
}

// outputHeader reads the name of a header that is set from a token.
func (at *positions) outputHeader(name, field string) (string, error) {
	if name == "" {
		return "", at.missing(field)
	}
	a, err := rbac.HeaderAttr(name)
	if err != nil {
		return "", reading{at: at}.placed(field, err)
	}
	name = a.HeaderName()
	if reserved[name] || strings.HasPrefix(name, "x-envoy-") || strings.HasPrefix(name, "x-forwarded-") {
		return "", at.refuse(field, "reserved-header", "%.80q means something to proxies: what a token says must not become it", name)
	}
	return name, nil
}
