package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/catest"
	"github.com/istio-auth/istio-auth/ca/proof"
)

// A row is one attempt, what its caller sees, and the reason in the log. An
// empty reason is that of a refusal by TLS or by grpc's own limits.
type row struct {
	name    string
	outcome string // "issued", "refused" or "retry" on the stream; else the code of the call
	reason  string
	do      func(t *testing.T, w *world) (string, error)
}

// elsewhere is the exporter value of a connection that is not this one.
var elsewhere = [32]byte{1, 2, 3}

// An ask is what goes into an IssueRequest, for rows to spoil.
type ask struct {
	t       *testing.T
	w       *world
	here    [32]byte // of this connection
	key     crypto.Signer
	current *x509svid.SVID
	request *capb.IssueRequest
}

// first is a good first issue for pod A, changed by spoil.
func first(spoil func(*ask)) func(*testing.T, *world) (string, error) {
	return func(t *testing.T, w *world) (string, error) {
		return issueAs(t, w, w.agent(t, nodeA), podA, false, spoil)
	}
}

// again is a good renewal for pod A, changed by spoil.
func again(spoil func(*ask)) func(*testing.T, *world) (string, error) {
	return func(t *testing.T, w *world) (string, error) {
		return issueAs(t, w, w.agent(t, nodeA), podA, true, spoil)
	}
}

// as is a good first issue but for who asks.
func as(who func(*testing.T, *world) *x509svid.SVID) func(*testing.T, *world) (string, error) {
	return func(t *testing.T, w *world) (string, error) { return issueAs(t, w, who(t, w), podA, false, nil) }
}

// given changes the world before the server starts.
func given(change func(*testing.T, *world), then func(*testing.T, *world) (string, error)) func(*testing.T, *world) (string, error) {
	return func(t *testing.T, w *world) (string, error) {
		change(t, w)
		return then(t, w)
	}
}

func issueAs(t *testing.T, w *world, who *x509svid.SVID, pod attest.Pod, renewal bool, spoil func(*ask)) (string, error) {
	t.Helper()
	w.start(t)
	stream, err := capb.NewCertificateAuthorityClient(w.dial(t, who)).Issue(t.Context())
	if err != nil {
		return "", err
	}
	here, err := binding(stream)
	if err != nil {
		return "", err
	}
	a := &ask{t: t, w: w, here: here, key: catest.Key(t)}
	a.request = &capb.IssueRequest{Id: 42, Pod: &capb.PodRef{Namespace: pod.Namespace, Name: pod.Name, Uid: pod.UID}}
	a.prove(here, proof.Issue, pod.UID)
	if renewal {
		a.renew(w.ca.SVID(t, webID, time.Hour))
	} else {
		a.request.Token = "token-a"
	}
	if spoil != nil {
		spoil(a)
	}
	if err := stream.Send(a.request); err != nil {
		return "", err
	}
	response, err := stream.Recv()
	if err != nil {
		return "", err
	}
	if response.GetId() != 42 || !response.GetServerTime().IsValid() {
		t.Errorf("the answer has id %d and time %v", response.GetId(), response.GetServerTime())
	}
	if issued := response.GetIssued(); issued != nil {
		leaf, err := x509.ParseCertificate(issued.GetChain()[0])
		if err != nil || !a.key.Public().(*ecdsa.PublicKey).Equal(leaf.PublicKey) {
			t.Errorf("issued for another key, %v", err)
		}
		return "issued", nil
	}
	refusal := response.GetRefusal()
	if refusal.GetCorrelationId() != w.lastDecision().Ref || refusal.GetCorrelationId() == "" {
		t.Errorf("the caller was told ref %q, the log %q", refusal.GetCorrelationId(), w.lastDecision().Ref)
	}
	if refusal.GetCode() == capb.Refusal_CODE_RETRY {
		if refusal.GetRetryAfter().AsDuration() <= 0 {
			t.Error("told to come back, and not when")
		}
		return "retry", nil
	}
	return "refused", nil
}

