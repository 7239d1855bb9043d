// Package csi is the driver csi.istio-auth.io: it learns from the kubelet which
// pods are here, and gives each a folder with its own socket.
//
// A pod with an inline volume of this driver makes the kubelet call
// NodePublishVolume with the pod's names and the pod's own bound token for our
// audience. The driver opens the workload's endpoint, mounts the folder that holds
// its socket read-only into the pod, and returns: it waits for the socket to
// listen, not for a certificate, since a kubelet that waits holds up the pod, while
// an Envoy on an open socket waits for its secret by itself. The kubelet calls
// again at every sync of the pod; where the token and the mount are the same,
// nothing is done.
//
// Only what the kubelet says counts. A pod's author writes the volume's
// attributes, so none are allowed, and the pod's UID must be the one in the path
// of the target, which nobody but the kubelet chooses. Tokens are taken from
// secrets only (serviceAccountTokenInSecrets); one in the volume's attributes is
// refused, since those reach logs. The driver answers the kubelet's plugin
// registration itself. Start at [Driver].
package csi
