// Package jointoken attests the agents of hosts without Kubernetes by a token
// that is good once, and their workloads by the registry. [Hosts] has the same
// three methods as the reviewer of Kubernetes' tokens, and the same identities
// come out.
//
// An operator makes a token for one node ([New]), the store keeps its digest
// with the node and an expiry, and the agent redeems it. The token says nothing
// of the node and is no part of its identity: whoever steals one before it is
// used gets that node, once, and its owner notices. Nobody else does.
package jointoken

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"sync"
	"time"

	"github.com/istio-auth/istio-auth/attest"
)

// prefix lets people and secret scanners tell what the string is.
const prefix = "iajt_"

// New makes a token with 256 bits from the system's random source.
func New() attest.Token {
	var b [32]byte
	rand.Read(b[:]) // it never fails: crypto/rand ends the program instead
	return attest.NewToken(prefix + base64.RawURLEncoding.EncodeToString(b[:]))
}

// digest returns under what a token is kept, after a look at its form: what we
// did not make need not trouble the store.
func digest(token attest.Token) ([32]byte, error) {
	body, ok := strings.CutPrefix(token.Reveal(), prefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if !ok || err != nil || len(b) != 32 || len(body) != base64.RawURLEncoding.EncodedLen(32) {
		return [32]byte{}, attest.Refuse("join-token-malformed", "not of the form that we make")
	}
	return token.Digest(), nil
}

// A Redeemer holds the digests of tokens that were made and not yet used.
type Redeemer interface {
	// Redeem takes the token away and returns the node that it is for. Of many
	// callers with one token, on however many replicas, one succeeds; the others
	// get an attest.Refusal, as do those with a token that is unknown or that
	// has expired by now. An error that wraps attest.ErrUnavailable left it as
	// it was.
	Redeem(ctx context.Context, digest [32]byte, now time.Time) (attest.Node, error)
}

var _ Redeemer = (*Memory)(nil)

// Memory is a Redeemer for one process: for tests, and for `istio-auth up`. The
// zero value holds no token.
type Memory struct {
	mu     sync.Mutex // guards tokens
	tokens map[[32]byte]promise
}

type promise struct {
	node    attest.Node
	expires time.Time
}

// AddJoinToken lets the token of that digest be redeemed for the node, once and
// before it expires.
func (m *Memory) AddJoinToken(_ context.Context, digest [32]byte, node attest.Node, expires time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens == nil {
		m.tokens = map[[32]byte]promise{}
	}
	if _, ok := m.tokens[digest]; ok {
		return attest.Refuse("join-token-known", "for node %s", node.Name)
	}
	m.tokens[digest] = promise{node, expires}
	return nil
}

// Redeem is as [Redeemer] has it. An expired token is taken away too.
func (m *Memory) Redeem(_ context.Context, digest [32]byte, now time.Time) (attest.Node, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.tokens[digest]
	delete(m.tokens, digest)
	if !ok {
		return attest.Node{}, attest.Refuse("join-token-unknown", "never made, or used")
	}
	if !now.Before(p.expires) {
		return attest.Node{}, attest.Refuse("join-token-expired", "for node %s", p.node.Name)
	}
	return p.node, nil
}
