// Package policypb is what the manager sends to node agents, generated from
// policy.proto, which is its documentation. rbac/distribute speaks it.
package policypb

//go:generate go -C ../../../tools run ./protogen rbac/distribute/policypb/policy.proto
