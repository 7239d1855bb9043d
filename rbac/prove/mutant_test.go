package prove_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3" // the types inside an Any
	networkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	ipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/ip/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/metadata/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/interpret"
	"github.com/istio-auth/istio-auth/rbac/prove"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// visit calls f for every message in m, those in an Any too, and packs them
// again. Maps are gone through in the order of their keys.
func visit(t testing.TB, m protoreflect.Message, f func(proto.Message)) {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		visit(t, inner.ProtoReflect(), f)
		if err := packed.MarshalFrom(inner); err != nil {
			t.Fatal(err)
		}
		return
	}
	f(m.Interface())
	for i := range m.Descriptor().Fields().Len() {
		fd := m.Descriptor().Fields().Get(i)
		if !m.Has(fd) {
			continue
		}
		v := m.Get(fd)
		switch {
		case fd.IsMap() && fd.MapValue().Message() != nil:
			var keys []string
			v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
				keys = append(keys, k.String())
				return true
			})
			sort.Strings(keys)
			for _, k := range keys {
				visit(t, v.Map().Get(protoreflect.ValueOfString(k).MapKey()).Message(), f)
			}
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				visit(t, v.List().Get(i).Message(), f)
			}
		case fd.Message() != nil && !fd.IsMap():
			visit(t, v.Message(), f)
		}
	}
}

// A mutation changes a message in one way, or tells that it cannot.
type mutation struct {
	name string
	do   func(r *rand.Rand, m proto.Message) bool
}

type (
	listOf    = xdsmatcherv3.Matcher_MatcherList
	predicate = xdsmatcherv3.Matcher_MatcherList_Predicate
	terms     = xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList
)

