// Package store keeps the small consistent state of a CA in SQLite: the
// certificates of its authorities, the sequence of its trust bundle, and join
// tokens. It holds no private key, and no issued certificate: those are in
// ca/signer and ca/journal.
//
// Everything that changes authorities or bundle is a compare-and-swap on the
// [Epoch]: two who read the same state cannot both change it, and a store that was
// brought back from a backup has an older epoch than whoever used the newer one.
package store

import (
	"context"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	_ "modernc.org/sqlite" // the driver

	"github.com/istio-auth/istio-auth/ca/bundle"
)

// FileName is the store's name in its folder.
const FileName = "store.db"

var (
	// ErrConflict reports that the state is not the one that the caller read.
	// Read again, and decide again.
	ErrConflict = errors.New("store: changed by someone else")
	// ErrNewer reports a store that a newer version of the program has migrated.
	ErrNewer = errors.New("store: written by a newer version")
	// ErrInvalid reports content that this program does not write.
	ErrInvalid = errors.New("store: invalid content")
)

// An Epoch counts the changes of authorities and bundle. It starts at 0.
type Epoch uint64

// A State says what an authority may do.
type State string

// The states of an authority. A prepared one is published and signs nothing yet;
// of the active ones the newest signs; a retired one signs nothing any more.
const (
	Prepared State = "prepared"
	Active   State = "active"
	Retired  State = "retired"
)

// A Role is the place of an authority in the chain.
type Role string

// The roles of authorities.
const (
	Root   Role = "root"
	Issuer Role = "issuer"
)

// An Authority is a CA certificate and what it may do. Its key is elsewhere.
type Authority struct {
	Role  Role
	State State
	Cert  *x509.Certificate
}

// A Snapshot is authorities and bundle as they were at one epoch.
type Snapshot struct {
	Epoch       Epoch
	Authorities []Authority      // oldest first
	Bundle      bundle.Versioned // zero in a new store
}

// A Store is an open store. Its methods may be called at once. Close it.
type Store struct{ db *sql.DB }

// Open opens the store in a folder, or makes one: the folder with mode 0700, the
// file with 0600. Where others may read it, or the schema is newer than the program, it refuses.
func Open(ctx context.Context, dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the store's folder: %w", err)
	}
	path := filepath.Join(dir, FileName)
	if strings.Contains(path, "?") {
		return nil, fmt.Errorf("%w: a path with a question mark, %q", ErrInvalid, path) // the driver's options begin there
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	if err := errors.Join(f.Close(), private(dir, 0o700), private(path, 0o600)); err != nil {
		return nil, err
	}
	// One connection: writers wait in Go instead of failing with SQLITE_BUSY, and
	// the pragmas hold for all. Each transaction takes the write lock at its start.
	dsn := path + "?_txlock=immediate" +
		"&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=foreign_keys(1)&_pragma=trusted_schema(0)&_pragma=cell_size_check(1)"
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	db.SetMaxOpenConns(1)
	s := &Store{db: db}
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func private(path string, most fs.FileMode) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&^most != 0 {
		return fmt.Errorf("%s has mode %#o, want at most %#o: chmod %#o %s", path, mode, most, most, path)
	}
	return nil
}

// Close gives the file free.
func (s *Store) Close() error { return s.db.Close() }

// within runs f in a transaction, which is undone when f fails.
func (s *Store) within(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("committing a transaction: %w", err)
	}
	return nil
}

// Snapshot reads authorities and bundle.
func (s *Store) Snapshot(ctx context.Context, td spiffeid.TrustDomain) (Snapshot, error) {
	var snap Snapshot
	err := s.within(ctx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT epoch FROM state`).Scan(&snap.Epoch); err != nil {
			return fmt.Errorf("reading the epoch: %w", err)
		}
		authorities, err := readAuthorities(ctx, tx)
		if err != nil {
			return err
		}
		snap.Authorities = authorities
		snap.Bundle, err = readBundle(ctx, tx, td)
		return err
	})
	return snap, err
}

func readAuthorities(ctx context.Context, tx *sql.Tx) ([]Authority, error) {
	rows, err := tx.QueryContext(ctx, `SELECT role, state, certificate FROM authorities ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("reading the authorities: %w", err)
	}
	defer rows.Close()
	var found []Authority
	for rows.Next() {
		var a Authority
		var der []byte
		if err := rows.Scan(&a.Role, &a.State, &der); err != nil {
			return nil, fmt.Errorf("reading an authority: %w", err)
		}
		if a.Cert, err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("%w: an authority's certificate: %w", ErrInvalid, err)
		}
		found = append(found, a)
	}
	return found, rows.Err()
}

