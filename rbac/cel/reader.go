package cel

import (
	"errors"
	"strconv"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"

	"github.com/istio-auth/istio-auth/rbac"
)

// A reader makes an Expression of a checked tree.
type reader struct {
	info   *ast.SourceInfo
	values int // that were read
}

func (r *reader) refuse(e ast.Expr, reason, format string, args ...any) *Refusal {
	return refuse(r.info, e, reason, format, args...)
}

// condition reads what is true or false; not turns it around.
func (r *reader) condition(e ast.Expr, not bool, depth int) (rbac.Expression, *Refusal) {
	if depth > MaxDepth {
		return rbac.Expression{}, r.refuse(e, "too-deep", "nested deeper than %d levels", MaxDepth)
	}
	if e.Kind() != ast.CallKind {
		if e.Kind() == ast.LiteralKind {
			return rbac.Expression{}, r.refuse(e, "constant", "a condition that no request changes")
		}
		return rbac.Expression{}, r.refuse(e, "wrong-type", "no condition: compare it with a text")
	}
	call := e.AsCall()
	switch name := call.FunctionName(); name {
	case operators.LogicalNot:
		return r.condition(call.Args()[0], !not, depth+1)
	case operators.LogicalAnd, operators.LogicalOr:
		op := rbac.All
		if (name == operators.LogicalOr) != not { // De Morgan
			op = rbac.Any
		}
		return r.joined(call, op, not, depth)
	case operators.Equals:
		return r.equals(e, call.Args()[0], call.Args()[1], not)
	case operators.NotEquals:
		return r.equals(e, call.Args()[0], call.Args()[1], !not)
	case operators.In:
		return r.in(e, call.Args()[0], call.Args()[1], not)
	case overloads.StartsWith:
		return r.beginsOrEnds(e, rbac.Prefix, not)
	case overloads.EndsWith:
		return r.beginsOrEnds(e, rbac.Suffix, not)
	case within:
		return r.within(e, not)
	case has:
		return r.has(e, not)
	}
	return rbac.Expression{}, r.refuse(e, "wrong-type", "no condition: compare it with a text")
}

// joined reads the parts of an and, or an or, and takes in those of parts that
// are the same.
func (r *reader) joined(call ast.CallExpr, op rbac.Op, not bool, depth int) (rbac.Expression, *Refusal) {
	out := rbac.Expression{Op: op}
	for _, arg := range call.Args() {
		level := depth + 1
		if arg.Kind() == ast.CallKind && arg.AsCall().FunctionName() == call.FunctionName() {
			level = depth // a && b && c is no deeper than a && b
		}
		term, refusal := r.condition(arg, not, level)
		if refusal != nil {
			return rbac.Expression{}, refusal
		}
		if term.Op == op {
			out.Terms = append(out.Terms, term.Terms...)
		} else {
			out.Terms = append(out.Terms, term)
		}
	}
	return out, nil
}

// equals reads one attribute against a text, or against another attribute.
func (r *reader) equals(e, left, right ast.Expr, not bool) (rbac.Expression, *Refusal) {
	l, refusal := r.operand(left)
	if refusal != nil {
		return rbac.Expression{}, refusal
	}
	m, refusal := r.operand(right)
	if refusal != nil {
		return rbac.Expression{}, refusal
	}
	if l.attribute.Kind() == rbac.Audience || m.attribute.Kind() == rbac.Audience {
		return rbac.Expression{}, r.refuse(e, "wrong-type", "the audiences are a list: use in")
	}
	if l.constant() && m.constant() {
		return rbac.Expression{}, r.refuse(e, "constant", "two texts: a condition that no request changes")
	}
	if l.constant() || !l.bare() && m.bare() {
		l, m, left, right = m, l, right, left
	}
	if m.constant() {
		if !l.bare() {
			return rbac.Expression{}, r.refuse(left, "not-supported", "a text is compared with an attribute alone: move %q to the other side", l.lead+l.trail)
		}
		return r.test(left, l.attribute, rbac.Exact, []operand{m}, not)
	}
	return r.compare(e, rbac.Exact, l, m, not)
}

