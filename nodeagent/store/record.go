package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/nodeagent"
)

// Limits of one record.
const (
	maxRecord  = 32 << 10
	maxToken   = 16 << 10
	maxTargets = 16
	maxTarget  = 4096 // PATH_MAX
)

// A Record is what is known of one pod.
type Record struct {
	Workload nodeagent.Workload
	// Expires is when the token does. It is zero where there is no token.
	Expires time.Time
	// Targets are the paths at which the pod's volumes are mounted: sorted, and
	// one at the least.
	Targets []string
}

// version is that of the form below. Another one is not read: the kubelet will
// tell all of it again within two minutes.
const version = 1

// onDisk is the form of a record. The name is a habit: it is never on one.
type onDisk struct {
	Version        int       `json:"version"`
	Namespace      string    `json:"namespace"`
	Name           string    `json:"name"`
	UID            string    `json:"uid"`
	ServiceAccount string    `json:"serviceAccount"`
	Token          string    `json:"token,omitempty"`
	Expires        time.Time `json:"expires,omitzero"`
	Targets        []string  `json:"targets"`
}

// placeholder stands in where a pod's names are checked: its own trust domain has
// no part in whether they are good.
var placeholder = spiffeid.RequireTrustDomainFromString("any.invalid")

// check refuses what cannot be a record of ours.
func (r Record) check() error {
	if _, err := nodeagent.ExpectedID(placeholder, r.Workload.Pod); err != nil {
		return err
	}
	token := r.Workload.Token.Reveal()
	switch {
	case len(token) > maxToken:
		return attest.Refuse("bad-token", "%d bytes, at most %d", len(token), maxToken)
	case strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return attest.Refuse("bad-token", "a character that no token has")
	case (token == "") != r.Expires.IsZero():
		return attest.Refuse("bad-expiry", "a token and the time of its end come together")
	case len(r.Targets) == 0 || len(r.Targets) > maxTargets:
		return attest.Refuse("bad-targets", "%d of them, 1 to %d", len(r.Targets), maxTargets)
	}
	for i, target := range r.Targets {
		switch {
		case len(target) > maxTarget || !filepath.IsAbs(target) || filepath.Clean(target) != target || target == "/" || strings.ContainsRune(target, 0):
			return attest.Refuse("bad-target", "%.200q", target)
		case i > 0 && r.Targets[i-1] >= target:
			return attest.Refuse("bad-targets", "not sorted, or one twice")
		}
	}
	return nil
}

// encode returns the bytes of r.
func encode(r Record) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	p := r.Workload.Pod
	data, err := json.Marshal(onDisk{version, p.Namespace, p.Name, p.UID, p.ServiceAccount, r.Workload.Token.Reveal(), r.Expires.UTC(), r.Targets})
	if err == nil && len(data) > maxRecord {
		err = attest.Refuse("too-large", "%d bytes, at most %d", len(data), maxRecord)
	}
	return data, err
}

// decode reads what encode wrote, and refuses everything else: an unknown field,
// another version, a second value, a name twice, a bad name. Errors do not quote
// the bytes, which may hold a token.
func decode(data []byte) (Record, error) {
	if len(data) > maxRecord {
		return Record{}, attest.Refuse("too-large", "%d bytes, at most %d", len(data), maxRecord)
	}
	var d onDisk
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return Record{}, attest.Refuse("not-a-record", "%s", kindOf(err))
	}
	if _, err := dec.Token(); err != io.EOF {
		return Record{}, attest.Refuse("not-a-record", "more than one value")
	}
	if d.Version != version {
		return Record{}, attest.Refuse("other-version", "%d, want %d", d.Version, version)
	}
	r := Record{
		Workload: nodeagent.Workload{
			Pod:   attest.Pod{Namespace: d.Namespace, Name: d.Name, UID: d.UID, ServiceAccount: d.ServiceAccount},
			Token: attest.NewToken(d.Token),
		},
		Expires: d.Expires, Targets: slices.Clone(d.Targets),
	}
	// What encode would have written, byte for byte: this refuses names twice, other
	// cases, other orders and white space at one stroke.
	again, err := encode(r)
	if err != nil {
		return Record{}, err
	}
	if !bytes.Equal(again, data) {
		return Record{}, attest.Refuse("not-canonical", "these bytes are not ours")
	}
	return r, nil
}

// kindOf names the kind of a JSON error without its text, which may quote the input.
func kindOf(err error) string {
	switch {
	case errors.As(err, new(*json.SyntaxError)):
		return "a syntax error"
	case errors.As(err, new(*json.UnmarshalTypeError)):
		return "a value of another type"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "cut short"
	}
	return fmt.Sprintf("an error of type %T", err)
}
