package store

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations bring a store from version i to i+1 (PRAGMA user_version). One that was
// released is never edited: add another. Tables are STRICT: SQLite otherwise
// keeps a text in a column of numbers.
var migrations = []string{
	`CREATE TABLE state (
		one   INTEGER PRIMARY KEY CHECK (one = 1),
		epoch INTEGER NOT NULL CHECK (epoch >= 0)
	) STRICT;
	INSERT INTO state (one, epoch) VALUES (1, 0);

	CREATE TABLE authorities (
		id          INTEGER PRIMARY KEY AUTOINCREMENT,
		role        TEXT NOT NULL CHECK (role IN ('root', 'issuer')),
		state       TEXT NOT NULL CHECK (state IN ('prepared', 'active', 'retired')),
		certificate BLOB NOT NULL UNIQUE CHECK (length(certificate) BETWEEN 1 AND 16384),
		not_after   INTEGER NOT NULL
	) STRICT;

	CREATE TABLE bundle (
		one          INTEGER PRIMARY KEY CHECK (one = 1),
		sequence     INTEGER NOT NULL CHECK (sequence > 0),
		trust_domain TEXT NOT NULL,
		roots        BLOB NOT NULL
	) STRICT;

	CREATE TABLE join_tokens (
		digest    BLOB PRIMARY KEY CHECK (length(digest) = 32),
		node_name TEXT NOT NULL CHECK (node_name != ''),
		node_uid  TEXT NOT NULL CHECK (node_uid != ''),
		expires   INTEGER NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE INDEX join_tokens_expires ON join_tokens (expires);`,
}

func (s *Store) migrate(ctx context.Context) error {
	return s.within(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
			return fmt.Errorf("reading the store's version: %w", err)
		}
		if version > len(migrations) {
			return fmt.Errorf("%w: version %d, this program knows %d", ErrNewer, version, len(migrations))
		}
		for ; version < len(migrations); version++ {
			if _, err := tx.ExecContext(ctx, migrations[version]); err != nil {
				return fmt.Errorf("migrating the store to version %d: %w", version+1, err)
			}
			if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, version+1)); err != nil {
				return fmt.Errorf("noting the store's version: %w", err)
			}
		}
		return nil
	})
}
