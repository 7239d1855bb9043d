// Package store keeps the list of workloads over a restart of the agent.
//
// It holds which pods have our volume, where it is mounted, and the pod's token
// for our audience, so that the agent can ask for new certificates before the
// kubelet calls again. It holds no keys. Tokens are secrets that live an hour or
// less: they are written only to a folder of root's on a tmpfs that cannot swap,
// never to a disk. [Open] refuses any other place, [Mount] makes such a one.
package store
