// Package compile says to Envoy what rbac/eval means.
//
// A set becomes an RBAC filter in matcher form. First come the guards (the peer
// is a workload of an accepted trust domain, path and method are such as to
// decide upon), in a list; then a decision tree of all that denies; then one of
// all that allows; and last the default. One filter, so that DENY and ALLOW
// change in the same moment when Envoy gets it by extension configuration
// discovery. Every action has a name, which Envoy logs: "namespace/name/index"
// of a rule that matches, or a reason of rbac/eval.
//
// # Rules become boxes
//
// A rule is lowered to a formula over Envoy's inputs (lower.go, attributes.go):
// each test is resolved by itself, to "yes" in an ALLOW policy and to "yes or
// maybe" in all others. What Envoy cannot be asked (anything of HTTP on TCP; a
// comparison of two attributes, unless our own provider tells it: word.go) is a
// match in the latter and none in the former. Literals are exact, prefix, suffix
// and contains matchers, so that a dot is a dot. Regular expressions are in the
// guards, in the question whether an input is there, and in path templates, which
// are made of escaped literals.
//
// # Boxes become a tree
//
// Inside DENY, and inside ALLOW, all actions are equal, so that a part is a pure
// or over its rules, and no order matters. A tree looks inputs up (tree.go): the
// peer's identity, paths, hosts, headers, addresses, by the whole text or by its
// beginning. What a request costs grows with the rules that it meets under its
// own keys, not with their number. These shapes have no key and stay in a list,
// at 0.1 µs a line, without another verdict; [Report] counts them:
//
//   - suffixes ("*.png", "*/sa/web", "*.example.com") where no other test has a key;
//   - claims alone, which may be lists, and which Envoy's trees cannot look up,
//     and likewise comparisons alone;
//   - negations alone;
//   - long lists times long lists: a rule is written at most eight times as large
//     as it is, and beyond that asked as it stands;
//   - more than a few kinds of keys in one set.
//
// Start at [HTTP], or, for one filter again and again, at [Compiler].
package compile

import (
	"errors"
	"fmt"

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
	noAudit      = "no-audit" // no rule of an AUDIT policy matches
)

var (
	// ErrUnknownSet reports the zero [rbac.Set]: nothing is known that could be
	// compiled. Whoever enforces must keep on refusing, or what it last had.
	ErrUnknownSet = errors.New("compile: it is not known which policies apply")
	// ErrTooDeep reports a filter that Envoy could not read: one rule has too
	// many conditions in each other.
	ErrTooDeep = errors.New("compile: conditions are nested too deep")
	// ErrNotText reports a value that is not UTF-8, which no configuration can
	// carry.
	ErrNotText = errors.New("compile: a value is not UTF-8")
)

// HTTP compiles set to one envoy.extensions.filters.http.rbac.v3.RBAC. CUSTOM
// policies that ask a provider whom nobody knows deny. Policies of a dry run are
// in the shadow matcher, together with all others, and are counted by rule.
// Equal sets give equal bytes, which meet Envoy's own constraints.
func HTTP(set rbac.Set) (*anypb.Any, error) { return (&Compiler{once: true}).HTTP(set) }

// TCP compiles set to one envoy.extensions.filters.network.rbac.v3.RBAC, which
// decides upon a connection by the peer, the addresses and the server name. What
// a rule asks of HTTP cannot be told. CUSTOM policies deny, since a connection is
// asked for nowhere. AUDIT policies mark nothing.
func TCP(set rbac.Set) (*anypb.Any, error) { return (&Compiler{once: true}).TCP(set) }

// Audit compiles the AUDIT policies of set to an
// envoy.extensions.filters.http.rbac.v3.RBAC that lets everything pass, and sets
// Envoy's access_log_hint where one of them matches.
func Audit(set rbac.Set) (*anypb.Any, error) { return (&Compiler{once: true}).Audit(set) }

// Custom compiles the CUSTOM policies of set that ask provider to an
// envoy.extensions.filters.http.rbac.v3.RBAC that lets everything pass, and
// writes whether the provider must be asked: see [CustomPrefix]. It must be, too,
// about requests that the guards refuse: the filters of one set do not change in
// the same moment.
func Custom(set rbac.Set, provider string) (*anypb.Any, error) {
	return (&Compiler{once: true}).Custom(set, provider)
}

// Linear is HTTP without a tree: one line for each rule, read from the top. It is
// what the tree is measured against.
func Linear(set rbac.Set) (*anypb.Any, error) {
	return (&Compiler{linear: true, once: true}).HTTP(set)
}

// pack is anypb.New with the same bytes for equal messages.
func pack(m proto.Message) (*anypb.Any, error) {
	packed := new(anypb.Any)
	if err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("marshalling %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return packed, nil
}
