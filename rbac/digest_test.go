package rbac_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
)

// full is a policy, and token rules, in which every field that a Set keeps has a
// value.
func full(t *testing.T) (rbac.Policy, rbac.TokenRule) {
	a := rbac.Attr(rbac.Path)
	test := func(in, notIn string) rbac.Test {
		return rbac.Test{Attribute: a, In: []rbac.Pattern{pattern(t, a, in)}, NotIn: []rbac.Pattern{pattern(t, a, notIn)}}
	}
	comparison := rbac.Comparison{Left: a, How: rbac.Prefix, Lead: "/", Right: claim(t, "sub"), Trail: "/", Not: true}
	p := rbac.Policy{
		Namespace: "shop", Name: "p", Action: rbac.Custom, Provider: "q", IstioCompat: true,
		Selector: map[string]string{"app": "web"},
		Rules: []rbac.Rule{{
			From: []rbac.Clause{{test("/a", "/b"), test("/c*", "*/d")}}, To: []rbac.Clause{{test("/e", "/{*}")}}, When: rbac.Clause{test("/g", "/h")},
			Expression: &rbac.Expression{Op: rbac.Any, Source: "text", Terms: []rbac.Expression{
				{Op: rbac.Matches, Test: test("/i", "/j")}, {Op: rbac.Compare, Comparison: comparison},
			}},
		}, {}},
	}
	rule := rbac.TokenRule{
		Issuer: "i", Audiences: []string{"a", "b"}, Keys: "k", KeysURI: "u", PayloadHeader: "h", Forward: true,
		Locations:    []rbac.TokenLocation{{Header: "x-h", Prefix: "p", Param: "q", Cookie: "c"}},
		ClaimHeaders: []rbac.ClaimHeader{{Header: "x-c", Claim: "c"}},
	}
	return p, rule
}

// changes yields, for everything within v that can be another, its place while
// it is another: fields by their kind, and lists with one more, one less and in
// another order. What it has no other value for, it fails.
func changes(t *testing.T, v reflect.Value, place string, try func(place string)) {
	t.Helper()
	set := func(to any) {
		old, other := reflect.ValueOf(v.Interface()), reflect.ValueOf(to).Convert(v.Type())
		if reflect.DeepEqual(old.Interface(), other.Interface()) {
			return
		}
		v.Set(other)
		try(place + fmt.Sprintf(" = %v", to))
		v.Set(old)
	}
	switch v.Interface().(type) {
	case rbac.Pattern:
		for _, other := range []rbac.Pattern{
			pattern(t, rbac.Attr(rbac.Path), "/another"), pattern(t, rbac.Attr(rbac.Path), "/z/{*}"), pattern(t, rbac.Attr(rbac.Path), "*"), {},
			pattern(t, rbac.Attr(rbac.SourceIP), "10.0.0.0/8"), pattern(t, rbac.Attr(rbac.SourceIP), "10.0.0.0/9"), pattern(t, rbac.Attr(rbac.SourceIP), "::/0"),
			pattern(t, rbac.Attr(rbac.ServiceAccount), "a/b"), pattern(t, rbac.Attr(rbac.ServiceAccount), "a/c"), pattern(t, rbac.Attr(rbac.RequestPrincipal), "a*"), pattern(t, rbac.Attr(rbac.RequestPrincipal), "a/*"),
			pattern(t, rbac.Attr(rbac.RequestPrincipal), "a/b*"), pattern(t, rbac.Attr(rbac.RequestPrincipal), "*a/b"), pattern(t, rbac.Attr(rbac.Path), "/same"), pattern(t, rbac.Attr(rbac.Path), "/same*"), pattern(t, rbac.Attr(rbac.Path), "*/same"),
		} {
			set(other)
		}
		return
	case rbac.Attribute:
		for _, other := range []rbac.Attribute{{}, rbac.Attr(rbac.Host), rbac.Attr(rbac.Presenter), header(t, "sub"), claim(t, "x"), claim(t, "x", "y"), header(t, "x-y")} {
			set(other)
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		set(v.String() + "x")
		set("")
	case reflect.Bool:
		set(!v.Bool())
	case reflect.Int:
		for _, other := range []int64{0, 1, 2, 3, 4} {
			set(other)
		}
	case reflect.Int64:
		set(v.Int() + 1)
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		changes(t, v.Elem(), place, try)
		set(reflect.Zero(v.Type()).Interface())
	case reflect.Slice:
		if v.Len() == 0 {
			return
		}
		old := reflect.ValueOf(v.Interface())
		for i := range v.Len() {
			changes(t, v.Index(i), fmt.Sprintf("%s[%d]", place, i), try)
		}
		set(v.Slice(0, v.Len()-1).Interface())
		set(reflect.AppendSlice(v.Slice3(0, v.Len(), v.Len()), v.Slice(0, 1)).Interface())
		v.Set(old)
	case reflect.Struct:
		for i := range v.NumField() {
			changes(t, v.Field(i), place+"."+v.Type().Field(i).Name, try)
		}
	case reflect.Map:
		set(map[string]string{})
	default:
		t.Fatalf("%s is of kind %s", place, v.Kind())
	}
}

// TestDigest: every field of the model that means something changes the digest,
// and no two of the changes make the same one.
func TestDigest(t *testing.T) {
	p, rule := full(t)
	target := rbac.Target{
		Namespace: "shop", TrustDomain: domain("td.test"), Labels: map[string]string{"app": "web"},
		Aliases: domainList("a", "b"), Foreign: domainList("c", "d"), Providers: []string{"q", "r"},
	}
	digest := func() [32]byte {
		authentication := rbac.RequestAuthentication{Namespace: "shop", Name: "a", Rules: []rbac.TokenRule{rule}}
		return rbac.Select([]rbac.Policy{p}, target).WithTokens([]rbac.RequestAuthentication{authentication}, target).Digest()
	}
	seen := map[[32]byte]string{digest(): "nothing"}
	n := 0
	try := func(place string) {
		n++
		d := digest()
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have one digest", place, other)
		}
		seen[d] = place
	}
	before := digest()
	filtered := func(place string) {
		name, to, _ := strings.Cut(place, " = ")
		switch name[strings.LastIndexByte(name, '.')+1:] {
		case "Selector", "Source", "Timeout": // these decide nothing
			if digest() != before {
				t.Errorf("%s changes the digest", place)
			}
			return
		}
		if name == "policy.Namespace" || name == "policy.Action" && to == "none" {
			return // it is not selected
		}
		try(place)
	}
	changes(t, reflect.ValueOf(&p).Elem(), "policy", filtered)
	changes(t, reflect.ValueOf(&rule).Elem(), "token", filtered)
	for name, change := range map[string]func(){
		"plaintext":    func() { target.Plaintext = !target.Plaintext },
		"trust domain": func() { target.TrustDomain, target.Aliases[0] = target.Aliases[0], target.TrustDomain },
		"an alias":     func() { target.Aliases, target.Foreign = target.Foreign, target.Aliases },
		"providers":    func() { target.Providers[1] = map[string]string{"r": "s", "s": "r"}[target.Providers[1]] },
	} {
		change()
		try(name)
		change()
	}
	target.Aliases = domainList("a", "b", "c")
	try("one alias more")
	if got, want := n, 300; got < want {
		t.Errorf("%d changes, want %d at least", got, want)
	}
}
