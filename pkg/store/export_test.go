package store

import "database/sql"

// Statement returns the text of a statement, for EXPLAIN.
func (s *Store) Statement(name string) string {
	for _, fields := range s.sql.files() {
		if st, ok := fields[name]; ok {
			return st.text
		}
	}
	panic("no statement " + name)
}

// DB returns the connection pool.
func (s *Store) DB() *sql.DB { return s.db }
