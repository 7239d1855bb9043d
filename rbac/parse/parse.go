// Package parse reads what authors write, strictly.
//
// It reads the objects of security.istio.io/v1 (AuthorizationPolicy,
// RequestAuthentication, PeerAuthentication), as YAML or JSON, into the model of
// package rbac. What it does not understand it refuses, and so it does what it
// understands but this version cannot enforce: nothing of an object is ever
// ignored. Each refusal has a reason code and says where it is, to the line and
// column. Start at [Policies] and [ReadObjects].
//
// The fields are those of istio.io/api, looked up in its descriptors: a field
// that a newer version of the language adds is one that is not supported, until
// it stands in the list of those that are.
//
// Other kinds of objects are read by their own packages, with the strict reader
// of this one: see [Read] and [Node].
//
// [JSON] writes an object in its canonical form. Between a manager and its agents
// it says what no author can write; [Wire] alone reads that.
package parse

import (
	"errors"
	"fmt"

	"github.com/istio-auth/istio-auth/rbac"
)

// Limits of what is read.
const (
	MaxFile   = 4 << 20  // bytes of one call's data
	MaxObject = 64 << 10 // bytes of one object, as written
	MaxWire   = 1 << 20  // bytes of one object for Wire: with keys that were fetched, or made of many

	maxRules    = 512  // rules of a policy, and sources, operations and conditions of a rule
	maxAccounts = 16   // service accounts of a field
	maxLabels   = 64   // labels of a selector
	maxDepth    = 32   // levels of nesting
	maxTargets  = 16   // targetRefs
	maxIssuers  = 64   // rules of a RequestAuthentication
	maxPorts    = 64   // ports of a PeerAuthentication
	maxPlaces   = 16   // places of each kind where a token is looked for, and claims that become headers
	maxIssuer   = 2048 // bytes of an issuer, an audience and a key set's URI
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

// Objects are what is in a file. The zero value is ready to be filled by its
// Kinds.
type Objects struct {
	Policies []rbac.Policy
	Requests []rbac.RequestAuthentication
	Peers    []rbac.PeerAuthentication
}

// What a document says it is, by its kind.
const (
	group = "security.istio.io"

	policyKind  = "AuthorizationPolicy"
	requestKind = "RequestAuthentication"
	peerKind    = "PeerAuthentication"
)

// Kinds read Istio's objects into o, for [Read].
func (o *Objects) Kinds() Kinds {
	kinds := o.policyKinds()
	for _, version := range []string{"/v1", "/v1beta1"} {
		kinds[Kind{group + version, requestKind}] = func(d *Document) error {
			a, err := d.request()
			if err == nil {
				o.Requests = append(o.Requests, a)
			}
			return err
		}
		kinds[Kind{group + version, peerKind}] = func(d *Document) error {
			a, err := d.peer()
			if err == nil {
				o.Peers = append(o.Peers, a)
			}
			return err
		}
	}
	return kinds
}

func (o *Objects) policyKinds() Kinds {
	kinds := Kinds{}
	for _, version := range []string{"/v1", "/v1beta1"} {
		kinds[Kind{group + version, policyKind}] = func(d *Document) error {
			p, err := d.policy()
			if err == nil {
				o.Policies = append(o.Policies, p)
			}
			return err
		}
	}
	return kinds
}

// ReadObjects reads every document of data, YAML or JSON. It returns all of the
// objects or none: the error joins an [Error] for each document that is refused.
// Data without an object is refused too, since a file that is being written
// looks like that. name stands in the errors.
func ReadObjects(name string, data []byte) (Objects, error) {
	var o Objects
	if err := Read(name, data, o.Kinds()); err != nil {
		return Objects{}, err
	}
	return o, nil
}

// Policies is [ReadObjects] where every other kind is refused.
func Policies(name string, data []byte) ([]rbac.Policy, error) {
	var o Objects
	if err := Read(name, data, o.policyKinds()); err != nil {
		return nil, err
	}
	return o.Policies, nil
}
