// Package sds is the node agent's server for Envoy: secrets, and on the same
// stream filters and whatever else a [Source] offers, by the xDS transport
// protocol over gRPC, state of the world and delta.
//
// It moves messages and keeps the limits that a stream must keep: one slow
// reader delays nobody, one bad resource fails alone. What the protocol says is
// in sds/stream, what a secret holds in sds/secret, and who is at the other end
// is decided by [Server].Sources, which gives each connection its sources.
package sds

import "github.com/istio-auth/istio-auth/sds/stream"

// A Source offers the resources of one type. Its methods may be called at once;
// [stream.Cell] gives Current to a Source that wants no machinery of its own.
//
// A Source that has a method Observe(Event) as well is told of the events of
// its type on the streams that it serves.
type Source interface {
	// TypeURL is the type of the resources, such as
	// "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".
	TypeURL() string
	// Current returns the newest snapshot and a channel that is closed when it
	// is replaced.
	Current() (stream.Snapshot, <-chan struct{})
}
