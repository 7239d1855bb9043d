package interpret_test

import (
	"errors"
	"strings"
	"testing"

	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac/interpret"
)

// visit calls f for every message in m, those in an Any too, and packs them
// again.
func visit(t testing.TB, m protoreflect.Message, f func(protoreflect.Message)) {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		visit(t, inner.ProtoReflect(), f)
		if err := packed.MarshalFrom(inner); err != nil {
			t.Fatal(err)
		}
		f(m)
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap() && fd.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				visit(t, v.Message(), f)
				return true
			})
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				visit(t, v.List().Get(i).Message(), f)
			}
		case fd.Message() != nil && !fd.IsMap():
			visit(t, v.Message(), f)
		}
		return true
	})
	f(m)
}

// TestUnknownFields: one field that nobody knows, in whatever message, and the
// filter is refused.
func TestUnknownFields(t *testing.T) {
	kinds := map[protoreflect.FullName]int{}
	refused := 0
	for seed := range uint64(20) {
		filter := newMaker(t, seed).filter()
		count := 0
		visit(t, filter.ProtoReflect(), func(protoreflect.Message) { count++ })
		for i := range min(count, 200) {
			mutant := proto.CloneOf(filter)
			n := 0
			visit(t, mutant.ProtoReflect(), func(m protoreflect.Message) {
				if n == i {
					kinds[m.Descriptor().FullName()]++
					m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 40, protowire.VarintType), 1))
				}
				n++
			})
			_, err := interpret.Decode((&maker{t: t}).any(mutant))
			if !errors.Is(err, interpret.ErrUnknown) {
				t.Fatalf("seed %d, message %d of %d: %v", seed, i, count, err)
			}
			refused++
		}
	}
	if refused < 1000 || len(kinds) < 25 {
		t.Errorf("%d filters refused, over %d kinds of messages: %v", refused, len(kinds), kinds)
	}
}

// TestRefused: what Envoy takes and this package does not.
func TestRefused(t *testing.T) {
	m := newMaker(t, 1)
	act := func(f func(*rbacfilterv3.RBAC)) *anypb.Any {
		filter := &rbacfilterv3.RBAC{Matcher: &xdsmatcherv3.Matcher{OnNoMatch: m.then(0)}}
		f(filter)
		return m.any(filter)
	}
	regex := func(s string) *anypb.Any {
		return act(func(r *rbacfilterv3.RBAC) {
			p := m.predicate(0)
			for p.GetSinglePredicate().GetValueMatch() == nil {
				p = m.predicate(0)
			}
			p.GetSinglePredicate().GetValueMatch().IgnoreCase = false
			p.GetSinglePredicate().GetValueMatch().MatchPattern = &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
				EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}}, Regex: s,
			}}
			r.Matcher.MatcherType = &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
				Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{Predicate: p, OnMatch: m.then(0)}},
			}}
		})
	}
	rows := map[string]*anypb.Any{
		"nothing":           nil,
		"another filter":    {TypeUrl: "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
		"another prefix":    {TypeUrl: "x/envoy.extensions.filters.http.rbac.v3.RBAC"},
		"no bytes of one":   {TypeUrl: "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", Value: []byte{0xff}},
		"truncated":         {TypeUrl: "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", Value: []byte{0x22, 5, 1}},
		"an empty OnMatch":  act(func(r *rbacfilterv3.RBAC) { r.Matcher.OnNoMatch.OnMatch = nil }),
		"keep_matching":     act(func(r *rbacfilterv3.RBAC) { r.Matcher.OnNoMatch.KeepMatching = true }),
		"matcher and rules": act(func(r *rbacfilterv3.RBAC) { r.Rules = &rbacv3.RBAC{} }),
		"audit logging": act(func(r *rbacfilterv3.RBAC) {
			r.ShadowRules = &rbacv3.RBAC{AuditLoggingOptions: &rbacv3.RBAC_AuditLoggingOptions{}}
		}),
		"an empty policy":    act(func(r *rbacfilterv3.RBAC) { r.ShadowRules = &rbacv3.RBAC{Policies: map[string]*rbacv3.Policy{"x": {}}} }),
		"an unknown action":  act(func(r *rbacfilterv3.RBAC) { r.ShadowRules = &rbacv3.RBAC{Action: 7} }),
		"an empty regex":     regex(``),
		"an anchor":          regex(`^a`),
		"an anchor's end":    regex(`a$`),
		"a lazy star":        regex(`a*?`),
		"a count":            regex(`a{2}`),
		"a named class":      regex(`[[:alpha:]]`),
		"a Perl class":       regex(`\d`),
		"a word's boundary":  regex(`a\b`),
		"flags within":       regex(`(?i)a`),
		"an open group":      regex(`(a`),
		"a closed group":     regex(`a)`),
		"an open class":      regex(`[a`),
		"an empty class":     regex(`[]`),
		"a reversed range":   regex(`[z-a]`),
		"a star of nothing":  regex(`*`),
		"two stars":          regex(`a**`),
		"a range of symbols": regex(`[+--]`),
		"a long one":         regex(strings.Repeat("a", 5000)),
		"a backslash":        regex(`a\`),
		"a NUL":              regex("a\x00b"),
	}
	if got, want := len(rows), 31; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for name, filter := range rows {
		if _, err := interpret.Decode(filter); !errors.Is(err, interpret.ErrUnknown) && !errors.Is(err, interpret.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := interpret.Decode(regex(`a`)); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	for seed := range uint64(4) {
		f.Add((newMakerOf(f, seed)).Value)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		filter, err := interpret.Decode(&anypb.Any{TypeUrl: "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", Value: data})
		if err == nil {
			filter.Decide(interpret.Attributes{})
			// What is taken here, the real message takes too.
			if err := proto.Unmarshal(data, &rbacfilterv3.RBAC{}); err != nil {
				t.Error(err)
			}
		}
	})
}

func newMakerOf(t testing.TB, seed uint64) *anypb.Any {
	m := newMaker(t, seed)
	return m.any(m.filter())
}