func readBundle(ctx context.Context, tx *sql.Tx, td spiffeid.TrustDomain) (bundle.Versioned, error) {
	var v bundle.Versioned
	var name string
	var der []byte
	err := tx.QueryRowContext(ctx, `SELECT sequence, trust_domain, roots FROM bundle`).Scan(&v.Sequence, &name, &der)
	if errors.Is(err, sql.ErrNoRows) {
		return bundle.Versioned{}, nil
	}
	if err != nil {
		return bundle.Versioned{}, fmt.Errorf("reading the bundle: %w", err)
	}
	if name != td.Name() {
		return bundle.Versioned{}, fmt.Errorf("%w: the store is that of trust domain %q, not %q", ErrInvalid, name, td.Name())
	}
	roots, err := x509.ParseCertificates(der)
	if err != nil {
		return bundle.Versioned{}, fmt.Errorf("%w: the bundle: %w", ErrInvalid, err)
	}
	v.Bundle = x509bundle.FromX509Authorities(td, roots)
	return v, nil
}

// A Change is what one [Store.Apply] does.
type Change struct {
	Add    []Authority
	Retire []*x509.Certificate // authorities that sign nothing any more
	Bundle bundle.Versioned    // zero leaves it; its sequence must be higher than the stored one
}

// Apply makes a change, whole or not at all, provided that the store is still
// at an epoch, and returns the next one. Where it is not, it returns [ErrConflict].
func (s *Store) Apply(ctx context.Context, at Epoch, c Change) (Epoch, error) {
	err := s.within(ctx, func(tx *sql.Tx) error {
		if err := exactlyOne(tx.ExecContext(ctx, `UPDATE state SET epoch = epoch + 1 WHERE epoch = ?`, at)); err != nil {
			return fmt.Errorf("at epoch %d: %w", at, err)
		}
		for _, a := range c.Add {
			if err := addAuthority(ctx, tx, a); err != nil {
				return err
			}
		}
		for _, cert := range c.Retire {
			if err := exactlyOne(tx.ExecContext(ctx,
				`UPDATE authorities SET state = ? WHERE certificate = ? AND state != ?`, Retired, cert.Raw, Retired)); err != nil {
				return fmt.Errorf("retiring authority %x: %w", cert.SerialNumber, err)
			}
		}
		if c.Bundle == (bundle.Versioned{}) {
			return nil
		}
		return writeBundle(ctx, tx, c.Bundle)
	})
	if err != nil {
		return 0, err
	}
	return at + 1, nil
}

// exactlyOne turns a statement that changed no row into [ErrConflict].
func exactlyOne(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err != nil {
		return err
	}
	if n != 1 {
		return ErrConflict
	}
	return nil
}

func addAuthority(ctx context.Context, tx *sql.Tx, a Authority) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO authorities (role, state, certificate, not_after) VALUES (?, ?, ?, ?)`,
		a.Role, a.State, a.Cert.Raw, a.Cert.NotAfter.Unix())
	if err != nil {
		return fmt.Errorf("adding authority %x: %w", a.Cert.SerialNumber, err)
	}
	return nil
}

func writeBundle(ctx context.Context, tx *sql.Tx, v bundle.Versioned) error {
	var der []byte
	for _, root := range v.Bundle.X509Authorities() {
		der = append(der, root.Raw...)
	}
	// The sequence never goes back; that of another trust domain is not replaced.
	err := exactlyOne(tx.ExecContext(ctx, `
		INSERT INTO bundle (one, sequence, trust_domain, roots) VALUES (1, ?1, ?2, ?3)
		ON CONFLICT (one) DO UPDATE SET sequence = ?1, roots = ?3
		WHERE ?1 > sequence AND trust_domain = ?2`,
		v.Sequence, v.Bundle.TrustDomain().Name(), der))
	if err != nil {
		return fmt.Errorf("writing bundle %d: %w", v.Sequence, err)
	}
	return nil
}

// seconds is how moments are kept: whole seconds, so that they compare as numbers.
func seconds(t time.Time) int64 { return t.Unix() }