// in reads an attribute in a list of texts, or a text or attribute in a list
// that the request has.
func (r *reader) in(e, item, list ast.Expr, not bool) (rbac.Expression, *Refusal) {
	one, refusal := r.operand(item)
	if refusal != nil {
		return rbac.Expression{}, refusal
	}
	if list.Kind() != ast.ListKind {
		many, refusal := r.operand(list)
		switch {
		case refusal != nil:
			return rbac.Expression{}, refusal
		case !many.bare():
			return rbac.Expression{}, r.refuse(list, "wrong-type", "want a list")
		case one.constant():
			return r.test(item, many.attribute, rbac.Exact, []operand{one}, not)
		case one.bare():
			return r.compare(e, rbac.Exact, one, many, not)
		}
		return r.compare(e, rbac.Exact, many, one, not)
	}
	if one.constant() || !one.bare() {
		return rbac.Expression{}, r.refuse(item, "not-supported", "what stands before in and a list of texts is one attribute")
	}
	var values []operand
	for _, element := range list.AsList().Elements() {
		v, refusal := r.operand(element)
		if refusal != nil {
			return rbac.Expression{}, refusal
		}
		if !v.constant() {
			return rbac.Expression{}, r.refuse(element, "not-supported", "a list has texts only: compare attributes with ==")
		}
		values = append(values, v)
	}
	if len(values) == 0 || len(list.AsList().OptionalIndices()) > 0 {
		return rbac.Expression{}, r.refuse(list, "constant", "nothing is in an empty list")
	}
	return r.test(item, one.attribute, rbac.Exact, values, not)
}

// beginsOrEnds reads attribute.startsWith(text), and endsWith.
func (r *reader) beginsOrEnds(e ast.Expr, how rbac.Kind, not bool) (rbac.Expression, *Refusal) {
	call := e.AsCall()
	l, refusal := r.operand(call.Target())
	if refusal != nil {
		return rbac.Expression{}, refusal
	}
	if !l.bare() {
		return rbac.Expression{}, r.refuse(call.Target(), "not-supported", "what begins or ends with something is one attribute")
	}
	m, refusal := r.operand(call.Args()[0])
	if refusal != nil {
		return rbac.Expression{}, refusal
	}
	if m.constant() {
		return r.test(call.Target(), l.attribute, how, []operand{m}, not)
	}
	if how == rbac.Prefix && m.trail == "" {
		return rbac.Expression{}, r.refuse(call.Args()[0], "open-ended", `whoever chooses a shorter value matches more: let a text follow, as in startsWith("/users/" + a + "/")`)
	}
	if how == rbac.Suffix && m.lead == "" {
		return rbac.Expression{}, r.refuse(call.Args()[0], "open-ended", `whoever chooses a shorter value matches more: let a text come first, as in endsWith("." + a)`)
	}
	return r.compare(e, how, l, m, not)
}

// within reads address.within("192.0.2.0/24").
func (r *reader) within(e ast.Expr, not bool) (rbac.Expression, *Refusal) {
	call := e.AsCall()
	l, refusal := r.operand(call.Target())
	if refusal != nil {
		return rbac.Expression{}, refusal
	}
	m, refusal := r.operand(call.Args()[0])
	if refusal != nil {
		return rbac.Expression{}, refusal
	}
	if !m.constant() {
		return rbac.Expression{}, r.refuse(call.Args()[0], "not-supported", "a network is written out")
	}
	return r.test(call.Target(), l.attribute, rbac.Network, []operand{m}, not)
}

// has reads has(attribute).
func (r *reader) has(e ast.Expr, not bool) (rbac.Expression, *Refusal) {
	arg := e.AsCall().Args()[0]
	l, refusal := r.operand(arg)
	switch {
	case refusal != nil:
		return rbac.Expression{}, refusal
	case !l.bare():
		return rbac.Expression{}, r.refuse(arg, "constant", "want one attribute")
	case l.attribute.Kind() == rbac.ServiceAccount:
		return rbac.Expression{}, r.refuse(arg, "not-supported", "whoever has a service account has a namespace: use has(source.namespace)")
	case l.attribute.Kind() == rbac.Method, l.attribute.Kind() == rbac.Path, l.attribute.Kind() == rbac.Host:
		return rbac.Expression{}, r.refuse(arg, "constant", "every HTTP request has it")
	}
	return r.test(arg, l.attribute, rbac.Present, []operand{{lead: "*"}}, not)
}

// test makes a Test of an attribute by texts.
func (r *reader) test(at ast.Expr, a rbac.Attribute, how rbac.Kind, values []operand, not bool) (rbac.Expression, *Refusal) {
	var list []rbac.Pattern
	for _, v := range values {
		p, refusal := r.pattern(at, a, how, v)
		if refusal != nil {
			return rbac.Expression{}, refusal
		}
		list = append(list, p)
	}
	t := rbac.Test{Attribute: a, In: list}
	if not {
		t.In, t.NotIn = nil, list
	}
	return rbac.Expression{Op: rbac.Matches, Test: t}, nil
}