func (a *ask) prove(here [32]byte, purpose proof.Purpose, subject string) {
	a.request.Key = &capb.PublicKey{Spki: spkiOf(a.t, a.key), Proof: prove(a.t, a.key, here, purpose, subject)}
}

// renew makes the request a renewal of svid.
func (a *ask) renew(svid *x509svid.SVID) {
	a.current = svid
	a.request.Token = ""
	a.request.Current = &capb.CurrentSVID{
		Chain: chainDER(svid.Certificates),
		Proof: prove(a.t, svid.PrivateKey, a.here, proof.Current, a.request.GetPod().GetUid()),
	}
}

// key replaces the key with one that is made to be refused; the proof stays.
func withKey(make func() any) func(*ask) {
	return func(a *ask) {
		der, err := x509.MarshalPKIXPublicKey(make())
		if err != nil {
			a.t.Fatal(err)
		}
		a.request.Key.Spki = der
	}
}

func rsaKey(bits uint, e int) func() any {
	return func() any {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		return &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: e}
	}
}

func curve(c elliptic.Curve) func() any {
	return func() any {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			panic(err)
		}
		return key.Public()
	}
}

var unknownField = protowire.AppendString(protowire.AppendTag(nil, 99, protowire.BytesType), "from the future")

func keyRows() []row {
	return []row{
		{"no key", "refused", ReasonMissing, first(func(a *ask) { a.request.Key = nil })},
		{"an empty key", "refused", "key-size", first(func(a *ask) { a.request.Key.Spki = nil })},
		{"a key of one byte", "refused", "key-encoding", first(func(a *ask) { a.request.Key.Spki = []byte{0x30} })},
		{"a key too large to read", "refused", "key-size", first(func(a *ask) { a.request.Key.Spki = make([]byte, 2049) })},
		{"bytes after the key", "refused", "key-encoding", first(func(a *ask) { a.request.Key.Spki = append(a.request.Key.Spki, 0) })},
		{"RSA of 1024 bits", "refused", "key-rsa-size", first(withKey(rsaKey(1024, 65537)))},
		{"RSA of 8192 bits", "refused", "key-rsa-size", first(withKey(rsaKey(8192, 65537)))},
		{"RSA with exponent 3", "refused", "key-rsa-exponent", first(withKey(rsaKey(2048, 3)))},
		{"RSA with exponent 2^31-1", "refused", "key-rsa-exponent", first(withKey(rsaKey(2048, 1<<31-1)))},
		{"P-224", "refused", "key-curve", first(withKey(curve(elliptic.P224())))},
		{"P-521", "refused", "key-curve", first(withKey(curve(elliptic.P521())))},
		{"no proof", "refused", ReasonProof, first(func(a *ask) { a.request.Key.Proof = nil })},
		{"a proof of noise", "refused", ReasonProof, first(func(a *ask) { a.request.Key.Proof = bytes.Repeat([]byte{7}, 70) })},
		{"a proof too large", "refused", ReasonTooLarge, first(func(a *ask) { a.request.Key.Proof = make([]byte, 1025) })},
		{"a proof replayed from another connection", "refused", ReasonProof, first(func(a *ask) { a.prove(elsewhere, proof.Issue, podA.UID) })},
		{"a proof for another key", "refused", ReasonProof, first(func(a *ask) { a.request.Key.Spki = spkiOf(a.t, catest.Key(a.t)) })},
		{"a proof for another pod", "refused", ReasonProof, first(func(a *ask) { a.prove(a.here, proof.Issue, podB.UID) })},
		{"a proof for nobody", "refused", ReasonProof, first(func(a *ask) { a.prove(a.here, proof.Issue, "") })},
		{"a proof of attestation", "refused", ReasonProof, first(func(a *ask) { a.prove(a.here, proof.Attest, podA.UID) })},
		{"a proof of a current key", "refused", ReasonProof, first(func(a *ask) { a.prove(a.here, proof.Current, podA.UID) })},
	}
}

