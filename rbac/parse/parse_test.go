package parse_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/parse"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// byValue compares patterns and attributes, which are comparable.
var byValue = cmp.Options{
	cmp.Comparer(func(a, b rbac.Pattern) bool { return a == b }),
	cmp.Comparer(func(a, b rbac.Attribute) bool { return a == b }),
}

// valid reads what is in testdata/valid, by file.
func valid(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/valid/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(paths), 40; got < want {
		t.Fatalf("%d valid files, want %d at least", got, want)
	}
	files := map[string][]byte{}
	for _, path := range paths {
		if files[filepath.Base(path)], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// TestValid: what is valid is read, and its canonical form says the same.
func TestValid(t *testing.T) {
	for name, data := range valid(t) {
		o, err := parse.ReadObjects(name, data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		roundTrips(t, o)
	}
}

// roundTrips checks that the canonical form of each is read back as the same, by
// both readers.
func roundTrips(t testing.TB, o parse.Objects) {
	t.Helper()
	check := func(one parse.Objects, data []byte) {
		t.Helper()
		again, err := parse.ReadObjects("again", data)
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if diff := cmp.Diff(one, again, byValue); diff != "" {
			t.Errorf("%s: read back differently:\n%s", data, diff)
		}
		wired(t, one, data)
	}
	for _, p := range o.Policies {
		check(parse.Objects{Policies: []rbac.Policy{p}}, parse.JSON(p))
	}
	for _, a := range o.Requests {
		check(parse.Objects{Requests: []rbac.RequestAuthentication{a}}, parse.RequestJSON(a))
	}
	for _, a := range o.Peers {
		check(parse.Objects{Peers: []rbac.PeerAuthentication{a}}, parse.PeerJSON(a))
	}
}

// wired checks that Wire reads data as one, and that one is written as data.
func wired(t testing.TB, one parse.Objects, data []byte) {
	t.Helper()
	again, err := parse.Wire(data)
	if err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	if diff := cmp.Diff(one, again, byValue); diff != "" {
		t.Errorf("%s: Wire reads it differently:\n%s", data, diff)
	}
	if got := source(again); string(got) != string(data) {
		t.Errorf("canonical forms differ: %s and %s", data, got)
	}
}

// source is the canonical form of the one object.
func source(o parse.Objects) []byte {
	switch {
	case len(o.Policies) == 1:
		return parse.JSON(o.Policies[0])
	case len(o.Requests) == 1:
		return parse.RequestJSON(o.Requests[0])
	case len(o.Peers) == 1:
		return parse.PeerJSON(o.Peers[0])
	}
	return nil
}

// TestGeneratedRoundTrip: every policy that there can be comes back from the
// wire, and those of fields from the authors' reader too.
func TestGeneratedRoundTrip(t *testing.T) {
	g := rbactest.New(3)
	for range 60 {
		roundTrips(t, parse.Objects{Policies: g.Policies()})
	}
	roundTrips(t, parse.Objects{Policies: rbactest.Policies(50, 1)})
	whole, authors := rbactest.New(4, rbactest.Everything), 0
	for range 150 {
		for _, p := range whole.Policies() {
			one := parse.Objects{Policies: []rbac.Policy{p}}
			data := parse.JSON(p)
			wired(t, one, data)
			if again, err := parse.ReadObjects("again", data); err == nil {
				authors++
				if diff := cmp.Diff(one, again, byValue); diff != "" {
					t.Errorf("%s: read back differently:\n%s", data, diff)
				}
			}
		}
	}
	if want := 60; authors < want {
		t.Errorf("%d policies that an author can write, want %d at least", authors, want)
	}
}

// TestEveryField holds each field to its attribute, and each text to its place.
func TestEveryField(t *testing.T) {
	o, err := parse.ReadObjects("all", []byte(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all.fields, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  action: DENY
  selector: {matchLabels: {app.kubernetes.io/name: web, empty: ""}}
  rules:
  - from:
    - source: {principals: ["td.test/ns/a/sa/b", "td.test/ns/*"], notPrincipals: ["*/sa/b"], namespaces: [a, b*], notNamespaces: ["*c", "*"]}
    - source: {serviceAccounts: [own, other/sa.x], notServiceAccounts: [a/b]}
    - source: {trustDomains: [other.test], notTrustDomains: ["a*"], namespaces: [a]}
    - source: {serviceAccounts: [own], trustDomains: ["*"]}
    - source: {notTrustDomains: [other.test], namespaces: [a]}
    - source: {requestPrincipals: [https://issuer.test/sub], notRequestPrincipals: ["*"], ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16], remoteIpBlocks: ["2001:db8::/32"], notRemoteIpBlocks: [192.0.2.1]}
    to:
    - operation: {methods: [GET, "P*"], notMethods: ["*T"], paths: ["/a*", "*/b", "/c", "*", "/d/{*}/e/{**}"], notPaths: [/d]}
    - operation: {hosts: ["*.Shop.test", "a.test:*"], notHosts: [b.test], ports: ["80"], notPorts: ["81"]}
    when:
    - {key: "request.headers[X-Role]", values: ["a*"], notValues: [b]}
    - {key: "request.auth.claims[realm][roles]", values: [c]}
    - {key: source.namespace, values: [d]}
    - {key: connection.sni, values: [A.test]}
    - {key: request.auth.audiences, notValues: [e]}
  - when: [{key: source.trustDomain, values: [other.test]}, {key: source.namespace, notValues: [f]}, {key: source.serviceAccount, values: [g]}]
  - {}
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Policies) != 1 || !o.Policies[0].DryRun || o.Policies[0].IstioCompat || o.Policies[0].Action != rbac.Deny || o.Policies[0].Selector["app.kubernetes.io/name"] != "web" {
		t.Fatalf("got %+v", o)
	}
	var got []string
	for i, rule := range o.Policies[0].Rules {
		for j, c := range rule.From {
			got = append(got, said(fmt.Sprintf("%d.from[%d]", i, j), c)...)
		}
		for j, c := range rule.To {
			got = append(got, said(fmt.Sprintf("%d.to[%d]", i, j), c)...)
		}
		got = append(got, said(fmt.Sprintf("%d.when", i), rule.When)...)
	}
	want := strings.Split(strings.TrimSpace(`
0.from[0] source.principal [td.test/ns/a/sa/b td.test/ns/*] [*/sa/b]
0.from[0] source.namespace [a b*] [*c *]
0.from[1] source.serviceAccount [shop/own other/sa.x] [a/b]
0.from[2] source.namespace of any trust domain [a] []
0.from[2] source.trustDomain [other.test] [a*]
0.from[3] source.serviceAccount of any trust domain [shop/own] []
0.from[3] source.trustDomain [*] []
0.from[4] source.namespace [a] []
0.from[4] source.trustDomain [] [other.test]
0.from[5] request.auth.principal [https://issuer.test/sub] [*]
0.from[5] source.ip [10.0.0.0/8] [10.1.0.0/16]
0.from[5] remote.ip [2001:db8::/32] [192.0.2.1]
0.to[0] request.method [GET P*] [*T]
0.to[0] request.path [/a* */b /c * /d/{*}/e/{**}] [/d]
0.to[1] request.host [*.shop.test a.test] [b.test]
0.to[1] destination.port [80] [81]
0.when request.headers[x-role] [a*] [b]
0.when request.auth.claims[realm][roles] [c] []
0.when source.namespace [d] []
0.when connection.sni [a.test] []
0.when request.auth.audiences [] [e]
1.when source.trustDomain [other.test] []
1.when source.namespace of any trust domain [] [f]
1.when source.serviceAccount of any trust domain [shop/g] []
`), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	roundTrips(t, o)
}

// said is what the tests of a clause say, one line each.
func said(where string, c rbac.Clause) (lines []string) {
	for _, test := range c {
		lines = append(lines, fmt.Sprintf("%s %v %v %v", where, test.Attribute, test.In, test.NotIn))
	}
	return lines
}

// TestCompat: as Istio reads it, namespaces and accounts are of any trust domain.
func TestCompat(t *testing.T) {
	policies, err := parse.Policies("compat", []byte(`
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop, annotations: {istio-auth.io/compat: istio}}
spec: {rules: [{from: [{source: {namespaces: [a]}}, {source: {notServiceAccounts: [b]}}], when: [{key: source.namespace, values: [c]}]}]}
`))
	if err != nil || len(policies) != 1 || !policies[0].IstioCompat {
		t.Fatalf("got %+v, %v", policies, err)
	}
	rule := policies[0].Rules[0]
	for _, c := range append(rule.From, rule.When) {
		if kind := c[0].Attribute.Kind(); kind != rbac.AnyNamespace && kind != rbac.AnyServiceAccount {
			t.Errorf("%v is asked for", c[0].Attribute)
		}
	}
	roundTrips(t, parse.Objects{Policies: policies})
}

// typos makes a slip of the pen at each place of a word.
func typos(word string) []string {
	var list []string
	for i := range word {
		list = append(list, word[:i]+word[i+1:])               // one letter gone
		list = append(list, word[:i]+word[i:i+1]+word[i:])     // one doubled
		list = append(list, word[:i]+"_"+word[i+1:])           // another key hit
		list = append(list, word[:i]+flip(word[i])+word[i+1:]) // the other case
		if i > 0 && word[i] != word[i-1] {
			list = append(list, word[:i-1]+string([]byte{word[i], word[i-1]})+word[i+1:]) // two swapped
		}
	}
	return append(list, word+"s", "not"+word, word+" ", "x-"+word)
}

func flip(b byte) string {
	if s := strings.ToUpper(string(b)); s != string(b) {
		return s
	}
	return strings.ToLower(string(b))
}

// TestTypos is THREATS AD-04: each slip in each key and each word of each valid
// object is refused, and with a position.
func TestTypos(t *testing.T) {
	keys := strings.Fields(`apiVersion kind metadata name namespace annotations spec selector matchLabels action rules from
		source principals notPrincipals requestPrincipals notRequestPrincipals namespaces notNamespaces serviceAccounts
		notServiceAccounts trustDomains notTrustDomains ipBlocks notIpBlocks remoteIpBlocks notRemoteIpBlocks to operation
		hosts notHosts ports notPorts methods notMethods paths notPaths when key values notValues provider targetRef
		targetRefs group jwtRules issuer audiences jwks jwksUri fromHeaders prefix fromParams fromCookies
		forwardOriginalToken outputPayloadToHeader outputClaimToHeaders header claim timeout mtls mode portLevelMtls
		creationTimestamp istio.io/dry-run istio-auth.io/compat`)
	words := strings.Fields(`security.istio.io/v1 AuthorizationPolicy RequestAuthentication PeerAuthentication ALLOW DENY AUDIT
		CUSTOM GET POST PUT DELETE PATCH STRICT PERMISSIVE DISABLE UNSET Gateway GatewayClass Service ServiceEntry
		gateway.networking.k8s.io networking.istio.io source.ip remote.ip source.namespace source.principal
		source.serviceAccount source.trustDomain request.auth.principal request.auth.audiences request.auth.presenter
		request.headers[x-role] request.auth.claims[group] destination.ip destination.port connection.sni`)
	// What a slip can make of a word that is one of its own right.
	fine := func(typo string) bool {
		_, err := rbac.ParseValue(rbac.Attr(rbac.Method), typo, "")
		name := strings.HasPrefix(typo, "request.headers[") && strings.HasSuffix(typo, "]") || strings.HasPrefix(typo, "request.auth.claims[") && strings.HasSuffix(typo, "]")
		return err == nil || name || slices.Contains(words, strings.TrimSpace(typo)) || typo == "security.istio.io/v1beta1"
	}
	mutants, seen := 0, map[string]bool{}
	try := func(file string, data []byte, at int, old, typo string) {
		mutants++
		seen[old] = true
		mutant := slices.Concat(data[:at], []byte(typo), data[at+len(old):])
		_, err := parse.ReadObjects(file, mutant)
		var e *parse.Error
		if !errors.As(err, &e) || e.Line < 1 {
			t.Errorf("%s: %q for %q: %v", file, typo, old, err)
		}
	}
	for file, data := range valid(t) {
		for _, key := range keys {
			for _, at := range places(data, key+":") {
				for _, typo := range typos(key) {
					if !slices.Contains(keys, strings.TrimSpace(typo)) {
						try(file, data, at, key, typo)
					}
				}
			}
		}
		for _, word := range words {
			for _, at := range places(data, word) {
				for _, typo := range typos(word) {
					if !fine(typo) && strings.TrimSpace(typo) != word {
						try(file, data, at, word, typo)
					}
				}
			}
		}
	}
	for _, word := range slices.Concat(keys, words) {
		if !seen[word] {
			t.Errorf("no valid file has %s", word)
		}
	}
	t.Logf("%d mutants of valid objects", mutants)
	if want := 20000; mutants < want {
		t.Errorf("%d mutants, want %d at least", mutants, want)
	}
}

// places are the offsets of a word in data, where it stands alone.
func places(data []byte, word string) []int {
	var list []int
	text := string(data)
	for from := 0; ; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			return list
		}
		at, end := from+i, from+i+len(word)
		if (at == 0 || strings.IndexByte(" {[\"\n,", text[at-1]) >= 0) && (end == len(text) || strings.IndexByte(" }]\"\n,", text[end]) >= 0) {
			list = append(list, at)
		}
		from = end
	}
}

// FuzzObjects: what is read has a canonical form that says the same, and what is
// not has a reason.
func FuzzObjects(f *testing.F) {
	for _, data := range valid(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := parse.ReadObjects("fuzz", data)
		if err == nil {
			roundTrips(t, o)
			return
		}
		var e *parse.Error
		if len(o.Policies)+len(o.Requests)+len(o.Peers) > 0 || !errors.As(err, &e) || e.Reason == "" || !errors.Is(err, parse.ErrRefused) {
			t.Errorf("%+v, and no refusal: %v", o, err)
		}
	})
}

// header begins an object of one policy.
func header(name string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: shop}\n", name)
}
