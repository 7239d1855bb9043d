package csi

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/nodeagent"
)

// Keys of the kubelet's (pkg/volume/csi in Kubernetes).
const (
	keyPrefix    = "csi.storage.k8s.io/"
	podName      = keyPrefix + "pod.name"
	podNamespace = keyPrefix + "pod.namespace"
	podUID       = keyPrefix + "pod.uid"
	podAccount   = keyPrefix + "serviceAccount.name"
	ephemeralKey = keyPrefix + "ephemeral"
	tokensKey    = keyPrefix + "serviceAccount.tokens"
)

// Limits of a request beside the tokens.
const (
	maxPath    = 4096
	maxID      = 128 // CSI: 128 bytes for strings that do not say otherwise
	maxContext = 32  // entries
	maxValue   = 1024
)

// A volume is a request to publish that passed every check.
type volume struct {
	pod    attest.Pod
	token  boundToken
	target string
}

// rules is what a request is checked against.
type rules struct {
	trustDomain spiffeid.TrustDomain
	kubeletDir  string
	audience    string
}

// publish checks a request to publish, whole: the first part that is not what a
// kubelet sends for an inline volume of this driver is an [*attest.Refusal].
func (r rules) publish(req *csi.NodePublishVolumeRequest, now time.Time) (volume, error) {
	if err := checkID(req.GetVolumeId()); err != nil {
		return volume{}, err
	}
	uid, err := r.target(req.GetTargetPath())
	if err != nil {
		return volume{}, err
	}
	if err := checkShape(req); err != nil {
		return volume{}, err
	}
	pod, err := r.pod(req.GetVolumeContext())
	if err != nil {
		return volume{}, err
	}
	if pod.UID != uid {
		return volume{}, attest.Refuse("target-of-another-pod", "the pod is %s, the target of %s", pod.UID, uid)
	}
	token, err := r.token(req.GetSecrets(), now)
	if err != nil {
		return volume{}, err
	}
	return volume{pod: pod, token: token, target: req.GetTargetPath()}, nil
}

// checkID takes what a kubelet makes: "csi-" and a hash.
func checkID(id string) error {
	bad := func(c rune) bool { return !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') }
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, bad) {
		return attest.Refuse("bad-volume-id", "%.200q", id)
	}
	return nil
}

// target takes <kubelet>/pods/<uid>/volumes/kubernetes.io~csi/<name>/mount and
// returns the UID.
func (r rules) target(path string) (uid string, err error) {
	if len(path) > maxPath || !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsRune(path, 0) {
		return "", attest.Refuse("bad-target-path", "not a clean, absolute path: %.200q", path)
	}
	rest, ok := strings.CutPrefix(path, filepath.Join(r.kubeletDir, "pods")+"/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 5 || parts[1] != "volumes" || parts[2] != "kubernetes.io~csi" || parts[4] != "mount" {
		return "", attest.Refuse("bad-target-path", "not of a pod's inline volume below %s: %.200q", r.kubeletDir, path)
	}
	return parts[0], nil
}

// checkShape takes a read-only mount for one node, and nothing that only a volume
// with a controller, a stage or a file system would have.
func checkShape(req *csi.NodePublishVolumeRequest) error {
	capability := req.GetVolumeCapability()
	mount := capability.GetMount()
	switch {
	case len(req.GetPublishContext()) > 0:
		return attest.Refuse("has-publish-context", "this driver has no controller")
	case req.GetStagingTargetPath() != "":
		return attest.Refuse("has-staging-path", "this driver stages nothing")
	case capability == nil:
		return attest.Refuse("no-capability", "")
	case mount == nil:
		return attest.Refuse("not-a-mount", "a block volume, or none")
	case len(mount.GetMountFlags()) > 0:
		return attest.Refuse("has-mount-flags", "this driver takes none")
	case mount.GetVolumeMountGroup() != "":
		return attest.Refuse("has-mount-group", "this driver takes none")
	case !req.GetReadonly():
		return attest.Refuse("not-read-only", "the volume wants readOnly: true")
	}
	switch mode := capability.GetAccessMode().GetMode(); mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
		return nil
	default:
		return attest.Refuse("bad-access-mode", "%s", mode)
	}
}

// pod takes the pod's names from the kubelet's part of the context. The pod's
// author writes the rest, and we have no use for one: a key of ours misspelt is
// not ignored. Keys of the kubelet's that we do not know are.
func (r rules) pod(context map[string]string) (attest.Pod, error) {
	if len(context) > maxContext {
		return attest.Pod{}, attest.Refuse("context-too-large", "%d entries, at most %d", len(context), maxContext)
	}
	for key, value := range context {
		switch {
		case key == tokensKey:
			return attest.Pod{}, attest.Refuse("token-in-context", "the CSIDriver object wants serviceAccountTokenInSecrets: true")
		case !strings.HasPrefix(key, keyPrefix):
			return attest.Pod{}, attest.Refuse("unknown-attribute", "%.100q", key)
		case len(key)+len(value) > maxValue:
			return attest.Pod{}, attest.Refuse("context-too-large", "%d bytes in an entry, at most %d", len(key)+len(value), maxValue)
		}
	}
	if context[ephemeralKey] != "true" {
		return attest.Pod{}, attest.Refuse("not-ephemeral", "only inline volumes; the CSIDriver object wants volumeLifecycleModes: [Ephemeral] and podInfoOnMount: true")
	}
	pod := attest.Pod{Namespace: context[podNamespace], Name: context[podName], UID: context[podUID], ServiceAccount: context[podAccount]}
	if _, err := nodeagent.ExpectedID(r.trustDomain, pod); err != nil {
		return attest.Pod{}, err
	}
	return pod, nil
}

// token takes the pod's token for our audience from the secrets, which hold
// nothing else.
func (r rules) token(secrets map[string]string, now time.Time) (boundToken, error) {
	for key := range secrets {
		if key != tokensKey {
			return boundToken{}, attest.Refuse("unknown-secret", "%.100q", key)
		}
	}
	text, ok := secrets[tokensKey]
	if !ok {
		return boundToken{}, attest.Refuse("no-token", "the CSIDriver object wants tokenRequests for %s", r.audience)
	}
	return parseTokens(text, r.audience, now)
}
