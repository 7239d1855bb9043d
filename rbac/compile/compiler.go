package compile

import (
	"cmp"
	"hash/maphash"
	"slices"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/rbac"
)

// A Compiler compiles the sets of one workload, one after the other. It keeps
// what it wrote, and writes only what has changed: the policies whose content is
// another, and what lies under the keys that they are found by. Its filters have
// the bytes that [HTTP] and the others give. The zero Compiler is ready. It is
// not for several goroutines at once.
type Compiler struct {
	linear bool
	once   bool // and never again
	levels int

	seed     maphash.Seed
	seeded   bool
	policies map[part][]lowered
	trees    map[part][]link
	report   Report
	size     int // of the last filter
}

// Kinds of filters.
const (
	ofHTTP = iota + 1
	ofTrial
	ofTCP
	ofTCPTrial
	ofAudit
	ofCustom
)

// A part is one tree of one filter.
type part struct {
	filter   int
	action   rbac.Action
	provider string
}

// lowered is a policy as boxes.
type lowered struct {
	namespace, name string
	sum             uint64 // of its content, and of what its meaning depends on
	box             []*box
	fold            bool // a folded path is asked for
}

func (l *lowered) compare(p *rbac.Policy) int {
	return cmp.Or(cmp.Compare(l.namespace, p.Namespace), cmp.Compare(l.name, p.Name))
}

// Report tells of the filter that was compiled last.
func (c *Compiler) Report() Report { return c.report }

// HTTP is [HTTP].
func (c *Compiler) HTTP(set rbac.Set) (*anypb.Any, error) {
	return c.filter("envoy.extensions.filters.http.rbac.v3.RBAC", set, func(w *wire) error {
		if trial, dry := set.Trial(); dry {
			w.text(3, TrialPrefix)
			if err := c.enforce(w, 4, set, ofHTTP); err != nil {
				return err
			}
			if err := c.enforce(w, 5, trial, ofTrial); err != nil {
				return err
			}
			w.text(6, StatPrefix)
			w.varint(7, 1) // track_per_rule_stats
			return nil
		}
		if err := c.enforce(w, 4, set, ofHTTP); err != nil {
			return err
		}
		w.text(6, StatPrefix)
		return nil
	})
}

// TCP is [TCP].
func (c *Compiler) TCP(set rbac.Set) (*anypb.Any, error) {
	return c.filter("envoy.extensions.filters.network.rbac.v3.RBAC", set, func(w *wire) error {
		w.text(3, StatPrefix)
		trial, dry := set.Trial()
		if dry {
			w.text(5, TrialPrefix)
		}
		err := c.enforce(w, 6, set, ofTCP)
		if dry && err == nil {
			err = c.enforce(w, 7, trial, ofTCPTrial)
		}
		return err
	})
}

// Audit is [Audit].
func (c *Compiler) Audit(set rbac.Set) (*anypb.Any, error) {
	return c.filter("envoy.extensions.filters.http.rbac.v3.RBAC", set, func(w *wire) error {
		p := plan{set: set, filter: ofAudit, guards: doAllow, byDefault: noAudit, defaultTo: doAllow}
		p.steps = []step{{part{filter: ofAudit, action: rbac.Audit}, doLog, "", set.Policies(rbac.Audit)}}
		err := c.decide(w, 4, p)
		w.text(6, AuditPrefix)
		return err
	})
}

// Custom is [Custom].
func (c *Compiler) Custom(set rbac.Set, provider string) (*anypb.Any, error) {
	return c.filter("envoy.extensions.filters.http.rbac.v3.RBAC", set, func(w *wire) error {
		var asking []rbac.Policy
		for _, p := range set.Policies(rbac.Custom) {
			if p.Provider == provider {
				asking = append(asking, p)
			}
		}
		p := plan{set: set, filter: ofCustom, guards: doDeny, lead: AskPrefix, byDefault: NoAsk, defaultTo: doAllow}
		p.steps = []step{{part{ofCustom, rbac.Custom, provider}, doDeny, AskPrefix, asking}}
		w.text(3, CustomPrefix+provider+"_")
		return c.decide(w, 5, p)
	})
}

