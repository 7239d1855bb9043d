package interpret

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// Decide is what the rules form does: one policy that matches decides by the
// action, and none by its opposite.
func (r *Rules) Decide(a Attributes) Decision {
	for _, p := range r.Policies {
		if p.Permission.Holds(&a) == Yes && p.Principal.Holds(&a) == Yes {
			return Decision{Allowed: r.Kind != Deny, Kind: r.Kind, Name: p.Name}
		}
	}
	if r.Kind == Allow {
		return Decision{Kind: Deny}
	}
	return Decision{Allowed: true}
}

// principal is authenticated.principal_name: one of the URI SANs. (Where a
// certificate has none, DNS names are compared, of which ours have none.)
func (p *Predicate) principal(a *Attributes) bool {
	return slices.ContainsFunc(a.URISANs, p.Text.Match)
}

// rules reads envoy.config.rbac.v3.RBAC as far as grpc-go and Envoy take it
// alike. Conditions, metadata and audit logging are not taken.
func (d *decoder) rules(data []byte) (*Rules, error) {
	out := new(Rules)
	m := read("envoy.config.rbac.v3.RBAC", data)
	var f field
	for m.next(&f) {
		switch f.num {
		case 1:
			out.Kind = actionKind(&m, f)
		case 2:
			p, err := d.rulesPolicy(m.part(f))
			if err != nil {
				return nil, err
			}
			out.Policies = append(out.Policies, p)
		default:
			m.unknown(f)
		}
	}
	if m.err != nil {
		return nil, m.err
	}
	slices.SortFunc(out.Policies, func(a, b RulesPolicy) int { return cmp.Compare(a.Name, b.Name) })
	for i := 1; i < len(out.Policies); i++ {
		if out.Policies[i].Name == out.Policies[i-1].Name {
			return nil, fmt.Errorf("%w: the policy %.80q comes again", ErrUnknown, out.Policies[i].Name)
		}
	}
	return out, nil
}

func (d *decoder) rulesPolicy(data []byte) (RulesPolicy, error) {
	var out RulesPolicy
	var body []byte
	m := read("RBAC.PoliciesEntry", data)
	var f field
	for m.next(&f) {
		switch f.num {
		case 1:
			out.Name = m.text(f)
		case 2:
			m.once(f)
			body = m.part(f)
		default:
			m.unknown(f)
		}
	}
	if m.err != nil {
		return out, m.err
	}
	var permissions, principals []*Predicate
	m = read("Policy", body)
	for m.next(&f) {
		var p *Predicate
		var err error
		switch f.num {
		case 1:
			p, err = d.permission(m.part(f), maxDepth)
			permissions = append(permissions, p)
		case 2:
			p, err = d.principalID(m.part(f), maxDepth)
			principals = append(principals, p)
		default:
			m.unknown(f)
		}
		if err != nil {
			return out, err
		}
	}
	if len(permissions) == 0 || len(principals) == 0 {
		m.fail(fmt.Errorf("%w: Policy: no permission or no principal", ErrMalformed))
	}
	out.Permission, out.Principal = &Predicate{Op: Or, Terms: permissions}, &Predicate{Op: Or, Terms: principals}
	return out, m.err
}

type readPredicate func([]byte, int) (*Predicate, error)

// several reads a Set of permissions or principals.
func several(op Op, data []byte, depth int, one readPredicate) (*Predicate, error) {
	out := &Predicate{Op: op}
	m := read("Set", data)
	var f field
	for m.next(&f) {
		if f.num != 1 {
			m.unknown(f)
			continue
		}
		term, err := one(m.part(f), depth-1)
		if err != nil {
			return nil, err
		}
		out.Terms = append(out.Terms, term)
	}
	if len(out.Terms) == 0 {
		m.fail(fmt.Errorf("%w: an empty set", ErrMalformed))
	}
	return out, m.err
}

func not(data []byte, depth int, one readPredicate) (*Predicate, error) {
	term, err := one(data, depth-1)
	return &Predicate{Op: Not, Terms: []*Predicate{term}}, err
}

// leaf begins a permission or principal: it has exactly one field.
func leaf(name string, data []byte, depth int) (f field, err error) {
	if depth <= 0 {
		return f, fmt.Errorf("%w: deeper than %d", ErrUnknown, maxDepth)
	}
	m := read(name, data)
	var more field
	if !m.next(&f) || m.next(&more) {
		m.fail(fmt.Errorf("%w: %s: not one field", ErrUnknown, name))
	}
	return f, m.err
}

