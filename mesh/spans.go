package mesh

import "time"

// spans are how long connections and streams may live, computed from the life
// of a certificate.
//
// Envoy never looks at a certificate again once a handshake is over, so age is
// the only bound on a peer whose certificate has expired, or was banned. A
// server's connection accepts new requests for accept, then closes as its
// requests end, drain later at the latest; a request that started last of all
// is cut after stream:
//
//	accept + drain + stream = life/2
//
// A client's connection is given up earlier than the server's, so that no
// request is caught by the other side's closing.
type spans struct {
	accept, drain, stream time.Duration // of a server's connection
	dial                  time.Duration // of a client's connection
}

func spansOf(life time.Duration) spans {
	s := spans{accept: life / 4, drain: min(life/20, 5*time.Second), dial: life / 5}
	s.stream = life/2 - s.accept - s.drain
	return s
}
