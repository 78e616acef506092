package store

// Statement returns the text of a statement, for EXPLAIN.
func (s *Store) Statement(name string) string { return s.sql.byName[name] }
