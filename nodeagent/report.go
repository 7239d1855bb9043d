package nodeagent

import (
	"context"
	"errors"
	"time"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/nodeagent/renew"
)

// Reason codes of Events beside those of [attest.Refusal] and of what the CA sent.
const (
	reasonUnavailable = "unavailable"
	reasonTimeout     = "timeout"
	reasonRefused     = "refused"
	reasonPublish     = "publish"
	reasonExpired     = "expired"
)

// tried tells of one try: each to Observe, and to the log when something changed.
// A workload that is refused for a day is one line, not three hundred.
func (m *member) tried(o renew.Outcome) {
	e := Event{Took: o.Took, NotAfter: o.NotAfter, Next: o.Next}
	switch {
	case o.Err != nil:
		e.Kind, e.Reason = classify(o.Err)
	case !m.issued:
		e.Kind, e.Took = Issued, time.Since(m.added)
		m.issued = true
	default:
		e.Kind = Renewed
	}
	m.log(e, o)
	m.tell(e)
}

func (m *member) tell(e Event) {
	e.Pod, e.ID = m.pod, m.id
	m.a.observe(e)
}

// log says what has changed since it last said something.
func (m *member) log(e Event, o renew.Outcome) {
	log := m.a.Log.With("spiffe_id", m.id, "pod_uid", m.pod.UID)
	if o.Err == nil {
		if m.saidFailing != "" {
			log.Info("issued again", "not_after", e.NotAfter)
		}
		m.saidFailing = ""
		return
	}
	said := e.Kind.String() + " " + e.Reason
	if said == m.saidFailing {
		log.Debug("no certificate, still", "reason", e.Reason, "failures", o.Failures, "next", e.Next, "err", o.Err)
		return
	}
	m.saidFailing = said
	text := "no certificate: the CA was not there; what is held serves until not_after"
	switch {
	case e.Kind == Refused:
		text = "no certificate: refused by the CA; what is held serves until not_after"
	case errors.As(o.Err, new(*badAnswer)):
		text = "no certificate: the CA sent one that is not ours to serve"
	}
	log.Warn(text, "reason", e.Reason, "not_after", e.NotAfter, "next", e.Next, "err", o.Err)
}

// classify turns an error into what metrics count.
func classify(err error) (EventKind, string) {
	if bad, ok := errors.AsType[*badAnswer](err); ok {
		return Failed, bad.reason()
	}
	switch {
	case errors.Is(err, renew.ErrRefused):
		if reason := attest.Reason(err); reason != "" {
			return Refused, reason
		}
		return Refused, reasonRefused
	case errors.Is(err, context.DeadlineExceeded):
		return Failed, reasonTimeout
	}
	return Failed, reasonUnavailable
}
