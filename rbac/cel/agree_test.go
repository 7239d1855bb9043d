package cel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	celgo "cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/eval"
)

// A world is one request that has every attribute, once.
type world struct {
	namespace, account, sni, method, host, path, header, audience, presenter, claim, inner string
	source, remote, destination                                                            netip.Addr
	port                                                                                   int
}

var (
	words   = []string{"a", "b", "ab", "ba", "aba"}
	paths   = []string{"/a", "/b", "/a/b", "/ab", "/b/a/ab", "/"}
	hosts   = []string{"a.test", "b.test", "a.b.test", "ab"}
	verbs   = []string{"GET", "PUT", "POST"}
	ips     = []string{"10.0.0.1", "10.1.0.1", "192.0.2.7", "2001:db8::1"}
	nets    = []string{"10.0.0.0/8", "10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "0.0.0.0/0"}
	numbers = []int{80, 443, 8080}
)

type random struct{ *rand.Rand }

func one[T any](r random, list []T) T { return list[r.IntN(len(list))] }

func (r random) world() world {
	address := func() netip.Addr { return netip.MustParseAddr(one(r, ips)) }
	return world{
		namespace: one(r, words), account: one(r, words), sni: one(r, hosts), method: one(r, verbs), host: one(r, hosts),
		path: one(r, paths), header: one(r, words), audience: one(r, words), presenter: one(r, words), claim: one(r, words),
		inner: one(r, words), source: address(), remote: address(), destination: address(), port: one(r, numbers),
	}
}

func (w world) request() rbac.Request {
	return rbac.Request{
		Protocol: rbac.HTTP, Peer: rbac.Peer{ID: spiffeid.RequireFromString("spiffe://td.test/ns/" + w.namespace + "/sa/" + w.account)},
		Source: w.source, Remote: w.remote, Destination: netip.AddrPortFrom(w.destination, uint16(w.port)), ServerName: w.sni,
		Method: w.method, Host: w.host, Path: w.path, Headers: map[string][]string{"x": {w.header}},
		Token: &rbac.Token{Claims: map[string]any{
			"iss": "i", "sub": "s", "aud": w.audience, "azp": w.presenter, "c": w.claim, "l": []any{w.claim}, "o": map[string]any{"i": w.inner},
		}},
	}
}

func (w world) variables() map[string]any {
	return map[string]any{
		"source.principal": "td.test/ns/" + w.namespace + "/sa/" + w.account, "source.namespace": w.namespace,
		"source.serviceAccount": w.namespace + "/" + w.account, "source.trustDomain": "td.test",
		"source.ip": w.source, "remote.ip": w.remote, "destination.ip": w.destination, "destination.port": w.port,
		"connection.sni": w.sni, "request.method": w.method, "request.host": w.host, "request.path": w.path,
		headers: map[string]string{"x": w.header}, "request.auth.audiences": []string{w.audience},
		"request.auth.presenter": w.presenter,
		claims:                   map[string]any{"c": w.claim, "l": []string{w.claim}, "o": map[string]any{"i": w.inner}},
	}
}

// text is a random expression. Much of what it makes is refused, which is fine
// as long as enough is not.
func (r random) text(depth int) string {
	if depth > 0 {
		switch r.IntN(5) {
		case 0, 1:
			return "(" + r.text(depth-1) + " && " + r.text(depth-1) + ")"
		case 2, 3:
			return "(" + r.text(depth-1) + " || " + r.text(depth-1) + ")"
		default:
			return "!(" + r.text(depth-1) + ")"
		}
	}
	attributes := []struct {
		name string
		list []string
	}{
		{"source.namespace", words}, {"connection.sni", hosts}, {"request.method", verbs}, {"request.host", hosts}, {"request.path", paths},
		{`request.headers["x"]`, words}, {"request.auth.presenter", words}, {`request.auth.claims["c"]`, words},
		{"request.auth.claims.o.i", words}, {"source.trustDomain", []string{"td.test", "td"}},
	}
	a, b := one(r, attributes), one(r, attributes)
	quoted := func(list []string) string { return fmt.Sprintf("%q", one(r, list)) }
	equal := one(r, []string{"==", "!="})
	switch r.IntN(12) {
	case 0:
		return a.name + equal + quoted(a.list)
	case 1:
		return quoted(a.list) + equal + a.name
	case 2:
		return a.name + " in [" + quoted(a.list) + ", " + quoted(a.list) + "]"
	case 3:
		return a.name + ".startsWith(" + strings.Replace(quoted(a.list), "b\"", "\"", 1) + ")"
	case 4:
		text := one(r, a.list)
		return a.name + fmt.Sprintf(".endsWith(%q)", text[r.IntN(len(text)):])
	case 5:
		return a.name + equal + b.name
	case 6:
		return "request.path" + equal + `"/" + ` + b.name + one(r, []string{"", ` + "/b"`})
	case 7:
		return one(r, []string{`request.path.startsWith("/" + ` + b.name + ` + "/b")`, a.name + `.endsWith("b" + ` + b.name + ")", `request.path.startsWith("/" + ` + b.name + ` + "/")`})
	case 8:
		return fmt.Sprintf("destination.port %s %d", equal, one(r, numbers))
	case 9:
		return one(r, []string{"source.ip", "remote.ip", "destination.ip"}) + ".within(" + quoted(nets) + ")"
	case 10:
		return one(r, []string{quoted(words), a.name}) + " in " + one(r, []string{"request.auth.audiences", `request.auth.claims["l"]`})
	default:
		return one(r, []string{
			"has(" + a.name + ")", fmt.Sprintf("source.serviceAccount == \"%s/%s\"", one(r, words), one(r, words)),
			fmt.Sprintf("source.principal.endsWith(\"/sa/%s\")", one(r, words)), fmt.Sprintf("source.principal.startsWith(\"td.test/ns/%s/\")", one(r, words)),
			"destination.port in [80, 443]",
		})
	}
}

// TestAgrees: for a request that has all attributes, each once, an expression
// is what cel-go says it is, for an ALLOW and for a DENY.
func TestAgrees(t *testing.T) {
	env, err := environment()
	if err != nil {
		t.Fatal(err)
	}
	env, err = env.Extend(
		celgo.Function(has,
			celgo.Overload("has_string", []*celgo.Type{celgo.StringType}, celgo.BoolType, celgo.UnaryBinding(func(ref.Val) ref.Val { return types.True })),
			celgo.Overload("has_list", []*celgo.Type{celgo.ListType(celgo.StringType)}, celgo.BoolType, celgo.UnaryBinding(func(ref.Val) ref.Val { return types.True }))),
		celgo.Function(within, celgo.MemberOverload("address_within", []*celgo.Type{address, celgo.StringType}, celgo.BoolType,
			celgo.BinaryBinding(func(a, network ref.Val) ref.Val {
				text := string(network.(types.String))
				if !strings.Contains(text, "/") {
					return types.Bool(a.(addressValue).Addr == netip.MustParseAddr(text))
				}
				return types.Bool(netip.MustParsePrefix(text).Contains(a.(addressValue).Addr))
			}))),
		celgo.CustomTypeAdapter(adapter{env.CELTypeAdapter()}),
	)
	if err != nil {
		t.Fatal(err)
	}
	r := random{rand.New(rand.NewPCG(1, 2))}
	target := rbac.Target{Namespace: "shop", TrustDomain: spiffeid.RequireTrustDomainFromString("td.test")}
	taken, satisfied, asked := 0, 0, 0
	for range 3_000 {
		text := r.text(r.IntN(4))
		e, err := Parse(text)
		if err != nil {
			continue
		}
		taken++
		tree, issues := env.Compile(text)
		if issues.Err() != nil {
			t.Fatalf("%s: %v", text, issues.Err())
		}
		program, err := env.Program(tree)
		if err != nil {
			t.Fatal(err)
		}
		policy := rbac.Policy{Namespace: "shop", Name: "p", Action: rbac.Allow, Rules: []rbac.Rule{{Expression: &e}}}
		allow := rbac.Select([]rbac.Policy{policy}, target)
		policy.Action = rbac.Deny
		deny := rbac.Select([]rbac.Policy{policy}, target)
		for range 4 {
			w := r.world()
			out, _, err := program.Eval(w.variables())
			if err != nil {
				t.Fatalf("%s of %+v: %v", text, w, err)
			}
			want := out == types.True
			if asked++; want {
				satisfied++
			}
			if got := eval.Decide(allow, w.request()).Allowed; got != want {
				t.Fatalf("%s of %+v: allowed %v, cel-go has %v", text, w, got, want)
			}
			if got := !eval.Decide(deny, w.request()).Allowed; got != want {
				t.Fatalf("%s of %+v: denied %v, cel-go has %v", text, w, got, want)
			}
		}
	}
	if taken < 2000 || satisfied < asked/10 || satisfied > asked*9/10 {
		t.Errorf("%d expressions were taken, and %d of %d answers were yes: the generator is poor", taken, satisfied, asked)
	}
	t.Logf("%d expressions, %d of %d answers were yes", taken, satisfied, asked)
}

// An adapter gives cel-go our addresses.
type adapter struct{ types.Adapter }

func (a adapter) NativeToValue(v any) ref.Val {
	if ip, ok := v.(netip.Addr); ok {
		return addressValue{ip}
	}
	return a.Adapter.NativeToValue(v)
}

type addressValue struct{ netip.Addr }

func (a addressValue) Type() ref.Type { return address }
func (a addressValue) Value() any     { return a.Addr }
func (a addressValue) Equal(other ref.Val) ref.Val {
	return types.Bool(other.Value() == a.Addr)
}
func (a addressValue) ConvertToType(ref.Type) ref.Val {
	return types.NewErr("no conversion of an address")
}

func (a addressValue) ConvertToNative(reflect.Type) (any, error) { return a.Addr, nil }
