// Package compile says to Envoy what rbac/eval means.
//
// A set becomes one HTTP RBAC filter in matcher form: a list that is read from
// the top until one line matches. First come the guards (the peer is a workload
// of our trust domain, path and method are such as to decide upon), then a line for each
// rule of the DENY policies, then one for each rule of the ALLOW policies, and
// last the default. One filter, so that DENY and ALLOW change in the same moment
// when Envoy gets it by extension configuration discovery. Every line has a
// name, which Envoy logs: "namespace/name/rule-index" or a reason of rbac/eval.
//
// The filter asks the connection for the URI SAN of the verified certificate,
// the request for its method, and the filter state for the path, which the
// bootstrap puts there (see [PathKey]). Where one of these is missing the
// request is refused.
//
// Literals are exact, prefix, suffix and contains matchers, so that a dot is a
// dot. Regular expressions are in the guards alone; nothing of a policy is in
// them.
//
// Start at [HTTP].
package compile

import (
	"errors"
	"fmt"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
)

// Names that the compiled filter and the bootstrap share.
const (
	// PathKey is the filter state that holds %PATH(NQ:PATH)%, as an envoy.string.
	// A filter in front of this one sets it.
	PathKey = "istio-auth.path"
	// FoldKey is the filter state that holds rbac.FoldPath of it. A filter of
	// ours computes it.
	FoldKey = "istio-auth.fold"
	// HostKey is the filter state that holds rbac.FoldHost of :authority. It is
	// not there where FoldHost is empty.
	HostKey = "istio-auth.host"
	// IssuerKey and SubjectKey are the filter state that holds "iss" and "sub" of
	// the verified token. "-", or nothing, is none.
	IssuerKey  = "istio-auth.issuer"
	SubjectKey = "istio-auth.subject"
	// PeerKey is the filter state that holds %DOWNSTREAM_PEER_URI_SAN%, with
	// omit_empty_values and skip_if_empty, so that it is not there for a peer
	// without a certificate. Sets that listen to those read it: Envoy's own input
	// is "not available" on a connection without TLS, which refuses whatever is
	// asked, negations too. Both the HTTP and the TCP filter read it.
	PeerKey = "istio-auth.peer"
	// StatPrefix begins the filter's statistics and the keys of its dynamic
	// metadata.
	StatPrefix = "istio_auth_"
	// TrialPrefix is StatPrefix for what a dry run would do: the shadow matcher.
	TrialPrefix = "istio_auth_dry_"
	// AuditPrefix is StatPrefix of the filter for AUDIT policies.
	AuditPrefix = "istio_auth_audit_"
	// CustomPrefix and the provider's name and "_" begin the keys that the filter
	// for CUSTOM policies writes, in the dynamic metadata envoy.filters.http.rbac:
	// "shadow_engine_result" and "shadow_effective_policy_id". The provider need
	// not be asked where the latter is NoAsk, and must be wherever it is anything
	// else or missing: so ask where a matcher of it, inverted, matches.
	CustomPrefix = "istio_auth_custom_"
	// NoAsk is the only line of that filter that allows. Those that ask begin
	// with AskPrefix.
	NoAsk     = "no-ask"
	AskPrefix = "ask/"
)

// Names of the lines that are no rule's: the reasons of rbac/eval.
const (
	noIdentity   = "no-identity"
	badPath      = "bad-path"
	noMethod     = "no-method"
	noAllowMatch = "no-allow-match"
	noAllow      = "no-allow"
)

// ErrUnknownSet reports the zero [rbac.Set]: nothing is known that could be
// compiled. Whoever enforces must keep on refusing, or what it last had.
var ErrUnknownSet = errors.New("compile: it is not known which policies apply")

