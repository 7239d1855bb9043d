package interpret_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	sslv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	ipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/ip/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/metadata/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/istio-auth/istio-auth/rbac/interpret"
)

// A maker makes random filters of all that Decode takes, over few names, so that
// requests meet them.
type maker struct {
	t testing.TB
	r *rand.Rand
	n int // actions so far
}

func (m *maker) any(msg proto.Message) *anypb.Any {
	m.t.Helper()
	packed, err := anypb.New(msg)
	if err != nil {
		m.t.Fatal(err)
	}
	return packed
}

func (m *maker) extension(msg proto.Message) *xdscorev3.TypedExtensionConfig {
	return &xdscorev3.TypedExtensionConfig{Name: "x", TypedConfig: m.any(msg)}
}

func (m *maker) pick(list ...string) string { return list[m.r.IntN(len(list))] }

// word is of the values that requests have, or their beginnings.
func (m *maker) word() string {
	return m.pick("a", "ab", "aB", "abc", "b", "bc", "a,b", "ab,ab", "A", "a/b", "a/b/c", "/", ",", "a.c", "axc")
}

func (m *maker) matcher(depth int) *xdsmatcherv3.Matcher {
	out := new(xdsmatcherv3.Matcher)
	if m.r.IntN(3) == 0 {
		out.OnNoMatch = m.then(depth - 1)
	}
	switch m.r.IntN(8) {
	case 0:
		if out.OnNoMatch == nil {
			out.OnNoMatch = m.then(depth - 1)
		}
	case 1, 2, 3:
		list := new(xdsmatcherv3.Matcher_MatcherList)
		for range 1 + m.r.IntN(3) {
			list.Matchers = append(list.Matchers, &xdsmatcherv3.Matcher_MatcherList_FieldMatcher{Predicate: m.predicate(2), OnMatch: m.then(depth - 1)})
		}
		out.MatcherType = &xdsmatcherv3.Matcher_MatcherList_{MatcherList: list}
	default:
		out.MatcherType = &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: m.tree(depth)}
	}
	return out
}

func (m *maker) then(depth int) *xdsmatcherv3.Matcher_OnMatch {
	if depth > 0 && m.r.IntN(3) > 0 {
		return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Matcher{Matcher: m.matcher(depth)}}
	}
	m.n++
	action := &rbacv3.Action{Name: fmt.Sprintf("n%d", m.n), Action: rbacv3.RBAC_Action(m.r.IntN(3))}
	return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: m.extension(action)}}
}

func (m *maker) tree(depth int) *xdsmatcherv3.Matcher_MatcherTree {
	if m.r.IntN(3) == 0 {
		return m.ranges(depth)
	}
	out := &xdsmatcherv3.Matcher_MatcherTree{Input: m.textInput()}
	keys := &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: map[string]*xdsmatcherv3.Matcher_OnMatch{}}
	for range 1 + m.r.IntN(5) {
		keys.Map[m.word()] = m.then(depth - 1)
	}
	if m.r.IntN(2) == 0 {
		out.TreeType = &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: keys}
	} else {
		out.TreeType = &xdsmatcherv3.Matcher_MatcherTree_PrefixMatchMap{PrefixMatchMap: keys}
	}
	return out
}

type cidr struct {
	address string
	bits    uint32
}

// cidrs lie in each other, around what requests come from.
var cidrs = []cidr{
	{"0.0.0.0", 0}, {"10.0.0.0", 8}, {"10.1.0.0", 16}, {"10.1.2.0", 24}, {"10.1.2.3", 32}, {"10.128.0.0", 9}, {"127.0.0.0", 8}, {"127.0.0.1", 32},
	{"::", 0}, {"2001:db8::", 32}, {"2001:db8:1::", 48}, {"2001:db8::1", 128}, {"11.0.0.0", 8},
}

func (m *maker) ranges(depth int) *xdsmatcherv3.Matcher_MatcherTree {
	perm := m.r.Perm(len(cidrs))
	tree := new(xdsmatcherv3.IPMatcher)
	for range 1 + m.r.IntN(4) {
		one := &xdsmatcherv3.IPMatcher_IPRangeMatcher{OnMatch: m.then(depth - 1), Exclusive: m.r.IntN(4) == 0}
		for range 1 + m.r.IntN(2) {
			c := cidrs[perm[0]]
			perm = perm[1:]
			one.Ranges = append(one.Ranges, &xdscorev3.CidrRange{AddressPrefix: c.address, PrefixLen: wrapperspb.UInt32(c.bits)})
		}
		tree.RangeMatchers = append(tree.RangeMatchers, one)
	}
	return &xdsmatcherv3.Matcher_MatcherTree{
		Input:    m.addressInput(),
		TreeType: &xdsmatcherv3.Matcher_MatcherTree_CustomMatch{CustomMatch: m.extension(tree)},
	}
}

func (m *maker) addressInput() *xdscorev3.TypedExtensionConfig {
	switch m.r.IntN(4) {
	case 0:
		return m.extension(&networkv3.DirectSourceIPInput{})
	case 1:
		return m.extension(&networkv3.DestinationIPInput{})
	}
	return m.extension(&networkv3.SourceIPInput{})
}