var mutations = []mutation{
	{"a line less", of(func(r *rand.Rand, m *listOf) bool {
		i := r.IntN(len(m.Matchers))
		m.Matchers = slices.Delete(m.Matchers, i, i+1)
		return len(m.Matchers) > 0
	})},
	{"what comes last comes first", of(func(r *rand.Rand, m *xdsmatcherv3.Matcher) bool {
		before, after := m.GetMatcherList(), m.GetOnNoMatch().GetMatcher().GetMatcherList()
		if before == nil || after == nil {
			return false
		}
		i := r.IntN(len(after.Matchers))
		before.Matchers = append([]*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{after.Matchers[i]}, before.Matchers...)
		return true
	})},
	{"the rest alone", of(func(_ *rand.Rand, m *xdsmatcherv3.Matcher) bool {
		rest := m.GetOnNoMatch().GetMatcher()
		if rest == nil {
			return false
		}
		m.MatcherType, m.OnNoMatch = rest.MatcherType, rest.OnNoMatch
		return true
	})},
	{"another action", of(func(_ *rand.Rand, m *rbacv3.Action) bool {
		m.Action = 1 - m.Action
		return true
	})},
	{"an action that marks", of(func(_ *rand.Rand, m *rbacv3.Action) bool {
		m.Action = rbacv3.RBAC_LOG
		return true
	})},
	{"another byte", of(func(r *rand.Rand, m *xdsmatcherv3.StringMatcher) bool {
		return m.GetSafeRegex() == nil && literal(r, m, other)
	})},
	{"a byte less", of(func(r *rand.Rand, m *xdsmatcherv3.StringMatcher) bool {
		return m.GetSafeRegex() == nil && literal(r, m, func(_ *rand.Rand, s string) string { return s[1:] })
	})},
	{"another byte of a regular expression", of(func(r *rand.Rand, m *xdsmatcherv3.RegexMatcher) bool {
		m.Regex = other(r, m.Regex)
		return true
	})},
	{"another comparison", of(func(r *rand.Rand, m *xdsmatcherv3.StringMatcher) bool {
		s := m.GetExact() + m.GetPrefix() + m.GetSuffix() + m.GetContains()
		if s == "" {
			return false
		}
		before := proto.CloneOf(m)
		switch r.IntN(4) {
		case 0:
			m.MatchPattern = &xdsmatcherv3.StringMatcher_Exact{Exact: s}
		case 1:
			m.MatchPattern = &xdsmatcherv3.StringMatcher_Prefix{Prefix: s}
		case 2:
			m.MatchPattern = &xdsmatcherv3.StringMatcher_Suffix{Suffix: s}
		case 3:
			m.MatchPattern = &xdsmatcherv3.StringMatcher_Contains{Contains: s}
		}
		return !proto.Equal(before, m)
	})},
	{"without regard to case", of(func(_ *rand.Rand, m *xdsmatcherv3.StringMatcher) bool {
		m.IgnoreCase = m.GetSafeRegex() == nil
		return m.IgnoreCase
	})},
	{"a not less", of(func(_ *rand.Rand, m *predicate) bool {
		if m.GetNotMatcher() == nil {
			return false
		}
		m.MatchType = m.GetNotMatcher().MatchType
		return true
	})},
	{"a not more", of(func(_ *rand.Rand, m *predicate) bool {
		m.MatchType = &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: &predicate{MatchType: m.MatchType}}
		return true
	})},
	{"or for and", of(func(_ *rand.Rand, m *predicate) bool {
		list := m.GetAndMatcher()
		m.MatchType = &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{OrMatcher: list}
		return list != nil
	})},
	{"and for or", of(func(_ *rand.Rand, m *predicate) bool {
		list := m.GetOrMatcher()
		m.MatchType = &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{AndMatcher: list}
		return list != nil
	})},
	{"a term less", of(func(r *rand.Rand, m *terms) bool {
		i := r.IntN(len(m.Predicate))
		m.Predicate = slices.Delete(m.Predicate, i, i+1)
		return len(m.Predicate) > 1
	})},
	{"a key less", of(func(r *rand.Rand, m *xdsmatcherv3.Matcher_MatcherTree_MatchMap) bool {
		delete(m.Map, anyKey(r, m.Map))
		return len(m.Map) > 0
	})},
	{"another key", of(func(r *rand.Rand, m *xdsmatcherv3.Matcher_MatcherTree_MatchMap) bool {
		k := anyKey(r, m.Map)
		next := other(r, k)
		if m.Map[next] != nil {
			return false
		}
		m.Map[next] = m.Map[k]
		delete(m.Map, k)
		return true
	})},
	{"the end of another key", of(func(r *rand.Rand, m *xdsmatcherv3.Matcher_MatcherTree_MatchMap) bool {
		a, b := anyKey(r, m.Map), anyKey(r, m.Map)
		m.Map[a], m.Map[b] = m.Map[b], m.Map[a]
		return a != b
	})},
	{"prefixes for whole texts", of(func(_ *rand.Rand, m *xdsmatcherv3.Matcher_MatcherTree) bool {
		keys := m.GetExactMatchMap()
		m.TreeType = &xdsmatcherv3.Matcher_MatcherTree_PrefixMatchMap{PrefixMatchMap: keys}
		return keys != nil
	})},
	{"whole texts for prefixes", of(func(_ *rand.Rand, m *xdsmatcherv3.Matcher_MatcherTree) bool {
		keys := m.GetPrefixMatchMap()
		m.TreeType = &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: keys}
		return keys != nil
	})},
	{"no end where nothing matches", of(func(_ *rand.Rand, m *xdsmatcherv3.Matcher) bool {
		had := m.OnNoMatch != nil && m.MatcherType != nil
		m.OnNoMatch = nil
		return had
	})},
	{"another network", of(func(_ *rand.Rand, m *ipv3.Ip) bool {
		m.CidrRanges[0] = &corev3.CidrRange{AddressPrefix: "128.0.0.0", PrefixLen: wrapperspb.UInt32(1)}
		return true
	})},
	{"another state", of(func(r *rand.Rand, m *networkv3.FilterStateInput) bool {
		before := m.Key
		keys := []string{interpret.PathKey, interpret.FoldKey, interpret.HostKey, interpret.IssuerKey, interpret.SubjectKey, interpret.PeerKey}
		m.Key = keys[r.IntN(len(keys))]
		return m.Key != before
	})},
	{"another header", of(func(_ *rand.Rand, m *matcherv3.HttpRequestHeaderMatchInput) bool {
		m.HeaderName = "x-other"
		return true
	})},
	{"another claim", of(func(r *rand.Rand, m *matcherv3.StringMatcher) bool {
		s := m.GetExact()
		m.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: s + "x"}
		return s != ""
	})},
}

func of[M proto.Message](do func(*rand.Rand, M) bool) func(*rand.Rand, proto.Message) bool {
	return func(r *rand.Rand, m proto.Message) bool {
		one, ok := m.(M)
		return ok && do(r, one)
	}
}

func anyKey[V any](r *rand.Rand, m map[string]V) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys[r.IntN(len(keys))]
}

// other changes one byte.
func other(r *rand.Rand, s string) string {
	if s == "" {
		return "x"
	}
	i := r.IntN(len(s))
	return s[:i] + string("abx./"[r.IntN(5)]) + s[i+1:]
}

