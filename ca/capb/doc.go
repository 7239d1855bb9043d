// Package capb is the wire between the CA and its clients, generated from
// ca.proto, which is its documentation. ca/server and ca/client speak it.
package capb

//go:generate go -C ../../tools run ./protogen ca/capb/ca.proto
