package store

// StatementText returns the text of a statement in sql/, with the schema's name filled in, for a benchmark that runs it without the Store.
func (s *Store) StatementText(name string) (text string, ok bool) {
	for _, statements := range s.sql.files() {
		if st, ok := statements[name]; ok {
			return st.text(), true
		}
	}
	return "", false
}