// pattern reads a text as a value of an attribute. In CEL a text is what it is:
// one that the language of policies would take for something else is refused.
func (r *reader) pattern(at ast.Expr, a rbac.Attribute, how rbac.Kind, v operand) (rbac.Pattern, *Refusal) {
	if v.at != nil {
		at = v.at
	}
	if r.values++; r.values > MaxValues {
		return rbac.Pattern{}, r.refuse(at, "too-many", "more than %d values", MaxValues)
	}
	text := v.lead
	if (a.Kind() == rbac.DestinationPort) != v.number {
		return rbac.Pattern{}, r.refuse(at, "wrong-type", "a port is a number, and all else a text")
	}
	switch {
	case text == "":
		return rbac.Pattern{}, r.refuse(at, "empty-value", "empty: to ask whether a request has it, write has(...)")
	case how != rbac.Present && strings.Contains(text, "*"):
		return rbac.Pattern{}, r.refuse(at, "bad-star", "%.80q: a star is no wildcard here: use startsWith or endsWith", text)
	case a.Kind() == rbac.Path && strings.ContainsAny(text, "{}"):
		return rbac.Pattern{}, r.refuse(at, "bad-template", "%.80q: templates stand in paths of an operation", text)
	}
	written := text
	switch how {
	case rbac.Prefix:
		written += "*"
	case rbac.Suffix:
		written = "*" + written
	}
	p, err := rbac.ParseValue(a, written, "")
	var refused *rbac.Refusal
	switch {
	case errors.As(err, &refused):
		return rbac.Pattern{}, r.refuse(at, refused.Reason, "%s", refused.Detail)
	case err != nil:
		return rbac.Pattern{}, r.refuse(at, "bad-value", "%v", err)
	}
	if kind := p.Kind(); kind != how && kind != rbac.Pair || (how == rbac.Exact && kind == how || how == rbac.Prefix || how == rbac.Suffix) && p.Text() != text {
		return rbac.Pattern{}, r.refuse(at, "not-canonical", "%.80q: requests have it as %.80q", text, p.Text())
	}
	return p, nil
}

// compare makes a Comparison: left is, begins or ends with what right says.
func (r *reader) compare(e ast.Expr, how rbac.Kind, left, right operand, not bool) (rbac.Expression, *Refusal) {
	if r.values++; r.values > MaxValues {
		return rbac.Expression{}, r.refuse(e, "too-many", "more than %d values", MaxValues)
	}
	if right.attribute.Kind() == rbac.Path && left.attribute.Kind() != rbac.Path && how == rbac.Exact && right.bare() && left.bare() {
		left, right = right, left
	}
	switch {
	case !left.bare():
		return rbac.Expression{}, r.refuse(e, "not-supported", "texts stand beside one of the two attributes only")
	case right.attribute.Kind() == rbac.Path:
		return rbac.Expression{}, r.refuse(e, "path-on-the-right", "a path is compared with texts and other attributes, and stands alone on its side, once")
	case left.attribute == right.attribute:
		return rbac.Expression{}, r.refuse(e, "constant", "%s compared with itself", left.attribute)
	}
	for _, o := range []operand{left, right} {
		switch o.attribute.Kind() {
		case rbac.ServiceAccount, rbac.SourceIP, rbac.RemoteIP, rbac.DestinationIP, rbac.DestinationPort:
			return rbac.Expression{}, r.refuse(e, "no-comparison", "%s is not compared with other attributes", o.attribute)
		}
	}
	if left.attribute.Kind() == rbac.Path && right.lead+right.trail != "" && !aroundInPath(how, right) {
		return rbac.Expression{}, r.refuse(right.at, "bad-path", "no path has %.80q and %.80q around anything", right.lead, right.trail)
	}
	c := rbac.Comparison{Left: left.attribute, How: how, Lead: right.lead, Right: right.attribute, Trail: right.trail, Not: not}
	return rbac.Expression{Op: rbac.Compare, Comparison: c}, nil
}

