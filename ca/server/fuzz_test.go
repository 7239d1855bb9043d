package server

import (
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/attest"
	"github.com/istio-auth/istio-auth/ca/capb"
	"github.com/istio-auth/istio-auth/ca/catest"
	possession "github.com/istio-auth/istio-auth/ca/proof"
)

// FuzzIssueRequest takes bytes as they come off the wire to a decision. Nothing
// panics; nothing is issued that the attester did not vouch for, for another
// identity than it named, or without a reason where it is not.
func FuzzIssueRequest(f *testing.F) {
	authority := newAuthority(f)
	agent, err := attest.NewAgent(td, nodeA)
	if err != nil {
		f.Fatal(err)
	}
	web, err := attest.NewWorkload(td, nodeA, podA)
	if err != nil {
		f.Fatal(err)
	}
	vouched := 0
	cluster := &cluster{
		tokens: map[string]string{"token-a": podA.UID},
		pods:   map[string]attest.Identity{podA.UID: web},
		said:   func() { vouched++ },
	}
	s := New(Config{
		TrustDomain: td, Authority: authority, Attester: cluster, Log: slog.New(slog.DiscardHandler),
		Limits: Limits{Agent: Rate{PerSecond: 1e9, Burst: 1e9}},
	})
	c := caller{id: agent.ID(), agent: agent, notAfter: time.Now().Add(24 * time.Hour), binding: [32]byte{1}}

	key, svid := catest.Key(f), authority.ca.SVID(f, webID, 24*time.Hour)
	pod := &capb.PodRef{Namespace: podA.Namespace, Name: podA.Name, Uid: podA.UID}
	public := &capb.PublicKey{Spki: spkiOf(f, key), Proof: prove(f, key, c.binding, possession.Issue, podA.UID)}
	for _, seed := range []*capb.IssueRequest{
		{Id: 1, Pod: pod, Token: "token-a", Key: public},
		{Id: 2, Pod: pod, Key: public, Current: &capb.CurrentSVID{
			Chain: chainDER(svid.Certificates), Proof: prove(f, svid.PrivateKey, c.binding, possession.Current, podA.UID),
		}},
	} {
		bytes, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes)
		// A fuzz target whose good seeds are refused tests nothing.
		if _, _, err := s.decide(f.Context(), c, seed); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, bytes []byte) {
		request := &capb.IssueRequest{}
		if proto.Unmarshal(bytes, request) != nil {
			return
		}
		authority.t = t // each input is a test of its own
		yes, before := vouched, authority.count()
		issued, identity, err := s.decide(t.Context(), c, request)
		switch {
		case err != nil && (issued != nil || authority.count() != before):
			t.Fatalf("issued, and returned %v", err)
		case err != nil && judge(err).reason == "":
			t.Fatalf("refused without a reason: %v", err)
		case err == nil && (vouched != yes+1 || identity != web || issued.Chain[0].URIs[0].String() != webID.String()):
			t.Fatalf("issued %s, and the attester said yes %d times", identity, vouched-yes)
		}
	})
}
