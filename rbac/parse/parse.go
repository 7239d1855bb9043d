// Package parse reads what authors write, strictly.
//
// It reads security.istio.io/v1 AuthorizationPolicy objects, as YAML or JSON,
// into the model of package rbac. What it does not understand it refuses, and
// so it does what it understands but this version cannot enforce: nothing of a
// policy is ever ignored. Each refusal has a reason code and says where it is,
// to the line and column. Start at [Policies].
//
// The fields are those of istio.io/api, looked up in its descriptors: a field
// that a newer version of the language adds is one that is not supported, until
// it stands in the list of those that are.
package parse

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/istio-auth/istio-auth/rbac"
)

// Limits of what is read.
const (
	MaxFile   = 4 << 20  // bytes of one call's data
	MaxObject = 64 << 10 // bytes of one object, as written

	maxRules    = 512 // rules of a policy, and sources and operations of a rule
	maxAccounts = 16  // service accounts of a field
	maxLabels   = 64  // labels of a selector
	maxDepth    = 32  // levels of nesting
)

// ErrRefused is what every refusal is, by errors.Is.
var ErrRefused = errors.New("parse: refused")

// An Error is one refusal: what is wrong where.
type Error struct {
	Name   string // of the file or object, as given to Policies
	Line   int    // from 1; 0 where it is not known
	Column int    // from 1; 0 where it is not known
	Field  string // as "spec.rules[0].from[1].source.principals[2]"; empty for the whole
	Reason string // a stable code in kebab-case
	Detail string // for the author
}

// Error is "name:line:column: field: detail".
func (e *Error) Error() string {
	text := e.Name
	if e.Line > 0 {
		text = fmt.Sprintf("%s:%d", text, e.Line)
	}
	if e.Column > 0 {
		text = fmt.Sprintf("%s:%d", text, e.Column)
	}
	if e.Field != "" {
		text += ": " + e.Field
	}
	return text + ": " + e.Detail
}

// Unwrap is [ErrRefused].
func (e *Error) Unwrap() error { return ErrRefused }

// Policies reads every document of data, YAML or JSON. It returns all of the
// policies or none: the error joins an [Error] for each document that is
// refused. Data without a policy is refused too, since a file that is being
// written looks like that. name stands in the errors.
func Policies(name string, data []byte) ([]rbac.Policy, error) {
	if len(data) > MaxFile {
		return nil, &Error{Name: name, Reason: "too-long", Detail: fmt.Sprintf("%d bytes, at most %d", len(data), MaxFile)}
	}
	if !utf8.Valid(data) {
		return nil, &Error{Name: name, Reason: "not-utf8", Detail: "not UTF-8"}
	}
	var policies []rbac.Policy
	var refused []error
	seen := map[string]bool{}
	for _, doc := range split(data) {
		p, at, err := doc.policy()
		var e *Error
		switch {
		case errors.As(err, &e):
		case err != nil:
			return nil, err
		case at == nil:
			continue // nothing but comments
		case seen[p.Key()]:
			e = at.refuse("metadata.name", "duplicate-policy", "%s is in this file twice", p.Key())
		}
		if e != nil {
			e.Name = name
			refused = append(refused, e)
			continue
		}
		seen[p.Key()] = true
		policies = append(policies, p)
	}
	if len(refused) > 0 {
		return nil, errors.Join(refused...)
	}
	if len(policies) == 0 {
		return nil, &Error{Name: name, Line: 1, Reason: "empty", Detail: "no policy is in it; delete the file to remove its policies"}
	}
	return policies, nil
}

// A document is one of a stream's, and where it begins.
type document struct {
	source []byte
	line   int // lines before it
}

// split cuts data at its document markers: a line that begins with three
// hyphens and a blank or nothing is one even inside a scalar (YAML 1.2.2 §9.1.2).
func split(data []byte) []document {
	var docs []document
	start, startLine, line := 0, 0, 0
	for at := 0; at < len(data); line++ {
		end := bytes.IndexByte(data[at:], '\n') + 1
		if end == 0 {
			end = len(data) - at
		}
		text := data[at : at+end]
		if bytes.HasPrefix(text, []byte("---")) && (len(text) == 3 || bytes.IndexByte([]byte(" \t\r\n"), text[3]) >= 0) && at > start {
			docs = append(docs, document{data[start:at], startLine})
			start, startLine = at, line
		}
		at += end
	}
	return append(docs, document{data[start:], startLine})
}
