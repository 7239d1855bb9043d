package compile_test

import (
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/compile"
	"github.com/istio-auth/istio-auth/rbac/eval"
	"github.com/istio-auth/istio-auth/rbac/interpret"
	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

var (
	caseCount  = flag.Int("cases", defaultCases(), "how many random cases evaluators must agree on; also ISTIO_AUTH_CASES")
	firstSeed  = flag.Uint64("seed", 1, "the seed of the first round of cases")
	callsOfSet = flag.Int("calls", 100, "how many cases a set of policies has: more of them are quicker, and know fewer sets")
	features   = flag.Uint("features", uint(rbactest.Everything), "the rbactest.Features of cases, as a number")
)

func defaultCases() int {
	if n, err := strconv.Atoi(os.Getenv("ISTIO_AUTH_CASES")); err == nil {
		return n
	}
	return 20_000
}

// A round is so many cases, which one Envoy decides.
const setsOfRound = 500

// TestEnvoyAgrees: rbac/eval and a real Envoy, which runs what compile made in
// the filter chain of our sidecar, decide alike on random cases, and by a rule
// that matches. A mismatch is shrunk before it is printed: put it into
// testdata/mismatches with its fix.
func TestEnvoyAgrees(t *testing.T) {
	ca := newAuthority(t)
	var n tally
	began := time.Now()
	for done, seed := 0, *firstSeed; done < *caseCount && !t.Failed(); seed++ {
		cases := roundOf(seed, min(*caseCount-done, setsOfRound**callsOfSet))
		for i, m := range decideAll(t, ca, cases, &n) {
			if i == maxShrunk {
				break
			}
			small := shrink(t, ca, m.input)
			t.Errorf("seed %d: eval and Envoy disagree: %v\nshrunk from %d policies to\n%v\n%v", seed, m, len(m.input.Policies), small.input, small)
		}
		done += len(cases)
		t.Logf("seed %d: %d cases, %.0f a second", seed, done, float64(done)/time.Since(began).Seconds())
	}
	t.Log(n.String())
	if t.Failed() {
		return
	}
	n.check(t, *caseCount)
}

// At most so many mismatches of a round are shrunk, each by so many Envoys.
const maxShrunk, maxEnvoys = 2, 40

// roundOf makes at most n cases, so many of a set each.
func roundOf(seed uint64, n int) []rbactest.Case {
	g := rbactest.New(seed, rbactest.Features(*features))
	var cases []rbactest.Case
	for set := 0; len(cases) < n; set++ {
		c := g.Case()
		c.Set = set
		for range min(*callsOfSet, n-len(cases)) {
			c.Call = g.Call(c.Policies)
			cases = append(cases, c)
		}
	}
	return cases
}

// decideAll has a new Envoy decide the cases, of which each Set has the policies
// of its first case. It returns those that eval decides otherwise.
func decideAll(t *testing.T, ca *authority, cases []rbactest.Case, n *tally) []mismatch {
	t.Helper()
	var sets, compiled []rbac.Set // as eval reads them, and as they are compiled
	for _, c := range cases {
		if c.Set == len(sets) {
			compiled = append(compiled, c.Selected(testTokens.keys()))
			c.Policies = withoutComparisons(c.Policies)
			sets = append(sets, c.Selected(testTokens.keys()))
		}
	}
	type line struct {
		rbactest.Connection
		http2 bool
	}
	decoded := make([]map[string]*interpret.Filter, len(sets))
	var compiler compile.Compiler
	for i, set := range compiled {
		decoded[i] = decodedFilters(t, &compiler, set)
	}
	byLine := map[line][]rbactest.Case{}
	var tcp []rbactest.Case
	var found []mismatch
	for _, c := range cases {
		if c.Call.TCP {
			if m := interpreted(decoded[c.Set], sets[c.Set], c); m.is() {
				found = append(found, m)
			}
			tcp = append(tcp, c)
			continue
		}
		at := line{c.Call.Connection, c.Call.HTTP2}
		byLine[at] = append(byLine[at], c)
	}
	var mu sync.Mutex // guards found
	var wait sync.WaitGroup
	var w *world
	if len(byLine) > 0 {
		w = start(t, ca, compiled)
		defer w.envoy.Stop()
	}
	for at, list := range byLine {
		dial := w.dialer(t, at.Connection, w.mtls, w.insecure)
		dialAny := func() (net.Conn, error) { return dial(40000) }
		var s sender = &client{dial: dialAny}
		workers := 1
		if at.http2 {
			s, workers = &client2{dial: dialAny}, 8
		}
		var ours sync.WaitGroup
		for worker := range workers {
			ours.Go(func() {
				for i := worker; i < len(list); i += workers {
					set := list[i].Set
					m := judge(s, sets[set], list[i], n)
					if !m.is() {
						m = notWider(compiled[set], sets[set], list[i])
					}
					if !m.is() {
						m = interpreted(decoded[set], sets[set], list[i])
					}
					if m.is() {
						mu.Lock()
						found = append(found, m)
						mu.Unlock()
						return // the first of this worker
					}
				}
			})
		}
		wait.Go(func() {
			ours.Wait()
			s.close()
		})
	}
	wait.Wait()
	if len(tcp) > 0 {
		found = append(found, decideTCP(t, ca, tcp, n)...)
	}
	slices.SortFunc(found, func(a, b mismatch) int { return len(a.input.String()) - len(b.input.String()) })
	return found
}

// withoutComparisons are the policies as filters have them. No matcher of Envoy's
// compares two attributes: a comparison is never satisfied in an ALLOW policy,
// and always in all others.
func withoutComparisons(policies []rbac.Policy) []rbac.Policy {
	policies = slices.Clone(policies)
	for i, p := range policies {
		never := rbac.Expression{Op: rbac.Any}
		if p.Action != rbac.Allow {
			never.Op = rbac.All // always
		}
		var without func(e rbac.Expression) rbac.Expression
		without = func(e rbac.Expression) rbac.Expression {
			if e.Op == rbac.Compare {
				return never
			}
			e.Terms = slices.Clone(e.Terms)
			for j := range e.Terms {
				e.Terms[j] = without(e.Terms[j])
			}
			return e
		}
		policies[i].Rules = slices.Clone(p.Rules)
		for j, rule := range p.Rules {
			if rule.Expression != nil {
				e := without(*rule.Expression)
				policies[i].Rules[j].Expression = &e
			}
		}
	}
	return policies
}

// notWider wants that filters, which compare nothing, let in nobody whom the
// policies do not, and ask whomever they ask.
func notWider(policies, filters rbac.Set, a rbactest.Case) mismatch {
	m := mismatch{input: a}
	req, err := a.Request()
	if err != nil {
		return m
	}
	want, got := eval.Decide(policies, req), eval.Decide(filters, req)
	for _, provider := range want.Ask {
		if got.Allowed && !slices.Contains(got.Ask, provider) {
			m.got = "without comparisons, " + provider + " is not asked"
		}
	}
	if got.Allowed && !want.Allowed {
		m.got = "without comparisons, it is allowed"
	}
	return m
}

// decodedFilters are a set's, as the interpreter reads what is pushed.
func decodedFilters(t testing.TB, c *compile.Compiler, set rbac.Set) map[string]*interpret.Filter {
	t.Helper()
	filters := map[string]*interpret.Filter{}
	for name, compile := range filtersOf(c) {
		packed, err := compile(set)
		if err != nil {
			t.Fatal(err)
		}
		if filters[name], err = interpret.Decode(packed); err != nil {
			t.Fatal(err)
		}
	}
	return filters
}

// interpreted compares what the interpreter makes of the filters with what eval
// says.
func interpreted(filters map[string]*interpret.Filter, set rbac.Set, a rbactest.Case) mismatch {
	m := mismatch{input: a}
	req, err := a.Request()
	if err != nil || !utf8.ValidString(rbac.FoldPath(req.Path)) {
		return m // see TestMeaning
	}
	for what, differs := range differences(filters, set, req) {
		if differs != "" {
			m.got = fmt.Sprintf("interpreter: %s: %s", what, differs)
		}
	}
	return m
}

// A tally counts what was decided how. It may be used by many at once.
type tally struct {
	mu sync.Mutex
	of map[string]int
	n  atomic.Int64
}

func (n *tally) add(what ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of == nil {
		n.of = map[string]int{}
	}
	for _, w := range what {
		n.of[w]++
	}
}

func (n *tally) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var s strings.Builder
	fmt.Fprintf(&s, "%d cases", n.n.Load())
	for _, key := range slices.Sorted(maps.Keys(n.of)) {
		fmt.Fprintf(&s, ", %s %d", key, n.of[key])
	}
	return s.String()
}