func shapeRows() []row {
	return []row{
		{"neither token nor SVID", "refused", ReasonNoEvidence, first(func(a *ask) { a.request.Token = "" })},
		{"both token and SVID", "refused", ReasonAmbiguous, again(func(a *ask) { a.request.Token = "token-a" })},
		{"both, of a pod that was deleted by force", "refused", ReasonAmbiguous, again(func(a *ask) {
			delete(a.w.pods, podA.UID)
			a.request.Token = "token-a"
		})},
		{"no pod", "refused", ReasonMissing, first(func(a *ask) { a.request.Pod = nil })},
		{"a pod without a UID", "refused", ReasonMissing, first(func(a *ask) { a.request.Pod.Uid = "" })},
		{"a pod without a name", "refused", ReasonMissing, first(func(a *ask) { a.request.Pod.Name = "" })},
		{"a pod without a namespace", "refused", ReasonMissing, first(func(a *ask) { a.request.Pod.Namespace = "" })},
		{"a UID too long", "refused", ReasonTooLarge, first(func(a *ask) { a.request.Pod.Uid = strings.Repeat("u", 254) })},
		{"a name too long", "refused", ReasonTooLarge, first(func(a *ask) { a.request.Pod.Name = strings.Repeat("n", 254) })},
		{"a token too long", "refused", ReasonTooLarge, first(func(a *ask) { a.request.Token = strings.Repeat("t", 16<<10+1) })},
		{"a message too long", "ResourceExhausted", "", first(func(a *ask) { a.request.Token = strings.Repeat("t", 64<<10) })},
		{"an unknown field", "refused", ReasonUnknownField, first(func(a *ask) { a.request.ProtoReflect().SetUnknown(unknownField) })},
		{"an unknown field of the pod", "refused", ReasonUnknownField, first(func(a *ask) { a.request.Pod.ProtoReflect().SetUnknown(unknownField) })},
		{"an unknown field of the key", "refused", ReasonUnknownField, first(func(a *ask) { a.request.Key.ProtoReflect().SetUnknown(unknownField) })},
		{"an unknown field of the SVID", "refused", ReasonUnknownField, again(func(a *ask) { a.request.Current.ProtoReflect().SetUnknown(unknownField) })},
		{"a host's workload, where there are none", "refused", ReasonNoEvidence, first(func(a *ask) { a.request.Token = "" })},
		{"a token, where there are hosts", "refused", ReasonEvidence, given(hosts, first(nil))},
	}
}

func hosts(_ *testing.T, w *world) { w.config.Hosts = true; w.tokens[""] = podA.UID }

