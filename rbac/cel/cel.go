// Package cel reads attribute expressions: conditions that no field of a policy
// can say, in a small part of CEL.
//
// cel-go parses and checks an author's text against [Variables], and what it
// understood becomes an [rbac.Expression], whose meaning is rbac/eval's: no CEL
// is evaluated for a request, here or in a filter. What has no place in that
// model is refused: loops, arithmetic, regular expressions, sizes, and texts that
// could never match, or that would match more than they show. Start at [Parse].
//
//	request.path.startsWith("/users/" + request.auth.claims["sub"] + "/")
//	source.namespace in ["shop", "front"] && !("guest" in request.auth.claims["groups"])
//	source.ip.within("10.0.0.0/8") || has(request.headers["x-request-id"])
package cel

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	celgo "cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"

	"github.com/istio-auth/istio-auth/rbac"
)

// Limits of an expression.
const (
	MaxText   = 4 << 10 // bytes
	MaxValues = 256     // values that attributes are compared with
	MaxDepth  = 24      // levels of and, or, not
)

// ErrRefused is what every refusal is, by errors.Is.
var ErrRefused = errors.New("cel: refused")

// A Refusal says why an expression is refused, and where.
type Refusal struct {
	Line, Column int    // from 1; of characters
	Reason       string // a stable code in kebab-case
	Detail       string // for the author
}

// Error is "line:column: detail".
func (r *Refusal) Error() string { return fmt.Sprintf("%d:%d: %s", r.Line, r.Column, r.Detail) }

// Unwrap is [ErrRefused].
func (r *Refusal) Unwrap() error { return ErrRefused }

// Parse reads an expression. Its negations stand at the leaves, and its Source
// is text. Errors are [Refusal]s.
func Parse(text string) (rbac.Expression, error) {
	if len(text) > MaxText {
		return rbac.Expression{}, &Refusal{Line: 1, Column: 1, Reason: "too-long", Detail: fmt.Sprintf("%d bytes, at most %d", len(text), MaxText)}
	}
	if !utf8.ValidString(text) {
		return rbac.Expression{}, &Refusal{Line: 1, Column: 1, Reason: "not-utf8", Detail: "not UTF-8"}
	}
	env, err := environment()
	if err != nil {
		return rbac.Expression{}, fmt.Errorf("making the environment: %w", err)
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return rbac.Expression{}, first(issues, "bad-syntax")
	}
	if refusal := screen(parsed.NativeRep()); refusal != nil {
		return rbac.Expression{}, refusal
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return rbac.Expression{}, first(issues, "wrong-type")
	}
	r := &reader{info: checked.NativeRep().SourceInfo()}
	e, refusal := r.condition(checked.NativeRep().Expr(), false, 0)
	if refusal != nil {
		return rbac.Expression{}, refusal
	}
	e.Source = text
	return e, nil
}

// first is the first thing that cel-go found.
func first(issues *celgo.Issues, reason string) *Refusal {
	r := &Refusal{Line: 1, Column: 1, Reason: reason, Detail: "not understood"}
	if list := issues.Errors(); len(list) > 0 {
		if r.Detail = list[0].Message; strings.Contains(r.Detail, "recursion") {
			r.Reason = "too-deep" // it has no type of its own
		}
		if at := list[0].Location; at != nil && at.Line() > 0 {
			r.Line, r.Column = at.Line(), max(at.Column()+1, 1) // of an empty text, 0
		}
	}
	return r
}

// refuse makes a Refusal for the place of e.
func refuse(info *ast.SourceInfo, e ast.Expr, reason, format string, args ...any) *Refusal {
	r := &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
	if at := info.GetStartLocation(e.ID()); at.Line() > 0 {
		r.Line, r.Column = at.Line(), at.Column()+1
	}
	return r
}