func (m *maker) textInput() *xdscorev3.TypedExtensionConfig {
	switch m.r.IntN(8) {
	case 0:
		return m.extension(&sslv3.UriSanInput{})
	case 1:
		return m.extension(&networkv3.ServerNameInput{})
	case 2:
		return m.extension(&networkv3.DestinationPortInput{})
	case 3, 4:
		return m.extension(&networkv3.FilterStateInput{Key: m.pick("s1", "s2", "none")})
	}
	return m.extension(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: m.pick("x-a", "x-b", "x-none", ":method")})
}

func (m *maker) text() *xdsmatcherv3.StringMatcher {
	out := &xdsmatcherv3.StringMatcher{IgnoreCase: m.r.IntN(3) == 0}
	switch m.r.IntN(6) {
	case 0:
		out.MatchPattern = &xdsmatcherv3.StringMatcher_Exact{Exact: m.pick("", m.word())}
	case 1:
		out.MatchPattern = &xdsmatcherv3.StringMatcher_Exact{Exact: m.word()}
	case 2:
		out.MatchPattern = &xdsmatcherv3.StringMatcher_Prefix{Prefix: m.word()}
	case 3:
		out.MatchPattern = &xdsmatcherv3.StringMatcher_Suffix{Suffix: m.word()}
	case 4:
		out.MatchPattern = &xdsmatcherv3.StringMatcher_Contains{Contains: m.word()}
	case 5:
		out.IgnoreCase = false
		out.MatchPattern = &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
			EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}},
			Regex:      m.pick(shapes...),
		}}
	}
	return out
}

var shapes = []string{`a`, `ab?c?`, `[a-z]+`, `[^/]+`, `a.*`, `(?s).+`, `.+`, `a/[^/]+/c`, `(a|b|c)*`, `[^a]*`, `a\.c`, `a.c`, `(ab|a)(c|bc)?`, `[-a]+`, `[A-Z][-A-Z]*`}

func (m *maker) predicate(depth int) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	if depth > 0 && m.r.IntN(2) == 0 {
		if m.r.IntN(3) == 0 {
			return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: m.predicate(depth - 1)}}
		}
		list := new(xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList)
		for range 2 + m.r.IntN(2) {
			list.Predicate = append(list.Predicate, m.predicate(depth-1))
		}
		if m.r.IntN(2) == 0 {
			return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{OrMatcher: list}}
		}
		return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{AndMatcher: list}}
	}
	single := new(xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate)
	switch m.r.IntN(6) {
	case 0:
		single.Input = m.addressInput()
		ip := &ipv3.Ip{StatPrefix: "x"}
		for range 1 + m.r.IntN(2) {
			c := cidrs[m.r.IntN(len(cidrs))]
			ip.CidrRanges = append(ip.CidrRanges, &corev3.CidrRange{AddressPrefix: c.address, PrefixLen: wrapperspb.UInt32(c.bits)})
		}
		single.Matcher = &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_CustomMatch{CustomMatch: m.extension(ip)}
	case 1, 2:
		path := [][]string{{"payload", "one"}, {"payload", "list"}, {"payload", "deep", "one"}, {"payload", "none"}, {"payload", "one", "none"}, {"payload", "mixed"}, {"payload", "empty"}}[m.r.IntN(7)]
		in := &networkv3.DynamicMetadataInput{Filter: interpret.JWTFilter}
		for _, key := range path {
			in.Path = append(in.Path, &networkv3.DynamicMetadataInput_PathSegment{Segment: &networkv3.DynamicMetadataInput_PathSegment_Key{Key: key}})
		}
		single.Input = m.extension(in)
		single.Matcher = &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_CustomMatch{CustomMatch: m.extension(&metadatav3.Metadata{Value: m.value(2)})}
	default:
		single.Input = m.textInput()
		single.Matcher = &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: m.text()}
	}
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{SinglePredicate: single}}
}

func (m *maker) value(depth int) *matcherv3.ValueMatcher {
	if depth > 0 && m.r.IntN(5) < 3 {
		if m.r.IntN(3) > 0 {
			return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{ListMatch: &matcherv3.ListMatcher{
				MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: m.value(depth - 1)},
			}}}
		}
		return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_OrMatch{OrMatch: &matcherv3.OrMatcher{
			ValueMatchers: []*matcherv3.ValueMatcher{m.value(depth - 1), m.value(depth - 1)},
		}}}
	}
	if m.r.IntN(8) == 0 {
		return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}}
	}
	// The same fields under another name.
	data, err := proto.Marshal(m.text())
	if err != nil {
		m.t.Fatal(err)
	}
	text := new(matcherv3.StringMatcher)
	if err := proto.Unmarshal(data, text); err != nil {
		m.t.Fatal(err)
	}
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: text}}
}

func newMaker(t testing.TB, seed uint64) *maker {
	return &maker{t: t, r: rand.New(rand.NewPCG(seed, 7))}
}

func (m *maker) filter() *rbacfilterv3.RBAC {
	return &rbacfilterv3.RBAC{RulesStatPrefix: "p_", Matcher: m.matcher(3)}
}
