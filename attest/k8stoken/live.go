package k8stoken

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/istio-auth/istio-auth/attest"
)

// mirrorAnnotation marks the API server's image of a static pod. A kubelet makes
// static pods by itself, so nobody scheduled it.
const mirrorAnnotation = corev1.MirrorPodAnnotationKey

// live judges whether the pod that the API server has now is the one that was
// meant, runs on that node, and runs still. It returns the pod as it is known
// there; that is where the service account of a renewal comes from.
//
// A pod that is being deleted keeps its identity until its grace ends, which is
// what deletionTimestamp says: it drains connections until then. Not a second
// longer, whatever a finalizer or a lost kubelet leaves behind.
func live(pod *corev1.Pod, meant attest.Pod, node attest.Node, now time.Time) (attest.Pod, error) {
	is := attest.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), ServiceAccount: pod.Spec.ServiceAccountName}
	refuse := func(reason, format string, args ...any) (attest.Pod, error) {
		return attest.Pod{}, attest.Refuse(reason, format, args...)
	}
	switch {
	case is.Namespace != meant.Namespace || is.Name != meant.Name:
		return refuse("pod-other-name", "asked for %s/%s, got %s/%s", meant.Namespace, meant.Name, is.Namespace, is.Name)
	case is.UID != meant.UID:
		return refuse("pod-other-uid", "%s/%s is %q now, not %q", is.Namespace, is.Name, is.UID, meant.UID)
	case pod.Spec.NodeName == "":
		return refuse("pod-not-scheduled", "%s/%s is on no node", is.Namespace, is.Name)
	case pod.Spec.NodeName != node.Name:
		return refuse("pod-other-node", "%s/%s is on %q, not on %q", is.Namespace, is.Name, pod.Spec.NodeName, node.Name)
	case is.ServiceAccount == "":
		return refuse("pod-no-service-account", "%s/%s", is.Namespace, is.Name)
	case meant.ServiceAccount != "" && is.ServiceAccount != meant.ServiceAccount:
		return refuse("pod-other-service-account", "%s/%s runs as %q, not as %q", is.Namespace, is.Name, is.ServiceAccount, meant.ServiceAccount)
	case pod.Status.Phase != corev1.PodPending && pod.Status.Phase != corev1.PodRunning:
		return refuse("pod-not-running", "%s/%s is %q", is.Namespace, is.Name, pod.Status.Phase)
	case pod.DeletionTimestamp != nil && !now.Before(pod.DeletionTimestamp.Time):
		return refuse("pod-terminated", "the grace of %s/%s ended at %s", is.Namespace, is.Name, pod.DeletionTimestamp.UTC().Format(time.RFC3339))
	}
	if _, mirror := pod.Annotations[mirrorAnnotation]; mirror {
		return refuse("pod-mirror", "%s/%s mirrors a static pod", is.Namespace, is.Name)
	}
	return is, nil
}

// sameNode judges whether the node of that name is still the one that was
// meant, and not another that was given its name.
func sameNode(node *corev1.Node, meant attest.Node) error {
	if node.Name != meant.Name || string(node.UID) != meant.UID {
		return attest.Refuse("node-other-uid", "node %q is %q now, not %q", node.Name, node.UID, meant.UID)
	}
	return nil
}

// controlledBy judges whether the DaemonSet of that name controls the pod. The
// reference is written by whoever creates the pod: who may create pods in the
// agent's namespace can make agents, and the account's name is the guard.
func controlledBy(pod *corev1.Pod, daemonSet string) error {
	for _, owner := range pod.OwnerReferences {
		if owner.Controller != nil && *owner.Controller && owner.APIVersion == "apps/v1" && owner.Kind == "DaemonSet" && owner.Name == daemonSet {
			return nil
		}
	}
	return attest.Refuse("agent-not-of-daemonset", "%s/%s is not controlled by DaemonSet %s", pod.Namespace, pod.Name, daemonSet)
}