// filter writes one filter, with a tree that is as deep as Envoy can read.
func (c *Compiler) filter(name string, set rbac.Set, write func(w *wire) error) (*anypb.Any, error) {
	if set.IsZero() {
		return nil, ErrUnknownSet
	}
	if !c.seeded {
		c.seed, c.seeded = maphash.MakeSeed(), true
		c.policies, c.trees = map[part][]lowered{}, map[part][]link{}
	}
	for c.levels = maxLevels; c.levels >= 0; c.levels-- {
		if c.linear {
			c.levels = 0
		}
		c.report = Report{}
		w := &wire{b: make([]byte, 0, c.size+c.size/8), long: c.size}
		if err := write(w); err != nil {
			return nil, err
		}
		if w.invalid {
			return nil, ErrNotText
		}
		if w.deepest > maxDepth {
			clear(c.trees) // was written for more levels
			continue
		}
		c.report.Bytes, c.size = len(w.b), len(w.b)
		return &anypb.Any{TypeUrl: typeURL + name, Value: slices.Clip(w.b)}, nil
	}
	return nil, ErrTooDeep
}

// maxDepth is how many messages may be in each other. Protobuf in C++ reads 100.
const maxDepth = 96

// enforce writes a matcher that decides.
func (c *Compiler) enforce(w *wire, field int, set rbac.Set, filter int) error {
	custom := set.Policies(rbac.Custom)
	if filter != ofTCP && filter != ofTCPTrial {
		custom = nil
		for _, p := range set.Policies(rbac.Custom) {
			if !slices.Contains(set.Providers(), p.Provider) {
				custom = append(custom, p)
			}
		}
	}
	p := plan{set: set, filter: filter, guards: doDeny, byDefault: noAllow, defaultTo: doAllow}
	p.steps = []step{
		{part{filter: filter, action: rbac.Custom}, doDeny, "", custom},
		{part{filter: filter, action: rbac.Deny}, doDeny, "", set.Deny()},
		{part{filter: filter, action: rbac.Allow}, doAllow, "", set.Allow()},
	}
	if len(set.Allow()) > 0 {
		p.byDefault, p.defaultTo = noAllowMatch, doDeny
	}
	return c.decide(w, field, p)
}

// guess is about how long a filter will be, and rather less.
func guess(boxes [][]*box) int {
	n := 2000
	for _, list := range boxes {
		for _, b := range list {
			n += 100 * b.weight
		}
	}
	return n
}

// A plan is what a matcher does, in this order: guards, steps, default.
type plan struct {
	set       rbac.Set
	filter    int
	guards    action
	lead      string // before the names of guards
	steps     []step
	byDefault string
	defaultTo action
}

// A step is one tree.
type step struct {
	part     part
	do       action
	lead     string
	policies []rbac.Policy
}

// decide writes a Matcher that does what p says.
func (c *Compiler) decide(w *wire, field int, p plan) error {
	tcp := p.filter == ofTCP || p.filter == ofTCPTrial
	l := newLowering(p.set, tcp)
	l.words = asksOwn(p.set) && p.filter != ofCustom
	fold, asked := false, false
	boxes := make([][]*box, len(p.steps))
	for i, s := range p.steps {
		list, err := c.lower(l, s)
		if err != nil {
			return err
		}
		for j := range list {
			fold = fold || list[j].fold
			boxes[i] = append(boxes[i], list[j].box...)
		}
		asked = asked || len(s.policies) > 0
	}
	if c.once {
		w.b = slices.Grow(w.b, guess(boxes))
	}
	m := w.openLong(field)
	defer func() { w.close(m) }()
	// A filter that only marks or asks, and has no policy for it, asks nothing.
	if (p.filter == ofAudit || p.filter == ofCustom) && !asked {
		next := w.open(3)
		w.onMatchAction(p.byDefault, p.defaultTo)
		w.close(next)
		return nil
	}
	guards := w.open(1)
	for _, g := range l.guards(fold) {
		line := w.open(1)
		when := w.open(1)
		w.formula(&g.when)
		w.close(when)
		then := w.open(2)
		name := p.lead + g.name
		if p.filter == ofAudit {
			name = p.byDefault
		}
		w.onMatchAction(name, p.guards)
		w.close(then)
		w.close(line)
	}
	w.close(guards)
	next := w.openLong(3)
	c.steps(w, p, boxes)
	w.close(next)
	return nil
}

