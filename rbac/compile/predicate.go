package compile

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	networkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	sslv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const scheme = "spiffe://"

type (
	input     = xdscorev3.TypedExtensionConfig
	predicate = xdsmatcherv3.Matcher_MatcherList_Predicate
	text      = xdsmatcherv3.StringMatcher
)

// A compiler holds what the lines of one filter share.
type compiler struct {
	td                 spiffeid.TrustDomain
	workloads          string // how the URI SANs of our workloads begin
	peer, path, method *input
	err                error // the first error of any
}

func newCompiler(td spiffeid.TrustDomain) (*compiler, error) {
	all, err := spiffeid.FromSegments(td, "ns")
	if err != nil {
		return nil, err
	}
	c := &compiler{td: td, workloads: all.String() + "/"}
	c.peer = c.input("envoy.matching.inputs.uri_san", &sslv3.UriSanInput{})
	c.path = c.input("envoy.matching.inputs.filter_state", &networkv3.FilterStateInput{Key: PathKey})
	c.method = c.input("envoy.matching.inputs.request_headers", &matcherv3.HttpRequestHeaderMatchInput{HeaderName: ":method"})
	return c, c.err
}

func (c *compiler) input(name string, m proto.Message) *input {
	return &input{Name: name, TypedConfig: c.any(m)}
}

// any packs a message. Packing fails on invalid UTF-8 only; the first error is
// kept, so that building can go on.
func (c *compiler) any(m proto.Message) *anypb.Any {
	packed, err := pack(m)
	if err != nil && c.err == nil {
		c.err = err
	}
	return packed
}

func (c *compiler) exact(in *input, s string) *predicate {
	return single(in, &text{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: s}})
}

func (c *compiler) prefix(in *input, s string) *predicate {
	return single(in, &text{MatchPattern: &xdsmatcherv3.StringMatcher_Prefix{Prefix: s}})
}

func (c *compiler) suffix(in *input, s string) *predicate {
	return single(in, &text{MatchPattern: &xdsmatcherv3.StringMatcher_Suffix{Suffix: s}})
}

func (c *compiler) contains(in *input, s string) *predicate {
	return single(in, &text{MatchPattern: &xdsmatcherv3.StringMatcher_Contains{Contains: s}})
}

// regex matches the whole input.
func (c *compiler) regex(in *input, s string) *predicate {
	re2 := &xdsmatcherv3.RegexMatcher{
		EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}},
		Regex:      s,
	}
	return single(in, &text{MatchPattern: &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: re2}})
}

func single(in *input, t *text) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input:   in,
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: t},
		},
	}}
}

// constant tells whether a term depends on the request at all.
type constant int

const (
	depends constant = iota
	always
	never
)

// A term is a predicate, or a constant: Envoy's matchers have none.
type term struct {
	always constant
	when   *predicate // where it depends
}

func not(t term) term {
	switch t.always {
	case always:
		return term{always: never}
	case never:
		return term{always: always}
	}
	return term{when: &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: t.when}}}
}

// and of nothing is always.
func and(terms ...term) term {
	list, decided := fold(terms, always, never)
	if len(list) == 0 || decided.always == never {
		return decided
	}
	if len(list) == 1 {
		return term{when: list[0]}
	}
	return term{when: &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: list},
	}}}
}

// or of nothing is never.
func or(terms ...term) term {
	list, decided := fold(terms, never, always)
	if len(list) == 0 || decided.always == always {
		return decided
	}
	if len(list) == 1 {
		return term{when: list[0]}
	}
	return term{when: &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{
		OrMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: list},
	}}}
}

// fold drops the terms that are neutral, and decides where one is the zero of
// the operation.
func fold(terms []term, neutral, zero constant) (list []*predicate, decided term) {
	for _, t := range terms {
		switch t.always {
		case zero:
			return nil, term{always: zero}
		case neutral:
			continue
		}
		list = append(list, t.when)
	}
	return list, term{always: neutral}
}
