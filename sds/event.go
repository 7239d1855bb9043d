package sds

// An EventKind says what happened on a stream.
type EventKind int

// The kinds of [Event]. The zero kind is none.
const (
	// Connected: a stream was accepted. Only Stream is set.
	Connected EventKind = iota + 1
	// Disconnected: a stream ended. Detail says why, where it was not the
	// client's wish.
	Disconnected
	// Acked: the client runs this version of the resource.
	Acked
	// Nacked: the client refused this version of the resource. It runs the
	// last one that it acknowledged, which has been sent to it again.
	Nacked
)

// String returns the kind as a metrics label.
func (k EventKind) String() string {
	switch k {
	case Connected:
		return "connected"
	case Disconnected:
		return "disconnected"
	case Acked:
		return "acked"
	case Nacked:
		return "nacked"
	}
	return "none"
}

// An Event is something that a client did. It holds nothing secret, and all of
// its text is fit for a log.
type Event struct {
	Kind EventKind
	// Stream numbers the stream within its server, from one.
	Stream uint64
	// TypeURL, Name and Version name the resource of Acked and Nacked. Name is
	// empty where the acknowledged response held no resource.
	TypeURL, Name, Version string
	// Detail is the client's or our reason, escaped and cut to 1 KiB.
	Detail string
}