// HTTP compiles set to one envoy.extensions.filters.http.rbac.v3.RBAC. Equal
// sets give equal bytes. The result has passed Envoy's own constraints, since
// Envoy does not say which field it refuses.
func HTTP(set rbac.Set) (*anypb.Any, error) {
	if set.IsZero() {
		return nil, ErrUnknownSet
	}
	c, err := newCompiler(set.TrustDomain())
	if err != nil {
		return nil, err
	}
	lines := c.guards()
	for _, policies := range [][]rbac.Policy{set.Deny(), set.Allow()} {
		for _, p := range policies {
			rules, err := c.rules(p)
			if err != nil {
				return nil, fmt.Errorf("compiling policy %s: %w", p.Key(), err)
			}
			lines = append(lines, rules...)
		}
	}
	byDefault := c.action(noAllow, rbacv3.RBAC_ALLOW)
	if len(set.Allow()) > 0 {
		byDefault = c.action(noAllowMatch, rbacv3.RBAC_DENY)
	}
	filter := &rbacfilterv3.RBAC{
		RulesStatPrefix: StatPrefix,
		Matcher: &xdsmatcherv3.Matcher{
			MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{Matchers: lines}},
			OnNoMatch:   byDefault,
		},
	}
	if c.err != nil {
		return nil, c.err
	}
	if err := filter.ValidateAll(); err != nil {
		return nil, fmt.Errorf("checking the compiled filter: %w", err)
	}
	return pack(filter)
}

// pack is anypb.New with the same bytes for equal messages.
func pack(m proto.Message) (*anypb.Any, error) {
	packed := new(anypb.Any)
	if err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("marshalling %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return packed, nil
}

// line is one line of the list: when it holds, the action is taken.
func (c *compiler) line(when *predicate, name string, do rbacv3.RBAC_Action) *xdsmatcherv3.Matcher_MatcherList_FieldMatcher {
	return &xdsmatcherv3.Matcher_MatcherList_FieldMatcher{Predicate: when, OnMatch: c.action(name, do)}
}

func (c *compiler) action(name string, do rbacv3.RBAC_Action) *xdsmatcherv3.Matcher_OnMatch {
	return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: &xdscorev3.TypedExtensionConfig{
		Name:        "envoy.filters.rbac.action",
		TypedConfig: c.any(&rbacv3.Action{Name: name, Action: do}),
	}}}
}

// guards refuse what no rule should ever be asked about. They are negations, so
// that an attribute that is missing is refused with the rest.
func (c *compiler) guards() []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher {
	isWorkload := term{when: c.regex(c.peer, workloadRegex(c.td))}
	isPlain := and(
		term{when: c.prefix(c.path, "/")},
		not(term{when: c.prefix(c.path, "//")}),
		not(term{when: c.contains(c.path, "/.;")}),
		not(term{when: c.contains(c.path, "/..;")}),
	)
	return []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{
		c.line(not(isWorkload).when, noIdentity, rbacv3.RBAC_DENY),
		c.line(not(isPlain).when, badPath, rbacv3.RBAC_DENY),
		// rbac.PlainMethod.
		c.line(not(term{when: c.regex(c.method, `[A-Z][-A-Z]*`)}).when, noMethod, rbacv3.RBAC_DENY),
	}
}

// rules are the lines of a policy. A rule that can never match has none.
func (c *compiler) rules(p rbac.Policy) ([]*xdsmatcherv3.Matcher_MatcherList_FieldMatcher, error) {
	var do rbacv3.RBAC_Action
	switch p.Action {
	case rbac.Allow:
		do = rbacv3.RBAC_ALLOW
	case rbac.Deny:
		do = rbacv3.RBAC_DENY
	default:
		return nil, fmt.Errorf("action %v is not known", p.Action)
	}
	var lines []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher
	for i, rule := range p.Rules {
		when := c.rule(rule)
		switch when.always {
		case never:
			continue
		case always:
			// Behind the guards every path begins with a slash.
			when.when = c.prefix(c.path, "/")
		}
		lines = append(lines, c.line(when.when, p.RuleName(i), do))
	}
	return lines, nil
}