func literal(r *rand.Rand, m *xdsmatcherv3.StringMatcher, f func(*rand.Rand, string) string) bool {
	before := proto.CloneOf(m)
	switch p := m.MatchPattern.(type) {
	case *xdsmatcherv3.StringMatcher_Exact:
		p.Exact = f(r, p.Exact+"y")
	case *xdsmatcherv3.StringMatcher_Prefix:
		p.Prefix = f(r, p.Prefix)
	case *xdsmatcherv3.StringMatcher_Suffix:
		p.Suffix = f(r, p.Suffix)
	case *xdsmatcherv3.StringMatcher_Contains:
		p.Contains = f(r, p.Contains)
	}
	return !proto.Equal(before, m) && m.GetExact()+m.GetPrefix()+m.GetSuffix()+m.GetContains() != ""
}

// mutate changes one message of a filter, by chance; false where the mutation
// has no place in it.
func mutate(t testing.TB, r *rand.Rand, filter *anypb.Any, m mutation) (*anypb.Any, bool) {
	for range 5 {
		places := 0
		inner, err := filter.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		visit(t, inner.ProtoReflect(), func(msg proto.Message) {
			if m.do(rand.New(rand.NewPCG(1, 1)), proto.Clone(msg)) {
				places++
			}
		})
		if places == 0 {
			return nil, false
		}
		at, done := r.IntN(places), false
		visit(t, inner.ProtoReflect(), func(msg proto.Message) {
			if !m.do(rand.New(rand.NewPCG(1, 1)), proto.Clone(msg)) {
				return
			}
			if at == 0 {
				done = m.do(r, msg)
			}
			at--
		})
		if done {
			packed, err := anypb.New(inner)
			if err != nil {
				t.Fatal(err)
			}
			return packed, true
		}
	}
	return nil, false
}

// A score is what became of the mutants of one kind.
type score struct {
	mutants   int
	witnessed int // refused, with a request
	refused   int // otherwise
	equal     int // proved: the change makes no difference
	sampled   int // one of the sampled requests shows a difference
}

// TestMutants changes compiled filters in one place each. A mutant that decides
// one of many sampled requests otherwise must be refused; and of those that are
// refused, nearly all come with a request that shows why.
func TestMutants(t *testing.T) {
	scores := map[string]*score{}
	var all score
	skipped := 0
	for seed := range uint64(8) {
		// Half of the sets have DENY and ALLOW alone, with many lines in a list.
		features := rbactest.Everything
		if seed%2 == 1 {
			features &^= rbactest.Audits | rbactest.Customs | rbactest.DryRuns | rbactest.Comparisons | rbactest.Templates
		}
		g := rbactest.New(seed+1000, features)
		c := g.Case()
		if seed%4 > 1 { // of one action, so that every rule matters
			action := map[uint64]rbac.Action{2: rbac.Deny, 3: rbac.Allow}[seed%4]
			for i := range c.Policies {
				c.Policies[i].Action, c.Policies[i].Provider = action, ""
			}
		}
		set := rbac.Select(c.Policies, c.Target)
		compiled := compile.HTTP
		if seed%2 == 1 {
			compiled = compile.Linear
		}
		filter, err := compiled(set)
		if err != nil {
			t.Fatal(err)
		}
		if err := prove.HTTP(set, filter); err != nil {
			t.Logf("seed %d: %v", seed, err)
			skipped++
			continue
		}
		requests := sample(g, c)
		r := rand.New(rand.NewPCG(seed, 3))
		for _, m := range mutations {
			if scores[m.name] == nil {
				scores[m.name] = &score{}
			}
			for range 2 {
				mutant, ok := mutate(t, r, filter, m)
				if !ok {
					continue
				}
				s := judge(t, set, mutant, requests, fmt.Sprintf("seed %d: %s", seed, m.name))
				scores[m.name].add(s)
				all.add(s)
			}
		}
	}
	for _, m := range mutations {
		t.Logf("%-40s %+v", m.name, *scores[m.name])
		if s := scores[m.name]; s.witnessed+s.refused == 0 {
			t.Errorf("%s: no mutant was refused: %+v", m.name, *s)
		}
	}
	t.Logf("all: %+v", all)
	if all.mutants < 280 || all.witnessed < all.mutants*2/5 || all.refused > all.mutants/10 || skipped > 1 {
		t.Errorf("%+v, %d sets skipped", all, skipped)
	}
	if got, want := len(mutations), 25; got != want {
		t.Errorf("%d mutations, want %d", got, want)
	}
}

func (s *score) add(o score) {
	s.mutants += o.mutants
	s.witnessed += o.witnessed
	s.refused += o.refused
	s.equal += o.equal
	s.sampled += o.sampled
}

func sample(g *rbactest.Generator, c rbactest.Case) []rbac.Request {
	var out []rbac.Request
	for range 300 {
		one := c
		one.Call = g.Call(c.Policies)
		if req, err := one.Request(); err == nil && req.Protocol == rbac.HTTP {
			out = append(out, req)
		}
	}
	return out
}

