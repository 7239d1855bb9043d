package server

import (
	"context"
	"crypto/x509"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/keypolicy"
	"github.com/istio-auth/istio-auth/ca/proof"
)

// Sizes as capb/ca.proto states them, in bytes.
const (
	maxToken       = 16 << 10
	maxProof       = 1 << 10
	maxChain       = 3
	maxCertificate = 8 << 10
	maxName        = 253
)

// decide judges one request of an agent, and issues where all agrees.
func (s *Server) decide(ctx context.Context, c caller, r *capb.IssueRequest) (*ca.Issued, attest.Identity, error) {
	none := attest.Identity{}
	// step 2: what is asked, by its looks
	if err := s.shape(r); err != nil {
		return nil, none, err
	}
	if wait, ok := s.agents.take(c.id, s.now()); !ok {
		return nil, none, &busyError{ReasonRate, wait}
	}
	key, signature, err := publicKey(r.GetKey())
	if err != nil {
		return nil, none, err
	}
	release, err := s.work(c.id)
	if err != nil {
		return nil, none, err
	}
	defer release()
	pod := attest.Pod{Namespace: r.GetPod().GetNamespace(), Name: r.GetPod().GetName(), UID: r.GetPod().GetUid()}
	// step 3: proof of possession
	binding := proof.Binding{TrustDomain: s.td, TLS: c.binding, Purpose: proof.Issue, Subject: pod.UID}
	if err := proof.Verify(key, binding, signature); err != nil {
		return nil, none, refusal(ReasonProof, err)
	}
	// step 4: evidence becomes an identity
	order := ca.Request{Key: key}
	if r.GetCurrent() != nil {
		order.Identity, order.Evidence, err = s.renewal(ctx, c, pod, r.GetCurrent(), key)
	} else {
		order.Identity, order.Evidence, err = s.firstIssue(ctx, c, pod, attest.NewToken(r.GetToken()))
	}
	if err != nil {
		return nil, none, err
	}
	if err := s.agrees(order.Identity, c.agent, pod); err != nil {
		return nil, none, err
	}
	issued, err := s.issue(ctx, order)
	return issued, order.Identity, err
}

// shape checks what can be checked without computing anything.
func (s *Server) shape(r *capb.IssueRequest) error {
	if err := known(r); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"pod.namespace": r.GetPod().GetNamespace(), "pod.name": r.GetPod().GetName(), "pod.uid": r.GetPod().GetUid(),
	} {
		if value == "" {
			return attest.Refuse(ReasonMissing, "%s", name)
		}
		if err := within(name, len(value), maxName); err != nil {
			return err
		}
	}
	hasToken, hasCurrent := r.GetToken() != "", r.GetCurrent() != nil
	switch {
	case hasToken && hasCurrent:
		return attest.Refuse(ReasonAmbiguous, "a token and a current SVID")
	case !hasToken && !hasCurrent && !s.hosts:
		return attest.Refuse(ReasonNoEvidence, "neither a token nor a current SVID")
	case hasToken && s.hosts:
		return attest.Refuse(ReasonEvidence, "a token, where workloads have none")
	}
	return within("token", len(r.GetToken()), maxToken)
}

// firstIssue asks for the pod by its token.
func (s *Server) firstIssue(ctx context.Context, c caller, pod attest.Pod, token attest.Token) (attest.Identity, [32]byte, error) {
	identity, err := s.attester.AttestWorkload(ctx, c.agent, pod, token)
	if token.IsZero() {
		// A host's workload: its entry, and the agent that vouches for it.
		return identity, digest([]byte(c.id.String() + " " + pod.UID)), err
	}
	return identity, token.Digest(), err
}

// renewal checks that the asker holds an SVID of ours that still stands, that
// the pod does too, and that both are one identity.
func (s *Server) renewal(ctx context.Context, c caller, pod attest.Pod, current *capb.CurrentSVID, next keypolicy.Key) (attest.Identity, [32]byte, error) {
	none := attest.Identity{}
	leaf, id, err := s.standing(current)
	if err != nil {
		return none, [32]byte{}, err
	}
	held, err := keypolicy.Parse(leaf.RawSubjectPublicKeyInfo)
	if err != nil {
		return none, [32]byte{}, refusal(ReasonCurrent, err)
	}
	if held.Equal(next) {
		return none, [32]byte{}, attest.Refuse(ReasonKeyReused, "of pod %s", pod.UID)
	}
	binding := proof.Binding{TrustDomain: s.td, TLS: c.binding, Purpose: proof.Current, Subject: pod.UID}
	if err := proof.Verify(held, binding, current.GetProof()); err != nil {
		return none, [32]byte{}, refusal(ReasonCurrentProof, err)
	}
	identity, err := s.attester.ConfirmWorkload(ctx, c.agent, pod)
	if err != nil {
		return none, [32]byte{}, err
	}
	if identity.ID() != id {
		return none, [32]byte{}, attest.Refuse(ReasonCurrentID, "the pod is %s, the SVID %s", identity, id)
	}
	return identity, digest(leaf.Raw), nil
}

