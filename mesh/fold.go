package mesh

import (
	_ "embed"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	filterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	compositev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/composite/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typematcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

//go:embed fold.lua
var foldScript string

// thePath is the path that the application gets, without its query. A PATH that
// does not say which would prefer the header x-envoy-original-path.
const thePath = "%PATH(NQ:PATH)%"

// plainSegment is a path's segment that folding leaves as it is, and the other
// two are what a whole :path, and a whole :authority, of nothing else look like.
const (
	plainSegment   = `[a-z0-9_~!$&'()*+,:=@.-]*[a-z0-9_~!$&'()*+,:=@-]`
	plainPath      = `/(` + plainSegment + `/)*(` + plainSegment + `)?([?].*)?`
	plainAuthority = `[a-z0-9_-]+([.][a-z0-9_-]+)*`
)

// target gives policy what it compares of a request's target: [PathState],
// [FoldState] and [HostState]. No input of Envoy's matchers has any of them:
// :path holds the query, and a rule for /a would miss /a?x.
//
// It is one of two filters. Most targets are their own folded form, and are
// copied. All others go to a Lua script, which costs five times as much; so do
// cookies with a comma, since several lines of them look like that, and the
// script refuses those.
func (b *builder) target() *hcmv3.HttpFilter {
	copied := &corev3.TypedExtensionConfig{Name: "envoy.filters.http.set_filter_state", TypedConfig: b.any(&setstatev3.Config{
		OnRequestHeaders: []*filterstatev3.FilterStateValue{
			stringState(HostState, "%REQ(:AUTHORITY)%"), stringState(FoldState, thePath), stringState(PathState, thePath),
		},
	})}
	folded := &corev3.TypedExtensionConfig{Name: "envoy.filters.http.lua", TypedConfig: b.any(&luav3.Lua{
		DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: foldScript}},
	})}
	isPlain := &xdsmatcherv3.Matcher_MatcherList_Predicate{
		MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{
			Predicate: []*xdsmatcherv3.Matcher_MatcherList_Predicate{
				b.headerIs(":path", plainPath), b.headerIs(":authority", plainAuthority), not(b.headerIs("cookie", `.*,.*`)),
			},
		}},
	}
	return &hcmv3.HttpFilter{
		Name: "istio-auth.target",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(&matchingv3.ExtensionWithMatcher{
			ExtensionConfig: &corev3.TypedExtensionConfig{Name: "envoy.filters.http.composite", TypedConfig: b.any(&compositev3.Composite{})},
			XdsMatcher: &xdsmatcherv3.Matcher{
				MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
					Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{Predicate: isPlain, OnMatch: b.execute(copied)}},
				}},
				OnNoMatch: b.execute(folded),
			},
		})},
	}
}

// execute makes the composite filter be this one.
func (b *builder) execute(filter *corev3.TypedExtensionConfig) *xdsmatcherv3.Matcher_OnMatch {
	return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: &xdscorev3.TypedExtensionConfig{
		Name:        "composite-action",
		TypedConfig: b.any(&compositev3.ExecuteFilterAction{TypedConfig: filter}),
	}}}
}

// headerIs matches the whole of a header.
func (b *builder) headerIs(name, regex string) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{
		MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input: &xdscorev3.TypedExtensionConfig{
				Name:        "envoy.matching.inputs.request_headers",
				TypedConfig: b.any(&typematcherv3.HttpRequestHeaderMatchInput{HeaderName: name}),
			},
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: &xdsmatcherv3.StringMatcher{
				MatchPattern: &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
					EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}},
					Regex:      regex,
				}},
			}},
		}},
	}
}

func not(p *xdsmatcherv3.Matcher_MatcherList_Predicate) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: p}}
}

// stringState puts a text into filter state, where matchers find it. What the
// request does not have is not put there.
func stringState(key, format string) *filterstatev3.FilterStateValue {
	return &filterstatev3.FilterStateValue{
		Key:         &filterstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
		FactoryKey:  "envoy.string",
		SkipIfEmpty: true,
		Value: &filterstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
			// Otherwise what is missing is "-".
			OmitEmptyValues: true,
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: format},
			}},
		}},
	}
}