// check wants that all were decided, and each outcome often: a run that decides
// all alike shows nothing.
func (n *tally) check(t *testing.T, want int) {
	t.Helper()
	if got := int(n.n.Load()); got != want {
		t.Errorf("decided %d cases, want %d", got, want)
	}
	for what, percent := range outcomes() {
		if got := n.of[what]; got*1000 < want*percent {
			t.Errorf("only %d of %d cases were: %s", got, want, what)
		}
	}
}

// outcomes are what must come of so many cases of a thousand.
func outcomes() map[string]int {
	return map[string]int{
		string(eval.AllowRule): 40, string(eval.DenyRule): 100, string(eval.NoAllow): 50, string(eval.NoAllowMatch): 100,
		string(eval.NoIdentity): 5, string(eval.BadPath): 5, "no canonical path": 20,
	}
}

// A mismatch is a case that was decided twice, differently.
type mismatch struct {
	input     rbactest.Case
	got, want string
}

func (m mismatch) is() bool       { return m.got != m.want }
func (m mismatch) String() string { return fmt.Sprintf("envoy: %s; eval: %s", m.got, m.want) }

// judge sends a case to Envoy and compares code, line and path with what eval
// says.
func judge(s sender, set rbac.Set, a rbactest.Case, n *tally) mismatch {
	m := mismatch{input: a}
	n.n.Add(1)
	got, err := s.do(a.Set, a.Call)
	if err != nil {
		m.got = err.Error()
		return m
	}
	req, err := a.Request()
	// What has no canonical path must be refused before the filters are asked,
	// and what has no host may be.
	refused := (got.code == 400 || got.code == 0) && !strings.HasPrefix(got.details, "rbac")
	switch {
	case err != nil:
		n.add("no canonical path")
		if m.want = "refused"; refused {
			m.got = "refused"
		} else {
			m.got = fmt.Sprintf("%+v", got)
		}
		return m
	case refused && (rbac.FoldHost(req.Host) == "" || got.details == "http1.invalid_url" && !strings.HasPrefix(a.Call.Target, "/")):
		n.add("no host")
		return m
	}
	v := eval.Decide(set, req)
	if !utf8.ValidString(rbac.FoldPath(req.Path)) && v.Allowed && got.code == 403 {
		// RE2 reads UTF-8, so that no template matches other bytes: Envoy may
		// refuse more, and never less.
		n.add("not in UTF-8")
		return m
	}
	n.add(string(v.Reason))
	m.want = fmt.Sprintf("%v %s, path %s", v.Allowed, v.Reason, req.Path)
	m.got = fmt.Sprintf("%v %s, path %s", got.code == 200, reason(set, req, got), got.path)
	trial, dry := set.Trial()
	switch {
	case dry && got.code == 200 || got.dryResult != "":
		v := eval.Decide(trial, req)
		n.add("dry run", "dry run "+string(v.Reason))
		m.want += fmt.Sprintf("; dry run: %v %s", v.Allowed, v.Reason)
		would := answer{code: 403, line: got.dry, details: "rbac_access_denied_matched_policy[" + got.dry + "]"}
		if got.dryResult == "allowed" {
			would.code, would.details = 200, ""
		}
		m.got += fmt.Sprintf("; dry run: %v %s", would.code == 200, reason(trial, req, would))
	case dry:
		n.add("dry run unseen") // Envoy writes it when it has refused, for the access log
	}
	if guarded(v.Reason) || v.Reason == eval.NoProvider {
		return m // whether others are asked, or it is marked, is all one
	}
	if v.Audit != "" {
		n.add("audited")
		m.want += "; marked"
	}
	if got.hint == "true" {
		m.got += "; marked"
		if !matches(set, rbac.Audit, got.audit, req) {
			m.got += " by " + got.audit + ", which does not match"
		}
	}
	for i, provider := range rbactest.Providers {
		if slices.Contains(v.Ask, provider) {
			n.add("asked")
			m.want += "; asks " + provider
		}
		if line := got.asks[i]; line != compile.NoAsk {
			m.got += "; asks " + provider
			if rule, ok := strings.CutPrefix(line, compile.AskPrefix); !ok || !matches(set, rbac.Custom, rule, req) {
				m.got += " by " + line + ", which does not match"
			}
		}
	}
	return m
}