func firstRows() []row {
	return []row{
		{"first issue", "issued", "", first(nil)},
		{"first issue on a host", "issued", "", given(hosts, first(func(a *ask) { a.request.Token = "" }))},
		{"an unknown token", "refused", "token-unknown", first(func(a *ask) { a.request.Token = "token-x" })},
		{"another pod's token", "refused", "token-unknown", first(func(a *ask) { a.request.Token = "token-b" })},
		{"a token of a pod that is gone", "refused", "pod-gone", given(func(_ *testing.T, w *world) { delete(w.pods, podA.UID) }, first(nil))},
		{"another node's pod, with its token", "refused", "pod-on-other-node", func(t *testing.T, w *world) (string, error) {
			return issueAs(t, w, w.agent(t, nodeA), podB, false, func(a *ask) { a.request.Token = "token-b" })
		}},
		{"a token stolen by another node's agent", "refused", ReasonOtherNode, func(t *testing.T, w *world) (string, error) {
			return issueAs(t, w, w.agent(t, nodeB), podA, false, nil)
		}},
		{"the same node's name with another UID", "refused", ReasonOtherNode, func(t *testing.T, w *world) (string, error) {
			return issueAs(t, w, w.agent(t, attest.Node{Name: nodeA.Name, UID: "older"}), podA, false, nil)
		}},
		{"the attester does not answer", "retry", ReasonUnavailable, given(func(_ *testing.T, w *world) { w.cluster.err = attest.ErrUnavailable }, first(nil))},
		{"the attester has a bug", "retry", ReasonUnavailable, given(func(_ *testing.T, w *world) { w.cluster.err = errors.New("oops") }, first(nil))},
		{"the attester answers both ways", "retry", ReasonUnavailable, given(func(_ *testing.T, w *world) {
			w.cluster.err = errors.Join(attest.ErrRefused, attest.ErrUnavailable)
		}, first(nil))},
		{"the attester names nobody", "refused", ReasonKind, given(named(attest.Identity{}), first(nil))},
		{"the attester names an agent", "refused", ReasonKind, given(func(t *testing.T, w *world) { w.pods[podA.UID] = w.callers["agent-a"] }, first(nil))},
		{"the attester names a service", "refused", ReasonKind, given(func(t *testing.T, w *world) { w.pods[podA.UID] = w.callers["manager"] }, first(nil))},
		{"the attester names another domain's", "refused", ReasonTrustDomain, given(workload("other.test", podA), first(nil))},
		{"the attester names another pod", "refused", ReasonOtherPod, given(workload(td.Name(), gone), first(nil))},
		{"the authority refuses", "refused", "life-too-short", given(func(_ *testing.T, w *world) { w.authority.err = attest.Refuse("life-too-short", "") }, first(nil))},
		{"the authority does not answer", "retry", ReasonUnavailable, given(func(_ *testing.T, w *world) { w.authority.err = attest.ErrUnavailable }, first(nil))},
		{"more than the agent may ask", "retry", ReasonRate, given(func(_ *testing.T, w *world) { w.config.Limits.Agent = Rate{PerSecond: 1e-9} }, first(nil))},
	}
}

func named(i attest.Identity) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) { w.pods[podA.UID] = i }
}

func workload(domain string, pod attest.Pod) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		i, err := attest.NewWorkload(spiffeid.RequireTrustDomainFromString(domain), nodeA, pod)
		if err != nil {
			t.Fatal(err)
		}
		w.pods[podA.UID] = i
	}
}

