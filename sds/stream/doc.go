// Package stream is the xDS transport protocol as a state machine that does no
// I/O and reads no clock.
//
// A [Session] is one stream, state of the world or delta. It is fed with
// requests, snapshots and the time, and yields the responses to write and the
// events (acknowledged, refused) to report. Package sds moves its messages over
// gRPC; what a resource means is the business of whoever fills the snapshots.
//
// Start at [Snapshot] to serve resources, at [Session] to serve a stream.
//
// The protocol is described in Envoy's documentation, "xDS REST and gRPC
// protocol"; where real Envoys differ the code says so.
package stream