// guarded tells whether a request was refused before any rule was asked.
func guarded(r eval.Reason) bool {
	return r == eval.NoIdentity || r == eval.BadPath || r == eval.NoMethod
}

// reason is what eval calls the line by which Envoy decided: for a rule's, once
// it is shown that this rule alone, too, decides so.
func reason(set rbac.Set, req rbac.Request, got answer) string {
	line, denied := got.line, false
	if details, ok := strings.CutPrefix(got.details, "rbac_access_denied_matched_policy["); ok {
		line, denied = strings.TrimSuffix(details, "]"), true
	}
	if got.code != 200 && got.code != 403 || denied != (got.code == 403) || got.line != line && got.line != "" {
		return fmt.Sprintf("%+v", got)
	}
	if line == "none" && req.Peer.ID.IsZero() && denied {
		// Without TLS there is nothing that the guard could ask, where the set
		// does not listen to plaintext: Envoy denies by itself, and names no line.
		return string(eval.NoIdentity)
	}
	if !strings.Contains(line, "/") {
		return line
	}
	switch {
	case !denied && matches(set, rbac.Allow, line, req):
		return string(eval.AllowRule)
	case denied && matches(set, rbac.Deny, line, req):
		return string(eval.DenyRule)
	case denied && matches(set, rbac.Custom, line, req):
		return string(eval.NoProvider)
	}
	return fmt.Sprintf("by %s, which does not match", line)
}