// steps writes the content of an OnMatch: the trees of p that have boxes, each
// behind the one before, and the default.
func (c *Compiler) steps(w *wire, p plan, boxes [][]*box) {
	if len(p.steps) == 0 {
		w.onMatchAction(p.byDefault, p.defaultTo)
		return
	}
	s, list := p.steps[0], boxes[0]
	rest := p
	rest.steps = p.steps[1:]
	t := &tree{do: s.do, lead: s.lead, levels: c.levels, once: c.once, before: c.trees[s.part]}
	defer func() {
		c.trees[s.part] = t.now
		c.report.add(t.report)
	}()
	switch b := unconditional(list); {
	case len(list) == 0:
		c.steps(w, rest, boxes[1:])
	case b != nil:
		t.take(w, b)
	default:
		m := w.openLong(1)
		t.matcher(w, list, 0, 0, func() { c.steps(w, rest, boxes[1:]) })
		w.close(m)
	}
}

// lower turns the policies of a step into boxes, and keeps those of policies
// whose content is the same as the last time. Policies come in the order of
// their names.
func (c *Compiler) lower(l *lowering, s step) ([]lowered, error) {
	before := c.policies[s.part]
	now := make([]lowered, 0, len(s.policies))
	at := 0
	meaning := l.sum(c.seed)
	for i := range s.policies {
		p := &s.policies[i]
		sum := policySum(c.seed, meaning, p)
		for at < len(before) && before[at].sum != sum && before[at].compare(p) <= 0 {
			at++
		}
		if at < len(before) && before[at].sum == sum && before[at].compare(p) == 0 {
			now = append(now, before[at])
			at++
			continue
		}
		fresh, err := l.policy(p)
		if err != nil {
			return nil, err
		}
		fresh.sum, fresh.namespace, fresh.name = sum, p.Namespace, p.Name
		now = append(now, fresh)
	}
	c.policies[s.part] = now
	return now, nil
}

// A guard is a line in front of all rules.
type guard struct {
	name string
	when formula
}

// guards are those that refuse. They are negations, so that an input that is
// missing is refused with the rest.
func (l *lowering) guards(fold bool) []guard {
	known := lit(l.peer, isLike, likeWorkload(l.accepted))
	stranger := not(known)
	if l.plaintext {
		stranger = and(anything(l.peer), stranger)
	}
	list := []guard{{noIdentity, stranger}}
	if l.tcp {
		return list
	}
	path := input{kind: inPath}
	plain := and(lit(path, beginsWith, "/"), not(lit(path, beginsWith, "//")), not(lit(path, contains, "/.;")), not(lit(path, contains, "/..;")))
	if fold {
		plain = and(plain, lit(input{kind: inFold}, beginsWith, "/"))
	}
	method := lit(input{kind: inMethod}, isLike, likeMethod)
	return append(list, guard{badPath, not(plain)}, guard{noMethod, not(method)})
}

// policy turns each rule that can match into a box.
func (l *lowering) policy(p *rbac.Policy) (lowered, error) {
	l.wide, l.istio, l.err = p.Action != rbac.Allow, p.IstioCompat, nil
	var out lowered
	for i := range p.Rules {
		f := l.rule(p.Rules[i])
		if l.err != nil {
			return lowered{}, &RuleError{Rule: p.RuleName(i), Err: l.err}
		}
		if b := newBox(p.RuleName(i), f, 1); b != nil {
			out.box = append(out.box, b)
			out.fold = out.fold || f.asks(inFold)
		}
	}
	return out, nil
}

// A RuleError is a rule that cannot be compiled: a bug in what made it, since
// parsing refuses what has no meaning.
type RuleError struct {
	Rule string // "namespace/name/index"
	Err  error
}

func (e *RuleError) Error() string { return "compiling rule " + e.Rule + ": " + e.Err.Error() }
func (e *RuleError) Unwrap() error { return e.Err }