func (d *decoder) permission(data []byte, depth int) (*Predicate, error) {
	f, err := leaf("Permission", data, depth)
	if err != nil {
		return nil, err
	}
	m := message{name: "Permission"}
	out := new(Predicate)
	switch body := f.data; f.num {
	case 1:
		out, err = several(And, m.part(f), depth, d.permission)
	case 2:
		out, err = several(Or, m.part(f), depth, d.permission)
	case 3:
		out, err = anything(f)
	case 4:
		out, err = d.headerMatcher(body)
	case 5:
		out, err = address(Destination, body)
	case 6:
		out.Input = Input{Kind: Port}
		out.Text = &Text{Kind: Exact, Literal: strconv.FormatUint(m.number(f), 10)}
	case 8:
		out, err = not(m.part(f), depth, d.permission)
	case 9:
		out.Input = Input{Kind: ServerName}
		out.Text, err = d.text(m.part(f))
	case 10:
		out, err = d.urlPath(m.part(f))
	default:
		m.unknown(f)
	}
	return out, cmp.Or(err, m.err)
}

func (d *decoder) principalID(data []byte, depth int) (*Predicate, error) {
	f, err := leaf("Principal", data, depth)
	if err != nil {
		return nil, err
	}
	m := message{name: "Principal"}
	out := new(Predicate)
	switch body := f.data; f.num {
	case 1:
		out, err = several(And, m.part(f), depth, d.principalID)
	case 2:
		out, err = several(Or, m.part(f), depth, d.principalID)
	case 3:
		out, err = anything(f)
	case 4:
		out, err = d.authenticated(m.part(f))
	case 6:
		out, err = d.headerMatcher(body)
	case 8:
		out, err = not(m.part(f), depth, d.principalID)
	case 9:
		out, err = d.urlPath(m.part(f))
	case 10:
		out, err = address(DirectSource, body)
	case 11:
		out, err = address(Source, body)
	default:
		m.unknown(f)
	}
	return out, cmp.Or(err, m.err)
}

func anything(f field) (*Predicate, error) {
	if !f.num8 || f.n != 1 {
		return nil, fmt.Errorf("%w: any that is not true", ErrUnknown)
	}
	return &Predicate{Input: Input{Kind: Always}}, nil
}

func address(kind InputKind, data []byte) (*Predicate, error) {
	n, err := network(data)
	return &Predicate{Input: Input{Kind: kind}, Networks: []netip.Prefix{n}}, err
}

// inner reads a message whose only field is a message.
func inner(name string, number int, data []byte) ([]byte, error) {
	var out []byte
	m := read(name, data)
	var f field
	for m.next(&f) {
		if int(f.num) != number {
			m.unknown(f)
			continue
		}
		m.once(f)
		out = m.part(f)
	}
	return out, m.err
}

func (d *decoder) authenticated(data []byte) (*Predicate, error) {
	out := &Predicate{Input: Input{Kind: Authenticated}}
	name, err := inner("Authenticated", 2, data)
	if err == nil && name != nil {
		out.Text, err = d.text(name)
	}
	return out, err
}

// urlPath is the path without its query.
func (d *decoder) urlPath(data []byte) (*Predicate, error) {
	path, err := inner("PathMatcher", 1, data)
	if err != nil {
		return nil, err
	}
	out := &Predicate{Input: Input{Kind: State, Name: PathKey}}
	out.Text, err = d.text(path)
	return out, err
}

// headerMatcher reads a name and a string_match; everything else of a
// HeaderMatcher is not taken.
func (d *decoder) headerMatcher(data []byte) (*Predicate, error) {
	out := &Predicate{Input: Input{Kind: Header}}
	m := read("HeaderMatcher", data)
	var f field
	for m.next(&f) {
		var err error
		switch f.num {
		case 1:
			out.Input.Name = m.text(f)
		case 13:
			m.once(f)
			out.Text, err = d.text(m.part(f))
		default:
			m.unknown(f)
		}
		if err != nil {
			return nil, err
		}
	}
	if out.Input.Name == "" || out.Text == nil {
		m.fail(fmt.Errorf("%w: HeaderMatcher: no name or no string_match", ErrMalformed))
	}
	return out, m.err
}
