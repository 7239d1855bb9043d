package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/istio-auth/istio-auth/attest"
)

// Reasons of refusals (attest.Refusal) from [Store.Redeem].
const (
	ReasonUnknown = "join-token-unknown" // never made, or redeemed already
	ReasonExpired = "join-token-expired"
)

// maxSweep bounds how many expired tokens one call removes.
const maxSweep = 1000

// AddJoinToken keeps the digest of a token that lets one agent join as a node
// once, before it expires. The token itself is not kept.
func (s *Store) AddJoinToken(ctx context.Context, digest [32]byte, node attest.Node, expires time.Time) error {
	return s.within(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO join_tokens (digest, node_name, node_uid, expires) VALUES (?, ?, ?, ?)`,
			digest[:], node.Name, node.UID, seconds(expires))
		if err != nil {
			return fmt.Errorf("adding a join token for node %s: %w", node.Name, err)
		}
		return nil
	})
}

// Redeem takes a token out of the store and returns the node that it is for. Of
// any number of callers one succeeds: looking and taking are one statement
// (SPIRE 1.14.6 let two in: its DELETE did not tell that there was no row left). An
// expired token is taken too, and refused.
func (s *Store) Redeem(ctx context.Context, digest [32]byte, now time.Time) (attest.Node, error) {
	var node attest.Node
	var expires int64
	err := s.within(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx,
			`DELETE FROM join_tokens WHERE digest = ? RETURNING node_name, node_uid, expires`, digest[:],
		).Scan(&node.Name, &node.UID, &expires)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return attest.Node{}, &attest.Refusal{Reason: ReasonUnknown}
	case err != nil:
		return attest.Node{}, fmt.Errorf("%w: redeeming a join token: %w", attest.ErrUnavailable, err)
	case seconds(now) >= expires:
		return attest.Node{}, attest.Refuse(ReasonExpired, "node %s", node.Name)
	}
	return node, nil
}

// Sweep removes tokens that have expired, a thousand at most, and says how many.
func (s *Store) Sweep(ctx context.Context, now time.Time) (int, error) {
	result, err := s.db.ExecContext(ctx,
		`DELETE FROM join_tokens WHERE digest IN (SELECT digest FROM join_tokens WHERE expires <= ? LIMIT ?)`,
		seconds(now), maxSweep)
	if err != nil {
		return 0, fmt.Errorf("sweeping join tokens: %w", err)
	}
	n, err := result.RowsAffected()
	return int(n), err
}