// judge asks the prover about a mutant, and both evaluators about requests.
func judge(t *testing.T, set rbac.Set, mutant *anypb.Any, requests []rbac.Request, name string) score {
	t.Helper()
	s := score{mutants: 1}
	began := time.Now()
	err := prove.HTTP(set, mutant)
	if d := time.Since(began); d > time.Second {
		t.Logf("%s: %v: %.100v", name, d, err)
	}
	var d *prove.Difference
	switch {
	case err == nil:
		s.equal = 1
	case errors.As(err, &d):
		s.witnessed = 1
	default:
		s.refused = 1
	}
	filter, decodeErr := interpret.Decode(mutant)
	if decodeErr != nil {
		return s
	}
	if d != nil && !d.Shadow && eval.Decide(set, d.Request).Allowed == filter.Decide(interpret.FromRequest(d.Request)).Allowed {
		t.Errorf("%s: the request shows nothing: %v", name, err)
	}
	for _, req := range append(near(filter, rand.New(rand.NewPCG(9, 9)), 400), requests...) {
		if eval.Decide(set, req).Allowed != filter.Decide(interpret.FromRequest(req)).Allowed {
			s.sampled = 1
			if err == nil {
				t.Errorf("%s: proved, and differs for %s %s %q", name, req.Peer.ID, req.Method, req.Path)
			}
		}
	}
	if err != nil && d == nil && !strings.Contains(err.Error(), "interpret:") {
		t.Logf("%s: %.300v", name, err)
	}
	return s
}

// near makes requests of the texts that a filter compares with: those, and what
// is a little more than they are.
func near(filter *interpret.Filter, r *rand.Rand, n int) []rbac.Request {
	texts := map[string][]string{}
	var matcher func(m *interpret.Matcher)
	then := func(t interpret.Then) {
		if t.Matcher != nil {
			matcher(t.Matcher)
		}
	}
	add := func(in interpret.Input, s string) {
		k := fmt.Sprint(in.Kind, in.Name)
		texts[k] = append(texts[k], s, s, s+"x", "x"+s, s+"/", "/x"+s, strings.ToUpper(s), strings.TrimSuffix(s, "/"))
	}
	var look func(p *interpret.Predicate)
	look = func(p *interpret.Predicate) {
		for _, t := range p.Terms {
			look(t)
		}
		if p.Text != nil && p.Text.Kind != interpret.Regex {
			add(p.Input, p.Text.Literal)
		}
	}
	matcher = func(m *interpret.Matcher) {
		for _, l := range m.List {
			look(l.When)
			then(l.Then)
		}
		if m.Tree != nil {
			for k, t := range m.Tree.Keys {
				add(m.Tree.Input, k)
				then(t)
			}
			for _, t := range m.Tree.Ranges {
				then(t.Then)
			}
		}
		if m.NoMatch != nil {
			then(*m.NoMatch)
		}
	}
	matcher(filter.Matcher)
	for k := range texts {
		sort.Strings(texts[k])
	}
	pick := func(fallback string, in ...interpret.Input) string {
		var list []string
		for _, one := range in {
			list = append(list, texts[fmt.Sprint(one.Kind, one.Name)]...)
		}
		if len(list) == 0 || r.IntN(8) == 0 {
			return fallback
		}
		return list[r.IntN(len(list))]
	}
	state := func(key string) interpret.Input { return interpret.Input{Kind: interpret.State, Name: key} }
	peers := rbactest.Everything.Peers(32)
	ip := func() netip.Addr {
		list := []string{"10.1.2.3", "10.1.2.2", "127.0.0.1", "127.0.0.200", "192.0.2.1", "192.0.2.129", "::1", "2001:db8::1", "200.1.1.1"}
		return netip.MustParseAddr(list[r.IntN(len(list))])
	}
	out := make([]rbac.Request, n)
	for i := range out {
		peer := peers[r.IntN(len(peers))]
		if id, err := spiffeid.FromString(pick("", interpret.Input{Kind: interpret.URISAN}, state(interpret.PeerKey))); err == nil {
			peer = id
		}
		out[i] = rbac.Request{
			Protocol: rbac.HTTP, Peer: rbac.Peer{ID: peer}, Method: pick("GET", interpret.Input{Kind: interpret.Header, Name: ":method"}),
			Path: pick("/", state(interpret.PathKey), state(interpret.FoldKey)), Host: pick("h", state(interpret.HostKey)),
			Source: ip(), Remote: ip(), Destination: netip.AddrPortFrom(ip(), 443),
			ServerName: pick("", interpret.Input{Kind: interpret.ServerName}),
		}
	}
	return out
}
