// Package attest says what has been proved about a peer: its [Identity], or a
// [Refusal].
//
// It is a rule: it does no I/O and knows neither Kubernetes nor TLS. Evidence
// is read by its subpackages (k8stoken, jointoken, registry, workload), which
// all come out here with the same value. Only [NewWorkload], [NewAgent],
// [NewService] and [AgentFromID] make an Identity, and none makes a bad one, so
// whoever holds one need not look at its parts again. Start there.
package attest
