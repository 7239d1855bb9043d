package csi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/istio-auth/istio-auth/attest"
)

var (
	now    = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	strict = rules{trustDomain: td, kubeletDir: "/var/lib/kubelet", audience: audID}
)

const goodTarget = "/var/lib/kubelet/pods/" + uid1 + "/volumes/kubernetes.io~csi/identity/mount"

func attribute(key, value string) func(*csi.NodePublishVolumeRequest) {
	return func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[key] = value }
}

func target(path string) func(*csi.NodePublishVolumeRequest) {
	return func(r *csi.NodePublishVolumeRequest) { r.TargetPath = path }
}

func mode(m csi.VolumeCapability_AccessMode_Mode) func(*csi.NodePublishVolumeRequest) {
	return func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability.AccessMode.Mode = m }
}

func TestPublishRequests(t *testing.T) {
	type edit = func(*csi.NodePublishVolumeRequest)
	type req = *csi.NodePublishVolumeRequest
	long := strings.Repeat("a", 300)
	const csiDir = "/volumes/kubernetes.io~csi/identity/mount"
	table := []struct {
		name, reason string
		edit         edit
	}{
		{"as a kubelet sends it", "", func(req) {}},
		{"read by one node", "", mode(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY)},
		{"one writer", "", mode(csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER)},
		{"many writers of one node", "", mode(csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER)},
		{"with a file system's name", "", func(r req) { r.VolumeCapability.GetMount().FsType = "ext4" }},
		{"with a key of a newer kubelet", "", attribute(keyPrefix+"pod.color", "green")},
		{"another volume's name", "", target(strings.Replace(goodTarget, "identity", "x", 1))},

		{"no volume ID", "bad-volume-id", func(r req) { r.VolumeId = "" }},
		{"a volume ID that climbs", "bad-volume-id", func(r req) { r.VolumeId = "../csi" }},
		{"a volume ID in capitals", "bad-volume-id", func(r req) { r.VolumeId = "CSI-1" }},
		{"a long volume ID", "bad-volume-id", func(r req) { r.VolumeId = long }},
		{"a volume ID with a line break", "bad-volume-id", func(r req) { r.VolumeId = "csi-1\n" }},

		{"no target", "bad-target-path", target("")},
		{"a relative target", "bad-target-path", target(goodTarget[1:])},
		{"a target that climbs", "bad-target-path", target("/var/lib/kubelet/pods/../../../etc")},
		{"a target that climbs to a good one", "bad-target-path", target("/var/lib/kubelet/pods/x/../" + uid1 + csiDir)},
		{"a target with a dot", "bad-target-path", target(strings.Replace(goodTarget, "/volumes", "/./volumes", 1))},
		{"a target with two slashes", "bad-target-path", target(strings.Replace(goodTarget, "/volumes", "//volumes", 1))},
		{"a target with a slash behind", "bad-target-path", target(goodTarget + "/")},
		{"a target with a zero byte", "bad-target-path", target(goodTarget + "\x00")},
		{"a target below the volume", "bad-target-path", target(goodTarget + "/deeper")},
		{"the volume without mount", "bad-target-path", target(strings.TrimSuffix(goodTarget, "/mount"))},
		{"another last element", "bad-target-path", target(strings.TrimSuffix(goodTarget, "mount") + "data")},
		{"another driver's kind of volume", "bad-target-path", target(strings.Replace(goodTarget, "kubernetes.io~csi", "kubernetes.io~empty-dir", 1))},
		{"not in volumes", "bad-target-path", target(strings.Replace(goodTarget, "/volumes/", "/plugins/", 1))},
		{"below another kubelet", "bad-target-path", target(strings.Replace(goodTarget, "/var/lib/kubelet", "/data/kubelet", 1))},
		{"below a longer name", "bad-target-path", target(strings.Replace(goodTarget, "kubelet/pods", "kubelet/podsx", 1))},
		{"below plugins", "bad-target-path", target("/var/lib/kubelet/plugins/kubernetes.io/csi/pv/x/globalmount")},
		{"the root", "bad-target-path", target("/")},
		{"etc", "bad-target-path", target("/etc/cron.d")},
		{"a long target", "bad-target-path", target("/" + strings.Repeat("a/", 3000))},
		{"another pod's target", "target-of-another-pod", target(strings.Replace(goodTarget, uid1, uid2, 1))},

		{"with a publish context", "has-publish-context", func(r req) { r.PublishContext = map[string]string{"a": "b"} }},
		{"with a stage", "has-staging-path", func(r req) { r.StagingTargetPath = "/stage" }},
		{"no capability", "no-capability", func(r req) { r.VolumeCapability = nil }},
		{"an empty capability", "not-a-mount", func(r req) { r.VolumeCapability = &csi.VolumeCapability{} }},
		{"a block volume", "not-a-mount", func(r req) {
			r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		}},
		{"mount flags", "has-mount-flags", func(r req) { r.VolumeCapability.GetMount().MountFlags = []string{"rw", "suid"} }},
		{"a mount group", "has-mount-group", func(r req) { r.VolumeCapability.GetMount().VolumeMountGroup = "1000" }},
		{"writable", "not-read-only", func(r req) { r.Readonly = false }},
		{"no access mode", "bad-access-mode", func(r req) { r.VolumeCapability.AccessMode = nil }},
		{"an unknown access mode", "bad-access-mode", mode(99)},
		{"many nodes read", "bad-access-mode", mode(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)},
		{"many nodes, one writes", "bad-access-mode", mode(csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER)},
		{"many nodes write", "bad-access-mode", mode(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)},

		{"no context", "not-ephemeral", func(r req) { r.VolumeContext = nil }},
		{"not ephemeral", "not-ephemeral", attribute(ephemeralKey, "false")},
		{"ephemeral in capitals", "not-ephemeral", attribute(ephemeralKey, "True")},
		{"ephemeral not said", "not-ephemeral", func(r req) { delete(r.VolumeContext, ephemeralKey) }},
		{"an attribute of the pod's author", "unknown-attribute", attribute("color", "green")},
		{"an attribute without a name", "unknown-attribute", attribute("", "x")},
		{"a key that is almost the kubelet's", "unknown-attribute", attribute("csi.storage.k8s.io.evil/pod.uid", uid2)},
		{"a key of the kubelet's in capitals", "unknown-attribute", attribute("CSI.storage.k8s.io/pod.uid", uid2)},
		{"a token in the context", "token-in-context", attribute(tokensKey, tokens(audID, jwt1, now.Add(time.Hour)))},
		{"an empty token in the context", "token-in-context", attribute(tokensKey, "")},
		{"a long value", "context-too-large", attribute(podName, strings.Repeat("a", 2000))},
		{"many keys", "context-too-large", func(r req) {
			for i := range maxContext {
				r.VolumeContext[fmt.Sprint(keyPrefix, i)] = ""
			}
		}},
		{"no pod name", "bad-pod-name", func(r req) { delete(r.VolumeContext, podName) }},
		{"a pod name in capitals", "bad-pod-name", attribute(podName, "Cart")},
		{"a long pod name", "bad-pod-name", attribute(podName, long)},
		{"no namespace", "bad-namespace", func(r req) { delete(r.VolumeContext, podNamespace) }},
		{"a namespace with a slash", "bad-namespace", attribute(podNamespace, "shop/sa/admin")},
		{"a namespace with a dot", "bad-namespace", attribute(podNamespace, "sh.op")},
		{"a namespace in Cyrillic", "bad-namespace", attribute(podNamespace, "ѕhop")},
		{"a namespace that climbs", "bad-namespace", attribute(podNamespace, "..")},
		{"no service account", "bad-service-account", func(r req) { delete(r.VolumeContext, podAccount) }},
		{"an empty service account", "bad-service-account", attribute(podAccount, "")},
		{"a service account with a percent sign", "bad-service-account", attribute(podAccount, "%63art")},
		{"a service account with a line break", "bad-service-account", attribute(podAccount, "cart\n")},
		{"no UID", "bad-pod-uid", func(r req) { delete(r.VolumeContext, podUID) }},
		{"a UID that climbs", "bad-pod-uid", attribute(podUID, "../"+uid1)},
		{"a UID in capitals", "bad-pod-uid", attribute(podUID, strings.ToUpper(uid1))},
		{"another pod's UID", "target-of-another-pod", attribute(podUID, uid2)},

		{"no secrets", "no-token", func(r req) { r.Secrets = nil }},
		{"another secret", "unknown-secret", func(r req) { r.Secrets["password"] = "x" }},
		{"a secret instead", "unknown-secret", func(r req) { r.Secrets = map[string]string{"token": jwt1} }},
		{"an empty secret", "bad-tokens", func(r req) { r.Secrets[tokensKey] = "" }},
		{"the token for the agent", "audience-missing", func(r req) {
			r.Secrets[tokensKey] = tokens("agent.istio-auth.example.org", jwt1, now.Add(time.Hour))
		}},
		{"the token of another mesh", "audience-missing", func(r req) {
			r.Secrets[tokensKey] = tokens("workload.istio-auth.example.com", jwt1, now.Add(time.Hour))
		}},
		{"an expired token", "token-expired", func(r req) { r.Secrets[tokensKey] = tokens(audID, jwt1, now) }},
	}
	if got, want := len(table), 80; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			r := request(goodTarget, uid1, jwt1, now.Add(time.Hour))
			c.edit(r)
			v, err := strict.publish(r, now)
			if got := attest.Reason(err); got != c.reason || (err == nil) != (c.reason == "") {
				t.Errorf("got %v, want reason %q", err, c.reason)
			}
			if err == nil && (v.pod != pod1() || v.token.token.Reveal() != jwt1 || v.target != r.TargetPath) {
				t.Errorf("got %+v", v)
			}
			if err != nil && strings.Contains(err.Error(), "c2lnbmF0dXJl") {
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
}

func TestUnpublishRequests(t *testing.T) {
	table := []struct{ id, target, reason string }{
		{"csi-1", goodTarget, ""},
		{"", goodTarget, "bad-volume-id"},
		{"../1", goodTarget, "bad-volume-id"},
		{"csi-1", "", "bad-target-path"},
		{"csi-1", "/etc", "bad-target-path"},
		{"csi-1", "/var/lib/kubelet/pods", "bad-target-path"},
		{"csi-1", goodTarget + "/..", "bad-target-path"},
		{"csi-1", strings.Replace(goodTarget, uid1, "UID", 1), "bad-pod-uid"},
		{"csi-1", strings.Replace(goodTarget, uid1, strings.Repeat("a", 65), 1), "bad-pod-uid"},
		{"csi-1", strings.Replace(goodTarget, uid1, "a b", 1), "bad-pod-uid"},
	}
	if got, want := len(table), 10; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, c := range table {
		uid, err := strict.unpublish(&csi.NodeUnpublishVolumeRequest{VolumeId: c.id, TargetPath: c.target})
		if got := attest.Reason(err); got != c.reason || (err == nil) != (c.reason == "") {
			t.Errorf("%q %q: got %v, want reason %q", c.id, c.target, err, c.reason)
		}
		if err == nil && uid != uid1 {
			t.Errorf("got pod %q", uid)
		}
	}
}