// aroundInPath tells whether a path can have the texts of o around something.
func aroundInPath(how rbac.Kind, o operand) bool {
	if strings.ContainsAny(o.lead+o.trail, "*{}") {
		return false
	}
	written := o.lead + "x" + o.trail
	switch {
	case how == rbac.Suffix:
		written = "*" + written
	case o.lead == "":
		written = "/" + written // the attribute has the slash
	}
	if how == rbac.Prefix {
		written += "*"
	}
	_, err := rbac.ParseValue(rbac.Attr(rbac.Path), written, "")
	return err == nil
}

// An operand is a text, or an attribute between two texts.
type operand struct {
	at          ast.Expr
	attribute   rbac.Attribute
	number      bool // lead is a number
	lead, trail string
}

func (o operand) constant() bool { return o.attribute == rbac.Attribute{} }

// bare tells whether it is an attribute without texts.
func (o operand) bare() bool { return !o.constant() && o.lead == "" && o.trail == "" }

func (r *reader) operand(e ast.Expr) (operand, *Refusal) {
	o := operand{at: e}
	switch e.Kind() {
	case ast.LiteralKind:
		switch v := e.AsLiteral().(type) {
		case types.String:
			o.lead = string(v)
			return o, nil
		case types.Int:
			o.lead, o.number = strconv.FormatInt(int64(v), 10), true
			return o, nil
		}
		return o, r.refuse(e, "wrong-type", "want a text in quotes")
	case ast.CallKind:
		if e.AsCall().FunctionName() == operators.Add {
			return r.sum(e)
		}
	}
	var refusal *Refusal
	o.attribute, refusal = r.attribute(e)
	return o, refusal
}

// sum reads texts around one attribute, or texts alone.
func (r *reader) sum(e ast.Expr) (operand, *Refusal) {
	args := e.AsCall().Args()
	a, refusal := r.operand(args[0])
	if refusal != nil {
		return a, refusal
	}
	b, refusal := r.operand(args[1])
	switch {
	case refusal != nil:
		return b, refusal
	case a.number || b.number:
		return a, r.refuse(e, "not-supported", "there is no arithmetic")
	case a.constant():
		b.lead = a.lead + b.lead
		b.at = e
		return b, nil
	case !b.constant():
		return a, r.refuse(e, "not-supported", "one attribute only, between texts")
	}
	a.trail += b.lead
	a.at = e
	return a, nil
}

// attribute reads a name, and what is below headers and claims.
func (r *reader) attribute(e ast.Expr) (a rbac.Attribute, refusal *Refusal) {
	root, keys, refusal := r.name(e)
	if refusal != nil {
		return a, refusal
	}
	var err error
	switch {
	case root == headers && len(keys) == 1:
		a, err = rbac.HeaderAttr(keys[0])
	case root == claims && len(keys) > 0:
		a, err = rbac.ClaimAttr(keys...)
	case root == headers, root == claims:
		return a, r.refuse(e, "not-supported", `want one of them: %s["x"]`, root)
	case len(keys) > 0:
		return a, r.refuse(e, "wrong-type", "%s has nothing below it", root)
	default:
		for _, v := range variables {
			if v.name == root {
				a = rbac.Attr(v.kind)
			}
		}
	}
	var refused *rbac.Refusal
	switch {
	case errors.As(err, &refused):
		return a, r.refuse(e, refused.Reason, "%s", refused.Detail)
	case err != nil:
		return a, r.refuse(e, "bad-attribute", "%v", err)
	case a == rbac.Attribute{}:
		return a, r.refuse(e, "unknown-attribute", "there is no attribute %.80s", root)
	}
	return a, nil
}

// name reads a variable, and the keys behind it.
func (r *reader) name(e ast.Expr) (root string, keys []string, refusal *Refusal) {
	switch e.Kind() {
	case ast.IdentKind:
		return strings.TrimPrefix(e.AsIdent(), "."), nil, nil
	case ast.SelectKind:
		if e.AsSelect().IsTestOnly() {
			break
		}
		root, keys, refusal = r.name(e.AsSelect().Operand())
		return root, append(keys, e.AsSelect().FieldName()), refusal
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index {
			break
		}
		if call.Args()[1].Kind() == ast.LiteralKind {
			if key, ok := call.Args()[1].AsLiteral().(types.String); ok {
				root, keys, refusal = r.name(call.Args()[0])
				return root, append(keys, string(key)), refusal
			}
		}
		return "", nil, r.refuse(call.Args()[1], "not-supported", "a key is a text in quotes")
	}
	return "", nil, r.refuse(e, "not-supported", "want an attribute or a text")
}
