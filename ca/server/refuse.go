package server

import (
	"crypto/rand"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/proof"
)

// Reasons of refusals by this package. They are stable: logs quote them.
const (
	ReasonNoRule        = "method-without-rule"  // no row in the table of methods
	ReasonNoTLS         = "not-tls"              // not a connection of ours
	ReasonNoCertificate = "no-certificate"       // the method asks for one
	ReasonExpired       = "caller-expired"       // the caller's certificate has ended
	ReasonTrustDomain   = "foreign-trust-domain" // an identity that is not of ours
	ReasonTooLarge      = "too-large"            // a field is larger than the proto allows
	ReasonUnknownField  = "unknown-field"        // a field that this version does not know
	ReasonMissing       = "missing-field"
	ReasonEvidence      = "evidence-unsupported" // not the kind that this server accepts
	ReasonAmbiguous     = "evidence-ambiguous"   // both a token and a current SVID
	ReasonNoEvidence    = "evidence-missing"     // neither
	ReasonProof         = "proof-invalid"        // of the new key
	ReasonKeyReused     = "key-reused"           // a renewal for the key that it renews
	ReasonCurrent       = "current-invalid"      // the SVID of a renewal does not verify
	ReasonCurrentProof  = "current-proof-invalid"
	ReasonCurrentID     = "current-other-identity"
	ReasonKind          = "identity-of-wrong-kind" // the attester named what this method does not issue
	ReasonOtherNode     = "identity-of-other-node"
	ReasonOtherPod      = "identity-of-other-pod"
	ReasonRate          = "rate"              // too many; ask again later
	ReasonBusy          = "busy"              // too many at once; ask again later
	ReasonUnavailable   = "unavailable"       // a party that has to be asked did not answer
	ReasonAck           = "ack-of-the-unsent" // acknowledges what was not sent
)

// A busyError sheds load: nothing was decided, and the caller is told when to ask again.
type busyError struct {
	reason string
	after  time.Duration
}

func (b *busyError) Error() string   { return b.reason }
func (b *busyError) Is(t error) bool { return t == attest.ErrUnavailable }

// A verdict is an error as the outside may see it, and what the log needs.
type verdict struct {
	reason string
	final  bool          // asking again cannot help
	after  time.Duration // else: when to ask again
	ref    string        // correlates the two
}

// unavailableFor is how long a caller stays away, at least, when a party did not answer.
const unavailableFor = time.Second

// judge sorts an error. What nobody called a refusal is none: it decided nothing.
func judge(err error) verdict {
	v := verdict{reason: ReasonUnavailable, after: spread(unavailableFor), ref: rand.Text()}
	if busy, ok := errors.AsType[*busyError](err); ok {
		v.reason, v.after = busy.reason, busy.after
		return v
	}
	// An answer that is both is not an answer.
	if errors.Is(err, attest.ErrRefused) && !errors.Is(err, attest.ErrUnavailable) {
		v.reason, v.final, v.after = attest.Reason(err), true, 0
		if v.reason == "" {
			v.reason = "refused"
		}
	}
	return v
}

// refusal makes a *[attest.Refusal] of the errors of the rules that this
// package applies.
func refusal(reason string, err error) error {
	if key, ok := errors.AsType[*keypolicy.Refusal](err); ok && !errors.Is(err, proof.ErrInvalid) {
		reason = key.Reason
	}
	return &attest.Refusal{Reason: reason, Err: err}
}

// status is all that a stranger learns (THREATS T2.11).
func (v verdict) status() error {
	code, text := codes.Unavailable, "try again"
	switch {
	case v.final:
		code, text = codes.PermissionDenied, "refused"
	case v.reason == ReasonRate || v.reason == ReasonBusy:
		code = codes.ResourceExhausted
	}
	s := status.New(code, text+", ref "+v.ref)
	if !v.final {
		if with, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(v.after)}); err == nil {
			s = with
		}
	}
	return s.Err()
}

// refuse logs why a call ends, and returns what its caller is told.
func (g *gate) refuse(method string, c caller, err error) error {
	v := judge(err)
	g.tell(method, c, v, err)
	return v.status()
}

// tell writes the reason where the operator looks for it.
func (g *gate) tell(method string, c caller, v verdict, err error) {
	if v.reason != ReasonRate && v.reason != ReasonBusy {
		// Those two say nothing about the request, and there are many of them.
		if _, ok := g.lines.take(c.id, g.now()); ok {
			g.log.Warn("not issued", "method", method, "caller", c.id.String(), "reason", v.reason, "final", v.final,
				"ref", v.ref, "left_out", g.leftOut.Swap(0), "err", brief(err))
		} else {
			g.leftOut.Add(1)
		}
	}
	g.observe(Decision{Method: method, Reason: v.reason, Ref: v.ref})
}

// brief is an error's text, short enough that a stranger cannot fill the disk.
func brief(err error) string {
	const most = 512
	text := err.Error()
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