func renewalRows() []row {
	of := func(path string, life time.Duration) func(*ask) {
		return func(a *ask) { a.renew(a.w.ca.SVID(a.t, spiffeid.RequireFromPath(td, path), life)) }
	}
	chain := func(change func(a *ask, der [][]byte) [][]byte) func(*ask) {
		return func(a *ask) { a.request.Current.Chain = change(a, a.request.Current.Chain) }
	}
	return []row{
		{"renewal", "issued", "", again(nil)},
		{"renewal on a host", "issued", "", given(hosts, again(nil))},
		{"renewal of a pod that is gone", "refused", "pod-gone", given(func(_ *testing.T, w *world) { delete(w.pods, podA.UID) }, again(nil))},
		{"renewal of another node's pod", "refused", "pod-on-other-node", func(t *testing.T, w *world) (string, error) {
			return issueAs(t, w, w.agent(t, nodeA), podB, true, func(a *ask) { a.renew(w.ca.SVID(t, spiffeid.RequireFromPath(td, "/ns/shop/sa/db"), time.Hour)) })
		}},
		{"renewal while the attester does not answer", "retry", ReasonUnavailable, given(func(_ *testing.T, w *world) { w.cluster.err = attest.ErrUnavailable }, again(nil))},
		{"with the SVID of another identity", "refused", ReasonCurrentID, again(of("/ns/shop/sa/db", time.Hour))},
		{"with the SVID of an agent", "refused", ReasonCurrentID, again(func(a *ask) { a.renew(a.w.agent(a.t, nodeA)) })},
		{"with an expired SVID", "refused", ReasonCurrent, again(of(webID.Path(), -time.Minute))},
		{"with an SVID of another CA", "refused", ReasonCurrent, again(func(a *ask) { a.renew(catest.New(a.t, td).SVID(a.t, webID, time.Hour)) })},
		{"with an SVID of another domain", "refused", ReasonCurrent, again(func(a *ask) {
			other := spiffeid.RequireTrustDomainFromString("other.test")
			a.renew(catest.New(a.t, other).SVID(a.t, spiffeid.RequireFromPath(other, webID.Path()), time.Hour))
		})},
		{"with an SVID that is not valid yet", "refused", ReasonCurrent, again(func(a *ask) {
			a.current.Certificates[0] = resign(a, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
			a.renew(a.current)
		})},
		{"with an SVID of two names", "refused", ReasonCurrent, again(func(a *ask) {
			a.current.Certificates[0] = resign(a, func(c *x509.Certificate) { c.URIs = append(c.URIs, serverID.URL()) })
			a.renew(a.current)
		})},
		{"with a certificate of a CA", "refused", ReasonCurrent, again(chain(func(a *ask, der [][]byte) [][]byte { return der[1:] }))},
		{"with a leaf alone", "refused", ReasonCurrent, again(chain(func(a *ask, der [][]byte) [][]byte { return der[:1] }))},
		{"with an empty chain", "refused", ReasonCurrent, again(chain(func(a *ask, der [][]byte) [][]byte { return nil }))},
		{"with a chain of four", "refused", ReasonCurrent, again(chain(func(a *ask, der [][]byte) [][]byte { return append(der, der...) }))},
		{"with a certificate of noise", "refused", ReasonCurrent, again(chain(func(a *ask, der [][]byte) [][]byte { return [][]byte{{0x30, 0x00}} }))},
		{"with a certificate too large", "refused", ReasonTooLarge, again(chain(func(a *ask, der [][]byte) [][]byte { return [][]byte{make([]byte, 8<<10+1)} }))},
		{"with a proof by another key", "refused", ReasonCurrentProof, again(func(a *ask) {
			a.request.Current.Proof = prove(a.t, catest.Key(a.t), a.here, proof.Current, podA.UID)
		})},
		{"with a proof by the new key", "refused", ReasonCurrentProof, again(func(a *ask) {
			a.request.Current.Proof = prove(a.t, a.key, a.here, proof.Current, podA.UID)
		})},
		{"with a current proof from another connection", "refused", ReasonCurrentProof, again(func(a *ask) {
			a.request.Current.Proof = prove(a.t, a.current.PrivateKey, elsewhere, proof.Current, podA.UID)
		})},
		{"with a current proof for another pod", "refused", ReasonCurrentProof, again(func(a *ask) {
			a.request.Current.Proof = prove(a.t, a.current.PrivateKey, a.here, proof.Current, podB.UID)
		})},
		{"with a current proof of another purpose", "refused", ReasonCurrentProof, again(func(a *ask) {
			a.request.Current.Proof = prove(a.t, a.current.PrivateKey, a.here, proof.Issue, podA.UID)
		})},
		{"without a current proof", "refused", ReasonCurrentProof, again(func(a *ask) { a.request.Current.Proof = nil })},
		{"with a current proof too large", "refused", ReasonTooLarge, again(func(a *ask) { a.request.Current.Proof = make([]byte, 1025) })},
		{"for the key that it renews", "refused", ReasonKeyReused, again(func(a *ask) {
			a.key = a.current.PrivateKey
			a.prove(a.here, proof.Issue, podA.UID)
		})},
	}
}

// resign makes the current SVID anew, but for a change.
func resign(a *ask, change func(*x509.Certificate)) *x509.Certificate {
	template := *a.current.Certificates[0]
	change(&template)
	template.ExtraExtensions, template.Extensions = nil, nil
	return a.w.ca.Sign(a.t, &template)
}

func callerRows() []row {
	svid := func(path string) func(*testing.T, *world) *x509svid.SVID {
		return func(t *testing.T, w *world) *x509svid.SVID {
			return w.ca.SVID(t, spiffeid.RequireFromPath(td, path), time.Hour)
		}
	}
	none := func(*testing.T, *world) *x509svid.SVID { return nil }
	bundleAs := func(who func(*testing.T, *world) *x509svid.SVID) func(*testing.T, *world) (string, error) {
		return func(t *testing.T, w *world) (string, error) {
			w.start(t)
			stream, err := capb.NewCertificateAuthorityClient(w.dial(t, who(t, w))).Bundle(t.Context())
			if err != nil {
				return "", err
			}
			_, err = stream.Recv()
			return "issued", err
		}
	}
	ack := func(sequence uint64) func(*testing.T, *world) (string, error) {
		return func(t *testing.T, w *world) (string, error) {
			w.start(t)
			stream, err := capb.NewCertificateAuthorityClient(w.dial(t, w.agent(t, nodeA))).Bundle(t.Context())
			if err != nil {
				return "", err
			}
			if _, err := stream.Recv(); err != nil {
				return "", err
			}
			if err := stream.Send(&capb.BundleAck{Sequence: sequence}); err != nil {
				return "", err
			}
			_, err = stream.Recv()
			return "", err
		}
	}
	return []row{
		{"Issue, with a workload's SVID", "PermissionDenied", "not-an-agent", as(svid("/ns/shop/sa/web"))},
		{"Issue, with the manager's SVID", "PermissionDenied", "not-an-agent", as(svid("/istio-auth/manager"))},
		{"Issue, with the CA's own SVID", "PermissionDenied", "not-an-agent", as(svid("/istio-auth/ca"))},
		{"Issue, with half an agent's ID", "PermissionDenied", "not-an-agent", as(svid("/istio-auth/node/node-a"))},
		{"Issue, with more than an agent's ID", "PermissionDenied", "bad-node-uid", as(svid("/istio-auth/node/node-a/a-uid/x"))},
		{"Issue, without a certificate", "PermissionDenied", ReasonNoCertificate, as(none)},
		{"Issue, with an agent's expired SVID", "Unavailable", "", as(func(t *testing.T, w *world) *x509svid.SVID {
			return w.ca.SVID(t, w.callers["agent-a"].ID(), -time.Second)
		})},
		{"Issue, with an SVID of another CA", "Unavailable", "", as(func(t *testing.T, w *world) *x509svid.SVID {
			return catest.New(t, td).SVID(t, w.callers["agent-a"].ID(), time.Hour)
		})},
		{"Issue, with an SVID of another domain", "Unavailable", "", as(func(t *testing.T, w *world) *x509svid.SVID {
			other := spiffeid.RequireTrustDomainFromString("other.test")
			return catest.New(t, other).SVID(t, spiffeid.RequireFromPath(other, "/istio-auth/node/node-a/a-uid"), time.Hour)
		})},
		{"Bundle, with an agent's SVID", "issued", "", bundleAs(svid("/istio-auth/node/node-a/a-uid"))},
		{"Bundle, with the manager's SVID", "issued", "", bundleAs(svid("/istio-auth/manager"))},
		{"Bundle, with a service's that is not listed", "PermissionDenied", "not-an-agent", bundleAs(svid("/istio-auth/console"))},
		{"Bundle, with a workload's SVID", "PermissionDenied", "not-an-agent", bundleAs(svid("/ns/shop/sa/web"))},
		{"Bundle, without a certificate", "PermissionDenied", ReasonNoCertificate, bundleAs(none)},
		{"Bundle, acknowledging what was not sent", "PermissionDenied", ReasonAck, ack(8)},
		{"Bundle, acknowledging nothing", "PermissionDenied", ReasonAck, ack(0)},
	}
}

func attestRows() []row {
	try := func(spoil func(r *capb.AttestRequest, key crypto.Signer, here [32]byte)) func(*testing.T, *world) (string, error) {
		return func(t *testing.T, w *world) (string, error) { return attestWith(t, w, spoil) }
	}
	token := func(s string) func(*testing.T, *world) (string, error) {
		return try(func(r *capb.AttestRequest, _ crypto.Signer, _ [32]byte) {
			r.Evidence = &capb.AttestRequest_KubernetesToken{KubernetesToken: s}
		})
	}
	join := func(s string) func(*testing.T, *world) (string, error) {
		return try(func(r *capb.AttestRequest, _ crypto.Signer, _ [32]byte) {
			r.Evidence = &capb.AttestRequest_JoinToken{JoinToken: s}
		})
	}
	proved := func(t *testing.T, purpose proof.Purpose, subject string) func(r *capb.AttestRequest, key crypto.Signer, here [32]byte) {
		return func(r *capb.AttestRequest, key crypto.Signer, here [32]byte) {
			r.Key.Proof = prove(t, key, here, purpose, subject)
		}
	}
	return []row{
		{"Attest, an agent", "issued", "", token("agent-a")},
		{"Attest, a service", "issued", "", token("manager")},
		{"Attest, an agent of a host", "issued", "", given(hosts, join("agent-a"))},
		{"Attest, an unknown token", "PermissionDenied", "token-unknown", token("nobody")},
		{"Attest, a workload's token", "PermissionDenied", "token-unknown", token("token-a")},
		{"Attest, an empty token", "PermissionDenied", ReasonNoEvidence, token("")},
		{"Attest, a token too long", "PermissionDenied", ReasonTooLarge, token(strings.Repeat("t", 16<<10+1))},
		{"Attest, a message too long", "ResourceExhausted", "", token(strings.Repeat("t", 64<<10))},
		{"Attest, no evidence", "PermissionDenied", ReasonNoEvidence, try(func(r *capb.AttestRequest, _ crypto.Signer, _ [32]byte) { r.Evidence = nil })},
		{"Attest, evidence of an unknown kind", "PermissionDenied", ReasonUnknownField, try(func(r *capb.AttestRequest, _ crypto.Signer, _ [32]byte) {
			r.Evidence = nil
			r.ProtoReflect().SetUnknown(unknownField)
		})},
		{"Attest, a join token on a cluster", "PermissionDenied", ReasonEvidence, join("agent-a")},
		{"Attest, a cluster's token on a host", "PermissionDenied", ReasonEvidence, given(hosts, token("agent-a"))},
		{"Attest, no key", "PermissionDenied", ReasonMissing, try(func(r *capb.AttestRequest, _ crypto.Signer, _ [32]byte) { r.Key = nil })},
		{"Attest, a key too large", "PermissionDenied", "key-size", try(func(r *capb.AttestRequest, _ crypto.Signer, _ [32]byte) { r.Key.Spki = make([]byte, 2049) })},
		{"Attest, a proof from another connection", "PermissionDenied", ReasonProof, func(t *testing.T, w *world) (string, error) {
			return attestWith(t, w, func(r *capb.AttestRequest, key crypto.Signer, _ [32]byte) {
				r.Key.Proof = prove(t, key, elsewhere, proof.Attest, "")
			})
		}},
		{"Attest, a proof for a pod", "PermissionDenied", ReasonProof, func(t *testing.T, w *world) (string, error) {
			return attestWith(t, w, proved(t, proof.Attest, podA.UID))
		}},
		{"Attest, a proof of issue", "PermissionDenied", ReasonProof, func(t *testing.T, w *world) (string, error) {
			return attestWith(t, w, proved(t, proof.Issue, ""))
		}},
		{"Attest, the attester names a workload", "PermissionDenied", ReasonKind, given(func(_ *testing.T, w *world) { w.callers["agent-a"] = w.pods[podA.UID] }, token("agent-a"))},
		{"Attest, the attester names nobody", "PermissionDenied", ReasonKind, given(func(_ *testing.T, w *world) { w.callers["agent-a"] = attest.Identity{} }, token("agent-a"))},
		{"Attest, the attester names another domain's", "PermissionDenied", ReasonTrustDomain, given(func(t *testing.T, w *world) {
			w.callers["agent-a"], _ = attest.NewAgent(spiffeid.RequireTrustDomainFromString("other.test"), nodeA)
		}, token("agent-a"))},
		{"Attest, the attester does not answer", "Unavailable", ReasonUnavailable, given(func(_ *testing.T, w *world) { w.cluster.err = attest.ErrUnavailable }, token("agent-a"))},
		{"Attest, more than strangers may", "ResourceExhausted", ReasonRate, given(func(_ *testing.T, w *world) { w.config.Limits.Strangers = Rate{PerSecond: 1e-9} }, token("agent-a"))},
	}
}

func attestWith(t *testing.T, w *world, spoil func(r *capb.AttestRequest, key crypto.Signer, here [32]byte)) (string, error) {
	t.Helper()
	w.start(t)
	stream, err := capb.NewCertificateAuthorityClient(w.dial(t, nil)).Attest(t.Context())
	if err != nil {
		return "", err
	}
	here, err := binding(stream)
	if err != nil {
		return "", err
	}
	key := catest.Key(t)
	request := &capb.AttestRequest{
		Evidence: &capb.AttestRequest_KubernetesToken{KubernetesToken: "agent-a"},
		Key:      &capb.PublicKey{Spki: spkiOf(t, key), Proof: prove(t, key, here, proof.Attest, "")},
	}
	spoil(request, key, here)
	if err := stream.Send(request); err != nil {
		return "", err
	}
	response, err := stream.Recv()
	if err != nil {
		return "", err
	}
	if response.GetBundle().GetSequence() != 7 || len(response.GetBundle().GetAuthorities()) != 1 || !response.GetServerTime().IsValid() {
		t.Errorf("the answer has bundle %v and time %v", response.GetBundle(), response.GetServerTime())
	}
	return "issued", nil
}

// TestTable is who may ask what. Each row has a server of its own.
func TestTable(t *testing.T) {
	var rows []row
	for _, more := range [][]row{keyRows(), shapeRows(), firstRows(), renewalRows(), callerRows(), attestRows()} {
		rows = append(rows, more...)
	}
	if got, want := len(rows), 120; got != want {
		t.Errorf("the table has %d rows, want %d", got, want)
	}
	names := map[string]bool{}
	for _, r := range rows {
		if names[r.name] {
			t.Errorf("%s: twice", r.name)
		}
		names[r.name] = true
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t)
			got, err := r.do(t, w)
			if err != nil {
				got = status.Code(err).String()
				opaque(t, err, w.lastDecision())
			}
			if got != r.outcome {
				t.Errorf("got %s (%v), want %s", got, err, r.outcome)
			}
			if got := w.lastDecision().Reason; got != r.reason {
				t.Errorf("the reason is %q, want %q", got, r.reason)
			}
			if r.outcome != "issued" && w.count() != 0 {
				t.Errorf("issued %d certificates all the same", w.count())
			}
		})
	}
}

// opaque checks that a caller learns a reference and nothing else (AT-21).
func opaque(t *testing.T, err error, d Decision) {
	t.Helper()
	if d.Reason == "" || errors.Is(err, context.Canceled) {
		return // TLS or grpc itself said no
	}
	text := status.Convert(err).Message()
	if text != "refused, ref "+d.Ref && text != "try again, ref "+d.Ref {
		t.Errorf("the caller was told %q", text)
	}
}
