package rbac_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/istio-auth/istio-auth/rbac"
)

// header and claim are attributes of names that are good.
func header(t testing.TB, name string) rbac.Attribute {
	t.Helper()
	a, err := rbac.HeaderAttr(name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func claim(t testing.TB, keys ...string) rbac.Attribute {
	t.Helper()
	a, err := rbac.ClaimAttr(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// pattern is one value of a, in the namespace own.
func pattern(t testing.TB, a rbac.Attribute, value string) rbac.Pattern {
	t.Helper()
	p, err := rbac.ParseValue(a, value, "own")
	if err != nil {
		t.Fatalf("%s %q: %v", a, value, err)
	}
	return p
}

func reason(err error) string {
	if refusal := (*rbac.Refusal)(nil); errors.As(err, &refusal) {
		return refusal.Reason
	}
	return "no refusal"
}

func long(n int) string { return strings.Repeat("a", n) }

// values lists, for kinds of attributes, values that are taken, and values that
// are refused for a reason: separated by blanks, where none has one. A value
// that is not written as it is read has "=>" and how it reads.
func values() []valueRow {
	ips := []rbac.AttributeKind{rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP}
	hosts := []rbac.AttributeKind{rbac.Host}
	names := []rbac.AttributeKind{rbac.ServerName}
	texts := []rbac.AttributeKind{rbac.Audience, rbac.Presenter, rbac.Claim}
	namespaces := []rbac.AttributeKind{rbac.Namespace, rbac.AnyNamespace}
	accounts := []rbac.AttributeKind{rbac.ServiceAccount, rbac.AnyServiceAccount}
	one := func(k rbac.AttributeKind) []rbac.AttributeKind { return []rbac.AttributeKind{k} }
	const goodHosts = "* a example.com *.example.com *example.com a* a.* a-b.c_d 10.0.0.1 10.* [::1] [fe80::1] xn--bcher-kva.example 0 " +
		"Example.COM=>example.com *.EXAMPLE=>*.example example.com:*=>example.com *.a:*=>*.a *:*=>* [::1]:*=>[::1]"
	const badHosts = "example.com:80 :80 *:80 ::1 [::1 [::1]:80 [::1]* *[::1] [] [::x] example.com. .example.com .* *. *.. a..b a..* *..a a/b a_b/ é a%20 a,b a@b a\x00 http://a a:b *a:b a:1* [::* *]"
	return []valueRow{
		{one(rbac.Principal), "* td/ns/a/sa/b td/ns/a/sa/b.c td.x-y_z/ns/a/sa/b td* td/* td/n* td/ns* td/ns/a/s* td/ns/a/sa/b* *b */b */sa/b *a/b */ns/a/sa/b *s/a/sa/b *td/ns/a/sa/b",
			"bad-principal", "spiffe://td/ns/a/sa/b spiffe://* td td/ns/a td/ns/a/sa/ td/ns//sa/b td/ns/a/sb/b td/na/a/sa/b td/ns/a/sa/b/c TD/ns/a/sa/b td/ns/A/sa/b td/ns/a/sa/B td/ns/a.b/sa/b td/ns/a/sa/b. td:1/ns/a/sa/b td/ns/a/sa/b?x td/ns/a/sa/b,c td/ns/a/sa/%62 td/sa/* td/nsx* td/ns/a/x* td/ns/a/sax* td/ns/a/sa/b/* */b/ */sx/b */td/ns/a/sa/b *//b *x/ns/a/sb/b td/ns/a/sa/b\x00 td/ns/a/sa/é"},
		{one(rbac.Principal), "", "bad-star", "td/*/sa/b ** *a* td/ns/a/sa/** ***"},
		{one(rbac.Principal), "", "too-long", long(2049)},
		{namespaces, "* a a-b a* a-* *-a *b 0 " + long(63), "bad-namespace", "-a a- A a.b a/b a_b *a- -* a,b é " + long(64)},
		{namespaces, "", "bad-star", "a*b ** *a*"},
		{namespaces, "", "too-long", long(65)},
		{accounts, "a=>own/a a.b=>own/a.b a-b=>own/a-b ns/a ns/a.b " + long(253) + "=>own/" + long(253), "bad-service-account",
			"* a* */a a/* a/b/c /a a/ A ns.x/a a_b a. .a -a ns/A é " + long(64) + "/a " + long(254)},
		{accounts, "", "too-long", long(321)},
		{one(rbac.TrustDomain), "* td td.test td-1_x *.test td* *test td.* 0 " + long(255), "bad-trust-domain", "TD td.Test spiffe://td td/ns td/ /td td:1 a,b é td\x00 a%2e *TD Td*"},
		{one(rbac.TrustDomain), "", "bad-star", "t*d ** *td*"},
		{one(rbac.TrustDomain), "", "too-long", long(257)},
		{ips, "10.0.0.1 10.0.0.0/8 0.0.0.0/0 10.0.0.1/32=>10.0.0.1 ::1 ::/0 fd00::/8 2001:db8::/32 2001:DB8::1=>2001:db8::1 ::1/128=>::1 255.255.255.255", "bad-ip",
			"* 10.* *.1 10.0.0 10.0.0.0/33 10.0.0.1/8 10.0.0.0/-1 10.0.0.0/ 10.0.0.0/08 010.0.0.1 10.0.0.256 ::ffff:10.0.0.1 ::ffff:0:0/96 fe80::1%eth0 fe80::%1/64 [::1] ::1/129 fd00::1/8 2001:db8::1/32 a localhost 10.0.0.1:80 10.0.0.0/255.0.0.0 10.0.0.1,10.0.0.2 0x7f.1 2130706433 " + long(4000)},
		{one(rbac.DestinationPort), "1 80 443 8080 65535", "bad-port", "0 65536 -1 +80 080 80* * http 8,0 0x50 1e3 80.0 99999999999999999999 ８０"},
		{hosts, goodHosts + " " + long(253), "bad-host", badHosts},
		{hosts, "", "bad-star", "a*b ** *a* *.*"},
		{hosts, "", "too-long", long(255)},
		{names, goodHosts + " " + long(253), "bad-sni", badHosts},
		{names, "", "bad-star", "a*b ** *a* *.*"},
		{names, "", "too-long", long(255)},
		{one(rbac.Method), "* GET POST P* *T PATCH PURGE *ETE", "bad-method", "get Get GETT GTE GET, X* *x G.T POSTS M-SEARCH"},
		{one(rbac.Method), "", "bad-star", "G*T ** *E*"},
		{one(rbac.Method), "", "too-long", long(64)},
		{one(rbac.Path), "* / /* /a /a* /a/* */a *a *.png /a.b /.a /a. /a/..b /..a /a;b /;a /a=b&c,d!$'()+@:~_- /.* /..* /A /a;b* */a/ *a. /... /a/.../b " + "/" + long(8191),
			"bad-path", "a a* /a?b ?* /a#b //a /a//b /./a /a/. /a/.. /a/../b /a/./b /.;a /a/..;x /a/.; *//a *//  */.. */. */../a /a\\b /a\" /a<b /a|b /a^b /a`b /é /a\x7f //* /a/.;* \\* /a/../* *.. *. */ *a;b *; *;/a"},
		{one(rbac.Path), "", "bad-star", "/a/*/b ** *a* /** */* /a*b"},
		{one(rbac.Path), "", "encoded-path", "/a%20b /%61* *%2f /% /{*}/%61"},
		{one(rbac.Path), "/{*} /{**} /a/{*} /a/{**} /{*}/b /a/{*}/b /{*}/{*} /{*}/{**} /a.b/{*} /a/{*}/ /{*}/A/... /a;b/{*} " + strings.Repeat("/{*}", 64),
			"bad-template", "/a{*} /{*}b /{ /} /{} /{a} /{*}{*} /{**}/a /{**}/{*} /{**}/ /{***} /{*}/* /a/{*}* /a/{**}* /{*/}"},
		{one(rbac.Path), "", "bad-path", "{*} a/{*} *{*} {**} */{*} /a//{*} /{*}//b /./{*} /{*}/.. /{*}/../a /{*}/.;x /a?/{*} /a#/{*} /a\\b/{*} /é/{*} {/a"},
		{one(rbac.Path), "", "too-long", "/" + long(8192) + " /{*}/" + long(8192) + " " + strings.Repeat("/{*}", 65)},
		{texts, "* a a* *a a/b https://a.example/x é [a] {\"a\":1} a,b " + long(2048), "bad-star", "a*b ** *a*"},
		{texts, "", "too-long", long(2049)},
		{one(rbac.Header), "* a a* *a a/b a;q=1 Mozilla/5.0* \"etag\" %2f é=>!", "bad-star", "a*b ** *a*"},
		{one(rbac.Header), "", "bad-header-value", "a,b , a,* *,a é a\x00 a\x7f a\x01*"},
		{one(rbac.Header), "", "too-long", long(4097)},
		{one(rbac.RequestPrincipal), "* iss/sub https://a.example/sub https://a.example/x/sub https://a.example/* iss/* iss/su* */sub *.example/sub *x/sub iss* *sub *@a.example a,b/c -/x",
			"bad-request-principal", "iss sub@a.example /sub iss/ https://a.example https://a.example* https://* */ / " + "https:///"},
		{one(rbac.RequestPrincipal), "", "bad-star", "i*s/sub ** *a* */* iss/*x"},
		{one(rbac.RequestPrincipal), "", "too-long", long(2049)},
	}
}

type valueRow struct {
	kinds       []rbac.AttributeKind
	good        string
	reason, bad string
}

func (r valueRow) attribute(t testing.TB, kind rbac.AttributeKind) rbac.Attribute {
	switch kind {
	case rbac.Header:
		return header(t, "x-a")
	case rbac.Claim:
		return claim(t, "a")
	}
	return rbac.Attr(kind)
}

// TestValues: each value is taken as written, or refused for its reason, and
// what is taken reads the same when it is read again.
func TestValues(t *testing.T) {
	n, seen := 0, map[rbac.AttributeKind]bool{}
	for _, row := range values() {
		for _, kind := range row.kinds {
			seen[kind] = true
			a := row.attribute(t, kind)
			for s := range strings.FieldsSeq(row.good) {
				n++
				value, want, other := strings.Cut(s, "=>")
				if !other {
					want = value
				}
				p, err := rbac.ParseValue(a, value, "own")
				if want == "!" { // of this kind alone it is refused
					if err == nil {
						t.Errorf("%s %.80q: taken", a, value)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s %.80q: %v", a, value, err)
					continue
				}
				if p.String() != want {
					t.Errorf("%s %.80q reads %.80q, want %.80q", a, value, p, want)
				}
				if again, err := rbac.ParseValue(a, p.String(), "other"); err != nil || again != p {
					t.Errorf("%s %.80q: what it reads, %.80q, is another: %v, %v", a, value, p, again, err)
				}
			}
			for s := range strings.FieldsSeq(row.bad) {
				n++
				if p, err := rbac.ParseValue(a, s, "own"); reason(err) != row.reason {
					t.Errorf("%s %.80q: got %.80q, %v (%s); want %s", a, s, p, err, reason(err), row.reason)
				}
			}
			if _, err := rbac.ParseValue(a, "", "own"); reason(err) != "empty-value" && kind != rbac.DestinationPort {
				t.Errorf("%s: the empty string: %v", a, err)
			}
		}
	}
	for _, s := range []string{" a", "a ", " ", " a*", "* a ", "*a ", " a "} {
		n++
		if p, err := rbac.ParseValue(header(t, "x-a"), s, "own"); reason(err) != "bad-header-value" {
			t.Errorf("a header's %q: got %q, %v", s, p, err)
		}
	}
	for _, s := range []string{"a b", "a *", "* b"} {
		n++
		if p, err := rbac.ParseValue(header(t, "x-a"), s, "own"); err != nil || p.String() != s {
			t.Errorf("a header's %q: got %q, %v", s, p, err)
		}
	}
	for name, values := range map[string][]string{
		"scope": {"read write", "read *", "* write"}, "permission": {"a b"}, "exp": {"1", "*"}, "iat": {"1*"}, "nbf": {"*1"},
	} {
		for _, s := range values {
			n++
			if p, err := rbac.ParseValue(claim(t, name), s, "own"); reason(err) != "bad-claim-value" {
				t.Errorf("the claim %s, %q: got %q, %v", name, s, p, err)
			}
		}
	}
	for _, name := range []string{"other", "realm/scope", "realm/exp"} {
		n++
		if p, err := rbac.ParseValue(claim(t, strings.Split(name, "/")...), "a b", "own"); err != nil || p.String() != "a b" {
			t.Errorf("the claim %s: got %q, %v", name, p, err)
		}
	}
	if got, want := n, 686; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for kind := rbac.Principal; kind <= rbac.Claim; kind++ {
		if !seen[kind] {
			t.Errorf("no row for kind %d", kind)
		}
	}
	for _, none := range []rbac.Attribute{{}, rbac.Attr(0), rbac.Attr(99), rbac.Attr(rbac.Header), rbac.Attr(rbac.Claim), rbac.Attr(-1)} {
		if p, err := rbac.ParseValue(none, "a", "own"); reason(err) != "bad-attribute" {
			t.Errorf("%v: got %v, %v", none, p, err)
		}
	}
}

// TestAttributes: the names of headers and claims.
func TestAttributes(t *testing.T) {
	rows := []struct {
		made   func(string) (rbac.Attribute, error)
		reason string
		good   string // "written=>String"
		bad    []string
	}{
		{rbac.HeaderAttr, "bad-header", "x-a=>request.headers[x-a] X-Role=>request.headers[x-role] a=>request.headers[a] user-agent=>request.headers[user-agent] x.y~=>request.headers[x.y~]",
			[]string{"", "host", "Host", ":path", ":authority", "x_a", "x a", "x:a", "x/a", "x[a]", "x\x00", "\u212a", "x-\u0130", "é", long(257), "x\"", "x{", "(x)"}},
		{func(s string) (rbac.Attribute, error) { return rbac.ClaimAttr(strings.Split(s, "/")...) }, "bad-claim",
			"a=>request.auth.claims[a] realm/roles=>request.auth.claims[realm][roles] a.b=>request.auth.claims[a.b] Ä=>request.auth.claims[Ä]",
			[]string{"", "a/", "/a", "a//b", "a[", "]a", "[", "a\x00", "a\n", "\x7f", long(257), "a/b/c/d/e/f/g/h/i"}},
	}
	n := 0
	for _, row := range rows {
		for s := range strings.FieldsSeq(row.good) {
			n++
			written, want, _ := strings.Cut(s, "=>")
			if a, err := row.made(written); err != nil || a.String() != want {
				t.Errorf("%q: got %q, %v; want %q", written, a, err, want)
			}
		}
		for _, s := range row.bad {
			n++
			if a, err := row.made(s); reason(err) != row.reason || a != (rbac.Attribute{}) {
				t.Errorf("%q: got %v, %v", s, a, err)
			}
		}
	}
	if got, want := n, 39; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	if got := claim(t, "realm", "a.b", "roles").ClaimPath(); strings.Join(got, "|") != "realm|a.b|roles" {
		t.Errorf("the path is %q", got)
	}
	if _, err := rbac.ClaimAttr(); reason(err) != "bad-claim" {
		t.Errorf("no keys: %v", err)
	}
	if claim(t, "a", "b") == claim(t, "a.b") || claim(t, "a") == header(t, "a") {
		t.Error("two attributes are one")
	}
	names := map[string]bool{}
	for kind := rbac.Principal; kind <= rbac.Claim; kind++ {
		a := valueRow{}.attribute(t, kind)
		if a.Kind() != kind || names[a.String()] {
			t.Errorf("%d: %q has kind %d", kind, a, a.Kind())
		}
		names[a.String()] = true
		if peer := kind <= rbac.TrustDomain; a.OfPeer() != peer {
			t.Errorf("%s: of the peer is %v", a, a.OfPeer())
		}
		if http := kind >= rbac.Method; a.OfHTTP() != http {
			t.Errorf("%s: of HTTP is %v", a, a.OfHTTP())
		}
		if token := kind >= rbac.RequestPrincipal; a.OfToken() != token {
			t.Errorf("%s: of a token is %v", a, a.OfToken())
		}
	}
}

func FuzzParseValue(f *testing.F) {
	for _, row := range values() {
		for s := range strings.FieldsSeq(row.good + " " + row.bad) {
			if len(s) < 100 {
				f.Add(int(row.kinds[0]), s)
			}
		}
	}
	f.Fuzz(func(t *testing.T, kind int, s string) {
		a := valueRow{}.attribute(t, rbac.AttributeKind(kind))
		p, err := rbac.ParseValue(a, s, "own")
		if err != nil {
			if reason(err) == "no refusal" || p != (rbac.Pattern{}) {
				t.Errorf("%s %q: got %v, %v", a, s, p, err)
			}
			return
		}
		if again, err := rbac.ParseValue(a, p.String(), "own"); err != nil || again != p {
			t.Errorf("%s %q reads %q, and that reads %v, %v", a, s, p, again, err)
		}
		p.Match(s)
		p.MatchPair(s, s)
		p.MatchFolded(rbac.FoldPath(s))
	})
}
