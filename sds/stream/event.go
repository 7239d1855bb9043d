package stream

import (
	"strconv"

	statuspb "google.golang.org/genproto/googleapis/rpc/status"
)

// An Event is a client's word on one resource of one response.
type Event struct {
	// Refused tells a NACK from an ACK.
	Refused bool
	// TypeURL, Name and Version name the resource. Version is empty where the
	// response said that the resource does not exist; Name too where the
	// response held nothing at all.
	TypeURL, Name, Version string
	// Detail is the client's reason for a refusal, escaped and cut.
	Detail string
}

// maxEvents bounds what a session keeps for a caller who does not ask.
const maxEvents = 1024

func (s *Session) record(event Event) {
	if len(s.events) < maxEvents {
		s.events = append(s.events, event)
	}
}

// Events returns what has happened since it was last called.
func (s *Session) Events() []Event {
	events := s.events
	s.events = nil
	return events
}

func detail(status *statuspb.Status) string {
	return "code " + strconv.Itoa(int(status.GetCode())) + ": " + escape(status.GetMessage())
}
