// Package k8stoken attests agents, workloads and our own services by their
// Kubernetes service account tokens.
//
// A token alone proves little: the API server calls one good for ten seconds
// after its pod is gone (its cache), and for a minute after the pod's grace
// has ended. So two things must agree each time, and with an agent three: what
// the API server says of the token (a TokenReview for exactly our audience,
// with the claims that only a pod-bound token has), the pod itself, asked for
// live, and the node that the agent proved to be of. A [Reviewer] does this for
// one cluster; [interpret] and [live] are its two judgements, and do no I/O.
//
// It wants Kubernetes 1.33 or newer: from 1.32 on every pod-bound token carries
// its node and an id of its own, and from 1.33 on a kubelet can ask only for
// audiences that pods on its node mount.
package k8stoken
