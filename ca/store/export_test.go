package store

import "database/sql"

// Version is the newest schema.
var Version = len(migrations)

// DB is the database itself, for a look behind the scenes.
func (s *Store) DB() *sql.DB { return s.db }
