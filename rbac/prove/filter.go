package prove

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/istio-auth/istio-auth/rbac/interpret"
)

// An item is a formula and its outcome: where it holds, and no item before it
// does, the filter does that.
type item struct {
	when *node
	then outcome
	name string // of the action
}

// A reader makes items of a matcher. A matcher that gives no action is passed
// over, so that its places in the list are the conditions that lead to it.
type reader struct {
	*table
	memory *memory // nil: nothing is kept
	items  []item
	// ofTLS: the filter asks for the certificate by the input that a connection
	// without TLS does not have.
	ofTLS bool
	// folds: the filter asks for the folded path.
	folds bool
}

func (r *reader) matcher(m *interpret.Matcher, so []*node) error {
	for _, line := range m.List {
		err := r.kept(readKey{when: line.When, then: line.Then}, so, func(r *reader) error {
			n, err := r.predicate(line.When)
			if err != nil {
				return err
			}
			return r.then(line.Then, with(so, n))
		})
		if err != nil {
			return err
		}
	}
	if m.Tree != nil {
		if err := r.tree(m.Tree, so); err != nil {
			return err
		}
	}
	if m.NoMatch == nil {
		return nil
	}
	return r.then(*m.NoMatch, so)
}

// kept calls read, where nothing leads to a branch, once for the same branch.
func (r *reader) kept(k readKey, so []*node, read func(*reader) error) error {
	if r.memory == nil || len(so) > 0 {
		return read(r)
	}
	known, ok := r.memory.read[k]
	if !ok {
		sub := reader{table: r.table}
		if err := read(&sub); err != nil {
			return err
		}
		known = readItems{sub.items, sub.ofTLS, sub.folds}
		r.memory.read[k] = known
	}
	r.items = append(r.items, known.items...)
	r.ofTLS, r.folds = r.ofTLS || known.ofTLS, r.folds || known.folds
	return nil
}

func with(so []*node, n *node) []*node { return append(so[:len(so):len(so)], n) }

func (r *reader) then(t interpret.Then, so []*node) error {
	if t.Matcher != nil {
		return r.matcher(t.Matcher, so)
	}
	if n := and(so...); n.op != constFalse {
		r.items = append(r.items, item{n, outcome(t.Action.Kind), t.Action.Name})
	}
	return nil
}

func (r *reader) tree(t *interpret.Tree, so []*node) error {
	of, err := r.attribute(t.Input)
	if err != nil {
		return err
	}
	if t.Kind == interpret.RangeTree {
		for _, one := range t.Ranges {
			if one.Exclusive {
				return fmt.Errorf("%w: an exclusive network", ErrUnknown)
			}
			n := &node{lit: positive(r.number(atom{of: of, how: within, network: one.Network}))}
			if err := r.then(one.Then, with(so, n)); err != nil {
				return err
			}
		}
		return nil
	}
	how, keys := exact, make([]string, 0, len(t.Keys))
	for key := range t.Keys {
		keys = append(keys, key)
	}
	if t.Kind == interpret.PrefixTree {
		// The longest first: that is how they are asked.
		how = prefix
		slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	}
	for _, key := range keys {
		err := r.kept(readKey{of: of, how: how, text: key, then: t.Keys[key]}, so, func(r *reader) error {
			n := &node{lit: positive(r.number(atom{of: of, how: how, literal: key}))}
			return r.then(t.Keys[key], with(so, n))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) attribute(in interpret.Input) (attribute, error) {
	switch in.Kind {
	case interpret.URISAN:
		r.ofTLS = true
		return attribute{kind: peer}, nil
	case interpret.Header:
		if in.Name == ":method" {
			return attribute{kind: method}, nil
		}
		return attribute{header, in.Name}, nil
	case interpret.State:
		kinds := map[string]attrKind{
			interpret.PeerKey: peer, interpret.PathKey: path, interpret.FoldKey: fold, interpret.HostKey: host,
			interpret.IssuerKey: issuer, interpret.SubjectKey: subject,
		}
		if kind := kinds[in.Name]; kind != 0 {
			r.folds = r.folds || kind == fold
			return attribute{kind: kind}, nil
		}
	case interpret.DirectSource:
		return attribute{kind: direct}, nil
	case interpret.Source:
		return attribute{kind: source}, nil
	case interpret.Destination:
		return attribute{kind: destination}, nil
	case interpret.Port:
		return attribute{kind: port}, nil
	case interpret.ServerName:
		return attribute{kind: server}, nil
	case interpret.Metadata:
		if in.Name == interpret.JWTFilter && len(in.Path) > 1 && in.Path[0] == interpret.PayloadKey {
			return attribute{text, strings.Join(in.Path[1:], "\x00")}, nil
		}
	}
	return attribute{}, fmt.Errorf("%w: the input %v", ErrUnknown, in)
}

func (r *reader) predicate(p *interpret.Predicate) (*node, error) {
	if p.Op == interpret.Leaf {
		return r.leaf(p)
	}
	terms := make([]*node, len(p.Terms))
	for i, t := range p.Terms {
		var err error
		if terms[i], err = r.predicate(t); err != nil {
			return nil, err
		}
	}
	switch p.Op {
	case interpret.And:
		return and(terms...), nil
	case interpret.Or:
		return or(terms...), nil
	}
	return terms[0].not(), nil
}

func (r *reader) leaf(p *interpret.Predicate) (*node, error) {
	if p.Input.Kind == interpret.Metadata && p.Input.Name == interpret.WordFilter {
		return r.wordOf(p.Input, p.Value)
	}
	of, err := r.attribute(p.Input)
	if err != nil {
		return nil, err
	}
	switch {
	case p.Text != nil:
		return r.text(of, p.Text), nil
	case p.Value != nil:
		return r.value(of, p.Value)
	}
	terms := make([]*node, len(p.Networks))
	for i, n := range p.Networks {
		terms[i] = &node{lit: positive(r.number(atom{of: of, how: within, network: n}))}
	}
	return or(terms...), nil
}

// anything matches every text there is, as far as it is valid UTF-8.
const anything = "(?s).*"

func (r *reader) text(of attribute, t *interpret.Text) *node {
	hows := [...]relation{interpret.Exact: exact, interpret.Prefix: prefix, interpret.Suffix: suffix, interpret.Contains: contains, interpret.Regex: regex}
	a := atom{of: of, how: hows[t.Kind], literal: t.Literal, ignoreCase: t.IgnoreCase}
	switch {
	case a.how == regex && a.literal == anything:
		a = atom{of: of, how: present}
	case a.how == regex:
		r.shapes[a.literal] = t.Shape
	}
	return &node{lit: positive(r.number(a))}
}

func (r *reader) value(of attribute, v *interpret.Value) (*node, error) {
	switch {
	case v.Text != nil:
		return r.text(of, v.Text), nil
	case v.OneOf != nil && v.OneOf.Text != nil:
		return r.text(attribute{list, of.name}, v.OneOf.Text), nil
	case v.Any != nil:
		terms := make([]*node, len(v.Any))
		for i := range v.Any {
			var err error
			if terms[i], err = r.value(of, &v.Any[i]); err != nil {
				return nil, err
			}
		}
		return or(terms...), nil
	}
	return nil, fmt.Errorf("%w: a value of metadata that is neither a text nor a list with one", ErrUnknown)
}