// standing verifies a chain against our own bundle at this moment.
func (s *Server) standing(current *capb.CurrentSVID) (*x509.Certificate, spiffeid.ID, error) {
	none := spiffeid.ID{}
	if n := len(current.GetChain()); n == 0 || n > maxChain {
		return nil, none, attest.Refuse(ReasonCurrent, "a chain of %d certificates", n)
	}
	if err := within("current.proof", len(current.GetProof()), maxProof); err != nil {
		return nil, none, err
	}
	var chain []*x509.Certificate
	for _, der := range current.GetChain() {
		if err := within("current.chain", len(der), maxCertificate); err != nil {
			return nil, none, err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, none, &attest.Refusal{Reason: ReasonCurrent, Err: err}
		}
		// Verifying costs what the keys make it cost, the issuers' as well.
		if _, err := keypolicy.Parse(cert.RawSubjectPublicKeyInfo); err != nil {
			return nil, none, &attest.Refusal{Reason: ReasonCurrent, Err: err}
		}
		chain = append(chain, cert)
	}
	id, _, err := x509svid.Verify(chain, s.authority.Bundle(), x509svid.WithTime(s.now()))
	if err != nil {
		return nil, none, &attest.Refusal{Reason: ReasonCurrent, Err: err}
	}
	if !id.MemberOf(s.td) {
		return nil, none, attest.Refuse(ReasonCurrent, "an SVID of %s", id)
	}
	return chain[0], id, nil
}

// agrees holds the attester to its contract: a workload of ours, the pod that
// was asked about, on the node of the agent that asks.
func (s *Server) agrees(identity, agent attest.Identity, pod attest.Pod) error {
	switch {
	case identity.Kind() != attest.Workload || agent.Kind() != attest.Agent:
		return attest.Refuse(ReasonKind, "%s for %s", identity.Kind(), agent.Kind())
	case !identity.ID().MemberOf(s.td):
		return attest.Refuse(ReasonTrustDomain, "%s", identity)
	case identity.Node() != agent.Node():
		return attest.Refuse(ReasonOtherNode, "%v, asked for by %s", identity.Node(), agent)
	case identity.Pod().UID != pod.UID || identity.Pod().Namespace != pod.Namespace || identity.Pod().Name != pod.Name:
		return attest.Refuse(ReasonOtherPod, "%v, asked about %v", identity.Pod(), pod)
	}
	return nil
}

// publicKey reads a key that the policy accepts and the proof that comes with
// it, which is not verified yet.
func publicKey(k *capb.PublicKey) (keypolicy.Key, []byte, error) {
	if k == nil {
		return keypolicy.Key{}, nil, attest.Refuse(ReasonMissing, "key")
	}
	if err := within("key.proof", len(k.GetProof()), maxProof); err != nil {
		return keypolicy.Key{}, nil, err
	}
	key, err := keypolicy.Parse(k.GetSpki())
	if err != nil {
		return keypolicy.Key{}, nil, refusal("key", err)
	}
	return key, k.GetProof(), nil
}

func within(name string, size, most int) error {
	if size > most {
		return attest.Refuse(ReasonTooLarge, "%s of %d bytes, at most %d", name, size, most)
	}
	return nil
}

// known refuses fields that this version does not know, at any depth: whoever
// set one may have meant it to narrow the request.
func known(m proto.Message) error { return knownAt(m.ProtoReflect()) }

func knownAt(m protoreflect.Message) error {
	if len(m.GetUnknown()) > 0 {
		return attest.Refuse(ReasonUnknownField, "in %s", m.Descriptor().FullName())
	}
	var err error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() != nil && !f.IsList() && !f.IsMap() {
			err = knownAt(v.Message())
		}
		return err == nil
	})
	return err
}

// chainDER is a chain as it travels.
func chainDER(chain []*x509.Certificate) [][]byte {
	der := make([][]byte, 0, len(chain))
	for _, cert := range chain {
		der = append(der, cert.Raw)
	}
	return der
}