// matches tells whether a rule, by its name, matches a request, by eval.
func matches(set rbac.Set, action rbac.Action, rule string, req rbac.Request) bool {
	key, index, _ := cutLast(rule, "/")
	i, err := strconv.Atoi(index)
	for _, p := range set.Policies(action) {
		if err != nil || p.Key() != key || i >= len(p.Rules) {
			continue
		}
		p.Rules, p.DryRun = p.Rules[i:i+1], false
		d, target := set.Domains(), rbactest.Target()
		target.Aliases, target.Foreign, target.Plaintext, target.Providers = d.Aliases, d.Foreign, set.Plaintext(), set.Providers()
		v := eval.Decide(rbac.Select([]rbac.Policy{p}, target), req)
		switch action {
		case rbac.Audit:
			return v.Audit != ""
		case rbac.Custom:
			return len(v.Ask) > 0 || v.Reason == eval.NoProvider
		}
		return v.Rule != ""
	}
	return false
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// shrink makes the smallest case that is still decided differently. Each round
// asks one Envoy about all cases that are a step smaller.
func shrink(t *testing.T, ca *authority, first rbactest.Case) mismatch {
	smallest, left := mismatch{input: first}, maxEnvoys
	rbactest.Shrink(first, func(smaller []rbactest.Case) int {
		if left--; left < 0 {
			return -1
		}
		for i := range smaller {
			smaller[i].Set = i
		}
		found := decideAll(t, ca, smaller, new(tally))
		if len(found) == 0 {
			return -1
		}
		smallest = found[0]
		return smallest.input.Set
	})
	return smallest
}
