package interpret

import (
	"net/netip"
	"strconv"
	"strings"
)

// A Decision is what Envoy does. The zero Decision refuses, as Envoy does where
// a matcher gives no action.
type Decision struct {
	Allowed bool
	Kind    Kind
	Name    string // of the action; empty where there was none
}

// Decide is what the enforced matcher does. Without matcher and rules Envoy
// enforces nothing, and lets in.
func (f *Filter) Decide(a Attributes) Decision {
	switch {
	case f.Matcher != nil:
		return f.Matcher.Decide(a)
	case f.Rules != nil:
		return f.Rules.Decide(a)
	}
	return Decision{Allowed: true}
}

// Decide is what a matcher at the top of a filter does.
func (m *Matcher) Decide(a Attributes) Decision {
	action := m.match(&a)
	if action == nil {
		return Decision{Kind: Deny}
	}
	return Decision{Allowed: action.Kind != Deny, Kind: action.Kind, Name: action.Name}
}

// unable ends a decision: an input was asked for that Envoy says it cannot give
// (yet), and whatever would come next is not asked. It has no name.
var unable = &Action{Kind: Deny}

// match gives the action, or unable, or nil: then whoever asked goes on with
// what comes next.
func (m *Matcher) match(a *Attributes) *Action {
	for i := range m.List {
		switch m.List[i].When.Holds(a) {
		case Unable:
			return unable
		case Yes:
			if action := m.List[i].Then.match(a); action != nil {
				return action
			}
		}
	}
	if m.Tree != nil {
		if action := m.Tree.match(a); action != nil {
			return action
		}
	}
	if m.NoMatch == nil {
		return nil
	}
	return m.NoMatch.match(a)
}

func (t Then) match(a *Attributes) *Action {
	if t.Action != nil {
		return t.Action
	}
	return t.Matcher.match(a)
}

func (t *Tree) match(a *Attributes) *Action {
	if t.Kind == RangeTree {
		narrowest := true
		ip := a.address(t.Input)
		for _, r := range t.Ranges {
			if !r.Network.Contains(ip) || r.Exclusive && !narrowest {
				continue
			}
			narrowest = false
			if action := r.Then.match(a); action != nil {
				return action
			}
		}
		return nil
	}
	if t.Input.Kind == URISAN && !a.TLS {
		return unable
	}
	text, ok := a.text(t.Input)
	if !ok {
		return nil
	}
	if t.Kind == ExactTree {
		if then, ok := t.Keys[text]; ok {
			return then.match(a)
		}
		return nil
	}
	for end := len(text); end > 0; end-- {
		if then, ok := t.Keys[text[:end]]; ok {
			if action := then.match(a); action != nil {
				return action
			}
		}
	}
	return nil
}

// An Answer is what a predicate says.
type Answer int

// What a predicate says. Unable is of an input that Envoy cannot give at all,
// which is the certificate's of a connection without TLS: nothing is asked any
// more, and the filter refuses. That is not the same as an input that a request
// does not have: of it nothing holds, and so its Not does.
const (
	No Answer = iota
	Yes
	Unable
)

func answer(yes bool) Answer {
	if yes {
		return Yes
	}
	return No
}

// Holds tells whether p does. One Yes makes an Or so, whatever else is Unable.
// And is the first of its terms that is not Yes.
func (p *Predicate) Holds(a *Attributes) Answer {
	switch p.Op {
	case And:
		for _, term := range p.Terms {
			if got := term.Holds(a); got != Yes {
				return got
			}
		}
		return Yes
	case Or:
		out := No
		for _, term := range p.Terms {
			switch term.Holds(a) {
			case Yes:
				return Yes
			case Unable:
				out = Unable
			}
		}
		return out
	case Not:
		if got := p.Terms[0].Holds(a); got != Unable {
			return answer(got == No)
		}
		return Unable
	}
	if p.Input.Kind == URISAN && !a.TLS {
		return Unable
	}
	return answer(p.leaf(a))
}

func (p *Predicate) leaf(a *Attributes) bool {
	switch {
	case p.Input.Kind == Always:
		return true
	case p.Input.Kind == Authenticated:
		return a.TLS && (p.Text == nil || p.principal(a))
	case p.Value != nil:
		return p.Value.Match(a.metadata(p.Input))
	case p.Networks != nil:
		ip := a.address(p.Input)
		for _, n := range p.Networks {
			if n.Contains(ip) {
				return true
			}
		}
		return false
	}
	text, ok := a.text(p.Input)
	return ok && p.Text.Match(text)
}

// Match compares.
func (t *Text) Match(s string) bool {
	literal := t.Literal
	if t.IgnoreCase {
		literal, s = lower(literal), lower(s)
	}
	switch t.Kind {
	case Exact:
		return s == literal
	case Prefix:
		return strings.HasPrefix(s, literal)
	case Suffix:
		return strings.HasSuffix(s, literal)
	case Contains:
		return strings.Contains(s, literal)
	case Regex:
		return t.Shape.Match(s)
	}
	return false
}

// lower is ASCII's, byte by byte.
func lower(s string) string {
	out := []byte(s)
	for i, b := range out {
		if 'A' <= b && b <= 'Z' {
			out[i] = b + 'a' - 'A'
		}
	}
	return string(out)
}

// Match compares a value as of encoding/json. What is missing is nil.
func (v *Value) Match(value any) bool {
	switch {
	case v.Text != nil:
		s, ok := value.(string)
		return ok && v.Text.Match(s)
	case v.OneOf != nil:
		list, _ := value.([]any)
		for _, item := range list {
			if v.OneOf.Match(item) {
				return true
			}
		}
		return false
	case v.Present:
		return value != nil
	}
	for i := range v.Any {
		if v.Any[i].Match(value) {
			return true
		}
	}
	return false
}

// Attributes are what Envoy knows of a request or a connection.
type Attributes struct {
	TLS     bool     // the connection is TLS, with a verified certificate of the peer
	URISANs []string // of that certificate
	// Headers are by lower-case name, with ":method", each line apart. Nil for a
	// network filter.
	Headers map[string][]string
	// State is the filter state by key, of objects that are strings.
	State map[string]string
	// Metadata is the dynamic metadata by filter: values as of encoding/json.
	Metadata map[string]map[string]any

	DirectSource, Source netip.Addr // the other end, and the client as proxies tell it
	Destination          netip.AddrPort
	ServerName           string // empty: none
}

// text is what an input gives; false where a request does not have it.
func (a *Attributes) text(in Input) (string, bool) {
	switch in.Kind {
	case URISAN:
		return strings.Join(a.URISANs, ","), len(a.URISANs) > 0
	case Header:
		lines := a.Headers[in.Name]
		return strings.Join(lines, ","), len(lines) > 0
	case State:
		s, ok := a.State[in.Name]
		return s, ok
	case Port:
		return strconv.Itoa(int(a.Destination.Port())), true
	case ServerName:
		return a.ServerName, a.ServerName != ""
	}
	return "", false
}

// address is what an input of addresses gives; invalid where there is none,
// which no network contains.
func (a *Attributes) address(in Input) netip.Addr {
	switch in.Kind {
	case DirectSource:
		return a.DirectSource.Unmap().WithZone("")
	case Source:
		return a.Source.Unmap().WithZone("")
	case Destination:
		return a.Destination.Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

func (a *Attributes) metadata(in Input) any {
	var value any = a.Metadata[in.Name]
	for _, key := range in.Path {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[key]
	}
	return value
}
